"""The experiments behind the cards of SalUn at the smallest size, and where their numbers go."""

import pytest
from transformers import AutoImageProcessor

from benchmarks.experiments import add_to_results, run_once
from benchmarks.salun_classes import forget_each_class
from benchmarks.salun_diffusion import OTHERS, add_others
from benchmarks.salun_methods import Contender, MethodComparison
from benchmarks.salun_seeds import train_again
from salhub.models.salun.evaluation_salun import evaluate
from salhub.models.salun.evaluation_salun_diffusion import TABLE
from salhub.models.salun.modeling_salun import SalUnForImageClassification
from salhub.models.salun.recipe_salun import GradientAscentRecipe, SalUnRecipe
from salhub.results import Results, Table
from salhub.runner.run import run
from tests.backbones.small_pictures import CLASSES as BANDS
from tests.backbones.small_pictures import recipe_of, write_pictures
from tests.models.salun import small_archive
from tests.models.salun.small_archive import CLASSES, Small, make_small
from tests.models.salun.small_diffusion import FORGOTTEN, make_original

TINY = {"num_train_images": 48, "num_test_images": 40, "width": 8, "num_train_epochs": 2}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


def empty() -> Results:
    return Results(model="salun", command="python -m benchmarks.salun_x --data c.npz", seed=0)


def test_methods_are_compared_on_other_seeds_than_settings_are_chosen_on(tmp_path, small):
    contenders = (
        Contender("SalUn", SalUnRecipe, {}, ("learning_rate", (1e-3, 3.0))),
        Contender("GA", GradientAscentRecipe, {}, ("learning_rate", (1e-3,))),
    )
    comparison = MethodComparison(
        small.data,
        tmp_path,
        seeds=(1, 2),
        forget="random:16",
        small=TINY,
        epochs=1,
        contenders=contenders,
    )
    results = empty()
    comparison.measure(results)
    pilot, by_gap, blind = results.tables
    assert [row[:2] for row in pilot.rows] == [
        [c.label, f"learning_rate {value:g}"] for c in contenders for value in c.tried[1]
    ]
    assert [row[0] for row in by_gap.rows] == ["Original", "Retrain", "SalUn", "GA"]
    gaps = {row[1]: row[-1] for row in pilot.rows if row[0] == "SalUn"}
    assert by_gap.rows[2][-1] == min(gaps, key=gaps.__getitem__)
    assert [row[0] for row in blind.rows] == ["Original", "Retrain", "SalUn", "GA"]
    runs = [
        Results.load(
            tmp_path / f"seed-{seed}" / f"salun-{by_gap.rows[2][-1].split()[1]}" / "results.json"
        )
        for seed in (1, 2)
    ]
    mean = sum(run.metric("average_gap").value for run in runs) / 2
    assert results.metric("average_gap/SalUn").value == pytest.approx(mean)


def test_each_class_is_forgotten_and_counted_as_by_hand(tmp_path, small):
    results = empty()
    settings = {"original": small.original, "num_retain": 16, "epochs": 1}
    forget_each_class(results, small.data, tmp_path, **settings)
    [table] = results.tables
    assert [row[0] for row in table.rows] == list(CLASSES)
    places, labels = slice(64, 124), small.labels[64:]
    for index, name in enumerate(CLASSES):
        pixels = small.pixels(places)
        before, after = (
            small_archive.load(folder)(pixels).logits.argmax(-1) == labels
            for folder in (small.original, tmp_path / name)
        )
        is_gone = labels == index
        cells = [
            100 * float(right[part].double().mean())
            for part in (is_gone, ~is_gone)
            for right in (before, after)
        ]
        assert table.rows[index][1:] == pytest.approx(cells)
        own = results.metric(f"forget/{name}/accuracy/{name}").value
        assert 100 * own == pytest.approx(cells[1])
        opened = results.metric(f"forget/{name}/density/classifier")
        assert 0 < opened.value < 1 and opened.n == 4 * 32 + 4
    written = (tmp_path / CLASSES[0] / "results.json").stat().st_mtime_ns
    again = empty()
    forget_each_class(again, small.data, tmp_path, **settings)
    assert again == results
    assert (tmp_path / CLASSES[0] / "results.json").stat().st_mtime_ns == written


def test_trainings_differ_by_their_seed(tmp_path, small):
    results = empty()
    train_again(results, small.data, tmp_path, num_seeds=2, small=TINY)
    values = [row[1] for row in results.tables[0].rows]
    runs = [Results.load(tmp_path / f"seed-{seed}" / "results.json") for seed in range(3)]
    assert values == [100 * run.metric("accuracy/test").value for run in runs]
    mean = results.metric("repeats/test accuracy").value
    assert mean == pytest.approx(sum(values[1:]) / 2)


def test_other_ways_stand_below_the_model_in_the_table_of_the_judge(tmp_path, small):
    data = write_pictures(tmp_path)
    (tmp_path / "original").mkdir()
    original = make_original(tmp_path / "original", data)
    judge = str(tmp_path / "judge")
    run(recipe_of("salun-resnet8", "train", judge, data, width=8, num_train_epochs=1))
    shipped = {
        "model": original, "forget": f"class:{BANDS[FORGOTTEN]}", "max_train_steps": 1, "cpu": True,
    }  # fmt: skip
    columns = ["", "UA", "RA", "leaked", "probability of the class", "distance"]
    before = [["this model", 1.0, 2.0, 3.0, 4.0, 5.0], ["GA", 0.0, 0.0, 0.0, 0.0, 0.0]]
    judging = {"num_judged": 4, "num_judged_others": 3, "sampling_steps": 2, "progress": False}
    results = empty()
    shown = Table(TABLE, "note", columns, before)
    add_others(results, shown, data, tmp_path / "runs", shipped=shipped, judge=judge, **judging)
    [table] = results.tables
    assert (table.title, table.note, table.columns) == (TABLE, "note", columns)
    assert [row[0] for row in table.rows] == ["this model", *OTHERS] and table.rows[0] == before[0]
    for row in table.rows[1:]:
        names = ("UA", "RA", "leaked", "forgotten_probability", "judge_distance")
        assert row[1:] == [results.metric(f"{row[0]}/{name}").value for name in names]


def test_numbers_are_added_to_the_file_of_the_evaluation_in_place_of_older_ones(tmp_path):
    path = tmp_path / "m.results.json"
    first = Results(model="m", command="salhub evaluate m --data c.npz", seed=0)
    for name, value in (("UA", 1.0), ("GA/UA", 2.0)):
        first.add_metric(name, value)
    first.tables = [Table(title, "", ["a"], [[title]]) for title in ("one", "two", "three")]
    first.save(path)
    added = empty()
    added.add_metric("GA/UA", 3.0)
    added.tables = [Table("two", "", ["a"], [["new"]]), Table("four", "", ["a"], [["new"]])]
    for _ in range(2):
        add_to_results(added, path)
        found = Results.load(path)
        assert {m.name: m.value for m in found.metrics} == {"UA": 1.0, "GA/UA": 3.0}
        cells = [(table.title, table.rows[0][0]) for table in found.tables]
        assert cells == [("one", "one"), ("two", "new"), ("three", "three"), ("four", "new")]
        assert found.command == f"{first.command} && {added.command}"
    with pytest.raises(FileNotFoundError):
        add_to_results(added, tmp_path / "none.json")


def test_an_evaluation_trains_nothing_but_the_probe(tmp_path, small, monkeypatch):
    run_once(
        SalUnRecipe,
        tmp_path / "out",
        {"model": small.original, "data": small.data, "forget": "class:green", "attack": "none"},
        command="",
    )
    monkeypatch.setattr("salhub.runner.run.run", lambda *arguments: pytest.fail("a run"))
    model = SalUnForImageClassification.from_pretrained(tmp_path / "out")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    results = evaluate(model, processor, small.data, original=small.original, attack="none")
    assert [table.title for table in results.tables][-1] == "Which weights could change"
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
