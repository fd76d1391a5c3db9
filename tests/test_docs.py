"""What the documentation says works: its code runs, its links lead somewhere.

A block that cannot run here is preceded by `<!-- not run: REASON -->`, and skipped for that reason.
"""

import importlib.util
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

import salhub
from salhub.data.samples import sample_path
from salhub.entries import METHODS
from salhub.manifest import read_manifest
from tests.conftest import ROOT
from tests.machine import Machine

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = ROOT / "README.md"

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")

# Each page is one process and one namespace, so that a later block goes on where an earlier ended.
# BLOCKS is its code.
_RUN_PAGE = """
import json, shlex, sys
from salhub.cli import app

def run_commands(block):
    for line in block["code"].splitlines():
        words = shlex.split(line, comments=True)
        assert words[:1] in ([], ["salhub"]), line
        try:
            app(words[1:], prog_name="salhub") if words else None
        except SystemExit as exit:
            if exit.code:
                sys.exit(f"{block['page']}: {line!r} ended with {exit.code}")

namespace = {"__name__": "__main__"}
for block in json.loads(BLOCKS):
    if block["language"] == "bash":
        run_commands(block)
    else:
        code = "\\n" * block["line"] + block["code"]
        exec(compile(code, block["page"], "exec"), namespace)
"""


@dataclass(frozen=True)
class Block:
    """A piece of code in a page."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(name_of(page), line, match["language"], match["code"], match["reason"]))
    return found


def runnable(page: Path) -> list[Block]:
    """The blocks that are run here; those of the README that install are CI's."""
    return [one for one in blocks(page) if one.reason is None and "pip install" not in one.code]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Return a folder with everything that the pages take for granted."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        shutil.copy(sample_path("cat"), folder / name)
    (folder / "pictures").mkdir()
    for name in ("cat", "rocket"):
        shutil.copy(sample_path(name), folder / "pictures")
    for name in ("my-network", "my-org/my-resnet"):
        save_network(folder / name)
    return folder


def save_network(folder: Path) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


@pytest.fixture(scope="module")
def machine() -> Machine:
    """Return what runs the code of all pages."""
    return Machine(os.environ)


@pytest.fixture
def reader(prepared, tmp_path) -> Path:
    """Return a fresh copy of that folder."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name_of)
def test_code_runs(page, reader, machine):
    run(runnable(page), reader, machine)
    assert (reader / "explained.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("block", runnable(README), ids=lambda block: f"line-{block.line}")
def test_a_block_of_the_readme_runs_alone(block, tmp_path, machine):
    run([block], tmp_path, machine)


def run(found: list[Block], folder: Path, machine: Machine) -> None:
    listed = json.dumps([asdict(block) for block in found])
    code = f"BLOCKS = {listed!r}\n{_RUN_PAGE}"
    finished = machine.run(code, folder=folder, environment=os.environ)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in blocks(page) if block.reason],
    ids=lambda block: f"{block.page}:{block.line}",
)
def test_the_rest_says_why_it_is_not_run(block):
    pytest.skip(block.reason)


def test_the_tables_and_the_gallery_of_the_readme_are_up_to_date():
    text = README.read_text(encoding="utf-8")
    built = hook("docs/readme.py").build_readme(text)
    assert text == built, "write them anew with: python -m docs.readme"
    changed = text.replace("model_cards/editiq-stage.png", "model_cards/other.png")
    assert hook("docs/readme.py").build_readme(changed) == text != changed
    for name in METHODS:
        assert f"](docs/methods/{name}.md)<br>" in text


def test_no_code_is_overlooked():
    for page in PAGES:
        fences = page.read_text(encoding="utf-8").count("```")
        assert fences == 2 * len(blocks(page)), name_of(page)
        assert {block.language for block in blocks(page)} <= {"python", "bash"}, name_of(page)


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_links_lead_somewhere(page):
    for link in _LINK.finditer(page.read_text(encoding="utf-8")):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        assert target.exists(), link[0]
        if link["anchor"]:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert link["anchor"] in [anchor(heading) for heading in headings], link[0]


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def hook(name: str) -> ModuleType:
    """A file of Python beside the pages."""
    specification = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_page_and_every_method_is_in_the_site():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    for name in site["hooks"]:
        site = hook(name).on_config(site)
    listed = set(re.findall(r"[\w/-]+\.md", str(site["nav"])))
    cards = {f"model_cards/{name}.md" for name in read_manifest()}
    assert listed == {page.relative_to(DOCS).as_posix() for page in PAGES} | cards | {
        "reference.md"
    }
    reference = hook("docs/generated_pages.py").reference()
    assert set(re.findall(r"^## (\w+)$", reference, re.MULTILINE)) == set(salhub.__all__)
    assert {f"methods/{name}.md" for name in METHODS} <= listed


def test_every_setting_named_in_a_table_exists():
    """Methods and presets are listed by hand in the pages; none is missing and none invented."""
    from salhub.models.normgrad.methods import METHODS as FAMILY
    from salhub.models.salient_relevance.rules import PRESETS

    for page, heading, names in (
        ("normgrad", "| `method` |", FAMILY),
        ("salient_relevance", "| `preset` |", PRESETS),
    ):
        text = (DOCS / "methods" / f"{page}.md").read_text(encoding="utf-8")
        table = text[text.index(heading) :].split("\n\n")[0]
        assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)[1:]) == set(names)
