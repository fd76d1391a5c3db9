"""The page of SDL-Seg: a phantom, its clips, and the contour that follows them."""

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

import salhub.pipelines  # noqa: F401 - registers all pipelines before one is imported
from salhub.errors import MissingExtraError
from salhub.models.sdl_seg.clip_edits import ClipEdits
from salhub.models.sdl_seg.phantom import BreastPhantom
from salhub.models.sdl_seg.result_sdl_seg import VolumeSegmentationResult
from salhub.models.sdl_seg.slice_pictures import picture_to_voxel
from salhub.models.sdl_seg.viewer import MOVES, viewer, viewer_pane
from salhub.models.sdl_seg.volume_files import sample_phantom, volume_of_phantom
from salhub.pipelines import pipeline
from salhub.pipelines.base import whole_number
from salhub.ui.controls import sent_number, slider
from salhub.ui.page import Contents, State
from salhub.ui.page import Page as Frame
from salhub.ui.panes import Fact, facts, file_stem, notes, pipeline_program, python, sentence

_LARGEST_SEED = 9999
# Answers that are kept: moving through the slices asks for the same one again and again.
_MOST_ANSWERS = 8
# Millimetres from a press to the clip that is meant by it.
_REACH_MM = 5.0
_FILES = {"nifti": ("Mask (.nii.gz)", ".nii.gz"), "polygons": ("Polygons in mm (.json)", ".json")}
_HINT = (
    "The orange line is what the network finds; it depends on where the clips are. Other "
    "shapes look like the bed but have no clips. The scan itself does not change: the white "
    "spot of a moved or removed clip stays."
)


@lru_cache(maxsize=4)
def phantom_of(seed: int) -> BreastPhantom:
    """Return a phantom that no model was trained on; the last ones are kept."""
    return sample_phantom(seed)


class Page(Frame):
    """A phantom in slices, its clips to be moved and removed, and how well the bed was found."""

    title = "SDL-Seg"
    sentence = (
        "See a network find where a tumour was removed (the tumour bed) in a CT scan, guided by "
        "the clips that the surgeon left. Move or remove a clip, and the outline follows. "
        "All patients here are simulated: keep scans of real patients on your own computer."
    )
    code_title = "The same in Python"
    pickable = ("viewer",)
    endpoints = {
        "segment": (
            partial(gr.Image, label="Slices", type="filepath", format="png"),
            partial(gr.JSON, label="Found"),
        )
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pipeline = pipeline(self.name)
        self._answers: OrderedDict[tuple, VolumeSegmentationResult] = OrderedDict()

    # --- controls -------------------------------------------------------------------------------

    def asked(self) -> dict[str, Component]:
        """Build the seed of the phantom, and what is done to its clips."""
        return {
            "seed": slider(0, _LARGEST_SEED, 0, step=1, label="Phantom (seed)"),
            "another": gr.Button("Another phantom", variant="primary"),
            "reset": gr.Button("Original clips"),
        }

    def main_controls(self) -> dict[str, Component]:
        """Build the width of the map, and the threshold."""
        config = self.pipeline.model.config
        controls: dict[str, Component] = {}
        if self.has_map:
            controls["sigma_d_mm"] = slider(
                2, 20, config.sigma_d_mm, step=0.5, label="Width of the map (mm)"
            )
        controls["threshold"] = slider(0.05, 0.95, config.threshold, step=0.05, label="Threshold")
        return controls

    def setting_controls(self) -> dict[str, Component]:
        """Build what is drawn over the CT, and the changes of the clips as text."""
        return {
            "opacity": slider(0, 1, 0.5, step=0.1, label="Saliency map over the CT"),
            "show_truth": gr.Checkbox(True, label="Show the true bed"),
            "show_bands": gr.Checkbox(False, label="Show outlines at 5 % and 95 %"),
            "edits": gr.Textbox(
                "",
                label="Changes of the clips",
                info="2:0,4,-2 moves clip 2 by mm along z, y, x; 5:off removes clip 5. Press "
                "Enter.",
                max_length=400,
            ),
            "chosen": gr.Textbox("0", visible="hidden"),
        }

    @property
    def has_map(self) -> bool:
        """Whether the model sees a map of the clips."""
        return self.pipeline.model.config.saliency_kind != "none"

    def consequences(self, state: State, moved: list[str]) -> State:
        """Another phantom has other clips."""
        if "seed" in moved:
            seed = _checked_seed(state["seed"])
            return {"edits": "", "chosen": "0", "slice": middle_slice(seed)}
        return {}

    def picked(self, pick: str, state: State) -> State:
        """Return what a press changes: on a button, on a row of the table, or in the slice."""
        seed, edits = _checked_seed(state["seed"]), ClipEdits.read(state["edits"])
        if pick == "another":
            return {"seed": (seed + 1) % (_LARGEST_SEED + 1)}
        if pick == "reset":
            return {"edits": "", "chosen": "0"}
        places = edits.places(self.found_clips(seed), phantom_of(seed).spacing)
        chosen = _checked_clip(state["chosen"], len(places))
        word, _, rest = pick.partition(" ")
        if word == "choose":
            number = _checked_clip(rest, len(places))
            return {"chosen": str(number), "slice": _slice_of(places[number - 1], seed)}
        if word == "toggle":
            changed = edits.toggled(_checked_clip(rest, len(places)))
            if not changed.kept(len(places)):
                raise ValueError(
                    "At least one clip must remain; the network cannot work without clips."
                )
            return {"edits": changed.write()}
        if word == "at":
            return self._pressed(rest, state, edits, places, chosen)
        if pick not in MOVES:
            return super().picked(pick, state)
        if not chosen:
            raise ValueError("No clip is chosen; choose one in the table first.")
        changed = edits.moved(chosen, np.array(MOVES[pick][1]))
        moved = changed.places(self.found_clips(seed), phantom_of(seed).spacing)
        return {"edits": changed.write(), "slice": _slice_of(moved[chosen - 1], seed)}

    def _pressed(
        self, where: str, state: State, edits: ClipEdits, places: np.ndarray, chosen: int
    ) -> State:
        """Choose the clip that was pressed on, or bring the chosen one to where was pressed."""
        seed = _checked_seed(state["seed"])
        volume, number = (
            volume_of_phantom(phantom_of(seed)),
            int(sent_number("slice", state["slice"])),
        )
        try:
            x, y = (float(one) for one in where.split())
        except ValueError:
            raise ValueError(
                "A click in the slice needs two numbers, from its left and top."
            ) from None
        there = np.array([number, *picture_to_voxel(volume, x, y)])
        away = np.linalg.norm((places - there) * volume.spacing, axis=1) if len(places) else []
        if len(places) and np.min(away) <= _REACH_MM:
            return {"chosen": str(int(np.argmin(away)) + 1)}
        if not chosen:
            raise ValueError("No clip is chosen; click a ring, or choose one in the table.")
        change = (there - places[chosen - 1]) * volume.spacing
        return {"edits": edits.moved(chosen, change).write()}

    # --- answers --------------------------------------------------------------------------------

    def found_clips(self, seed: int) -> np.ndarray:
        """Return the clips that were found in a phantom, (K, 3); none for a model without a map."""
        return self.answer(seed, "", {}).markers

    def answer(self, seed: int, edits: str, settings: dict[str, Any]) -> VolumeSegmentationResult:
        """Segment a phantom; the last answers are kept.

        Args:
            seed: Of the phantom.
            edits: What was done to its clips, see `ClipEdits`; "" takes those that are found.
            settings: What is changed of the model.
        """
        key = (seed, edits, repr(sorted(settings.items())))
        with self.lock:
            if key not in self._answers:
                given: dict[str, Any] = {}
                if edits:
                    given["markers"] = self.places(seed, edits)
                self._answers[key] = self.pipeline(f"sample:phantom-{seed}", **given, **settings)
                while len(self._answers) > _MOST_ANSWERS:
                    self._answers.popitem(last=False)
            self._answers.move_to_end(key)
            return self._answers[key]

    def places(self, seed: int, text: str) -> np.ndarray:
        """Return the clips that are left, (K, 3), inside of the volume."""
        edits, found, phantom = ClipEdits.read(text), self.found_clips(seed), phantom_of(seed)
        places = edits.places(found, phantom.spacing)[edits.kept(len(found))]
        return places.clip(0, np.array(phantom.volume.shape) - 1).round(2)

    def controls(self) -> dict[str, Component]:
        """Build the slice, which stands over its picture."""
        last = len(phantom_of(0).volume) - 1
        return {
            "slice": slider(0, last, middle_slice(0), step=1, label="Slice (counted from the feet)")
        }

    def panes(self) -> dict[str, Component]:
        """Build the viewer, the numbers and the files."""
        panes: dict[str, Component] = {"notes": gr.HTML(visible=False), "viewer": viewer_pane()}
        gr.HTML(sentence(_HINT))
        panes["facts"] = gr.HTML()
        with gr.Row(elem_classes="salhub-buttons"):
            for name, (label, _) in _FILES.items():
                panes[name] = gr.DownloadButton(label, size="md")
        return panes

    def contents(self, query: State) -> Contents:
        """Segment the phantom as its clips are now."""
        seed, settings = _checked_seed(query["seed"]), self._settings(query)
        edits = ClipEdits.read(query["edits"])
        result = self.answer(seed, edits.write(), settings)
        found = self.found_clips(seed)
        places = edits.places(found, result.volume.spacing)
        shown = viewer(
            result,
            whole_number(
                "slice", sent_number("slice", query["slice"]), low=0, limit=len(result.mask)
            ),
            places,
            edits,
            _checked_clip(query["chosen"], len(places)),
            opacity=float(sent_number("opacity", query["opacity"])),
            show_truth=bool(query["show_truth"]),
            show_bands=bool(query["show_bands"]),
        )
        before = self.answer(seed, "", settings) if edits.write() else None
        stem = file_stem(f"phantom-{seed}", "bed")
        return {
            "notes": notes(result.warnings),
            "viewer": {"value": shown},
            "facts": {"value": facts(_numbers(result, before, len(phantom_of(seed).markers)))},
            **{name: _file(result, f"{stem}{ending}") for name, (_, ending) in _FILES.items()},
        }

    def _settings(self, query: State) -> dict[str, Any]:
        """What the controls change of the shipped model."""
        config = self.pipeline.model.config
        names = [name for name in ("sigma_d_mm", "threshold") if query.get(name) is not None]
        given = {name: float(sent_number(name, query[name])) for name in names}
        return {name: value for name, value in given.items() if value != getattr(config, name)}

    def code(self, query: State) -> str:
        """Return the program that finds the bed as it is in sight."""
        seed, edits = _checked_seed(query["seed"]), ClipEdits.read(query["edits"]).write()
        call = {"markers": self.places(seed, edits).tolist()} if edits else {}
        last = ["print(result.summary())", 'result.save("bed.nii.gz")']
        source = python(f"sample:phantom-{seed}")
        call |= self._settings(query)
        return pipeline_program("segment", self.name, source, last, call=call)

    def segment(
        self, seed: float = 0, edits: str = "", sigma_d_mm: float = 8.0, threshold: float = 0.5
    ) -> tuple[str, dict[str, Any]]:
        """Find the tumour bed of a phantom.

        Args:
            seed: Of the phantom, 0 to 9999.
            edits: What is done to the clips that are found: "2:0,4,-2 5:off" moves clip 2 by mm
                along z, y and x and takes clip 5 away; "" for nothing.
            sigma_d_mm: Width of the saliency map of the clips, in mm.
            threshold: Probability above which a voxel belongs to the bed, above 0 and below 1.

        Returns:
            Slices with the outline as PNG; and what was found: warnings, volume, outlines in mm
            and scores against the truth.
        """
        query = {"sigma_d_mm": sigma_d_mm if self.has_map else None, "threshold": threshold}
        text = ClipEdits.read(edits or "").write()
        result = self.answer(_checked_seed(seed), text, self._settings(query))
        return _written(result, "bed.png"), result.to_dict()


def middle_slice(seed: int) -> int:
    """Return the slice in which the bed of a phantom is largest."""
    return int(phantom_of(seed).mask.sum(axis=(1, 2)).argmax())


def _slice_of(place: np.ndarray, seed: int) -> int:
    return int(np.rint(place[0]).clip(0, len(phantom_of(seed).volume) - 1))


def _checked_seed(seed: Any) -> int:
    return whole_number("seed", sent_number("seed", seed), low=0, limit=_LARGEST_SEED + 1)


def _checked_clip(number: Any, count: int) -> int:
    """Return the number of a clip, 0 for none."""
    text = str(number).strip()
    if not text.isdecimal() or int(text) > count:
        raise ValueError(f"There is no clip '{text[:20]}'; there are {count} clips.")
    return int(text)


def _numbers(
    result: VolumeSegmentationResult, before: VolumeSegmentationResult | None, true_clips: int
) -> list[Fact]:
    assert result.truth is not None and result.scores is not None
    true_cc = float(result.truth.sum() * np.prod(result.volume.spacing) / 1000)
    scores, (low, high) = result.scores, result.band_cc

    def was(name: str, write: Callable[[float], str]) -> str:
        if before is None or before.scores is None:
            return ""
        return f"{write(before.scores[name])} with the original clips"

    size = f"{low:.1f} to {high:.1f} at 95 % and 5 %; true volume {true_cc:.1f}"
    dice = was("dice", "{:.2f}".format) or "1 is perfect, 0 is a miss"
    hd95 = was("hd95", _mm) or "95 % of both outlines are closer"
    found = [
        Fact(f"{result.volume_cc:.1f} cm³", "Volume", size),
        Fact(f"{scores['dice']:.2f}", "Dice (DSC)", dice),
        Fact(_mm(scores["hd95"]), "HD95", hd95),
        Fact(_mm(scores["assd"]), "Mean distance", was("assd", _mm) or "between the outlines"),
    ]
    if result.saliency is not None:
        used = f"{len(result.markers)} of {true_clips}"
        found.append(Fact(used, "Clips used", "clips that touch blur into one"))
    return found


def _mm(value: float) -> str:
    return f"{value:.1f} mm" if np.isfinite(value) else "missed"


def _file(result: VolumeSegmentationResult, name: str) -> dict[str, Any]:
    try:
        return {"value": _written(result, name), "visible": True}
    except MissingExtraError:
        return {"value": None, "visible": False}


def _written(result: VolumeSegmentationResult, name: str) -> str:
    """Write a file of a result where visitors may have it, and return its path."""
    with tempfile.TemporaryDirectory() as folder:
        content = result.save(Path(folder, name)).read_bytes()
    return save_bytes_to_cache(content, name, get_upload_folder())
