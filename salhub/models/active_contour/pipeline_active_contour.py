"""The pipeline of the models that part the foreground of a picture from its background."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from salhub.data.picture_decoding import decode_picture
from salhub.data.picture_sources import read_source
from salhub.errors import check_choice
from salhub.models.active_contour.configuration_active_contour import (
    PRESETS,
    SaliencyActiveContourConfig,
)
from salhub.models.active_contour.drawn_maps import read_map, read_mask
from salhub.models.active_contour.film import Film
from salhub.models.active_contour.initial_contours import initial_level_set
from salhub.models.active_contour.result_active_contour import ImageSegmentationResult
from salhub.pipelines.base import PicturePipeline, number, whole_number

_STARTS = ("box", "points", "radius")
# Of what a model sees, in pixels.
_LEAST_SIDE = 8
# Of a disk about a point, of the shorter side of the picture.
_RADIUS_SHARE = 0.05
# Of the film; a longer evolution is shown in larger steps.
_MOST_FRAMES = 60
# From more pieces on nothing single was found, which is said.
_MANY_PIECES = 20
_FOUR_REGIONS = (
    "The mask contains all of the four regions except the least salient one; result.phases "
    "numbers them."
)
_OTHER_STARTS = ("box", "disk", "corner_box", "full", "checkerboard")
_START_WORDS = {
    "saliency": "what is salient",
    "box": "a box in the middle",
    "disk": "a disk in the middle",
    "full": "the frame of the picture",
    "checkerboard": "a checkerboard",
    "corner_box": "a box in the corner",
}


@dataclass(eq=False)
class _Prepared:
    """One picture on its way.

    Args:
        picture: RGB, upright.
        name: Of its file, or "".
        pixel_values: As the model takes them, (1, C, h, w).
        saliency: The map to be used, (1, h, w); None where the model makes its own.
        level_set: Where the contour starts, (1, h, w); None where the model chooses.
        start: The same in words.
        notes: What was done to the picture.
    """

    picture: Image.Image
    name: str
    pixel_values: torch.Tensor
    saliency: torch.Tensor | None = None
    level_set: torch.Tensor | None = None
    start: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the model sees."""
        return self.pixel_values.shape[-2], self.pixel_values.shape[-1]

    def scaled(self, values: Sequence[float]) -> list[float]:
        """Bring x, y, x, y... of the picture to what the model sees."""
        factors = (self.size[1] / self.picture.width, self.size[0] / self.picture.height)
        return [value * factors[place % 2] for place, value in enumerate(values)]

    def start_at(self, words: str, kind: str, **where: Any) -> None:
        """Have the contour start there, see `initial_level_set`."""
        self.level_set = initial_level_set(kind, self.size, **where)[None]
        self.start = words

    @property
    def kind(self) -> tuple:
        """What pictures have in common that pass together."""
        return self.pixel_values.shape, self.saliency is None, self.level_set is None


class ImageSegmentationPipeline(PicturePipeline):
    """Separate the foreground of pictures from their background.

    It is what `salhub.pipeline` gives for such models; `transformers.pipeline` gives its own
    pipeline of this task.

    Example:
        >>> import salhub
        >>> segment = salhub.pipeline("salhub/active-contour-saliency")
        >>> result = segment("sample:cells")
        >>> len(result.regions), result.mask.shape
        (4, (320, 420))
    """

    result_class = ImageSegmentationResult
    companions = {
        "saliency_map": (".saliency.npy", ".saliency.png"),
        "mask": (".start.png", ".start.npy"),
    }
    call_settings = ("preset", *_STARTS, "compare_starts", "min_area", "fill_holes", "keep")
    sample = "sample:cells"
    hub_task = "image-segmentation"
    example = """
import salhub

# a sample picture; you can also give a path, a URL, a PIL image or an array
result = salhub.pipeline("{model}")("{sample}")
print(result.summary())
result.save("outline.png")  # the contour on the picture; also .geojson, .coco.json, .gif, .npz
result.save("mask.png", view="mask")  # black and white
"""

    @staticmethod
    def read(source: Any) -> Image.Image:
        """Read a picture as it is, with all its bits and the name of its file."""
        picture = decode_picture(*read_source(source))
        picture.info["file_name"] = _file_name(source)
        return picture

    def __call__(
        self, images: Any, **kwargs: Any
    ) -> ImageSegmentationResult | list[ImageSegmentationResult]:
        """Segment one picture, or several.

        Args:
            images: What `salhub.load_image` takes, or a list, generator or dataset of it; pictures
                of 16 bits are stretched to 8, which is said.
            **kwargs: Where the contour starts: `box`, (left, top, right, bottom); `points`, a list
                of (x, y), with a disk of `radius` about each; or `mask`, a picture or array, True
                or bright inside, or labels, all inside but 0; all in pixels of the picture, x to
                the right. `saliency_map`, the map to be used: (H, W) in [0, 1], or a file of it.
                What is done to the mask:
                `min_area`, pixels below which a piece is dropped, 0; `fill_holes`, False; `keep`,
                "all" or "largest". `compare_starts`, whether five other starts are tried; then
                a result has an `agreement`. `preset`, such as "plain", "lif" or "chan_vese", and
                settings of the model for this call alone, such as `saliency`, `alpha` and `sigma`;
                and as in transformers, such as `batch_size`.

        Returns:
            One result a picture.

        Raises:
            ValueError: A picture or map that cannot be read or has another size, a start that is no
                part of the picture, or a setting out of its range.
            TypeError: An object that cannot be a picture, or a setting of another kind.
        """
        drawn = [name for name in ("box", "points", "mask") if kwargs.get(name) is not None]
        is_each = isinstance(kwargs.get("mask"), list)  # None in it stands for the usual start
        if drawn and kwargs.get("init") is not None and not is_each:
            raise ValueError(
                "A contour starts either at init or at a drawn start, got init and "
                f"{drawn[0]}; give one of them."
            )
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(self, preset=None, **settings):
        asked = {name: settings.pop(name, None) for name in _CHECKS}
        given = {name: _CHECKS[name](name, one) for name, one in asked.items() if one is not None}
        if "box" in given and "points" in given:
            raise ValueError("A contour starts either at a box or at points; give one of them.")
        if "radius" in given and "points" not in given:
            raise ValueError("radius is the radius of disks around points; give points=... too.")
        if preset is not None:
            named = SaliencyActiveContourConfig.from_preset(preset)
            of_calls = named.field_names() - named.loaded_fields
            settings = {**{name: getattr(named, name) for name in of_calls}, **settings}
        self._model_with(settings)
        starts = {name: given.pop(name) for name in _STARTS if name in given}
        compares = given.pop("compare_starts", False)
        return starts, {"finishing": given, "settings": settings, "compares": compares}, {}

    def choices(self) -> dict[str, list[str]]:
        """Return the presets that can be asked for, for `salhub info`."""
        return {"preset": list(PRESETS)}

    def prepare(
        self,
        image: Any,
        saliency_map: Any = None,
        mask: Any = None,
        box: list[float] | None = None,
        points: list[list[float]] | None = None,
        radius: float | None = None,
    ) -> dict[str, Any]:
        read = self.image_processor.read(image)
        shown = read.pixels.expand(3, -1, -1).round().byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(np.ascontiguousarray(shown))
        prepared = _Prepared(
            picture,
            _file_name(image),
            self.image_processor.resized(read.pixels, self.image_processor.longest_edge)[None],
            notes=list(read.notes),
        )
        size = (picture.height, picture.width)
        if min(prepared.size) < _LEAST_SIDE <= min(size):
            raise ValueError(
                f"The picture of {size[1]} x {size[0]} pixels (width x height) is processed "
                f"at {prepared.size[1]} x {prepared.size[0]}, which is too narrow for a "
                "contour; split it into less narrow parts."
            )
        if saliency_map is not None:
            own = _sized(read_map(saliency_map, "saliency_map"), "saliency_map", size)
            prepared.saliency = _resized(own, prepared.size)
        if mask is not None and (box or points):
            raise ValueError(
                "A contour starts either at a mask, a box or points; give one of them."
            )
        if mask is not None:
            drawn, notes = read_mask(mask, "mask")
            prepared.notes += notes
            drawn = _sized(torch.as_tensor(drawn).float(), "mask", size)
            inside = _resized(drawn, prepared.size) > 0.5
            prepared.start_at("a mask", "mask", mask=inside[0])
        elif box is not None:
            left, top, right, bottom = prepared.scaled(box)
            prepared.start_at("a box", "box", box=(top, left, bottom, right))
        elif points is not None:
            share = min(size) * _RADIUS_SHARE if radius is None else radius
            places = [tuple(reversed(prepared.scaled(point))) for point in points]
            words = "1 point" if len(points) == 1 else f"{len(points)} points"
            prepared.start_at(
                words, "points", points=places, radius=prepared.scaled([share, share])[0]
            )
        return {"prepared": prepared}

    def _forward(
        self,
        model_inputs,
        finishing: Mapping[str, Any],
        settings: Mapping[str, Any],
        compares: bool = False,
    ):
        waiting = model_inputs["prepared"]
        waiting = waiting if isinstance(waiting, list) else [waiting]
        model = self._model_with(settings)
        groups: dict[tuple, list[int]] = {}
        for place, one in enumerate(waiting):
            groups.setdefault(one.kind, []).append(place)
        found: list[ImageSegmentationResult | None] = [None] * len(waiting)
        for places in groups.values():
            group = [waiting[place] for place in places]
            results = self._segment(model, group, finishing)
            if compares:
                self._compare_starts(model, group, finishing, results)
            for place, result in zip(places, results, strict=True):
                found[place] = result
        return {"result": found}

    def _segment(
        self, model: Any, group: Sequence[_Prepared], finishing: Mapping[str, Any]
    ) -> list[ImageSegmentationResult]:
        """Segment pictures of one size together."""
        films = [Film() for _ in group]

        def keep(iteration: int, level_set: torch.Tensor) -> None:
            level_set = level_set.detach().float()
            if level_set.ndim == 4:
                # The product changes its sign at the contours of both.
                level_set = level_set.prod(1)
            for film, one in zip(films, level_set.cpu().numpy(), strict=True):
                film.add(iteration, one)

        def together(name: str) -> torch.Tensor | None:
            parts = [getattr(one, name) for one in group]
            return None if parts[0] is None else torch.cat(parts).to(self.device)

        config, given = model.config, together("saliency")
        if config.saliency == "tensor" and given is None:
            raise ValueError("saliency='tensor' needs a map for each picture: saliency_map=...")
        outputs = model(
            pixel_values=together("pixel_values"),
            saliency=given,
            init_level_set=together("level_set"),
            iter_callback=keep,
            callback_every=math.ceil(config.max_iterations / _MOST_FRAMES),
        )
        sizes = [(one.picture.height, one.picture.width) for one in group]
        finished = self.image_processor.post_process(outputs, target_sizes=sizes, **finishing)
        results = []
        for row, (one, parts) in enumerate(zip(group, finished, strict=True)):
            iterations = int(outputs.iterations[row])
            films[row].end(iterations)
            # What follows the last check is a repetition of it.
            count = math.ceil(iterations / config.check_every)
            energy = outputs.energy[row, :count].tolist()
            steps = [min(iterations, config.check_every * (k + 1)) for k in range(count)]
            results.append(
                ImageSegmentationResult(
                    image=one.picture,
                    mask=parts["mask"],
                    level_set=parts["level_set"],
                    saliency=parts["saliency"],
                    energy=list(zip(steps, energy, strict=True)),
                    iterations=iterations,
                    reason=outputs.reasons[row],
                    converged=bool(outputs.converged[row]),
                    start=one.start or _START_WORDS[config.init],
                    film=films[row],
                    phases=_phases(outputs, row, sizes[row]),
                    model_name=self._model_name(),
                    image_name=one.name,
                    notes=[
                        *one.notes,
                        *outputs.notes[row],
                        *([_FOUR_REGIONS] if config.num_phases == 2 else []),
                        *_doubts(int(parts["labels"].max())),
                    ],
                )
            )
        return results

    def _compare_starts(
        self,
        model: Any,
        group: Sequence[_Prepared],
        finishing: Mapping[str, Any],
        results: Sequence[ImageSegmentationResult],
    ) -> None:
        """Segment pictures from other starts too, and tell the results how alike that comes out."""
        masks: list[list[np.ndarray]] = [[result.mask] for result in results]
        for kind in _OTHER_STARTS:
            start = initial_level_set(kind, group[0].size)
            others = [replace(one, level_set=start[None]) for one in group]
            for place, result in enumerate(self._segment(model, others, finishing)):
                masks[place].append(result.mask)
        for result, several in zip(results, masks, strict=True):
            result.agreement = np.stack(several).mean(0, dtype=np.float32)

    def postprocess(self, model_outputs) -> ImageSegmentationResult:
        result = model_outputs["result"]
        return result[0] if isinstance(result, list) else result


def _phases(outputs: Any, row: int, size: tuple[int, int]) -> np.ndarray | None:
    """The regions of two level sets at the size of the picture, where there are two."""
    if outputs.labels_map is None:
        return None
    regions = outputs.labels_map[row].float()[None, None]
    return nn.functional.interpolate(regions, size)[0, 0].cpu().numpy().astype(np.uint8)


def _doubts(count: int) -> list[str]:
    if count <= _MANY_PIECES:
        return []
    return [
        f"The mask has {count} pieces. Drop small ones with min_area. If many things stand "
        "out, another saliency, such as that of a network, may find the right one."
    ]


def _file_name(source: Any) -> str:
    if isinstance(source, Image.Image):
        return str(source.info.get("file_name", ""))
    is_place = isinstance(source, str) and (":" not in source or Path(source).is_file())
    return Path(source).name if is_place or isinstance(source, os.PathLike) else ""


def _sized(values: torch.Tensor, name: str, size: tuple[int, int]) -> torch.Tensor:
    """A map of the size of the picture, (1, H, W)."""
    if values.shape != size:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, but the picture is {size[0]} pixels "
            f"high and {size[1]} wide; give one number per pixel, (H, W)."
        )
    return values[None]


def _resized(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring a map (1, H, W) to another size; what becomes smaller is averaged."""
    if values.shape[1:] == size:
        return values
    resized = nn.functional.interpolate(
        values[None], size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].clamp(0, 1)  # rounding leaves [0, 1]


def _box(name: str, value: Any) -> list[float]:
    numbers = _numbers(name, value, 4, "(left, top, right, bottom)")
    left, top, right, bottom = numbers
    if not (left < right and top < bottom):
        raise ValueError(
            f"{name} must be (left, top, right, bottom) with left below right and top below "
            f"bottom, got {numbers}."
        )
    return numbers


def _points(name: str, value: Any) -> list[list[float]]:
    if not _is_many(value) or not len(value):
        raise ValueError(f"{name} must be a list of (x, y), got {value!r}.")
    if not _is_many(value[0]):  # a single point
        value = [value]
    return [_numbers(name, point, 2, "(x, y)") for point in value]


def _numbers(name: str, value: Any, count: int, what: str) -> list[float]:
    if not _is_many(value) or len(value) != count:
        raise ValueError(f"{name} takes {what}, {count} numbers, got {value!r}.")
    return [number(name, float(one) if isinstance(one, np.number) else one) for one in value]


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray | torch.Tensor)


def _radius(name: str, value: Any) -> float:
    if number(name, value) <= 0:
        raise ValueError(f"{name} must be above 0, got {value}.")
    return float(value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return value


def _keep(name: str, value: Any) -> str:
    check_choice(name, value, ("all", "largest"))
    return value


_CHECKS = {
    "box": _box,
    "points": _points,
    "radius": _radius,
    "compare_starts": _switch,
    "min_area": partial(whole_number, low=0),
    "fill_holes": _switch,
    "keep": _keep,
}
