"""The edit on the page: its shots along the time, all cameras at one moment, and why."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from salhub.models.editiq.edit import Explanation
from salhub.models.editiq.result_editiq import VideoEditingResult
from salhub.models.editiq.timeline_picture import cropped, shot_color, written_time
from salhub.ui.panes import data_address
from salhub.viz import colorize

_CSS = Path(__file__).with_suffix(".css")
_STILL = (160, 90)
_READ_WIDTH = 960
_COLUMNS, _ROW_PIXELS = 240, 8
_MOST_SHOTS = 16


def view_pane() -> gr.HTML:
    """Build the view, empty. What is picked: "shot N", from 1."""
    return gr.HTML(css_template=_CSS.read_text(encoding="utf-8"))


def editing_view(result: VideoEditingResult, chosen: int) -> str:
    """Return the edit as HTML.

    Args:
        result: The edit.
        chosen: Number of the shot that is explained, from 1.
    """
    span = result.decision.spans[chosen - 1]
    tick = (span.start + span.stop) // 2
    seconds = float(tick / result.decision.frame_rate)
    begin = written_time(float(span.start / result.decision.frame_rate))
    return (
        f'<div class="edit-view"><section>{_line(result, chosen)}{_talk(result)}'
        f'{_ends(result)}</section><section class="edit-why"><h3>Shot {chosen}, '
        f"{escape(span.shot.name)} at {begin}</h3>{_why(result.explain(seconds))}</section>"
        f"<section><h3>All cameras at {written_time(seconds)}</h3>{_shots(result, tick)}</section>"
        f"<section><h3>Value of each shot</h3>{_heat(result)}{_ends(result)}</section></div>"
    )


def _line(result: VideoEditingResult, chosen: int) -> str:
    decision = result.decision
    buttons = []
    for number, span in enumerate(decision.spans, start=1):
        length = span.stop - span.start
        when = written_time(float(span.start / decision.frame_rate))
        seconds = float(length / decision.frame_rate)
        name = escape(span.shot.name, quote=True)
        about = f"Shot {number}: {name}, from {when}, {seconds:.1f} s"
        buttons.append(
            f'<button type="button" data-pick="shot {number}" aria-pressed="'
            f'{"true" if number == chosen else "false"}" aria-label="{about}" title="{about}" '
            f'style="flex: {length} 1 0; background: '
            f'{shot_color(span.shot.actors, result.names)}">{_label(span.shot.actors)}</button>'
        )
    return (
        '<h3>The edit: click a shot to see why</h3><div class="edit-line" role="group" '
        f'aria-label="Shots in their order">{"".join(buttons)}</div>'
    )


def _label(actors: Sequence[str]) -> str:
    return escape("+".join(actors)) if actors else "wide"


def _talk(result: VideoEditingResult) -> str:
    duration = float(result.film.duration)
    rows = []
    speaking = set(result.transcript.speakers)
    for name in [one for one in result.names if one in speaking]:
        bars = "".join(
            f'<rect x="{100 * one.start / duration:.2f}" y="0" '
            f'width="{max(0.3, 100 * (one.end - one.start) / duration):.2f}" height="14" '
            f'fill="{shot_color((name,), result.names)}"><title>{escape(one.text)}</title></rect>'
            for one in result.transcript.utterances
            if one.speaker == name
        )
        rows.append(
            f'<span>{escape(name)}</span><svg viewBox="0 0 100 14" preserveAspectRatio="none" '
            f'role="img" aria-label="When {escape(name, quote=True)} speaks">{bars}</svg>'
        )
    return f'<div class="edit-talk">{"".join(rows)}</div>' if rows else ""


def _ends(result: VideoEditingResult) -> str:
    end = written_time(float(result.film.duration))
    return f'<div class="edit-ends"><span>0:00.0</span><span>{end}</span></div>'


def _why(why: Explanation) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="{"is-better" if own < other else ""}">{own:.2f}</td>'
        f'<td class="{"is-better" if other < own else ""}">{other:.2f}</td></tr>'
        for name, own, other in why.rows
    )
    table = (
        '<table><thead><tr><th scope="col">Cost</th>'
        f'<th scope="col">{escape(why.shot)}</th><th scope="col">{escape(str(why.runner_up))}</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )
    return f"<p>{escape(why.text)}</p>{table if why.rows else ''}"


def _shots(result: VideoEditingResult, tick: int) -> str:
    [(_, picture)] = result.film.stills([tick], _READ_WIDTH)
    rushes, decision = result.edit.rushes, result.decision
    on_screen = decision.span_at(tick).shot
    cells = []
    for number, shot in enumerate(rushes.shots[:_MOST_SHOTS]):
        is_offered = bool(rushes.offered[number, tick])
        states = ["is-chosen"] * (shot == on_screen) + ["is-away"] * (not is_offered)
        still = cropped(picture, rushes.crops[number, tick], decision.frame_size[0], _STILL)
        name = escape(shot.name, quote=True)
        note = ", on screen" if shot == on_screen else "" if is_offered else ", not offered here"
        cells.append(
            f'<figure class="{" ".join(states)}"><img src="{data_address(still)}" '
            f'width="{_STILL[0]}" height="{_STILL[1]}" alt="What the camera {name} shows">'
            f"<figcaption>{name}{note}</figcaption></figure>"
        )
    more = len(rushes.shots) - len(cells)
    note = f"<p>and {more} more</p>" if more > 0 else ""
    return f'<div class="edit-shots">{"".join(cells)}</div>{note}'


def _heat(result: VideoEditingResult) -> str:
    edit = result.edit
    weights = edit.config.dialogue_weight, edit.config.saliency_weight
    worth = weights[0] * edit.dialogue_potential + weights[1] * edit.saliency_potential
    rows, length = worth.shape
    columns = np.linspace(0, length - 1, min(_COLUMNS, length)).round().astype(int)
    scaled = np.clip(worth[:, columns] / max(float(worth.max()), 1e-9), 0, 1)
    picture = np.repeat(colorize(scaled), _ROW_PIXELS, axis=0)
    names = "".join(f"<li>{escape(shot.name)}</li>" for shot in edit.rushes.shots)
    about = "Value of each shot over time, from dialogue and saliency; brighter is better"
    address = data_address(Image.fromarray(np.asarray(picture, np.uint8)))
    height = max(1, rows * 18)
    return (
        f'<div class="edit-heat"><ul>{names}</ul><img src="{address}" alt="{about}" '
        f'style="height: {height}px"></div>'
    )
