"""Runs: the small network and its teacher, pruning to latencies, and fine-tuning."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from salhub.models.nvit.distillation import DistillationLoss, soft_label_loss
from salhub.models.nvit.image_processing_nvit import NViTImageProcessor
from salhub.models.nvit.importance import NViTScores
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.recipe_deit_nano import (
    DeiTNanoArguments,
    DeiTNanoRecipe,
    DeiTNanoTeacherArguments,
    DeiTNanoTeacherRecipe,
)
from salhub.models.nvit.recipe_nvit import NViTArguments, NViTRecipe
from salhub.models.nvit.recipe_nvit_finetuning import (
    NViTFineTuningArguments,
    NViTFineTuningRecipe,
)
from salhub.models.nvit.shapes import NViTShape
from salhub.runner.image_classification import mirrored_rows
from salhub.runner.run import run
from tests.models.nvit.small_vit import even_table, network
from tests.testers.recipe import TrainingRecipeTester

NANO = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2,
    "lr_warmup_steps": 2, "learning_rate": 3e-3, "batch_size": 20, "num_train_epochs": 2,
    "checkpointing_steps": None,
}  # fmt: skip
PRUNING = {
    "group_sizes": [4, 1, 4, 4, 8], "prune_interval": 2, "batch_size": 20, "num_train_epochs": 2,
    "targets": [0.8, 0.6], "checkpointing_steps": None, "groups_per_step": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Three classes of 12 x 12 pictures, each bright in another channel."""
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = generator.integers(0, 120, (90, 12, 12, 3), dtype=np.uint8)
    images[np.arange(90), ..., labels] += 100
    path = tmp_path_factory.mktemp("data") / "colours.npz"
    np.savez(
        path, train_images=images[:60], train_labels=labels[:60], test_images=images[60:],
        test_labels=labels[60:], class_names=np.array(["red", "green", "blue"]),
    )  # fmt: skip
    return str(path)


def made(kind, arguments, folder, data, **options):
    return kind(arguments(output_dir=str(folder), data=data, cpu=True, **options))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data) -> str:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    options = {"depth": 8, "width": 4, "batch_size": 20, "num_train_epochs": 4}
    run(made(DeiTNanoTeacherRecipe, DeiTNanoTeacherArguments, folder, data, **options))
    return str(folder)


@pytest.fixture(scope="module")
def nano(tmp_path_factory, data) -> str:
    folder = tmp_path_factory.mktemp("runs") / "nano"
    options = {**NANO, "num_train_epochs": 6}
    results = run(made(DeiTNanoRecipe, DeiTNanoArguments, folder, data, **options))
    assert results.metric("accuracy/test").value > 0.6
    return str(folder)


@pytest.fixture(scope="module")
def table(tmp_path_factory, nano) -> str:
    path = tmp_path_factory.mktemp("tables") / "table.json"
    config = NViTForImageClassification.from_pretrained(nano).config
    return str(even_table(config).save(path))


class TestDeiTNano(TrainingRecipeTester):
    @pytest.fixture
    def make(self, data, teacher):
        settings = {**NANO, "teacher": teacher, "per_device_batch_size": 8}
        return lambda folder, **options: made(
            DeiTNanoRecipe, DeiTNanoArguments, folder, data, **{**settings, **options}
        )


class TestPruning(TrainingRecipeTester):
    # With a snapshot on the way, and a target that is not reached so soon.
    options = {**TrainingRecipeTester.options, "targets": [0.85, 0.3]}

    @pytest.fixture
    def make(self, data, nano, teacher, table):
        settings = {**PRUNING, "model": nano, "teacher": teacher, "latency_table": table}
        settings |= {"targets": [0.3], "groups_per_step": 3}
        return lambda folder, **options: made(
            NViTRecipe, NViTArguments, folder, data, **{**settings, **options}
        )


class TestFineTuning(TrainingRecipeTester):
    @pytest.fixture
    def make(self, data, nano):
        settings = {"model": nano, "original": nano, "batch_size": 20, "num_train_epochs": 2,
                    "checkpointing_steps": None}  # fmt: skip
        return lambda folder, **options: made(
            NViTFineTuningRecipe, NViTFineTuningArguments, folder, data, **{**settings, **options}
        )


def test_a_run_gives_a_network_for_each_target_and_fine_tuning_goes_on(
    data, nano, table, tmp_path, caplog
):
    options = {**PRUNING, "model": nano, "latency_table": table, "num_train_epochs": 20}
    results = run(made(NViTRecipe, NViTArguments, tmp_path / "small", data, **options))
    before = NViTForImageClassification.from_pretrained(nano)
    folders = {0.8: tmp_path / "small" / "latency-800", 0.6: tmp_path / "small"}
    latencies = LatencyTable.load(folders[0.6] / "latency_table.json")
    parameters = [before.num_parameters()]
    for target, folder in folders.items():
        model, info = NViTForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values())
        ratio = latencies.predict(model.config) / latencies.predict(before.config)
        assert target - 0.2 < ratio <= target
        record = model.config.pruning_record
        assert (record["target"], record["source"], record["prune_interval"]) == (target, "nano", 2)
        assert record["predicted_ratio"] == pytest.approx(ratio, abs=1e-5)
        parameters.append(model.num_parameters())
        scores = NViTScores.load(folder / "unit_scores.safetensors", before.layout)
        # Those of the whole network, of the two steps before the first removal.
        assert (scores.score, scores.num_batches) == ("batch", 2) and (scores.values > 0).all()
        assert NViTImageProcessor.from_pretrained(folder).size.height == 12
    assert parameters == sorted(parameters, reverse=True)
    assert results.metric("parameters").value == parameters[-1]
    assert results.metric("latency_ratio/predicted").value == pytest.approx(ratio)

    tuned = tmp_path / "tuned"
    options = {"model": str(tmp_path / "small"), "original": nano, "batch_size": 20,
               "num_train_epochs": 4, "keep_norm_width": False, "ema_decay": 0.0}  # fmt: skip
    found = run(made(NViTFineTuningRecipe, NViTFineTuningArguments, tuned, data, **options))
    model = NViTForImageClassification.from_pretrained(tuned)
    assert NViTShape.of(model.config) == NViTShape.of(
        NViTForImageClassification.from_pretrained(tmp_path / "small").config
    )
    assert model.config.layer_norm_width is None
    assert model.config.pruning_record["fine_tuned_epochs"] == 4
    for name in ("latency_table.json", "unit_scores.safetensors"):
        assert (tuned / name).read_bytes() == (tmp_path / "small" / name).read_bytes()
    assert found.metric("accuracy/test").value >= results.metric("accuracy/test").value - 0.1


def test_a_run_of_too_few_steps_says_so_before_the_work(data, nano, table, tmp_path, caplog):
    settings = {**PRUNING, "model": nano, "latency_table": table, "dry_run": True}
    for options in ({"prune_interval": 7}, {"max_train_steps": 1}):
        recipe = made(NViTRecipe, NViTArguments, tmp_path / "a", data, **{**settings, **options})
        with pytest.raises(ValueError, match=r"The run has \d steps.* nothing would be removed"):
            run(recipe)
    words = "The run removes groups 3 times, but the target 0.3 needs about"
    for targets, is_told in (([0.3], True), ([0.99], False)):
        caplog.clear()
        recipe = made(
            NViTRecipe, NViTArguments, tmp_path / "b", data, **settings | {"targets": targets}
        )
        recipe.prepare(recipe.build_model(), Accelerator(cpu=True))
        assert (words in caplog.text) == is_told


def test_a_run_that_ends_early_says_so(data, nano, table, tmp_path, caplog):
    options = {**PRUNING, "model": nano, "latency_table": table, "max_train_steps": 2}
    with caplog.at_level(logging.WARNING):
        run(made(NViTRecipe, NViTArguments, tmp_path, data, **options))
    assert "before the target 0.6; give more num_train_epochs" in caplog.text


@pytest.mark.parametrize("score", ["batch", "per_sample"])
def test_the_scores_of_a_run_are_those_of_its_gradients(score, data, nano, table, tmp_path):
    """Two steps in passes of eight rows, and the scores of whole batches beside them."""
    options = {**PRUNING, "model": nano, "latency_table": table, "score": score, "augment": False}
    recipe = made(NViTRecipe, NViTArguments, tmp_path, data, **options)
    model = recipe.build_model()
    recipe.run = SimpleNamespace(folder=tmp_path, remove_when_finished=lambda path: None)
    recipe.prepare(model, Accelerator(cpu=True))
    from salhub.runner.batches import step_batches
    from salhub.runner.loop import pass_gradients
    from salhub.runner.plan import steps_after

    expected = torch.zeros(model.layout.size, dtype=torch.float64)
    for step in list(steps_after(recipe, 0))[:2]:
        parts = {"seed": 0, "step": step.number, "epoch": step.epoch, "largest": 8}
        batches = list(step_batches(step.rows, **parts))
        for batch in batches:
            pass_gradients(recipe, model, step, batch, len(batches), Accelerator(cpu=True))
        recipe.after_backward(model)
        [whole] = step_batches(step.rows, **{**parts, "largest": None})
        inputs = recipe.fetch(whole)
        pixels = recipe.prepared(inputs["images"])
        from salhub.models.nvit.importance import score_units

        found = score_units(model, [(pixels, inputs["labels"])], score=score)
        expected += found.values.double()
    assert recipe.state.count == 2 and float(expected.max()) > 0
    torch.testing.assert_close(recipe.state.total, expected, rtol=1e-3, atol=1e-9)


def test_a_table_is_measured_where_none_is_given_and_kept_for_the_next_life(
    data, nano, tmp_path, monkeypatch
):
    measured = []

    def measure(config, **keywords):
        measured.append(keywords)
        return even_table(config)

    monkeypatch.setattr(LatencyTable, "measure", measure)
    options = {**PRUNING, "model": nano}
    recipe = made(NViTRecipe, NViTArguments, tmp_path, data, **options)
    recipe.run = SimpleNamespace(folder=tmp_path, remove_when_finished=lambda path: None)
    for _ in range(2):
        recipe.prepare(recipe.build_model(), Accelerator(cpu=True))
    assert [one["batch_size"] for one in measured] == [64]


def test_the_loss_is_that_of_the_paper_or_of_its_code():
    torch.manual_seed(0)
    first, second, old_first, old_second = torch.randn(4, 3, 5).double()
    outputs, before = (
        SimpleNamespace(logits=(a + b) / 2, cls_logits=a, distillation_logits=b)
        for a, b in ((first, second), (old_first, old_second))
    )
    labels, cnn = torch.tensor([0, 1, 2]), torch.tensor([4, 1, 0])

    def entropy(logits, classes):
        return -logits.softmax(-1)[torch.arange(3), classes].log()

    def kl(wanted, found, temperature):
        p, q = ((one / temperature).softmax(-1) for one in (wanted, found))
        return (p * (p / q).log()).sum(-1)

    of_labels = entropy(first, labels) + entropy(second, cnn)
    pooled = kl((old_first + old_second) / 2, (first + second) / 2, 3.0)
    by_token = (kl(old_first, first, 20.0) + kl(old_second, second, 20.0)) / 2
    paper = DistillationLoss("paper", 100.0, 3.0)(outputs, labels, original=before, cnn_labels=cnn)
    torch.testing.assert_close(paper, of_labels + 100 * pooled)
    code = DistillationLoss("reference", 100.0, 20.0, is_by_token=True)
    found = code(outputs, labels, original=before, cnn_labels=cnn)
    halves = (entropy((first + second) / 2, labels) + entropy(second, cnn)) / 2
    torch.testing.assert_close(found, halves + 100 * by_token)
    # Without a CNN the labels teach the mean.
    alone = DistillationLoss(kl_weight=0.0)(outputs, labels, original=before)
    torch.testing.assert_close(alone, entropy((first + second) / 2, labels))
    # What is 100 times the mean over pictures is 1e5 times that over 1,000 classes as well.
    wide = F.kl_div(torch.randn(2, 1000).log_softmax(-1), torch.randn(2, 1000).softmax(-1),
                    reduction="none")  # fmt: skip
    torch.testing.assert_close(100 * wide.sum(-1).mean(), 1e5 * wide.mean())
    soft = soft_label_loss(outputs, labels, old_first, 0.25, 2.0)
    expected = 0.75 * entropy(first, labels) + 0.25 * 4 * kl(old_first, second, 2.0)
    torch.testing.assert_close(soft, expected)
    both = soft_label_loss(outputs, labels, old_first, 0.25, 2.0, "both")
    expected = [
        0.75 * entropy(one, labels) + 0.25 * 4 * kl(old_first, one, 2.0) for one in (first, second)
    ]
    torch.testing.assert_close(both, (expected[0] + expected[1]) / 2)


def test_teachers_of_other_classes_and_bad_options_are_refused(data, nano, table, tmp_path):
    other = network(image_size=12)
    other.save_pretrained(tmp_path / "other")
    recipe = made(DeiTNanoRecipe, DeiTNanoArguments, tmp_path / "a", data, **NANO,
                  teacher=str(tmp_path / "other"))  # fmt: skip
    with pytest.raises(
        ValueError,
        match=r"The classes of the teacher \(LABEL_0, .*, \.\.\.\) differ from those of the data",
    ):
        recipe.prepare(recipe.build_model(), Accelerator(cpu=True))
    settings = {**PRUNING, "model": nano, "latency_table": table}
    with pytest.raises(
        ValueError, match="The network needs pictures of 12 pixels, got image_size=24; leave it out"
    ):
        made(
            NViTRecipe, NViTArguments, tmp_path / "c", data, **settings, image_size=24
        ).build_model()
    # A name is refused before the data are read, which takes longer.
    options = settings | {"teacher": "no/such/teacher"}
    with pytest.raises((OSError, ValueError), match="no/such/teacher"):
        made(NViTRecipe, NViTArguments, tmp_path / "d", "no-data.npz", **options).build_model()
    recipe = made(NViTRecipe, NViTArguments, tmp_path / "b", data, **settings | {"targets": [0.01]})
    with pytest.raises(ValueError, match=r"The target 0\.01 cannot be reached"):
        recipe.prepare(recipe.build_model(), Accelerator(cpu=True))
    for kind, options, sentence in [
        (
            NViTArguments,
            {"model": nano, "targets": [1.5]},
            "targets must be .* such as 0.5, got 1.5",
        ),
        (NViTArguments, {"model": nano, "group_sizes": [1]}, "group_sizes must be 5 numbers"),
        (NViTArguments, {"model": nano, "prune_interval": 0}, "prune_interval must be"),
        (NViTFineTuningArguments, {"model": nano, "ema_decay": 1.0}, "ema_decay must be"),
        (DeiTNanoArguments, {"patch_drop": 1.0}, "patch_drop must be"),
        (DeiTNanoArguments, {"hidden_size": 30}, "hidden_size must be a multiple of"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            kind(output_dir="out", data=data, **options)


def test_a_finished_network_is_trained_for_longer(data, nano, tmp_path):
    options = {**NANO, "num_train_epochs": 1, "lr_warmup_steps": 0, "learning_rate": 1e-6}
    folder = tmp_path / "longer"
    run(made(DeiTNanoRecipe, DeiTNanoArguments, folder, data, **options, model=nano))
    before, after = (
        NViTForImageClassification.from_pretrained(one).state_dict() for one in (nano, folder)
    )
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-4)
    with pytest.raises(
        ValueError,
        match="The network needs pictures of 12 pixels, but the data have 16; give image_size=12",
    ):
        made(
            DeiTNanoRecipe, DeiTNanoArguments, tmp_path / "a", data, **NANO, model=nano,
            image_size=16,
        ).build_model()  # fmt: skip


def test_a_teacher_that_is_asked_once_says_what_it_says_of_each_picture(data, teacher, tmp_path):
    from salhub.runner.batches import step_batches

    logits = {}
    for ask in ("once", "always"):
        options = {**NANO, "teacher": teacher, "ask_teacher": ask, "initialization": "normal"}
        recipe = made(DeiTNanoRecipe, DeiTNanoArguments, tmp_path, data, **options)
        recipe.prepare(recipe.build_model(), Accelerator(cpu=True))
        [batch] = step_batches(torch.arange(5, 25), seed=0, step=3, epoch=0)
        mirrored = recipe.images["train"][batch.rows]
        is_mirrored = mirrored_rows(batch)
        assert 0 < int(is_mirrored.sum()) < 20
        mirrored[is_mirrored] = mirrored[is_mirrored].flip(-1)
        logits[ask] = recipe._of_teacher(mirrored, batch)
    torch.testing.assert_close(logits["once"], logits["always"])


def test_patches_are_dropped_until_the_last_steps(data, teacher, tmp_path):
    options = {**NANO, "patch_drop": 0.5, "whole_share": 0.5}
    recipe = made(DeiTNanoRecipe, DeiTNanoArguments, tmp_path, data, **options)
    model = recipe.build_model()
    recipe.prepare(model, Accelerator(cpu=True))
    from salhub.runner.batches import step_batches

    seen = []
    for step in range(6):
        [batch] = step_batches(torch.arange(4), seed=0, step=step, epoch=0)
        kept = recipe._kept(batch)
        seen.append(None if kept is None else kept.shape[1])
        if kept is not None:
            assert all(len(set(row)) == 4 for row in kept.tolist())
    assert seen == [4, 4, 4, None, None, None]  # of nine patches, rounded to even
    assert json.loads(model.config.to_json_string())["id2label"]["2"] == "blue"
