"""The card that a run writes: its numbers are those of the results file."""

from huggingface_hub import ModelCard
from PIL import Image

from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner import curves
from salhub.runner.run import run
from salhub.runner.run_folder import exported_files
from tests.runner.test_loop import lines
from tests.runner.toy_recipe import ToyArguments, ToyRecipe


class DescribedRecipe(ToyRecipe):
    """Says everything that a card can say."""

    def card_facts(self) -> Facts:
        return Facts(
            summary="Knows the largest of eight numbers.",
            example='load("{model}")',
            pipeline_tag="tabular-classification",
            base_model="me/base",
            tags=("toys",),
            cautions=("It is a toy.",),
            pictures={"curve.png": "How it learned."},
        )

    def export(self, model, folder):
        super().export(model, folder)
        (folder / "config.json").write_text('{"model_type": "salhub_toy"}')


def test_the_card_of_a_snapshot_says_where_it_is(tmp_path):
    run(DescribedRecipe(ToyArguments(output_dir=str(tmp_path / "toy"), cpu=True, snapshot_step=2)))
    text = (tmp_path / "toy" / "early" / "README.md").read_text()
    assert "# early" in text and 'load("toy", subfolder="early")' in text
    assert 'load("toy")' in (tmp_path / "toy" / "README.md").read_text()


def card_of(folder, kind=ToyRecipe, **options) -> str:
    run(kind(ToyArguments(output_dir=str(folder), cpu=True, **options)), command="do it | again")
    return (folder / "README.md").read_text()


def test_every_number_of_the_results_is_on_the_card_and_no_place_of_this_machine(tmp_path):
    text = card_of(tmp_path / "toy")
    results = Results.load(tmp_path / "toy" / "results.json")
    for metric in results.metrics:
        assert f"| {metric.name} | {metric.value:.4g} |" in text
    assert "- command: `do it | again`" in text and "- seed: 0" in text
    assert "| `learning_rate` | `0.01` |" in text
    assert str(tmp_path) not in text


def test_facts_of_the_recipe_and_front_matter(tmp_path):
    text = card_of(tmp_path / "toy", DescribedRecipe)
    card = ModelCard(text)
    assert card.data.library_name == "salhub"
    assert card.data.pipeline_tag == "tabular-classification"
    assert card.data.base_model == "me/base"
    assert card.data.tags == ["saliency", "salhub", "toy", "toys"]
    assert card.text.strip().startswith("# toy\n\nKnows the largest")
    assert "import salhub" in text and 'load("toy")' in text
    assert "![How it learned.](curve.png)" in text and "- It is a toy." in text


def test_the_course_of_a_training_is_on_its_card_and_pushed_with_it(tmp_path):
    text = card_of(tmp_path / "toy", keep_best=True, num_train_epochs=3)
    assert (
        "](curves.png)" in text
        and "Held-out data were measured separately and not used for training" in text
    )
    assert "The weights are those of the best measurement on held-out" in text
    picture = Image.open(tmp_path / "toy" / "curves.png")
    assert picture.width == 780 and picture.height > 700  # loss and accuracy
    assert "curves.png" in exported_files(tmp_path / "toy")
    again = card_of(tmp_path / "toy", overwrite=True, max_train_steps=1, validation_steps=0)
    assert "curves.png" not in again  # one point is no curve
    assert not (tmp_path / "toy" / "curves.png").exists()


def test_curves_are_those_of_the_log(tmp_path, monkeypatch):
    drawn = []
    draw = curves.draw_curves
    monkeypatch.setattr(curves, "draw_curves", lambda *found: drawn.append(found) or draw(*found))
    options = {"use_two_stages": True, "num_train_epochs": 3, "logging_steps": 2}
    card_of(tmp_path, **options)
    [(panels, x_title)] = drawn
    logged = lines(tmp_path)
    assert [panel.title for panel in panels] == ["loss", "accuracy"] and x_title == "epoch"
    assert list(panels[0].curves) == ["training: second", "training: first", "held out"]
    assert panels[0].curves["held out"] == [
        (line["step"] / 7, line["validation/loss"]) for line in logged if "validation/loss" in line
    ]
    assert panels[1].is_share and panels[1].curves["training: first"] == [
        (line["step"] / 7, line["accuracy"]) for line in logged if line["stage"] == "first"
    ]


def test_neighbours_are_joined_where_there_are_more_than_can_be_seen():
    points = [(float(x), 2.0 * x) for x in range(1000)]
    found = curves._thinned(points)
    assert 100 < len(found) <= 150 and found[0] == (3.0, 6.0)


def test_a_recipe_that_says_nothing_has_a_card_too(tmp_path):
    card = ModelCard(card_of(tmp_path / "toy"))
    assert card.data.library_name == "transformers"
    assert "## Use" not in card.text and "## Numbers" in card.text
