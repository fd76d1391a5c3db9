"""Addresses that open a page as somebody else saw it.

All that is needed stands in the address, so a link to a sample never goes stale. (gradio's own
DeepLinkButton forgets the value of every component that an answer left as it was.)
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder

from salhub.data.samples import sample_names, sample_path
from salhub.errors import did_you_mean
from salhub.ui.controls import UploadedPicture
from salhub.ui.film_input import UploadedFilm

COPY = "Copy a link to this view"
# Without https a browser lends no clipboard; the address bar does then.
COPY_SCRIPT = """
async (query) => {
    if (!query) return [query, 'This view is too long for a link'];
    const address = new URL(window.location.href);
    address.search = query;
    try {
        await navigator.clipboard.writeText(address.toString());
        return [query, 'Link copied'];
    } catch {
        window.history.replaceState(null, '', address);
        return [query, 'The link is in the address bar'];
    }
}
"""
RESTORE_SCRIPT = f"""
() => new Promise((done) => setTimeout(() => done('{COPY}'), 2000))
"""
READ_SCRIPT = "() => window.location.search"

# No network has a billion classes, and Python refuses to read numbers of thousands of digits.
_MOST_DIGITS = 10
_MOST_SHOWN = 60
# Longer addresses are cut by what they pass through.
_MOST_LETTERS = 4000
_KEPT_PICTURE = re.compile(r"[0-9a-f]{40,128}/[^/\\]+")


def link_query(state: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return the query of an address for a state of the controls.

    Args:
        state: Value of each control by its name, and the open tab under "tab"; a picture is an
            `UploadedPicture` or None, and a film is left out.
        defaults: The state in which the page is opened; what is as there is not repeated, but a
            sample is named.

    Returns:
        The query; "" where it would be too long for an address.

    Example:
        >>> link_query({"method": "cam", "size": 3}, {"method": "grad_cam", "size": 3})
        'method=cam'
    """
    parts: dict[str, str] = {}
    for name, value in state.items():
        if isinstance(value, UploadedPicture):
            kept = f"{value.path.parent.name}/{value.path.name}"
            parts |= {name: kept} if value.sample is None else {"sample": value.sample}
        elif isinstance(value, UploadedFilm):
            continue  # too large to be kept for whoever opens a link
        elif value is not None and value != defaults.get(name):
            parts[name] = str(value)
    query = urlencode(parts, errors="replace")
    return query if len(query) <= _MOST_LETTERS else ""


def read_link(
    search: str,
    controls: Mapping[str, Component],
    dependents: Collection[str] = (),
    tabs: Collection[str] = (),
) -> dict[str, Any]:
    """Return the values that an address gives to controls, and the tab under "tab".

    Args:
        search: The query of the address.
        controls: The controls by name.
        dependents: Names of those whose choices depend on others; they are checked later.
        tabs: Titles that there are.

    Raises:
        ValueError: A picture that is no longer kept, or a value that a control does not take.

    Example:
        >>> read_link("?size=3", {"size": gr.Slider(0, 10)})
        {'size': 3.0}
    """
    given = dict(parse_qsl(search.removeprefix("?")))
    found: dict[str, Any] = {}
    for name, control in controls.items():
        if isinstance(control, gr.Video):
            continue
        if isinstance(control, gr.Image):
            if given.get("sample") in sample_names():
                found[name] = UploadedPicture.of_sample(sample_path(given["sample"]))
            elif name in given:
                found[name] = _kept_picture(given[name])
        elif name in given:
            found[name] = _value(control, given[name], name in dependents)
    if given.get("tab") in tabs:
        found["tab"] = given["tab"]
    return found


def _kept_picture(name: str) -> UploadedPicture:
    # Only names that gradio gives to what it keeps; anything else would be a path of the server's.
    path = Path(get_upload_folder()) / name
    if not _KEPT_PICTURE.fullmatch(name) or not _is_file(path):
        raise ValueError(
            "The picture of this link has been deleted, because pictures are kept for only a few "
            "hours; upload it again or choose a sample."
        )
    return UploadedPicture(path, path.name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the system takes
        return False


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _class(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < _MOST_DIGITS):
        raise ValueError(f"The link has the class '{_short(text)}', but it must be a number.")
    return int(text)


def _value(control: Component, text: str, is_checked_later: bool) -> Any:
    if isinstance(control, gr.Checkbox):
        return text == "True"
    if isinstance(control, gr.Slider):
        return _number(control, text)
    if isinstance(control, gr.Textbox):
        return text
    options = [value for _, value in control.choices]
    if any(isinstance(value, int) for value in options):
        return _class(text)
    if is_checked_later or text in options or getattr(control, "allow_custom_value", False):
        return text
    raise ValueError(
        f"The link sets {control.label} to '{_short(text)}', which does not "
        f"exist.{did_you_mean(_short(text), map(str, options))}"
    )


def _number(control: gr.Slider, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not control.minimum <= value <= control.maximum:
        raise ValueError(
            f"The link sets {control.label} to {_short(text)}, but it must be from "
            f"{control.minimum} to {control.maximum}."
        )
    return value
