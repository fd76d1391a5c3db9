"""Cards: facts from card.yaml, every number from the results file, code that runs."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import salhub.cards
import salhub.model_facts
from salhub import manifest
from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.cards import (
    CardError,
    build_card,
    card_files,
    card_picture_name,
    cards_folder,
    read_facts,
)
from salhub.cli import app
from salhub.entries import entry_of
from salhub.errors import UnknownNameError
from salhub.model_card import Facts
from salhub.model_facts import key_number
from salhub.results import Results, Table

NAMES = list(manifest.read_manifest())
METHOD_NAMES = [
    name for name, model in manifest.read_manifest().items() if model.method is not None
]
NAME = "normgrad-efficientnet-lite0"
SECTIONS = [
    "Use",
    "What it is for",
    "What it is not for",
    "Numbers",
    "Where the weights come from",
    "Limits and biases",
    "Licence",
    "Citation",
]
OWN = "this model"


def invented_results(name: str) -> Results:
    """Numbers that nobody would type."""
    results = Results(
        model=f"salhub/{name}",
        command=f"salhub evaluate {name} --data pictures seed=7",
        seed=7,
        data={"name": "pictures", "num_images": 71, "fingerprint": "0a1b2c3d"},
        versions={"python": "3.11.99", "torch": "2.13.1"},
        machine={"processor": "Imaginary 9000", "cores": 3, "torch_threads": 1},
        wall_seconds=321.09,
    )
    results.add_metric(f"grid/mass/{OWN}", 0.41237, interval=(0.38121, 0.44353), n=48, unit="share")
    results.add_metric(f"grid/hit/{OWN}", math.nan, n=48)
    results.add_metric("grid/mass/gradient", 0.27183, n=48)
    rows = [["norm_grad", 0.41237, "0.381 to 0.444", 48], ["a|b", math.nan, None, 0]]
    results.tables.append(
        Table("Grid game", "48 cells; chance 0.25.", ["map", "mass", "95 %", "n"], rows)
    )
    return results


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results files with one in it."""
    folder = tmp_path / "model_cards"
    folder.mkdir()
    for module in (salhub.cards, salhub.results):
        monkeypatch.setattr(module, "cards_folder", lambda: folder)
    for name in NAMES:
        invented_results(name).save(folder / f"{name}.results.json")
    return folder


def table_cells(card: str, title: str) -> list[list[str]]:
    lines = card.partition(f"### {title}\n")[2].partition("\n#")[0].splitlines()
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
        if line.startswith("|")
    ]


def measured_numbers_in(text: str) -> list[str]:
    """Decimals and percentages; a year or an image size is no measurement."""
    return re.findall(r"(?<![\w.-])\d+\.\d+(?![\w.]*\d)|\d+ ?(?:%|percent)", text)


def prose_of(card: str) -> str:
    """The card without front matter, code, tables, links, numbers and licences."""
    text = card.split("\n---\n", 1)[1]
    text = re.sub(r"## (Numbers|Licence)\n.*?\n## ", "## ", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|\[.*?\]\(.*?\)", "", text)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


@pytest.mark.parametrize("name", NAMES)
def test_the_sections_are_there_in_order(cards, name):
    card = build_card(name)
    titles = re.findall(r"^## (.*)$", card, flags=re.MULTILINE)
    optional = ("Before you rely on it", "How it works")
    assert [title for title in titles if title not in optional] == SECTIONS
    picture = card_picture_name(name)
    if picture is not None:
        assert card.index(f"]({picture})") < card.index("## Use")


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_can_read_the_front_matter(cards, name):
    data = ModelCard(build_card(name)).data
    assert data.library_name == "salhub"
    assert data.license == manifest.read_manifest()[name].license
    assert "saliency" in data.tags
    entry = entry_of(name)
    assert data.pipeline_tag == getattr(entry.pipeline_class, "hub_task", entry.task)


def test_headline_numbers_become_the_model_index(cards):
    data = ModelCard(build_card(NAME)).data
    assert data.base_model == "salhub/efficientnet-lite0"
    assert "arxiv:2004.02866" in data.tags
    [result] = data.eval_results
    assert (result.metric_name, result.metric_value) == (f"grid/mass/{OWN}", 0.41237)
    assert (result.dataset_name, result.metric_type) == ("pictures", "grid_pointing_mass")


def test_every_cell_of_every_table_is_that_of_the_results_file(cards):
    card = build_card(NAME)
    results = Results.load(cards / f"{NAME}.results.json")
    for table in results.tables:
        header, _, *rows = table_cells(card, table.title)
        assert header == table.columns
        assert len(rows) == len(table.rows)
        for shown, known in zip(rows, table.rows, strict=True):
            for text, value in zip(shown, known, strict=True):
                if value is None:
                    assert text == "n/a"
                elif isinstance(value, float):
                    assert float(text) == pytest.approx(value, rel=1e-3)
                else:
                    assert text.replace("\\|", "|") == str(value)


def test_without_tables_every_metric_is_shown(cards):
    path = cards / f"{NAME}.results.json"
    results = Results.load(path)
    results.tables = []
    results.save(path)
    _, _, *rows = table_cells(build_card(NAME), "Metrics")
    assert [row[0] for row in rows] == [metric.name for metric in results.metrics]
    assert rows[0][1:4] == ["0.4124", "0.3812 to 0.4435", "48"]
    assert rows[1][1] == "n/a"


def test_how_it_was_measured_is_said(cards):
    section = build_card(NAME).partition("### How these were measured")[2].partition("\n## ")[0]
    for said in (
        f"`salhub evaluate {NAME} --data pictures seed=7`", "seed: 7", "num images 71",
        "fingerprint 0a1b2c3d", "Imaginary 9000", "cores 3", "wall seconds 321.09", "torch 2.13.1",
    ):  # fmt: skip
        assert said in section


def test_a_changed_number_changes_the_card(cards):
    path = cards / f"{NAME}.results.json"
    before = build_card(NAME)
    text = path.read_text()
    path.write_text(text.replace("0.41237", "0.51237"))
    assert "0.5124" in build_card(NAME) and "0.4124" in before


@pytest.mark.parametrize("name", NAMES)
def test_no_number_is_typed_by_hand(cards, name):
    assert measured_numbers_in(prose_of(build_card(name))) == []


@pytest.mark.parametrize("name", NAMES)
def test_regenerating_gives_the_same_bytes(cards, name):
    assert build_card(name) == build_card(f"salhub/{name}")


@pytest.mark.parametrize("name", NAMES)
def test_the_code_on_the_card_runs(cards, name, tmp_path, monkeypatch):
    if read_facts(name).needs:
        pytest.skip(f"{name} needs the network: {read_facts(name).needs}")
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", build_card(name), flags=re.DOTALL)
    assert f'"salhub/{name}"' in code
    # What a reader tries in Python is what the line for the shell shows.
    shell = re.search(r"^salhub run \S+ (sample:\w+)$", build_card(name), flags=re.MULTILINE)
    assert shell is None or f'"{shell[1]}"' in code
    exec(compile(code, f"card of {name}", "exec"), {})
    saved = re.findall(r'\.save\("([^"]+)"', code)
    assert saved or card_picture_name(name) is None
    for file_name in saved:
        assert (tmp_path / file_name).stat().st_size > 1000


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_stored_settings_are_those_of_the_configuration(cards, name):
    card = build_card(name)
    path = manifest.WEIGHTS_ROOT / name / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    shown = dict(re.findall(r"^\| `(\w+)` \| `(.*)` \|$", card, flags=re.MULTILINE))
    # A model that was only trained has no record of unlearning to show.
    assert shown or config.get("unlearn_method", "") is None
    assert {key: json.loads(value) for key, value in shown.items()}.items() <= config.items()


def test_a_missing_results_file_is_one_sentence(cards):
    (cards / f"{NAME}.results.json").unlink()
    with pytest.raises(CardError, match=f"salhub evaluate {NAME}") as caught:
        build_card(NAME)
    assert f"{NAME}.results.json is missing" in str(caught.value)
    result = CliRunner().invoke(app, ["card", NAME])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1


def test_a_missing_fact_is_named_with_the_places_it_may_stand_in(cards, tmp_path, monkeypatch):
    monkeypatch.setattr(salhub.model_facts, "fact_files", lambda model: [tmp_path / "card.yaml"])
    with pytest.raises(CardError, match="lacks intended_use, not_for, limits") as caught:
        build_card(NAME)
    assert str(tmp_path / "card.yaml") in str(caught.value)


def test_a_fact_of_the_model_wins_over_that_of_its_method(cards, tmp_path, monkeypatch):
    facts = read_facts(NAME)
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "card.yaml").write_text(
        yaml.safe_dump({"limits": "Only mine.", "trained_on": "a", "source": "b", "license": "mit"})
    )
    for file in (manifest.WEIGHTS_ROOT / NAME).iterdir():
        if file.name != "card.yaml":
            shutil.copy(file, tmp_path / NAME)
    monkeypatch.setattr(manifest, "WEIGHTS_ROOT", tmp_path)
    assert read_facts(NAME).limits == "Only mine."
    assert read_facts(NAME).not_for == facts.not_for
    assert "## Limits and biases\n\nOnly mine.\n" in build_card(NAME)


def test_only_shipped_models_have_a_card(cards):
    with pytest.raises(UnknownNameError, match="Did you mean 'normgrad-efficientnet-lite0'"):
        build_card("normgrad-efficientnet-lite")


def test_the_files_of_a_repository(cards):
    with pytest.raises(CardError, match=f"salhub card {NAME}"):
        card_files(NAME)
    (cards / f"{NAME}.png").write_bytes(b"picture")
    files = card_files(NAME)
    assert sorted(files) == ["LICENSE", "README.md", f"{NAME}.png"]
    assert files["README.md"].decode() == build_card(NAME)
    assert b"Apache License" in files["LICENSE"]


def test_pictures_of_models_that_it_is_compared_with_go_along():
    name, others = "salun-ddpm-mnist", ["salun-ddpm-mnist-original", "salun-ddpm-mnist-retrained"]
    files = card_files(name)
    for other in (name, *others):
        assert files[f"{other}.png"] == (cards_folder() / f"{other}.png").read_bytes()
        assert f"]({other}.png)".encode() in files["README.md"]


def test_further_pictures_stand_on_the_card_and_go_along(cards, monkeypatch):
    facts = dataclasses.replace(read_facts(NAME), pictures={"bits.png": "Bits of the groups."})
    monkeypatch.setattr(salhub.cards, "read_facts", lambda name: facts)
    card = build_card(NAME)
    assert "![Bits of the groups.](bits.png)\n\nBits of the groups.\n" in card
    (cards / f"{NAME}.png").write_bytes(b"picture")
    with pytest.raises(CardError, match=r"png is missing; run the recipe to make it"):
        card_files(NAME)
    (cards / "bits.png").write_bytes(b"bits")
    assert card_files(NAME)["bits.png"] == b"bits"


@pytest.mark.parametrize("model_type", ["salhub_salun", "salhub_salun_diffusion"])
def test_the_picture_of_every_task_is_made_the_same_twice(model_type, tmp_path, monkeypatch):
    entry = entry_of({"model_type": model_type})
    shipped = manifest.BundledModel("toy", "salun", model_type, entry.task, "a", "b", "mit", ())
    monkeypatch.setattr(manifest, "read_manifest", lambda: {"toy": shipped})
    parts = {"top_k": 2} if entry.name == "salun" else {"num_images": 1, "num_steps": 2}
    if entry.name == "salun":
        parts["image_processor"] = CifarResNetImageProcessor()
    made = salhub.pipeline(entry.model_class(entry.config_class()), **parts)
    monkeypatch.setattr("salhub.pipelines.pipeline", lambda name: made)
    assert card_picture_name("toy") == "toy.png"
    for name in ("a.png", "b.png"):
        salhub.cards.save_picture("toy", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_network_that_is_no_method_has_no_picture():
    assert card_picture_name("efficientnet-lite0") is None


def test_the_command_writes_card_and_picture(cards, monkeypatch):
    monkeypatch.chdir(cards.parent)
    result = CliRunner().invoke(app, ["card", NAME])
    assert result.exit_code == 0, result.output
    assert (cards / f"{NAME}.md").read_text(encoding="utf-8") == build_card(NAME)
    assert (cards / f"{NAME}.png").read_bytes().startswith(b"\x89PNG")
    picture = (cards / f"{NAME}.png").read_bytes()
    result = CliRunner().invoke(app, ["card", NAME, "--no-picture", "--json"])
    assert json.loads(result.stdout) == [str(cards / f"{NAME}.md")]
    CliRunner().invoke(app, ["card", NAME])
    assert (cards / f"{NAME}.png").read_bytes() == picture
    result = CliRunner().invoke(app, ["card", NAME, "-o", str(cards)])
    assert result.exit_code == 1 and "is a folder; give a file in it" in result.output
    assert (cards / f"{NAME}.png").read_bytes() == picture


def test_elsewhere_a_card_is_written_where_one_stands(cards, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = CliRunner().invoke(app, ["card", NAME, "--no-picture"])
    assert result.exit_code == 0, result.output
    assert Path(f"{NAME}.md").read_text(encoding="utf-8") == build_card(NAME)
    assert not (cards / f"{NAME}.md").exists()
    assert "exists" in CliRunner().invoke(app, ["card", NAME, "--no-picture"]).stderr


def test_a_saved_model_gets_its_card_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    salhub.pipeline("lexrank-news-en").save_pretrained("mine")
    result = CliRunner().invoke(app, ["card", "mine"])
    assert result.exit_code == 0, result.output
    card = Path("mine/README.md").read_text(encoding="utf-8")
    assert "# mine" in card and 'from_pretrained("mine")' in card
    assert "exists" in CliRunner().invoke(app, ["card", "mine"]).stderr
    Path("empty").mkdir()
    assert "is not a saved model" in CliRunner().invoke(app, ["card", "empty"]).stderr


def test_numbers_begin_with_a_verdict_and_the_main_table_and_the_rest_is_folded():
    for name in NAMES:
        numbers = build_card(name).partition("## Numbers\n")[2].partition("\n## ")[0]
        seen = re.sub(r"<details>.*?</details>", "", numbers, flags=re.DOTALL)
        number = key_number(name)
        assert f"**{number.value}**" in seen.strip().splitlines()[0], name
        if number.beside is not None:
            assert f"Compared with {number.beside}: {number.beside_value}." in seen
        assert seen.count("\n### ") == 1, name
        assert numbers.count("<details>") == numbers.count("</details>") > 0
        assert "### How these were measured" in numbers and "### How these" not in seen


def test_no_accuracy_on_training_data_is_in_the_model_index():
    # The photos of the explainers may be of ImageNet's training part; unlearning accuracy and the
    # average gap of classifiers are measured on what was learned.
    for name in NAMES:
        data = ModelCard(build_card(name)).data
        metrics = {result.metric_name for result in data.eval_results or ()}
        of_training = {"top1", "top5", "average_gap", "RA", "accuracy/train"}
        of_training |= {"UA"} if data.pipeline_tag == "image-classification" else set()
        assert not metrics & of_training, name


def test_a_file_of_somebody_is_replaced_only_when_asked(cards, tmp_path):
    mine = tmp_path / "mine.md"
    mine.write_text("mine")
    words = ["card", NAME, "--no-picture", "-o", str(mine)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and "mine.md exists; give --overwrite" in result.stderr
    assert mine.read_text() == "mine"
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0
    assert mine.read_text(encoding="utf-8") == build_card(NAME)
    (tmp_path / f"{NAME}.png").write_text("mine")
    result = CliRunner().invoke(app, ["card", NAME, "-o", str(tmp_path / "new.md")])
    assert result.exit_code == 1 and f"{NAME}.png exists" in result.stderr
    assert (tmp_path / f"{NAME}.png").read_text() == "mine"


@pytest.mark.parametrize("name", NAMES)
def test_the_published_card_is_the_generated_one(name):
    folder = salhub.cards.cards_folder()
    if not (folder / f"{name}.results.json").is_file():
        pytest.skip(f"{name} has not been measured yet")
    assert (folder / f"{name}.md").read_text(encoding="utf-8") == build_card(name), (
        f"write it anew with: salhub card {name}"
    )
    picture = card_picture_name(name)
    assert picture is None or (folder / picture).is_file()


def test_a_fact_that_no_card_shows_is_refused(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("intended_uses: tests")
    with pytest.raises(CardError, match=r"has 'intended_uses', which is not a fact of a card"):
        Facts.read(path)
    path.write_text("year: soon")
    with pytest.raises(CardError, match="'year'"):
        Facts.read(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arxiv: 2505.19370", "the number 2505.1937 as 'arxiv'.*in quotes"),
        ("- a list", "must map facts to their texts, one per line"),
        ("tags: [", "is not valid YAML: while parsing"),
    ],
)
def test_a_file_that_cannot_be_read_as_facts_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(CardError, match=words) as caught:
        Facts.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.write_text('arxiv: "2505.19370"')
    assert Facts.read(path).arxiv == "2505.19370"
