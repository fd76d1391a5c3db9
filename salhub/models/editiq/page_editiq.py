"""The page of EditIQ: a wide recording and its edit side by side, and why each shot is there."""

import hashlib
import tempfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

import salhub.pipelines  # noqa: F401 - registers all pipelines before one is imported
from salhub.models.editiq.editing_view import editing_view, view_pane
from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.result_editiq import Delivery, VideoEditingResult
from salhub.models.editiq.stage_sample import FIRST_SEED, LARGEST_SEED
from salhub.models.editiq.subtitles import read_transcript
from salhub.models.editiq.utterances import Transcript
from salhub.pipelines import pipeline
from salhub.pipelines.base import whole_number
from salhub.ui.controls import sent_number, slider
from salhub.ui.film_input import UploadedFilm, film_input, film_pane
from salhub.ui.page import Contents, State
from salhub.ui.page import Page as Frame
from salhub.ui.panes import Fact, facts, file_stem, notes, pipeline_program, python, sentence

_MOST_ANSWERS, _MOST_FILMS = 6, 12
_LONGEST_SECONDS, _MOST_PIXELS = 120, 3840 * 2160
# Of the film that plays here; the files to take home refer to the film itself.
_LONG_SIDE = 640
_STAGES = {
    "tracks": "Finding people",
    "saliency": "Computing saliency",
    "rushes": "Aiming the cameras",
    "dialogue": "Reading the dialogue",
    "edit": "Choosing the shots",
    "render": "Rendering",
}
_SLIDERS = ("longest_shot", "minimum_shot", "transition_weight", "saliency_share")
_FILES = {
    "edl": ("Edit list (.edl)", ".edl"),
    "otio": ("Timeline (.otio)", ".otio"),
    "subtitles": ("Subtitles (.srt)", ".srt"),
    "json": ("All numbers (.json)", ".json"),
}
_HINT = (
    "The film above is small so that it is ready quickly; the code below saves it at 1280x720. "
    "The edit list and the timeline use your own film and open in film-editing programs."
)
_TEXT_HINT = "SRT, VTT or JSON lines; write 'ANNA: Hello' to name the speaker. Then click Edit."


class Page(Frame):
    """A film, its edit, and what it was chosen by."""

    title = "EditIQ"
    sentence = (
        "Turn a film from a static camera into an edited one. Closer views are cropped from its "
        "picture, and chosen by who is speaking and by what draws the eye. Upload "
        "only films of people who agreed to it; films are deleted after some hours."
    )
    code_title = "The same in Python, at full size"
    pickable = ("view",)
    progress = "full"
    endpoints = {
        "edit": (
            partial(gr.Video, label="Edited film"),
            partial(gr.JSON, label="Shots"),
        )
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pipeline = pipeline(self.name)
        self._edits: OrderedDict[tuple, VideoEditingResult] = OrderedDict()
        self._films: OrderedDict[tuple, str] = OrderedDict()

    # --- controls -------------------------------------------------------------------------------

    def asked(self) -> dict[str, Component]:
        """Build the place for a film, its transcript and its cast."""
        return {
            "film": film_input("Your film, from a static camera"),
            "transcript": gr.Textbox(
                "", label="Transcript", info=_TEXT_HINT, lines=2, max_lines=8, max_length=100_000
            ),
            "cast": gr.Textbox(
                "",
                label="Names of the people, from left to right",
                placeholder="Anna, Ben",
                max_length=400,
            ),
            "start": gr.Button("Edit", variant="primary"),
            "another": gr.Button("Another sample scene"),
        }

    def main_controls(self) -> dict[str, Component]:
        """Build what an editor has a taste for."""
        config = self.pipeline.model.config
        share = config.saliency_weight / (config.saliency_weight + config.dialogue_weight)
        return {
            "longest_shot": slider(
                2, 20, config.longest_shot, step=0.5, label="Longest shot (seconds)"
            ),
            "minimum_shot": slider(
                0.5, 5, config.minimum_shot, step=0.1, label="Shortest shot (seconds)"
            ),
            "transition_weight": slider(
                0, 5, round(config.transition_weight, 2), step=0.1, label="Cost of a cut"
            ),
            "saliency_share": slider(
                0, 1, round(share, 2), step=0.05, label="Weight of saliency (1) or dialogue (0)"
            ),
        }

    def setting_controls(self) -> dict[str, Component]:
        """Build the shots that are demanded, and the states that only the page changes."""
        return {
            "locks": gr.Textbox(
                "",
                label="Demanded shots",
                info="Such as 12.0-15.0=MS:ben; separate several with commas. Then click Edit.",
                max_length=400,
            ),
            "seed": gr.Textbox(str(FIRST_SEED), visible="hidden"),
            "chosen": gr.Textbox("1", visible="hidden"),
            "shown": gr.Textbox("", visible="hidden"),
        }

    def consequences(self, state: State, moved: list[str]) -> State:
        """Another edit is looked at from its first shot on."""
        return {"chosen": "1", "shown": ""} if set(moved) - {"chosen", "shown"} else {}

    def picked(self, pick: str, state: State) -> State:
        """Return what a press changes: on a button, or on a shot."""
        if pick == "start":
            return {"shown": ""}
        if pick == "another":
            return {"film": None, "seed": str((_seed(state) + 1) % (LARGEST_SEED + 1))}
        word, _, number = pick.partition(" ")
        if word != "shot" or not number.isdecimal():
            return super().picked(pick, state)
        return {"chosen": number}

    # --- answers --------------------------------------------------------------------------------

    def panes(self) -> dict[str, Component]:
        """Build both films, the view and the files."""
        with gr.Row():
            panes: dict[str, Component] = {
                "after": film_pane("Edited"),
                "before": film_pane("Original recording"),
            }
        panes["notes"] = gr.HTML(visible=False)
        panes["view"] = view_pane()
        panes["facts"] = gr.HTML()
        names = list(_FILES)
        for pair in (names[:2], names[2:]):
            with gr.Row(elem_classes="salhub-buttons"):
                for name in pair:
                    panes[name] = gr.DownloadButton(_FILES[name][0], size="md")
        gr.HTML(sentence(_HINT))
        return panes

    def contents(self, query: State) -> Contents:
        """Edit the film as the controls are."""
        key, result = self._result(query)
        chosen = whole_number("shot", int(query["chosen"]), low=1, limit=1 + 10**6)
        if chosen > len(result.decision.spans):
            raise ValueError(
                f"There is no shot {chosen}; there are {len(result.decision.spans)} shots."
            )
        found: Contents = {
            "view": {"value": editing_view(result, chosen)},
            "notes": notes(result.warnings),
            "facts": {"value": facts(_numbers(result))},
            "shown": {"value": key},
        }
        if query["shown"] == key:
            # The films are there, and one of them may be playing.
            return found
        stem = file_stem(result.film.path.stem, "edited")
        return {
            **found,
            "before": {"value": str(result.film.path)},
            "after": {"value": self._film(key, result, f"{stem}.mp4")},
            **{
                name: _file(result, f"{stem}{ending}", name) for name, (_, ending) in _FILES.items()
            },
        }

    def _result(self, query: State) -> tuple[str, VideoEditingResult]:
        """The edit, and what tells it from others."""
        source, key = self._source(query)
        if key not in self._edits:
            self._edits[key] = self._first_edit(source, query)
            while len(self._edits) > _MOST_ANSWERS:
                self._edits.popitem(last=False)
        self._edits.move_to_end(key)
        first = self._edits[key]
        settings, locks = self._settings(query), _locks(query["locks"])
        found = first
        if settings or locks:
            edit = self.pipeline.model.re_edit(first.edit, locks=locks, **settings)
            found = first.with_edit(edit)
        name = hashlib.sha256(repr((key, sorted(settings.items()), locks)).encode())
        return name.hexdigest()[:24], found

    def _source(self, query: State) -> tuple[Any, tuple]:
        film: UploadedFilm | None = query["film"]
        texts = (query["transcript"].strip(), query["cast"].strip())
        if film is None:
            return f"sample:stage-{_seed(query)}", ("sample", _seed(query), *texts)
        return film, (str(film.path), *texts)

    def _first_edit(self, source: Any, query: State) -> VideoEditingResult:
        given: dict[str, Any] = {"resume": False, "progress": tell}
        is_sample = isinstance(source, str)
        cast = [one.strip() for one in query["cast"].split(",") if one.strip()]
        if cast:
            given["cast"] = cast
        if query["transcript"].strip():
            given["transcript"] = _transcript(query["transcript"], cast or None)
        # Editing programs of a visitor find nothing on the server.
        given["address"] = f"{source.replace('sample:', '')}.mp4" if is_sample else source.name
        if not is_sample:
            source = _checked_film(source)
        return self.pipeline(source, **given)

    def _settings(self, query: State) -> dict[str, float]:
        """What the controls change of the model."""
        config = self.pipeline.model.config
        first = self.main_values
        moved = [name for name in _SLIDERS if float(query[name]) != first[name]]
        given = {name: float(sent_number(name, query[name])) for name in moved}
        share = given.pop("saliency_share", None)
        if share is not None:
            whole = config.saliency_weight + config.dialogue_weight
            given |= {"saliency_weight": share * whole, "dialogue_weight": (1 - share) * whole}
        return given

    @property
    def main_values(self) -> dict[str, float]:
        """Values of the sliders in which the model is as it was saved."""
        return {name: float(self.inputs[name].constructor_args["value"]) for name in _SLIDERS}

    def _film(self, key: tuple, result: VideoEditingResult, name: str) -> str:
        if key not in self._films or not Path(self._films[key]).is_file():
            width, height = Delivery().size_for(result.decision.aspect)
            scale = _LONG_SIDE / max(width, height)
            small = tuple(2 * round(side * scale / 2) for side in (width, height))
            with tempfile.TemporaryDirectory() as folder:
                path = result.resized(small).render(Path(folder, name), tell)
                content = path.read_bytes()
            self._films[key] = save_bytes_to_cache(content, name, get_upload_folder())
            while len(self._films) > _MOST_FILMS:
                self._films.popitem(last=False)
        return self._films[key]

    def code(self, query: State) -> str:
        """Return the program that makes the edit in sight."""
        call: dict[str, Any] = {}
        film: UploadedFilm | None = query["film"]
        source = python(f"sample:stage-{_seed(query)}" if film is None else film.name)
        if query["transcript"].strip():
            call["transcript"] = "talk.srt"
        if query["cast"].strip():
            call["cast"] = [one.strip() for one in query["cast"].split(",") if one.strip()]
        if query["locks"].strip():
            call["locks"] = _locks(query["locks"])
        call |= self._settings(query)
        last = ["print(result.summary())", 'result.save("edited.mp4")', 'result.save("edited.edl")']
        return pipeline_program("edit", self.name, source, last, call=call)

    def edit(self, seed: int = FIRST_SEED, locks: str = "") -> tuple[str, dict[str, Any]]:
        """Edit a sample scene.

        Args:
            seed: Of the scene, 0 to 9999.
            locks: Demanded shots, such as "12.0-15.0=MS:ben".

        Returns:
            The edited film, and its shots.
        """
        number = whole_number("seed", sent_number("seed", seed), low=0, limit=LARGEST_SEED + 1)
        query = {**self.first_state, "film": None, "seed": str(number), "locks": locks or ""}
        key, result = self._result(query)
        return self._film(key, result, f"stage-{number}-edited.mp4"), result.to_dict()


def tell(stage: str, done: int, total: int | None) -> None:
    """Show on the page how far a stage is; nothing where no page asks."""
    if total:
        gr.Progress()(min(done / total, 1.0), desc=_STAGES.get(stage, stage))


def _seed(query: State) -> int:
    text = str(query["seed"]).strip()
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise ValueError(f"There is no sample scene '{text[:20]}'.")
    return int(text)


def _locks(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _transcript(text: str, cast: list[str] | None) -> Transcript:
    is_json = text.lstrip().startswith(("[", "{"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "transcript.json" if is_json else "transcript.srt")
        path.write_text(text, encoding="utf-8")
        try:
            return read_transcript(path, cast)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "The transcript")) from None


def _checked_film(sent: UploadedFilm) -> FilmFile:
    path = sent.check()
    try:
        film = FilmFile.open(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), f"'{sent.name}'")) from None
    width, height = film.size
    if film.duration > _LONGEST_SECONDS or width * height > _MOST_PIXELS:
        raise ValueError(
            f"'{sent.name}' has {float(film.duration):.0f} s of {width}x{height} pixels; "
            f"this page accepts up to {_LONGEST_SECONDS} s at 3840x2160. Use salhub on your "
            "own machine."
        )
    return film


def _numbers(result: VideoEditingResult) -> list[Fact]:
    lengths = sorted(result.shot_seconds)
    return [
        Fact(str(len(lengths)), "Shots", f"in {float(result.film.duration):.1f} s"),
        Fact(f"{result.cuts_per_minute:.1f}", "Cuts per minute"),
        Fact(f"{lengths[0]:.1f} s", "Shortest shot", f"the longest lasts {lengths[-1]:.1f} s"),
        Fact(f"{result.edit.energy:.1f}", "Energy", "total cost of this edit, the lowest possible"),
    ]


def _file(result: VideoEditingResult, name: str, kind: str) -> dict[str, Any]:
    if kind == "subtitles" and not result.transcript.utterances:
        return {"value": None, "visible": False}
    with tempfile.TemporaryDirectory() as folder:
        content = result.save(Path(folder, name)).read_bytes()
    return {"value": save_bytes_to_cache(content, name, get_upload_folder()), "visible": True}
