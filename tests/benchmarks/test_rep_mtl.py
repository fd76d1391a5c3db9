"""The benchmarks of Rep-MTL at the smallest size: their arithmetic, and where the numbers go."""

import statistics

import pytest
import torch

from benchmarks import rep_mtl, rep_mtl_tasks
from salhub.models.rep_mtl.gradient_surgery import surgery_loss
from salhub.models.rep_mtl.rep_mtl_terms import cross_task_alignment
from salhub.results import Results
from tests.models.rep_mtl.test_recipe_rep_mtl import SMALL

METHODS = {name: rep_mtl_tasks.METHODS[name] for name in ("EW", "EW + log", "CAGrad", "Rep-MTL")}


def empty():
    return Results(model="rep_mtl", command="python -m benchmarks.rep_mtl", seed=0)


def test_methods_are_compared_with_single_tasks_of_their_seed(tmp_path, monkeypatch):
    def missing(name, num_tasks):
        raise rep_mtl_tasks.MissingExtraError

    monkeypatch.setattr(rep_mtl_tasks, "aggregator_of", missing)
    settings = {**SMALL, "data": "rooms", "cpu": True, "num_train_epochs": 1}
    results = empty()
    rep_mtl_tasks.compare(results, settings, tmp_path, 2, METHODS)
    [table] = results.tables
    assert [row[0] for row in table.rows] == ["single tasks", "EW", "EW + log", "Rep-MTL"]
    assert "Left out, as their packages are not installed: CAGrad." in table.note
    assert "depth rel_error" in table.columns
    # By hand, of one metric and one seed.
    alone = Results.load(tmp_path / "single" / "depth" / "seed-1" / "results.json")
    ours = Results.load(tmp_path / "rep-mtl" / "seed-1" / "results.json")
    shares = []
    for metric in ("abs_error", "rel_error"):
        one, other = (found.metric(f"depth/{metric}").value for found in (ours, alone))
        shares.append(100 * (other - one) / other)
    by_hand = statistics.mean(shares)
    numbers, base = ({
        "depth": {m: found.metric(f"depth/{m}").value for m in ("abs_error", "rel_error")}
    } for found in (ours, alone))  # fmt: skip
    assert rep_mtl_tasks.relative_improvement(numbers, base)[0] == pytest.approx(by_hand)
    column = table.columns.index("depth abs_error")
    values = [
        Results.load(tmp_path / "ew" / f"seed-{seed}" / "results.json").metric("depth/abs_error")
        for seed in (0, 1)
    ]
    mean = statistics.mean(value.value for value in values)
    assert table.rows[1][column].startswith(f"{mean:.4g} ± ")
    assert results.metric("delta_p/tasks/EW/sd").value > 0
    # A second time nothing is trained.
    monkeypatch.setattr("benchmarks.experiments.run", None)
    rep_mtl_tasks.compare(empty(), settings, tmp_path, 2, METHODS)


def test_the_literal_alignment_is_the_cheap_one():
    saliency = torch.randn(3, 4, 9, 5, dtype=torch.float64)
    ours = cross_task_alignment(saliency, temperature=rep_mtl.TEMPERATURE).loss
    assert float((ours - rep_mtl.literal_alignment(saliency)).abs()) < 1e-12


def test_a_step_of_each_trains(monkeypatch):
    monkeypatch.setattr(rep_mtl, "BATCH", 2)
    pixels, labels = rep_mtl.rooms(size=16)
    for name, settings in rep_mtl._SETTINGS.items():
        step = rep_mtl.own_step(pixels, labels, **settings)
        first = step()
        for _ in range(3):
            last = step()
        assert last < first, name


def test_every_set_says_what_it_needs(capsys):
    with pytest.raises(SystemExit, match="office needs --data"):
        rep_mtl_tasks.main(["office"])
    with pytest.raises(SystemExit):
        rep_mtl_tasks.main(["camvid", "--data", "nowhere.npz"])
    assert "there is no file nowhere.npz" in capsys.readouterr().err


def test_surgery_is_that_of_torchjd():
    reason = "torchjd is a peer, not installed"
    autojac = pytest.importorskip("torchjd.autojac", reason=reason)
    aggregator = pytest.importorskip("torchjd.aggregation", reason=reason).AlignedMTL()
    pixels, labels = rep_mtl.rooms(size=16)
    model = rep_mtl.network(**rep_mtl._SETTINGS["EW"]).double()
    twin = rep_mtl.network(**rep_mtl._SETTINGS["EW"]).double()
    labels = {
        name: one.double() if one.is_floating_point() else one for name, one in labels.items()
    }
    losses = model(pixels.double(), labels).task_losses
    surgery_loss(losses, model.encoder, [model.heads], aggregator).backward()
    shared = twin.encoder(pixels.double())
    theirs = [
        rep_mtl.sample_losses(task, twin.heads[task.name](shared, (16, 16)), labels[task.name])[0]
        .mean()
        for task in twin.tasks
    ]  # fmt: skip
    autojac.mtl_backward(theirs, features=shared)
    autojac.jac_to_grad(list(twin.encoder.parameters()), aggregator)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        if one.grad is not None:
            # The Jacobian is combined in single precision.
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)
