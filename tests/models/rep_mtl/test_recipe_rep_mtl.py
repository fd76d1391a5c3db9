"""Training on several tasks: interrupted, shared, beside its baselines, and measured."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from salhub.errors import ModelNotFoundError
from salhub.models.rep_mtl.evaluation_rep_mtl import evaluate
from salhub.models.rep_mtl.gradient_surgery import surgery_loss
from salhub.models.rep_mtl.image_processing_rep_mtl import RepMTLImageProcessor
from salhub.models.rep_mtl.loss_weighting import LossWeighting
from salhub.models.rep_mtl.modeling_rep_mtl import RepMTLForMultiTask
from salhub.models.rep_mtl.multi_task_data import boundary_labels, parse_task, read_multi_task
from salhub.models.rep_mtl.recipe_rep_mtl import RepMTLArguments, RepMTLRecipe
from salhub.models.rep_mtl.rooms import render_room, render_rooms
from salhub.results import Results
from salhub.runner.plan import steps_after
from salhub.runner.run import run
from tests.conftest import DATA
from tests.models.rep_mtl.small_tasks import labels_of_every_kind, pictures
from tests.models.rep_mtl.test_modeling_rep_mtl import TWO, model_of
from tests.testers.recipe import TrainingRecipeTester, gradients

SMALL = {
    "image_size": 16, "num_train_images": 14, "num_validation_images": 3, "num_test_images": 4,
    "batch_size": 7, "num_train_epochs": 3, "encoder_channels": 8, "encoder_depth": 1,
    "head_channels": 6,
}  # fmt: skip


def recipe_of(folder, **options):
    return RepMTLRecipe(RepMTLArguments(output_dir=str(folder), cpu=True, **{**SMALL, **options}))


class TestRepMTL(TrainingRecipeTester):
    @pytest.fixture
    def make(self):
        # The weighting that remembers earlier epochs.
        return lambda folder, **options: recipe_of(folder, **{"weighting": "dwa", **options})

    def test_two_shares_of_the_rows_have_the_gradients_of_one(self, make, tmp_path):
        """Terms and logarithms are those of a pass; without them shares are alike."""
        recipe = make(tmp_path, log_transform=False, weighting="ew")
        torch.manual_seed(0)
        model = recipe.build_model()
        recipe.run = SimpleNamespace(folder=tmp_path)
        recipe.prepare(model, Accelerator(cpu=True))
        model.eval()  # which leaves out the terms
        step = next(steps_after(recipe, 0))
        one, two, three = (gradients(recipe, model, step, count) for count in (1, 2, 3))
        assert float(one.abs().max()) > 0
        tolerance = 1e-5 * float(one.abs().max())
        torch.testing.assert_close(two, one, rtol=1e-3, atol=tolerance)
        torch.testing.assert_close(three, one, rtol=1e-3, atol=tolerance)


def log_of(folder):
    import json

    return [json.loads(line) for line in (folder / "log.jsonl").open()]


def test_a_run_learns_measures_and_is_loaded_again(tmp_path):
    recipe = recipe_of(tmp_path, num_train_epochs=12, logging_steps=2, learning_rate=0.01)
    results = run(recipe)
    lines = [line for line in log_of(tmp_path) if "tsr" in line]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    assert all(0 <= line["tsr"] <= math.log(3) for line in lines)
    assert {"segmentation_loss", "depth_loss", "normals_loss", "csa"} <= lines[0].keys()
    names = {metric.name for metric in results.metrics}
    assert {
        "segmentation/miou", "depth/rel_error", "normals/within_30", "shared/entropy",
        "shared/depth/ruled", "pl_alpha/encoder",
    } <= names  # fmt: skip
    ruled = [results.metric(f"shared/{task.name}/ruled").value for task in recipe._tasks]
    assert sum(ruled) == pytest.approx(1)
    model = RepMTLForMultiTask.from_pretrained(tmp_path)
    processor = RepMTLImageProcessor.from_pretrained(tmp_path)
    assert (processor.size.height, processor.size.width) == (16, 16)
    again = evaluate(model, processor, "rooms", num_images=4)
    for metric in results.metrics:
        if not metric.name.startswith("seconds"):
            assert again.metric(metric.name).value == pytest.approx(metric.value, abs=1e-6)
    picture = render_room(0, size=16).picture
    inputs = processor(picture, return_tensors="pt")["pixel_values"]
    own = recipe.prepare_images(torch.from_numpy(picture.transpose(2, 0, 1).copy())[None])
    torch.testing.assert_close(inputs, own)


def test_terms_act_in_training(tmp_path):
    """Entropy falls with its factor and stays without it, and so does alignment."""
    found = {}
    for name, factors in {"none": (0.0, 0.0), "tsr": (5.0, 0.0), "csa": (0.0, 5.0)}.items():
        recipe = recipe_of(
            tmp_path / name, lambda_tsr=factors[0], lambda_csa=factors[1], flip=False,
            num_train_images=8, batch_size=8, num_train_epochs=40, learning_rate=6e-3,
            num_test_images=0, num_validation_images=0, lr_scheduler="constant",
        )  # fmt: skip
        run(recipe)
        part = recipe._part("train")
        model = RepMTLForMultiTask.from_pretrained(tmp_path / name)
        model.regularizer.lambda_tsr = model.regularizer.lambda_csa = 1.0
        found[name] = model.train()(recipe.prepare_images(part.images), part.labels)
    assert float(found["none"].tsr_loss) > 0.6 * math.log(3)
    assert float(found["tsr"].tsr_loss) < float(found["none"].tsr_loss) - 0.1
    assert float(found["csa"].csa_loss) < float(found["none"].csa_loss) - 0.2
    assert float(found["csa"].alignment) > float(found["none"].alignment)


def test_a_single_task_is_a_baseline_for_delta_p(tmp_path):
    files = []
    for name in ("segmentation", "depth", "normals"):
        recipe = recipe_of(tmp_path / name, only=[name], lambda_tsr=0, lambda_csa=0)
        assert [task["name"] for task in recipe_tasks(recipe)] == [name]
        run(recipe)
        files.append(str(tmp_path / name / "results.json"))
    run(recipe_of(tmp_path / "all"))
    model = RepMTLForMultiTask.from_pretrained(tmp_path / "all")
    processor = RepMTLImageProcessor.from_pretrained(tmp_path / "all")
    archive = write_archive(tmp_path, tasks=("segmentation", "depth", "normals"))
    results = evaluate(model, processor, archive, single_tasks=files)
    assert math.isfinite(results.metric("delta_p/tasks").value)
    with pytest.raises(ValueError, match="no 'depth/abs_error'"):
        evaluate(model, processor, archive, single_tasks=files[:1])


def recipe_tasks(recipe):
    recipe.build_model()
    return recipe.task_data.tasks


def write_archive(folder, tasks=("segmentation",), count=4, **content):
    for part, start in (("train", 0), ("val", 50), ("test", 100)):
        images, labels = render_rooms(count, 3, size=16, start=start)
        content[f"{part}_images"] = images
        content |= {f"{part}_{name}": labels[name] for name in tasks}
    path = folder / "small.npz"
    np.savez(path, **content)
    return str(path)


def test_an_archive_with_derived_boundaries(tmp_path, caplog):
    names = ["floor", "wall", "ceiling", "ball", "box", "can"]
    archive = write_archive(tmp_path, segmentation_class_names=names)
    data = read_multi_task(archive, tasks=["segmentation:segmentation:6"], derive_boundaries=True)
    assert [task["name"] for task in data.tasks] == ["segmentation", "edge", "distance"]
    assert data.notes == [
        "The tasks edge and distance are derived from the labels of segmentation."
    ]
    run(recipe_of(
        tmp_path / "out", data=archive, tasks=["segmentation:segmentation:6"],
        derive_boundaries=True, num_train_epochs=1, batch_size=2, num_train_images=4,
        image_size=8, num_test_images=5,
    ))  # fmt: skip
    assert "fewer than num_test_images=5; all of them are used" in caplog.text
    assert "num_train_images" not in caplog.text
    results = Results.load(tmp_path / "out" / "results.json")
    assert 0 <= results.metric("edge/f1").value <= 1
    assert results.tables[0].note.endswith("derived from the labels of segmentation.")
    model = RepMTLForMultiTask.from_pretrained(tmp_path / "out")
    assert [model.tasks[0].class_name(index) for index in range(6)] == names


def test_boundaries_by_hand():
    labels = np.zeros((6, 6), dtype=np.int64)
    labels[:, 3:] = 1
    labels[5] = 9  # does not count
    edges, distances = boundary_labels(labels, 9)
    assert edges[:5].tolist() == [[0, 1, 1, 1, 1, 0]] * 5 and (edges[5] == 255).all()
    np.testing.assert_allclose(distances[0] * 3, [2, 1, 0, 0, 1, 2], rtol=1e-6)
    assert np.isnan(distances[5]).all()
    edges, distances = boundary_labels(np.zeros((3, 3), dtype=np.int64), 9)
    assert edges.max() == 0 and (distances == 1).all()


def write_domains(folder):
    random = np.random.default_rng(0)
    sizes = {"amazon": 12, "dslr": 6}
    domains = np.repeat([0, 1], list(sizes.values()))
    path = folder / "domains.npz"
    np.savez(
        path,
        images=random.integers(0, 255, (18, 16, 16, 3), dtype=np.uint8),
        labels=random.integers(0, 3, 18),
        domains=domains,
        split=np.tile([0, 0, 1, 0, 2, 0], 3),
        domain_names=np.array(list(sizes)),
    )
    return str(path)


@pytest.mark.parametrize("pairing", ["index", "per_task"])
def test_domains_have_pictures_of_their_own(tmp_path, pairing):
    options = {"data": write_domains(tmp_path), "batch_size": 4, "num_train_epochs": 2}
    options |= {"multi_input": pairing, "image_size": None, "num_train_images": None}
    options |= {"lambda_tsr": 0.9 if pairing == "index" else 0.0, "head": "linear"}
    recipe = recipe_of(tmp_path / "out", **options)
    results = run(recipe)
    assert {"amazon/accuracy", "dslr/accuracy"} <= {metric.name for metric in results.metrics}
    part = recipe._part("train")
    assert len(part) == len(part.images["amazon"]) == 8 and len(part.images["dslr"]) == 4
    lines = [line for line in log_of(tmp_path / "out") if "csa" in line]
    assert lines and lines[0]["csa"] != 0
    model = RepMTLForMultiTask.from_pretrained(tmp_path / "out")
    processor = RepMTLImageProcessor.from_pretrained(tmp_path / "out")
    again = evaluate(model, processor, options["data"])
    assert again.metric("dslr/accuracy").value == results.metric("dslr/accuracy").value


class Recorded:
    """An aggregator that is not the sum."""

    def __call__(self, jacobian):
        self.jacobian = jacobian
        return jacobian[0] - 2 * jacobian[1]


def test_surgery_gives_the_encoder_what_is_combined_and_heads_their_own():
    model, labels = model_of(tasks=TWO, lambda_tsr=0, lambda_csa=0).train(), labels_of_every_kind()
    labels = {name: labels[name] for name in ("parts", "depth")}
    losses = model(pictures(), labels).task_losses
    encoder = list(model.encoder.parameters())
    rows = [torch.autograd.grad(loss, encoder, retain_graph=True) for loss in losses.values()]
    of_head = torch.autograd.grad(
        losses["parts"], list(model.heads["parts"].parameters()), retain_graph=True
    )
    aggregator = Recorded()
    loss = surgery_loss(losses, model.encoder, [model.heads], aggregator)
    assert loss.item() == pytest.approx(sum(losses.values()).item(), abs=1e-5)
    loss.backward()
    assert aggregator.jacobian.shape == (2, sum(p.numel() for p in encoder))
    for p, one, other in zip(encoder, *rows, strict=True):
        torch.testing.assert_close(p.grad, one - 2 * other)
    for p, expected in zip(model.heads["parts"].parameters(), of_head, strict=True):
        torch.testing.assert_close(p.grad, expected)


def test_surgery_inside_autocast_combines_in_full_precision():
    model, labels = model_of(tasks=TWO, lambda_tsr=0, lambda_csa=0).train(), labels_of_every_kind()
    labels = {name: labels[name] for name in ("parts", "depth")}
    seen = []

    def aggregator(jacobian):
        seen.append((jacobian @ jacobian.T).dtype)
        return jacobian.sum(0)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(pictures(), labels).task_losses
        surgery_loss(losses, model.encoder, [model.heads], aggregator).backward()
    assert seen == [torch.float32]


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "imtl_g", "aligned_mtl", "upgrad", "cagrad"])
def test_surgery_of_torchjd_trains(name, tmp_path):
    pytest.importorskip("torchjd", reason="torchjd is a peer, not installed")
    needed = {"cagrad": "cvxpy", "upgrad": "qpsolvers"}
    if name in needed:
        pytest.importorskip(needed[name], reason=f"{needed[name]} is not installed")
    run(recipe_of(
        tmp_path, gradient_surgery=name, lambda_tsr=0, lambda_csa=0, num_train_epochs=1
    ))  # fmt: skip
    assert (tmp_path / "results.json").is_file()


def test_a_peer_that_is_not_there_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    recipe = recipe_of(tmp_path, gradient_surgery="pcgrad", lambda_tsr=0, lambda_csa=0)
    with pytest.raises(ImportError, match=r"salhub\[bench\]"):
        recipe.build_model()


def test_weightings_are_their_formulas():
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(8.0)}
    weighted = LossWeighting(["a", "b"], "gls")(losses, losses)
    assert float(sum(weighted.values())) == pytest.approx(4.0)
    uncertain = LossWeighting(["a", "b"], "uw")
    with torch.no_grad():
        uncertain.log_variances.copy_(torch.tensor([0.0, math.log(4)]))
    found = uncertain(losses, losses)
    expected = [2 / 2 + 0, 8 / 4 / 2 + math.log(4) / 2]
    assert [float(one.detach()) for one in found.values()] == pytest.approx(expected)
    pace = LossWeighting(["a", "b"], "dwa", temperature=2.0)
    for epoch, values in enumerate([(4.0, 1.0), (2.0, 1.0), (1.0, 1.0)]):
        pace.begin_epoch(epoch)
        own = {name: torch.tensor(value) for name, value in zip("ab", values, strict=True)}
        found = pace(own, own)
    # Ratios of the second epoch to the first: 0.5 and 1.
    ratios = torch.tensor([0.5, 1.0]) / 2
    expected = 2 * ratios.softmax(0)
    assert [float(one.detach()) for one in found.values()] == pytest.approx(expected.tolist())
    torch.manual_seed(0)
    drawn = LossWeighting(["a", "b"], "rlw")
    one = {name: torch.ones(()) for name in "ab"}
    first, second = ([float(x) for x in drawn(one, one).values()] for _ in range(2))
    assert sum(first) == pytest.approx(2) and first != second


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"gradient_surgery": "pcgrad"},
            "set lambda_tsr=0, lambda_csa=0",
        ),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"head": "conw"}, "Did you mean 'conv'"),
        ({"encoder_channels": 0}, "encoder_channels must be an integer, 1 or more, got 0"),
        ({"encoder_depth": -1}, "encoder_depth must be an integer, 1 or more, got -1"),
        ({"image_size": -3}, "image_size must be an integer, 1 or more, got -3"),
        ({"num_train_images": 0}, "num_train_images must be an integer, 1 or more, got 0"),
        ({"num_test_images": -1}, "num_test_images must be an integer, 0 or more, got -1"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe_of(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"backbone": "none", "data": "none.npz"}, ModelNotFoundError, "'none' was not found"),
        ({"only": ["deph"]}, ValueError, "no task 'deph'"),
        ({"tasks": ["a:depth"]}, ValueError, "leave tasks out, or select some"),
        ({"data": "none.npz"}, FileNotFoundError, "none.npz"),
        ({"only": ["depth"]}, ValueError, "there is only one; add a task"),
        ({"data": "small"}, ValueError, "does not describe its tasks; give tasks, such as tasks="),
        ({"data": "small"}, ValueError, "It has .*train_images"),
        ({"data": __file__}, ValueError, "is not an archive of pictures and labels; give a file"),
        ({"data": "small", "tasks": ["depth:depth"]}, ValueError, "no 'train_depth'"),
        (
            {"data": "small", "tasks": ["depth"]},
            ValueError,
            "A task must be written as name:type, name:type:classes or",
        ),
        (
            {"data": "small", "tasks": ["seg:segmentation:6,depth:depth"]},
            ValueError,
            r"write several in brackets, such as tasks=\[seg:",
        ),
    ],
)
def test_data_that_cannot_be_learned(tmp_path, options, error, sentence):
    if options.get("data") == "small":
        options = {**options, "data": write_archive(tmp_path)}
    with pytest.raises(error, match=sentence):
        recipe_of(tmp_path / "out", **options).build_model()
    assert parse_task("a:depth") == {"name": "a", "type": "depth"}
    assert parse_task("a:dense_regression")["dense"] is True


def test_an_archive_without_a_test_part_is_said_before_the_training(tmp_path, caplog):
    path = tmp_path / "scenes.npz"
    np.savez(
        path,
        train_images=np.zeros((4, 8, 8, 3), dtype=np.uint8),
        train_seg=np.zeros((4, 8, 8), dtype=np.uint8),
        train_depth=np.ones((4, 8, 8), dtype=np.float32),
    )
    options = {"data": str(path), "tasks": ["seg:segmentation:4", "depth:depth"]}
    options |= {"image_size": None, "num_train_images": 4}
    recipe_of(tmp_path / "out", **options, num_test_images=0).build_model()
    assert not caplog.text
    recipe_of(tmp_path / "out", **options, num_test_images=None).build_model()
    assert "scenes has no part 'test', so nothing is measured at the end." in caplog.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train_seg": 9}, r"task 'seg' \(segmentation\) in scenes \(train\) must lie in 0 to 3"),
        ({"train_seg": 255}, r"scenes \(train\) has no valid label for task 'seg' \("),
        ({"train_depth": 0}, r"has no valid label for task 'depth' \(depth\), so the task cannot"),
    ],
)
def test_labels_that_teach_nothing_are_refused_before_any_work(tmp_path, change, sentence):
    content = {
        "train_images": np.zeros((4, 8, 8, 3), dtype=np.uint8),
        "train_seg": np.zeros((4, 8, 8), dtype=np.uint8),
        "train_depth": np.ones((4, 8, 8), dtype=np.float32),
    }
    for name, value in change.items():
        content[name][:] = value
    path = tmp_path / "scenes.npz"
    np.savez(path, **content)
    options = {"data": str(path), "tasks": ["seg:segmentation:4", "depth:depth"]}
    with pytest.raises(ValueError, match=sentence):
        recipe_of(tmp_path / "out", **{**options, "image_size": None}).build_model()


@pytest.fixture(scope="module")
def packed():
    folder = DATA / "mtl"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}; set SALHUB_DATA to the folder above it")
    return folder


def test_real_scenes_with_derived_boundaries(packed):
    data = read_multi_task(
        str(packed / "camvid_120x90.npz"), tasks=["seg:segmentation:11:11"], image_size=45,
        derive_boundaries=True, counts={"train": 3, "validation": 2, "test": 2},
    )  # fmt: skip
    assert {name: len(part) for name, part in data.parts.items()} == {
        "train": 3, "validation": 2, "test": 2,
    }  # fmt: skip
    train = data.parts["train"]
    assert train.images.shape == (3, 3, 45, 60) and train.labels["edge"].shape == (3, 45, 60)
    void = train.labels["seg"] == 11
    assert 0 < float(void.float().mean()) < 0.5
    assert torch.equal(train.labels["edge"] == 255, void)
    assert torch.equal(train.labels["distance"].isnan(), void)


def test_real_pictures_of_four_domains(packed):
    data = read_multi_task(str(packed / "office_caltech10_64.npz"), counts={"train": 5})
    assert [task["name"] for task in data.tasks] == ["amazon", "dslr", "webcam", "caltech"]
    sizes = {name: len(one) for name, one in data.parts["test"].images.items()}
    assert sizes["dslr"] == 31 and sum(sizes.values()) == 506
    assert all(len(one) == 5 for one in data.parts["train"].labels.values())
