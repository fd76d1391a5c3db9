"""The viewer of the page: one slice to press in, and a table of the clips."""

from html import escape
from pathlib import Path

import gradio as gr
import numpy as np

from salhub.models.sdl_seg.clip_edits import ClipEdits
from salhub.models.sdl_seg.result_sdl_seg import VolumeSegmentationResult
from salhub.models.sdl_seg.slice_pictures import MARKER, PREDICTED, TRUTH, slice_picture
from salhub.ui.panes import data_address

_HERE = Path(__file__)
_SIDE = 480
STEP_MM = 2.0
# Name of a button -> what it does on the screen, and mm along z, y and x.
MOVES = {
    "left": ("← left", (0, 0, STEP_MM)),
    "right": ("→ right", (0, 0, -STEP_MM)),
    "up": ("↑ up", (0, STEP_MM, 0)),
    "down": ("↓ down", (0, -STEP_MM, 0)),
    "head": ("to the head", (STEP_MM, 0, 0)),
    "feet": ("to the feet", (-STEP_MM, 0, 0)),
}


def viewer_pane() -> gr.HTML:
    """Build the viewer, empty.

    What is picked: "at X Y", shares of the picture from its left and top; "choose N", "toggle N",
    or the name of one of `MOVES`.
    """
    script = _HERE.with_suffix(".js").read_text(encoding="utf-8")
    return gr.HTML(
        js_on_load=script, css_template=_HERE.with_suffix(".css").read_text(encoding="utf-8")
    )


def viewer(
    result: VolumeSegmentationResult,
    number: int,
    places: np.ndarray,
    edits: ClipEdits,
    chosen: int,
    *,
    opacity: float,
    show_truth: bool,
    show_bands: bool,
) -> str:
    """Return a slice of a phantom and the table of its clips.

    Args:
        result: What was found.
        number: Of the slice.
        places: (K, 3) voxel coordinates of all clips, those that were taken away too.
        edits: What was done to them.
        chosen: Number of the chosen clip, from 1; 0 for none.
        opacity: Of the map over the CT; 0 hides it.
        show_truth: Whether the true outline is drawn.
        show_bands: Whether the outlines at a probability of 5 % and 95 % are drawn.
    """
    kept = edits.kept(len(places))
    masks = {PREDICTED: result.mask}
    if show_truth and result.truth is not None:
        masks = {TRUTH: result.truth, **masks}
    picture = slice_picture(
        result.volume,
        number,
        masks=masks,
        bands=result.bands if show_bands else (),
        markers=places[kept],
        chosen=kept.index(chosen - 1) if chosen - 1 in kept else None,
        saliency=result.saliency if opacity else None,
        opacity=opacity,
        side=_SIDE,
    )
    what = f"Slice {number} of the CT with the region found, {result.volume_cc:.1f} cm³ in total"
    key = [(PREDICTED, "found")] + ([(TRUTH, "truth")] if len(masks) > 1 else [])
    lines = "".join(f'<span><i style="color: {color}"></i>{name}</span>' for color, name in key)
    ring = (
        f'<i class="slice-ring" style="color: {MARKER}"></i>clip (broken: in a neighbouring slice)'
    )
    return (
        '<div class="slice-viewer"><figure class="slice-picture"><div>'
        f'<img src="{data_address(picture)}" width="{picture.width}" height="{picture.height}" '
        f'alt="{escape(what, quote=True)}"><span title="The patient\'s right">R</span>'
        '<span title="The patient\'s left">L</span></div>'
        f"<figcaption>{lines}<span>{ring}</span></figcaption></figure>"
        f"{_table(places, edits, chosen)}</div>"
    )


def _table(places: np.ndarray, edits: ClipEdits, chosen: int) -> str:
    rows = "".join(
        _row(number, place, edits, number == chosen) for number, place in enumerate(places, start=1)
    )
    buttons = "".join(
        f'<button type="button" data-pick="{name}">{label}</button>'
        for name, (label, _) in MOVES.items()
    )
    moves = (
        f"<p>Move clip {chosen} by {STEP_MM:g} mm, or click its new place in the slice:</p>"
        f'<div class="clip-moves" role="group" aria-label="Move clip {chosen}">{buttons}</div>'
        if chosen
        else "<p>Choose a clip to move it.</p>"
    )
    return (
        '<div class="clip-table"><h3>Clips</h3><table><thead><tr><th scope="col">Clip</th>'
        '<th scope="col">Slice</th><th scope="col">Moved by</th><td></td></tr></thead>'
        f"<tbody>{rows}</tbody></table>{moves}</div>"
    )


def _row(number: int, place: np.ndarray, edits: ClipEdits, is_chosen: bool) -> str:
    is_removed = number in edits.removed
    states = ["is-chosen"] * is_chosen + ["is-removed"] * is_removed
    distance = float(np.linalg.norm(edits.moves.get(number, (0, 0, 0))))
    pressed = "true" if is_chosen else "false"
    what = "Put back" if is_removed else "Remove"
    return (
        f'<tr class="{" ".join(states)}"><th scope="row">{number}</th><td>{place[0]:.1f}</td>'
        f"<td>{f'{distance:.1f} mm' if distance else ''}</td><td>"
        f'<button type="button" data-pick="choose {number}" aria-pressed="{pressed}" '
        f'aria-label="Choose clip {number}">Choose</button> '
        f'<button type="button" data-pick="toggle {number}" '
        f'aria-label="{what} clip {number}">{what}</button></td></tr>'
    )
