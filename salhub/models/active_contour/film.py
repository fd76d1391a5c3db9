"""How a contour moved: the frames of its evolution, drawn over the picture as an animation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from salhub.models.active_contour.contour_lines import contour_lines
from salhub.viz.text import draw_lines

# Of a contour, and of the dark edge that makes it stand out from any picture.
LINE, EDGE = "#19f0c8", "#10231f"
_LINE_WIDTH, _EDGE_WIDTH = 2.0, 4.0
_FINER = 3  # lines are drawn so many times larger, and then made smaller
_LARGEST_SMOOTH = 2048  # pictures of a longer side show no steps, and would take gigabytes
_LARGEST_SIDE, _SMALLEST_SIDE = 480, 240
_STRIP, _LETTERS = 26, 15
_INK, _PAPER, _TRACK, _DONE = "#1b1b1b", "#ffffff", "#dedede", "#14968a"
_FRAME_MS, _LAST_MS = 90, 1600
# Of a GIF's 256 colours: those of the picture, and steps between two colours of what is drawn. One
# is left for what a frame shares with the one before.
_PICTURE_COLORS, _RAMP = 205, 11
_STEPS = 127
# Share of the pixels that change sides below which nothing is seen to move.
_STILL = 1e-4


@dataclass(eq=False)
class Film:
    """Level sets in the course of an evolution, as small numbers.

    Attributes:
        iterations: Of each frame.
        fields: The level set of each frame, int8 (h, w): beside the contour a multiple of it.
    """

    iterations: list[int] = field(default_factory=list)
    fields: list[np.ndarray] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.iterations)

    def add(self, iteration: int, level_set: np.ndarray) -> None:
        """Keep a frame, unless the contour is where it was in the one before.

        Args:
            iteration: How many steps were made.
            level_set: float (h, w).
        """
        inside = level_set < 0
        if self.fields and ((self.fields[-1] < 0) != inside).mean() < _STILL:
            return
        # The contour is between pixels of different sides, so that only their numbers count.
        down, right = inside[1:] != inside[:-1], inside[:, 1:] != inside[:, :-1]
        sizes = np.abs(level_set)
        beside = (sizes[1:][down], sizes[:-1][down], sizes[:, 1:][right], sizes[:, :-1][right])
        reach = max((float(part.max()) for part in beside if part.size), default=1.0) or 1.0
        scaled = np.clip(level_set / reach, -1, 1) * _STEPS
        # No number becomes 0, which is on neither side.
        kept = np.where(inside, np.minimum(scaled, -1), np.maximum(scaled, 1))
        self.iterations.append(iteration)
        self.fields.append(kept.round().astype(np.int8))

    def end(self, iteration: int) -> None:
        """Leave out what was kept after the contour had stopped; the last frame is its end."""
        count = max(1, sum(one <= iteration for one in self.iterations))
        del self.iterations[count:], self.fields[count:]
        if self.iterations:
            self.iterations[-1] = iteration

    def lines(self, place: int, size: tuple[int, int]) -> list[np.ndarray]:
        """Return the contours of a frame in a picture of another size.

        Args:
            place: Of the frame.
            size: Width and height of the picture.

        Returns:
            Lines of float64 (N, 2), x and y, whole numbers being edges of pixels; those that end at
            the edge of the picture are open.
        """
        frame = self.fields[place].astype(np.float32)
        scale = np.array(size) / frame.shape[::-1]
        return [(line[:, ::-1] + 0.5) * scale for line in contour_lines(frame)]


def draw_contours(
    picture: Image.Image, lines: Sequence[np.ndarray], scale: float = 1.0
) -> Image.Image:
    """Draw contours over a picture, bright with a dark edge, so that they show on any ground.

    Args:
        picture: RGB.
        lines: As of `Film.lines`, in pixels of the picture.
        scale: How many times wider than usual the lines are.
    """
    bright, dark = _line_masks(picture.size, lines, scale)
    drawn = Image.composite(Image.new("RGB", picture.size, EDGE), picture, dark)
    return Image.composite(Image.new("RGB", picture.size, LINE), drawn, bright)


def _line_masks(
    size: tuple[int, int], lines: Sequence[np.ndarray], scale: float
) -> tuple[Image.Image, Image.Image]:
    finer = _FINER if max(size) <= _LARGEST_SMOOTH else 1
    large = (finer * size[0], finer * size[1])
    masks = []
    for width in (_LINE_WIDTH, _EDGE_WIDTH):
        mask = Image.new("L", large)
        draw = ImageDraw.Draw(mask)
        for line in lines:
            points = (finer * line).ravel().tolist()
            draw.line(points, 255, max(1, round(finer * width * scale)), joint="curve")
        masks.append(mask.reduce(finer))
    return masks[0], masks[1]


def film_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of the frames for a picture: small ones are enlarged.

    Example:
        >>> film_size((960, 480)), film_size((60, 60))
        ((480, 240), (240, 240))
    """
    side = min(max(max(size), _SMALLEST_SIDE), _LARGEST_SIDE)
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def write_film(path: Path, picture: Image.Image, film: Film) -> None:
    """Write an animation of a contour's evolution as GIF, which begins anew for ever.

    Args:
        path: The file.
        picture: RGB.
        film: Its frames, at least one.
    """
    size = film_size(picture.size)
    ground = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    palette = _palette(ground)
    # Dithered once: dithering every frame anew would make the whole picture flicker.
    still = np.asarray(ground.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    frames = []
    for place, iteration in enumerate(film.iterations):
        lines = film.lines(place, size)
        drawn = draw_contours(ground, lines)
        indices = np.asarray(drawn.quantize(palette=palette, dither=Image.Dither.NONE))
        changed = (np.asarray(drawn) != np.asarray(ground)).any(-1)
        strip = _strip(size[0], iteration, film.iterations[-1])
        strip = np.asarray(strip.quantize(palette=palette, dither=Image.Dither.NONE))
        frame = Image.fromarray(np.concatenate([np.where(changed, indices, still), strip]), "P")
        frame.putpalette(palette.getpalette())
        frames.append(frame)
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
    frames[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        # What a frame shares with the one before is left out of it.
        optimize=True,
    )


def _palette(ground: Image.Image) -> Image.Image:
    """A picture whose palette has the colours of a picture, of the contour and of the strip."""
    own = ground.quantize(_PICTURE_COLORS, method=Image.Quantize.MEDIANCUT)
    middle = ground.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    line, edge, ink, paper = (ImageColor.getrgb(one) for one in (LINE, EDGE, _INK, _PAPER))
    pairs = ((line, edge), (edge, middle), (line, middle), (ink, paper))
    mixed = np.concatenate([np.linspace(np.array(a), np.array(b), _RAMP) for a, b in pairs])
    others = [ImageColor.getrgb(one) for one in (_TRACK, _DONE)]
    colors = (own.getpalette() or [])[: 3 * _PICTURE_COLORS]
    colors += np.concatenate([mixed, others]).round().astype(int).ravel().tolist()
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors)
    return palette


def _strip(width: int, iteration: int, last: int) -> Image.Image:
    strip = Image.new("RGB", (width, _STRIP), _PAPER)
    text = f"iteration {iteration} of {last}"
    draw_lines(strip, (8, (_STRIP - _LETTERS) // 2 - 1), [text], _LETTERS, _INK)
    draw = ImageDraw.Draw(strip)
    left, right, middle = width // 2, width - 10, _STRIP // 2
    draw.line((left, middle, right, middle), _TRACK, 4)
    if last:
        draw.line((left, middle, left + (right - left) * iteration / last, middle), _DONE, 4)
    return strip
