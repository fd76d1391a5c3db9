"""Every Space builds, is small, and tells the Hub what it is."""

import importlib.util
import inspect
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from salhub.entries import METHODS
from salhub.listing import list_models

gr = pytest.importorskip("gradio", reason="the Spaces need the extra 'demo'")

SPACES = sorted(path.parent for path in (Path(__file__).parents[2] / "spaces").glob("*/app.py"))
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(params=SPACES, ids=lambda folder: folder.name)
def space(request) -> Path:
    return request.param


@cache
def _page(space: Path) -> gr.Blocks:
    specification = importlib.util.spec_from_file_location(f"{space.name}_app", space / "app.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.build()


def test_there_are_spaces():
    assert {"gallery", *METHODS} == {space.name for space in SPACES}


def test_it_builds_without_being_launched(space):
    page = _page(space)
    assert isinstance(page, gr.Blocks)
    assert any(one.api_visibility == "public" for one in page.fns.values())
    assert not page.is_running


def test_it_is_small(space):
    assert len((space / "app.py").read_text(encoding="utf-8").splitlines()) < 120


def test_the_front_matter_is_what_the_hub_wants(space):
    text = (space / "README.md").read_text(encoding="utf-8")
    matter = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert matter["sdk"] == "gradio"
    assert matter["app_file"] == "app.py"
    assert matter["license"] == "apache-2.0"
    assert len(matter["short_description"]) <= 60
    assert {matter["colorFrom"], matter["colorTo"]} <= COLOURS
    assert re.fullmatch(r"\d+\.\d+\.\d+", matter["sdk_version"])
    shipped = {model.full_name for model in list_models()}
    assert set(matter["models"]) <= shipped


def test_the_readme_calls_the_endpoint_as_it_is(space):
    text = (space / "README.md").read_text(encoding="utf-8")
    call = re.search(r"client\.predict\((.*?)\n?\)\n", text, re.DOTALL)[1]
    named = set(re.findall(r"(\w+)=", call)) - {"api_name"}
    endpoint = re.search(r'api_name="/(\w+)"', call)[1]
    page = _page(space)
    [function] = [one for one in page.fns.values() if one.api_name == endpoint]
    assert named <= set(inspect.signature(function.fn).parameters)


def test_it_says_what_it_needs(space):
    [needed] = (space / "requirements.txt").read_text(encoding="utf-8").split()
    extras = re.fullmatch(r"salhub\[(.*)\]", needed)[1].split(",")
    assert "demo" in extras
