"""CONTRIBUTING.md is true: a method moves in by five places, and nothing else is touched.

Two toys of `tests/newcomer` are added to a copy of the repository by exactly those steps: one more
method of a task that is there, and one of a task of its own.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.architecture import FLOORS
from tests.machine import Machine

TESTS = Path(__file__).parent
ROOT = TESTS.parent
OLD_TASK, NEW_TASK = "pixel-gradient-efficientnet-lite0", "series-surprise-standard"
LINES = {
    "_TASKS": (
        'Task("series-saliency", "salhub.models.series_surprise.pipeline_series_surprise", '
        '"SeriesSaliencyPipeline"),',
    ),
    "_METHODS": (
        f'Method("pixel_gradient", "arXiv:1312.6034", "{OLD_TASK}"),',
        f'Method("series_surprise", "10.1093/biomet/6.1.1", "{NEW_TASK}"),',
    ),
    "_MODELS": (
        'Model("pixel_gradient", "pixel_gradient", "image-saliency", "PixelGradientConfig", '
        '"PixelGradientForImageSaliency"),',
        'Model("series_surprise", "series_surprise", "series-saliency", "SeriesSurpriseConfig", '
        '"SeriesSurpriseModel"),',
    ),
    "_RECIPES": (
        'RecipeEntry("series-surprise", "train", '
        '"salhub.models.series_surprise.recipe_series_surprise", "SeriesSurpriseRecipe"),',
    ),
}
SPACE = '''"""Space of {name}."""

from salhub.ui import build_page, launch


def build():
    """Build the page."""
    return build_page("salhub/{name}")


if __name__ == "__main__":
    launch(build())
'''
SHIP = f"""
import runpy, shutil
from pathlib import Path
import salhub
from salhub.cli import app
from salhub.hub import resolve
from salhub.results import Metric, Results
from transformers import AutoImageProcessor

weights = Path(salhub.__file__).parent / "weights"
folder = weights / "{OLD_TASK}"
model = salhub.PixelGradientForImageSaliency.from_classifier("salhub/efficientnet-lite0")
model.config.save_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(resolve("salhub/efficientnet-lite0").config_folder)
processor.save_pretrained(folder)
(folder / "card.yaml").write_text(
    "method: pixel_gradient\\ntask: image-saliency\\ntrained_on: ImageNet-1k\\n"
    "source: converted\\nlicense: apache-2.0\\nweights_from: efficientnet-lite0\\n"
)

Path("series.csv").write_text("\\n".join(map(str, [0.5, -0.5] * 50)))
words = ["train", "series-surprise", "data=series.csv", "output_dir=run", "cpu=true"]
app(words, standalone_mode=False)
folder = weights / "{NEW_TASK}"
folder.mkdir()
for name in ("config.json", "model.safetensors"):
    shutil.copy(Path("run", name), folder)
(folder / "card.yaml").write_text(
    "method: series_surprise\\ntask: series-saliency\\ntrained_on: noise\\n"
    "source: salhub train series-surprise\\nlicense: apache-2.0\\n"
)
for name in ("{OLD_TASK}", "{NEW_TASK}"):
    results = Results(model=name, command=f"salhub evaluate {{name}}", seed=0)
    results.metrics.append(Metric(name="something", value=0.375, n=12))
    results.save(Path("model_cards", f"{{name}}.results.json"))
runpy.run_module("salhub.manifest", run_name="__main__", alter_sys=True)
"""
DESCRIBE = f"""
import runpy
from salhub.cli import app

for name in ("{OLD_TASK}", "{NEW_TASK}"):
    app(["card", name, "--no-picture"], standalone_mode=False)
runpy.run_module("salhub.stub", run_name="__main__", alter_sys=True)
"""
USE = f"""
import salhub
from salhub.cards import build_card
from salhub.ui import build_page

assert salhub.__file__.startswith(CHECKOUT)
listed = str(salhub.list_models())
assert "salhub/{OLD_TASK}" in listed and "salhub/{NEW_TASK}" in listed

result = salhub.pipeline("{OLD_TASK}")("sample:cat")
assert result.saliency.shape == (result.image.height, result.image.width)
assert salhub.pipeline("pixel-gradient")("sample:cat").label == result.label
model = salhub.AutoModelForSaliency.from_pretrained("salhub/{OLD_TASK}")
assert type(model) is salhub.PixelGradientForImageSaliency
card = build_card("{OLD_TASK}")
assert "0.375" in card and "1312.6034" in card

result = salhub.pipeline("series-surprise")([0, 1, 9])
assert result.stands_out.tolist() == [False, False, True], result
model = salhub.AutoModelForSaliency.from_pretrained("salhub/{NEW_TASK}")
assert type(model) is salhub.SeriesSurpriseModel
card = build_card("{NEW_TASK}")
assert "0.375" in card and "biomet/6.1.1" in card

import transformers
folder = salhub.hub.resolve("salhub/{NEW_TASK}").config_folder
surprise = transformers.pipeline("series-saliency", model=folder)
assert surprise([0, 1, 9]).summary() == result.summary()
print([type(build_page(name)).__name__ for name in ("{OLD_TASK}", "{NEW_TASK}")])
"""
RUN = f"""
from pathlib import Path
from salhub.cli import app

app(["run", "pixel-gradient", "sample:cat", "-o", "cat.png"], standalone_mode=False)
app(["run", "{NEW_TASK}", "series.csv", "-o", "series.png"], standalone_mode=False)
assert Path("cat.png").stat().st_size > 1000 and Path("series.png").stat().st_size > 200
app(["info", "{NEW_TASK}"], standalone_mode=False)
"""
MEASURE = """
from benchmarks import pixel_gradient
from benchmarks.report import RESULTS
from salhub.results import Results

assert pixel_gradient.__file__.startswith(CHECKOUT)
pixel_gradient.main(["--rounds", "1"])
tables = Results.load(RESULTS / "pixel_gradient.json").tables
[agreement] = [table for table in tables if table.title == "Agreement"]
print(agreement.rows[0][-1])
"""
CHECK = """
import pytest, sys
sys.exit(pytest.main([
    "-q", "-n", "0", "-p", "no:cacheprovider", "--no-budget",
    "tests/models/pixel_gradient", "tests/models/series_surprise",
    "tests/test_architecture.py::test_the_house_stands",
    "tests/test_docs.py::test_every_page_and_every_method_is_in_the_site",
    "tests/spaces/test_spaces.py::test_there_are_spaces",
    "tests/spaces/test_spaces.py::test_it_builds_without_being_launched[pixel_gradient]",
    "tests/spaces/test_spaces.py::test_it_builds_without_being_launched[series_surprise]",
]))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Return a copy of the repository to which the toys were added as CONTRIBUTING.md says."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("salhub", "docs", "spaces", "tests", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__", "former", "newcomer")
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("README.md", "mkdocs.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    (root / "model_cards").mkdir()
    for card in (ROOT / "model_cards").glob("*.md"):
        shutil.copy(card, root / "model_cards")
    for method, model in (("pixel_gradient", OLD_TASK), ("series_surprise", NEW_TASK)):
        shutil.copytree(TESTS / "newcomer" / method, root / "salhub/models" / method)
        (root / "docs/methods" / f"{method}.md").write_text(f"# {method}\n")
        (root / "tests/models" / method).mkdir()
        shutil.copy(TESTS / "newcomer" / f"test_{method}.py", root / "tests/models" / method)
        (root / "spaces" / method).mkdir()
        (root / "spaces" / method / "app.py").write_text(SPACE.format(name=model))
    benchmark = "pixel_gradient.py"
    shutil.copy(TESTS / "newcomer" / f"benchmark_{benchmark}", root / "benchmarks" / benchmark)
    auto = root / "salhub" / "auto.py"
    text = auto.read_text()
    for table, lines in LINES.items():
        head = f"{table} = (\n"
        assert text.count(head) == 1
        text = text.replace(head, head + "".join(f"    {line}\n" for line in lines))
    auto.write_text(text)
    return root


@pytest.fixture(scope="module")
def run(checkout):
    """Run a program in that copy."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(checkout / "cache")}
    environment["PYTHONPATH"] = str(checkout)
    machine = Machine(environment, [checkout])

    def run(code: str) -> str:
        code = f"CHECKOUT = {str(checkout)!r}\n{code}"
        finished = machine.run(code, folder=checkout, environment=environment)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    run(SHIP)
    run(DESCRIBE)
    yield run
    machine.close()


def test_they_load_by_name_and_have_a_pipeline_a_card_and_a_page(run):
    pytest.importorskip("gradio", reason="the page needs the extra 'demo'")
    assert run(USE).splitlines()[-1] == "['Blocks', 'Blocks']"


def test_the_command_line_knows_them(run):
    assert "series-saliency" in run(RUN)


def test_its_benchmark_runs_beside_the_others(run):
    assert run(MEASURE).splitlines()[-1] == "met"


def test_the_tests_of_the_house_pass_with_them(run):
    run(CHECK)


def test_the_guide_shows_the_floors_that_are_checked():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", guide, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(len(FLOORS)))
    for (_, row), names in zip(rows, FLOORS, strict=True):
        named = {name.partition("/")[0] for name in re.findall("`([^`]+)`", row)}
        assert named == set(names) - {"__init__"}, row


def test_the_guide_says_what_was_done():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = ("models", "docs/methods", "benchmarks", "tests/models", "spaces")
    kinds = ("configuration", "modeling", "pipeline", "result", "page", "recipe", "evaluation")
    steps = (
        "card.yaml",
        "python -m salhub.manifest",
        "salhub card",
        "python -m salhub.stub",
        "weights_from",
        "SavingTester",
        "_TASKS",
    )
    for step in (*places, *(f"`{kind}_<method>.py`" for kind in kinds), *LINES, *steps):
        assert step in guide, step
