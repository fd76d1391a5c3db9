"""The network of several tasks: what it gives, how it learns, and what it says of its tasks."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.models.rep_mtl.configuration_rep_mtl import RepMTLConfig, Task
from salhub.models.rep_mtl.modeling_rep_mtl import RepMTLForMultiTask
from salhub.models.rep_mtl.rep_mtl_terms import rep_mtl_terms
from salhub.models.rep_mtl.task_losses import sample_losses
from tests.machine import Machine
from tests.models.rep_mtl.small_tasks import (
    EVERY_KIND,
    labels_of_every_kind,
    pictures,
    small_config,
)
from tests.testers.attribution import AttributionTester
from tests.testers.calling import BatchTester
from tests.testers.saving import SavingTester
from tests.testers.trees import assert_equal, item

TWO = [EVERY_KIND[0], EVERY_KIND[1]]


class _Explained(SavingTester, BatchTester, AttributionTester):
    model_class = RepMTLForMultiTask

    def config(self):
        return small_config()

    def bad_inputs(self):
        labels = labels_of_every_kind()
        far = {**labels, "parts": labels["parts"] + 9}
        return [
            ({"pixel_values": pictures()[0]}, ValueError, "must have shape"),
            ({"pixel_values": pictures().long()}, TypeError, "must be floating point"),
            ({"labels": {"part": labels["parts"]}}, ValueError, "no task 'part'"),
            ({"labels": {}}, ValueError, "labels is empty; give labels for"),
            ({"labels": far}, ValueError, "'parts' .segmentation. must lie in 0 to 3 or be ignore"),
            ({"labels": {"scene": labels["scene"].float()}}, TypeError, "'scene' .* must be int64"),
            ({"labels": {"depth": labels["depth"][:, 4:]}}, ValueError, "'depth' .*must have sh"),
            ({"labels": {"edges": labels["edges"] + 2}}, ValueError, "'edges' .*0 to 1"),
        ]  # fmt: skip


class TestOwnAnswers(_Explained):
    shipped = ("salhub/rep-mtl-rooms",)

    def inputs(self):
        return {"pixel_values": pictures(), "output_saliency": True}


class TestLabels(_Explained):
    def inputs(self):
        return {
            "pixel_values": pictures(),
            "labels": labels_of_every_kind(),
            "output_saliency": True,
        }


def model_of(**settings):
    torch.manual_seed(0)
    return RepMTLForMultiTask(small_config(**settings))


def test_every_kind_of_task_has_its_answer():
    found = model_of().eval()(pictures()).predictions
    shapes = {name: tuple(one.shape) for name, one in found.items()}
    assert shapes == {
        "parts": (3, 4, 16, 16), "depth": (3, 16, 16), "normals": (3, 3, 16, 16),
        "scene": (3, 3), "edges": (3, 16, 16), "ages": (3, 2), "heat": (3, 1, 16, 16),
    }  # fmt: skip
    lengths = found["normals"].norm(dim=1)
    torch.testing.assert_close(lengths[lengths > 0], torch.ones_like(lengths[lengths > 0]))
    assert float((lengths > 0).float().mean()) > 0.5


@pytest.mark.parametrize("head", ["linear", "conv", "aspp"])
def test_every_head_learns_by_both_terms(head):
    model = model_of(head=head).train()
    output = model(pictures(), labels_of_every_kind())
    output.loss.backward()
    assert output.tsr_loss is not None and output.csa_loss is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_head_without_an_answer_leaves_all_gradients_finite():
    """Where ReLUs are silent a normal has no direction, and its second derivative is none."""
    model = model_of(tasks=EVERY_KIND[:3]).train()
    with torch.no_grad():
        model.heads["normals"].body[0].bias.fill_(-100.0)
    labels = {name: labels_of_every_kind()[name] for name in ("parts", "depth", "normals")}
    output = model(pictures(), labels)
    assert float(output.predictions["normals"].detach().abs().max()) == 0
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_losses_are_means_over_what_counts_in_each_picture():
    labels, model = labels_of_every_kind(), model_of().eval()
    found = model(pictures(), labels)
    answers = found.predictions
    kept = [0, *range(2, 16)]
    parts, depth, normals = labels["parts"], labels["depth"], labels["normals"]
    expected = {
        "parts": F.cross_entropy(answers["parts"][:, :, 1:], parts[:, 1:]),
        "depth": (answers["depth"] - depth)[:, :, 1:].abs().mean(),
        "normals": (1 - F.cosine_similarity(answers["normals"], normals))[:, kept].mean(),
        "scene": F.cross_entropy(answers["scene"], labels["scene"]),
        "edges": F.binary_cross_entropy_with_logits(answers["edges"], labels["edges"].float()),
        "ages": (answers["ages"] - labels["ages"]).abs().mean(),
        "heat": (answers["heat"][:, 0] - labels["heat"]).square().mean(),
    }  # fmt: skip
    assert_equal(found.task_losses, expected, tolerance=1e-5)
    logs = sum((one + 1e-8).log().item() for one in expected.values())
    assert float(found.loss.detach()) == pytest.approx(logs, abs=1e-4)
    assert found.tsr_loss is None  # nothing is differentiated outside of training


def test_a_picture_without_labels_counts_for_nothing():
    labels, model = labels_of_every_kind(), model_of().eval()
    labels["parts"][1] = 255
    found = model(pictures(), labels).task_losses["parts"]
    rest = [0, 2]
    others = {name: one[rest] for name, one in labels.items()}
    assert float(found.detach()) == pytest.approx(
        float(model(pictures()[rest], others).task_losses["parts"].detach()), abs=1e-6
    )
    labels["parts"][:] = 255
    output = model_of().train()(pictures(), labels)
    assert "parts" not in output.task_losses and output.task_affinity.shape == (3, 6, 6)


def test_training_adds_the_terms_to_what_equal_weighting_has():
    labels = {name: labels_of_every_kind()[name] for name in ("parts", "depth")}
    with_terms, without = (
        model_of(tasks=TWO, lambda_tsr=factor, lambda_csa=factor).train() for factor in (0.9, 0)
    )
    output, plain = (model(pictures(), labels) for model in (with_terms, without))
    assert plain.tsr_loss is None
    added = 0.9 * float(output.tsr_loss + output.csa_loss)
    assert float(output.loss) == pytest.approx(float(plain.loss) + added, abs=1e-5)
    # What anybody would compute from the map and the losses.
    model = model_of(tasks=TWO).train()
    shared = model.encoder(pictures())
    logs = []
    for task, head in zip(model.tasks, model.heads.values(), strict=True):
        values, _ = sample_losses(task, head(shared, (16, 16)), labels[task.name])
        logs.append((values.mean() + 1e-8).log())
    terms = rep_mtl_terms(shared, logs)
    assert float(terms.tsr) == pytest.approx(float(output.tsr_loss), abs=1e-6)
    assert float(terms.csa) == pytest.approx(float(output.csa_loss), abs=1e-5)


def test_zero_factors_train_as_equal_weighting_bit_for_bit():
    labels = {name: labels_of_every_kind()[name] for name in ("parts", "depth")}
    model, twin = (
        model_of(tasks=TWO, lambda_tsr=0, lambda_csa=0, log_transform=False).train()
        for _ in range(2)
    )
    for network in (model, twin):
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            if network is model:
                loss = network(pictures(), labels).loss
            else:
                answers = network(pictures()).predictions
                values = [
                    sample_losses(task, answers[task.name], labels[task.name])[0]
                    for task in network.tasks
                ]
                loss = values[0].mean() + values[1].mean()
            loss.backward()
            optimizer.step()
    assert_equal(model.state_dict(), twin.state_dict())


def test_saliency_of_labels_is_that_of_a_picture_as_a_batch_of_its_own():
    model, labels = model_of(tasks=TWO).eval(), labels_of_every_kind()
    labels = {name: labels[name] for name in ("parts", "depth")}
    found = model(pictures(), labels, output_saliency=True)
    for b in range(3):
        shared = model.encoder(pictures()[b : b + 1]).detach().requires_grad_()
        for t, task in enumerate(model.tasks):
            answer = model.heads[task.name](shared, (16, 16))
            loss = sample_losses(task, answer, labels[task.name][b : b + 1])[0].mean()
            [expected] = torch.autograd.grad((loss + 1e-8).log(), shared)
            torch.testing.assert_close(found.task_saliency[b, t], expected[0], rtol=1e-4, atol=1e-7)
    assert found.saliency_target == "labels"
    torch.testing.assert_close(found.saliency, found.task_saliency.mean(2).abs())
    total = found.saliency.sum(1, keepdim=True)
    torch.testing.assert_close(found.shares, found.saliency / total)
    assert torch.equal(found.dominance, found.saliency.argmax(1))
    assert float(found.entropy.min()) >= 0 and float(found.entropy.max()) <= 0.6932
    first, second = found.task_saliency[0].flatten(1)
    cosine = float(F.cosine_similarity(first, second, dim=0))
    assert float(found.task_affinity[0, 0, 1]) == pytest.approx(cosine, abs=1e-5)


def test_a_task_without_labels_is_silent_in_the_saliency():
    labels = {name: one for name, one in labels_of_every_kind().items() if name != "depth"}
    found = model_of().eval()(pictures(), labels, output_saliency=True)
    assert float(found.saliency[:, 1].abs().max()) == 0
    assert float(found.saliency[:, 0].abs().max()) > 0
    with pytest.raises(ValueError, match="output_saliency=True"):
        model_of().eval()(pictures()).shares  # noqa: B018


def test_bfloat16_autocast_trains():
    model = model_of().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(pictures(), labels_of_every_kind())
    output.loss.backward()
    assert output.tsr_loss.dtype == output.csa_loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())
    exact = model_of().train()(pictures(), labels_of_every_kind())
    assert float(output.tsr_loss) == pytest.approx(float(exact.tsr_loss), abs=0.05)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel_has_the_gradients_of_the_bare_network(one_process):
    bare, labels = model_of().train(), labels_of_every_kind()
    del labels["scene"]  # a head without a label in this batch has a gradient all the same
    wrapped = DistributedDataParallel(model_of().train())
    for _ in range(2):  # the second step fails where a gradient was missing in the first
        for network in (bare, wrapped):
            network.zero_grad()
            network(pictures(), labels).loss.backward()
    for one, other in zip(bare.parameters(), wrapped.module.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


def test_two_processes_average_what_each_has(tmp_path):
    """Each compares its own pictures; the gradient is the mean of both."""
    model, labels = model_of(tasks=TWO).train(), labels_of_every_kind(batch=4)
    labels = {name: labels[name] for name in ("parts", "depth")}
    halves = []
    for rows in ([0, 1], [2, 3]):
        model.zero_grad()
        own = {name: one[rows] for name, one in labels.items()}
        model(pictures(4)[rows], own).loss.backward()
        halves.append([p.grad.clone() for p in model.parameters()])
    finished = Machine(os.environ, preload=False).run(
        _TWO_PROCESSES, folder=tmp_path, environment={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert finished.returncode == 0, finished.stderr
    for found, one, other in zip(torch.load(tmp_path / "gradients.pt"), *halves, strict=True):
        torch.testing.assert_close(found, (one + other) / 2, rtol=1e-4, atol=1e-6)


_TWO_PROCESSES = """
import os
import torch
from torch.nn.parallel import DistributedDataParallel
from tests.models.rep_mtl.test_modeling_rep_mtl import TWO, labels_of_every_kind, model_of, pictures

other = os.fork()
rank = int(other == 0)
torch.distributed.init_process_group("gloo", init_method="file://" + os.path.abspath("meeting"),
                                     rank=rank, world_size=2)
rows = slice(2 * rank, 2 * rank + 2)
labels = {name: labels_of_every_kind(batch=4)[name][rows] for name in ("parts", "depth")}
model = DistributedDataParallel(model_of(tasks=TWO).train())
model(pictures(4)[rows], labels).loss.backward()
if rank == 0:
    torch.save([p.grad for p in model.module.parameters()], "gradients.pt")
torch.distributed.destroy_process_group()
if rank == 0:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def test_a_copy_with_other_settings_trains_by_them():
    model, labels = model_of().train(), labels_of_every_kind()
    twin = model.with_settings(lambda_tsr=0, csa_temperature=0.1)
    output, other = model(pictures(), labels), twin(pictures(), labels)
    alone = float(output.loss) - 0.9 * float(output.tsr_loss + output.csa_loss)
    assert float(other.loss) == pytest.approx(alone + 0.9 * float(other.csa_loss), abs=1e-4)
    assert float(other.csa_loss) != pytest.approx(float(output.csa_loss), abs=0.1)
    with pytest.raises(ValueError, match="only be set when the model is loaded"):
        model.with_settings(head="aspp")


def test_an_encoder_that_does_not_learn_leaves_the_heads_to_the_terms():
    model = model_of().train()
    model.encoder.requires_grad_(False)
    output = model(pictures(), labels_of_every_kind())
    output.loss.backward()
    assert output.tsr_loss is not None
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.heads.parameters())


@pytest.mark.parametrize("pairing", ["index", "per_task"])
def test_tasks_with_pictures_of_their_own(pairing):
    domains = [{"name": n, "type": "classification", "num_labels": 3} for n in ("amazon", "dslr")]
    factor = 0.9 if pairing == "index" else 0
    model = model_of(tasks=domains, multi_input=pairing, lambda_tsr=factor).train()
    own = {"amazon": pictures(seed=1), "dslr": pictures(seed=2)}
    labels = {name: torch.tensor([0, 1, 2]) for name in own}
    output = model(own, labels)
    output.loss.backward()
    assert (output.tsr_loss is None) == (pairing == "per_task")
    assert output.csa_loss is not None
    model.eval()
    for name, one in own.items():  # as if each task was alone
        alone = model.heads[name](model.encoder(one), (16, 16))
        torch.testing.assert_close(model(own).predictions[name], alone, rtol=1e-4, atol=1e-5)
    explained = model(own, output_saliency=True)
    assert explained.saliency.shape[:2] == (3, 2)
    with pytest.raises(ValueError, match="pixel_values must have pictures for each task"):
        model({"amazon": own["amazon"]})
    with pytest.raises(
        ValueError, match="All tasks need the same number of pictures of the same size, got"
    ):
        model({**own, "dslr": own["dslr"][:2]})


@pytest.mark.parametrize("weighting", ["uw", "dwa", "rlw", "gls"])
def test_weightings_train_and_are_saved(weighting, tmp_path):
    model = model_of(tasks=TWO, weighting=weighting, log_transform=weighting != "gls").train()
    labels = {name: labels_of_every_kind()[name] for name in ("parts", "depth")}
    output = model(pictures(), labels)
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    model.save_pretrained(tmp_path)
    assert_equal(RepMTLForMultiTask.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_a_trained_encoder_of_ours_is_taken_over(tmp_path):
    from salhub.backbones.cifar_resnet.modeling_cifar_resnet import (
        CifarResNetForImageClassification,
    )

    torch.manual_seed(3)
    config = CifarResNetConfig(depth=8, width=8, image_size=16, num_labels=5)
    classifier = CifarResNetForImageClassification(config).eval()
    classifier.save_pretrained(tmp_path / "classifier")
    model = RepMTLForMultiTask.from_backbone(tmp_path / "classifier", EVERY_KIND).eval()
    expected = classifier.feature_map(pictures())
    torch.testing.assert_close(model.encoder(pictures()), expected)
    torch.testing.assert_close(expected.mean((2, 3)), classifier.pooled_features(pictures()))
    model.save_pretrained(tmp_path / "model")
    again = RepMTLForMultiTask.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again.encoder(pictures()), expected)


def test_a_trained_encoder_of_transformers_is_taken_over_from_a_folder(tmp_path, monkeypatch):
    from transformers import ResNetBackbone, ResNetConfig

    torch.manual_seed(3)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )  # fmt: skip
    backbone = ResNetBackbone(config).eval()
    backbone.save_pretrained(tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)  # a relative name is no repository
    for stage, place in ((None, -1), ("stage1", 1)):
        model = RepMTLForMultiTask.from_backbone("backbone", EVERY_KIND, out_feature=stage).eval()
        expected = backbone(pictures(), output_hidden_states=True).hidden_states[place]
        torch.testing.assert_close(model.encoder(pictures()), expected)
    state = backbone.state_dict()
    lacking = {key: state[key] for key in list(state)[6:]}
    backbone.save_pretrained(tmp_path / "lacking", state_dict=lacking)
    with pytest.raises(ValueError, match="'lacking' lacks weights of the encoder: embedder"):
        RepMTLForMultiTask.from_backbone("lacking", EVERY_KIND)


def test_pictures_with_nan_leave_the_network_as_it_was():
    model = model_of().train()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    broken = pictures()
    broken[1, 2, 3, 4] = torch.nan
    for labels in (None, labels_of_every_kind()):
        with pytest.raises(
            ValueError, match="pixel_values contain NaN or infinite values; check how the"
        ):
            model(broken, labels)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_labels_of_another_kind_are_refused():
    model = model_of().eval()
    with pytest.raises(TypeError, match="labels must map tasks to their labels, got list"):
        model(pictures(), [torch.zeros(3)])
    with pytest.raises(TypeError, match="Labels of task 'scene' must be a tensor, got ndarray"):
        model(pictures(), {"scene": labels_of_every_kind()["scene"].numpy()})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tasks": [EVERY_KIND[0]]}, "Rep-MTL compares tasks, but there is only one; add a task"),
        ({"tasks": [EVERY_KIND[0], EVERY_KIND[0]]}, "tasks must have distinct names"),
        ({"tasks": [{"name": "a", "type": "depht"}]}, "Did you mean 'depth'"),
        ({"tasks": [{"name": "a", "type": "segmentation"}]}, "needs num_labels of 2 or more"),
        ({"tasks": [{"name": "a b", "type": "depth"}]}, "must be an identifier"),
        ({"tasks": [{"name": "a", "type": "depth", "weight": 2}]}, "Did you mean 'loss_weight'"),
        ({"tasks": [{"name": "a", "type": "depth", "num_labels": 2}]}, "is always 1"),
        ({"tasks": [{"name": "a", "type": "depth", "dense": False}]}, "fixed by its type"),
        ({"tasks": [{"name": "a", "type": "depth", "loss_weight": 0}]}, "must be above 0"),
        ({"tasks": [{"name": "a", "type": "depth", "loss": "l2"}]}, "must be one of l1, mse"),
        ({"tasks": [{"name": "a"}]}, "must have a 'type'"),
        ({"lambda_csa": -0.1}, "lambda_csa must be at least 0"),
        ({"csa_temperature": 0}, "csa_temperature must be above 0"),
        ({"weighting": "gls"}, "log_transform=False"),
        ({"multi_input": "per_task"}, "lambda_tsr=0"),
        ({"head": "asp"}, "Did you mean 'aspp'"),
    ],
)
def test_configurations_that_cannot_be_meant(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        RepMTLConfig(**settings)


def test_networks_without_feature_maps_are_refused():
    with pytest.raises(ValueError, match="has no feature maps to share"):
        RepMTLForMultiTask(small_config(backbone_config={"model_type": "salhub_conditional_unet"}))
    with pytest.raises(ValueError, match="must be one of stem, stage1"):
        model_of(out_feature="stage9")
    assert Task("a", "depth").dense
    assert item(model_of().eval()(pictures()).predictions, 1, 3)["depth"].shape == (1, 16, 16)
