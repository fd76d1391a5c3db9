"""CONTRIBUTING.md is true: a folder and one line in auto.py make a method.

The toy method of `tests/newcomer` is added to a copy of the package by exactly the steps that
CONTRIBUTING.md lists; everything else has to follow.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NAME = "pixel-gradient-efficientnet-lite0"
LINES = {
    "_METHODS = (": f'Method("pixel_gradient", "arXiv:1312.6034", "{NAME}"),',
    "_MODELS = (": 'Model("pixel_gradient", "pixel_gradient", "image-saliency", '
    '"PixelGradientConfig", "PixelGradientForImageSaliency"),',
}
SHIP = f"""
import salhub
from pathlib import Path
from transformers import AutoImageProcessor
from salhub.hub import resolve
from salhub.results import Metric, Results

folder = Path(salhub.__file__).parent / "weights" / "{NAME}"
model = salhub.PixelGradientForImageSaliency.from_classifier("salhub/efficientnet-lite0")
model.config.save_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(resolve("salhub/efficientnet-lite0").config_folder)
processor.save_pretrained(folder)
(folder / "card.yaml").write_text(
    "method: pixel_gradient\\ntask: image-saliency\\ntrained_on: ImageNet-1k\\n"
    "source: converted\\nlicense: apache-2.0\\n"
    "weights_from: efficientnet-lite0\\n"
)
results = Results(model="{NAME}", command="salhub evaluate {NAME}", seed=0)
results.metrics.append(Metric(name="grid pointing mass", value=0.375, n=12))
results.save(Path(salhub.__file__).parent.parent / "model_cards" / "{NAME}.results.json")
"""
USE = f"""
import salhub
from salhub.cards import build_card
from salhub.ui import build_page

assert "salhub/{NAME}" in str(salhub.list_models())
result = salhub.pipeline("{NAME}")("sample:cat")
assert result.saliency.shape == (result.image.height, result.image.width)
assert salhub.pipeline("pixel-gradient")("sample:cat").label == result.label
model = salhub.AutoModelForSaliency.from_pretrained("salhub/{NAME}")
assert type(model) is salhub.PixelGradientForImageSaliency
card = build_card("{NAME}")
assert "0.375" in card and "1312.6034" in card
print(type(build_page("{NAME}")).__name__, result.label)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, salhub_root):
    """Return a copy of the package with the toy method added by the steps of CONTRIBUTING.md."""
    root = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(salhub_root, root / "salhub", ignore=ignore)
    (root / "model_cards").mkdir()
    shutil.copytree(TESTS / "newcomer" / "pixel_gradient", root / "salhub/models/pixel_gradient")
    auto = root / "salhub" / "auto.py"
    text = auto.read_text()
    for table, line in LINES.items():
        assert text.count(table) == 1
        text = text.replace(table, f"{table}\n    {line}")
    auto.write_text(text)
    _python(root, "-c", SHIP)
    _python(root, "-m", "salhub.manifest")
    return root


def _python(root: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(TESTS.parent)]),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(root / "cache"),
    }
    run = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_it_loads_by_name_and_has_a_pipeline_a_card_and_a_page(checkout):
    pytest.importorskip("gradio", reason="the page needs the extra 'demo'")
    assert _python(checkout, "-c", USE).split()[0] == "Blocks"


def test_the_command_line_knows_it(checkout):
    _python(checkout, "-m", "salhub.cli", "run", "pixel-gradient", "sample:cat", "-o", "cat.png")
    assert (checkout / "cat.png").stat().st_size > 1000


def test_the_shipped_tester_suite_passes(checkout):
    # Without settings of its own, pytest would read ours and put this checkout's package first.
    empty = checkout / "pytest.ini"
    empty.write_text("[pytest]\n")
    output = _python(
        checkout, "-m", "pytest", "-q", "-c", str(empty), "-p", "no:cacheprovider",
        "--import-mode=importlib",
        str(TESTS / "newcomer" / "test_pixel_gradient.py"), "--rootdir", str(checkout),
    )  # fmt: skip
    assert " passed" in output


def test_the_guide_says_what_was_done():
    guide = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for step in ("salhub/models/", "_METHODS", "_MODELS", "card.yaml", "python -m salhub.manifest",
                 "weights_from", "SavingTester", "configuration_", "modeling_"):  # fmt: skip
        assert step in guide, step
