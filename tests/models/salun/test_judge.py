"""The judge of generated pictures: counted by hand with a classifier that says what it is told."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.backbones.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from salhub.data.picture_preparation import PicturePreparation
from salhub.models.salun import judge as judge_module
from salhub.models.salun.frechet_distance import frechet_distance
from salhub.models.salun.judge import Judge, judge_generation, judge_model
from salhub.results import Results
from salhub.runner.batches import Share

# What the classifier says of a picture whose first pixel is 10 times the row.
SAYS = torch.tensor(
    [
        [0.80, 0.10, 0.10],
        [0.70, 0.20, 0.10],
        [0.10, 0.80, 0.10],
        [0.25, 0.50, 0.25],
        [0.20, 0.20, 0.60],
        [0.05, 0.05, 0.90],
    ],
    dtype=torch.float64,
)
FORGOTTEN = 1


class Told(nn.Module):
    """Knows pictures by their first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[Tensor] = []

    def forward(self, pixel_values: Tensor) -> Any:
        assert not self.training and not torch.is_grad_enabled()
        self.seen.append(pixel_values)
        rows = (pixel_values[:, 0, 0, 0] / 10).round().long()
        return SimpleNamespace(logits=SAYS[rows].log().float())


class ToldByFeatures(Told):
    """The same with features of its own, one before the last layer."""

    def pooled_features(self, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values).logits.exp().cumsum(-1)

    def classifier(self, features: Tensor) -> Tensor:
        return features.diff(dim=-1, prepend=features.new_zeros(len(features), 1)).log()


def pictures(rows: list[int], channels: int = 1) -> Tensor:
    values = 10.0 * torch.tensor(rows) / 127.5 - 1
    return values.view(-1, 1, 1, 1).repeat(1, channels, 2, 2)


def judge_of(classifier: nn.Module) -> Judge:
    return Judge(classifier, lambda images: images.float())


ASKED = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
SHOWN = [0, 2, 4, 0, 2, 3, 5, 5, 4, 3]
REAL = [0, 1, 4, 5, 5, 0, 1]


def report(classifier: nn.Module | None = None):
    judge = judge_of(classifier or Told())
    return judge_generation(judge, pictures(SHOWN), ASKED, pictures(REAL), FORGOTTEN, 3)


def test_pictures_are_counted_as_by_hand():
    found = report()
    # Asked of the forgotten class: taken for 0, 1, 1 and 2.
    assert found.unlearning_accuracy == 50.0
    assert found.forgotten_probability == pytest.approx((0.1 + 0.8 + 0.5 + 0.05) / 4, abs=1e-6)
    # The others: 0 for 0, 1 for 0, 2 for 0, 2 for 2, 2 for 2, 1 for 2.
    assert found.retain_accuracy == pytest.approx(100 * 3 / 6)
    assert found.leaked == pytest.approx(100 * 2 / 6)
    assert found.verdicts == [[1, 1, 1], [1, 2, 1], [0, 1, 2]]


def test_entropy_is_that_of_the_forgotten_class_in_nats():
    entropies = [
        -sum(p * math.log(p) for p in SAYS[row].tolist())
        for row, label in zip(SHOWN, ASKED.tolist(), strict=True)
        if label == FORGOTTEN
    ]
    assert report().forgotten_entropy == pytest.approx(sum(entropies) / 4, abs=1e-6)


def test_a_judge_that_is_sure_has_no_entropy():
    class Sure(Told):
        def forward(self, pixel_values):
            logits = super().forward(pixel_values).logits
            return SimpleNamespace(logits=torch.where(logits == logits.amax(-1, True), 0, -1e6))

    assert report(Sure()).forgotten_entropy == 0


@pytest.mark.parametrize("kind", [Told, ToldByFeatures])
def test_the_distance_is_that_of_features_of_the_other_classes(kind):
    def features(rows):
        said = SAYS[torch.tensor(rows)]
        return said.log() if kind is Told else said.cumsum(-1)

    others = [row for row, label in zip(SHOWN, ASKED.tolist(), strict=True) if label != FORGOTTEN]
    expected = frechet_distance(features(others), features(REAL))
    found = report(kind())
    assert found.distance == pytest.approx(expected, rel=1e-4)
    assert found.verdicts == [[1, 1, 1], [1, 2, 1], [0, 1, 2]]


@pytest.mark.parametrize("channels", [1, 3])
def test_it_sees_the_bytes_of_a_picture_in_three_channels(channels):
    classifier = Told()
    shown = torch.tensor([[-3.0, -1.0], [0.5, 1.2]]).expand(2, channels, 2, 2).clone()
    shown[:, 0, 0, 0] = -1
    judge_of(classifier).look(shown)
    [seen] = classifier.seen
    assert seen.shape == (2, 3, 2, 2)
    assert seen[0, 0].tolist() == [[0, 0], [191, 255]]


def test_many_pictures_pass_in_parts_and_in_evaluation_mode():
    rows = torch.arange(700) % 6
    classifier = Told().train()
    seen = judge_of(classifier).look(pictures(rows.tolist()))
    assert len(classifier.seen) > 1 and max(map(len, classifier.seen)) <= 512
    torch.testing.assert_close(seen.probabilities, SAYS[rows], rtol=0, atol=1e-6)
    assert torch.equal(seen.verdicts, SAYS[rows].argmax(-1))
    assert seen.probabilities.dtype == seen.features.dtype == torch.float64


def test_a_real_network_sees_what_it_sees_otherwise():
    torch.manual_seed(0)
    config = CifarResNetConfig(num_labels=3, depth=8, width=4, stem_stride=1)
    network = CifarResNetForImageClassification(config).eval()
    preparation = PicturePreparation(CifarResNetImageProcessor())
    shown = torch.rand(5, 1, 32, 32) * 2 - 1
    seen = Judge(network, preparation).look(shown)
    images = ((shown + 1) * 127.5).round().byte().expand(-1, 3, -1, -1)
    with torch.no_grad():
        logits = network(preparation(images)).logits
    torch.testing.assert_close(seen.probabilities, logits.double().softmax(-1))
    assert seen.features.shape[0] == 5
    torch.testing.assert_close(network.classifier(seen.features.float()), logits)


def test_the_numbers_stand_in_the_results():
    results, found = Results(model="m", command="", seed=0), report()
    found.add_to(results, "before/")
    metrics = {metric.name: (metric.value, metric.unit) for metric in results.metrics}
    assert metrics == {
        "before/UA": (50.0, "percent"),
        "before/RA": (found.retain_accuracy, "percent"),
        "before/leaked": (found.leaked, "percent"),
        "before/forgotten_probability": (found.forgotten_probability, "fraction"),
        "before/forgotten_entropy": (found.forgotten_entropy, "nats"),
        "before/judge_distance": (found.distance, ""),
    }


# --- letting a model generate ---------------------------------------------------------------------


class Generator:
    """Shows what it is asked for, or by the toss of a coin the forgotten class."""

    config = SimpleNamespace(backbone_config=SimpleNamespace(num_classes=3))

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], int, float]] = []

    def generate(self, asked, num_steps, guidance_scale, generator):
        self.calls.append((asked.tolist(), num_steps, guidance_scale))
        is_swapped = torch.rand(len(asked), generator=generator) < 0.3
        shown = torch.where(is_swapped, FORGOTTEN, asked)
        return pictures((2 * shown).tolist())


def judged(generator: Generator, **settings):
    real = pictures(REAL)
    return judge_model(judge_of(Told()), generator, FORGOTTEN, real, **settings)


def test_as_many_pictures_as_were_asked_for_are_generated():
    generator = Generator()
    options = {"num_judged": 400, "num_judged_others": 90, "sampling_steps": 7}
    found = judged(generator, guidance_scale=1.5, seed=3, **options)
    asked = [label for call in generator.calls for label in call[0]]
    assert torch.tensor(asked).bincount().tolist() == [90, 400, 90]
    assert {call[1:] for call in generator.calls} == {(7, 1.5)}
    assert [sum(row) for row in found.verdicts] == [90, 400, 90]
    assert found.unlearning_accuracy == 0
    assert found.leaked == pytest.approx(30, abs=10)
    assert found.leaked + found.retain_accuracy == pytest.approx(100)


def test_a_seed_repeats_the_pictures_and_another_does_not():
    settings = {"num_judged": 300, "num_judged_others": 200}
    first, second, other = (judged(Generator(), seed=seed, **settings) for seed in (0, 0, 1))
    assert first == second != other


def test_processes_share_the_pictures_and_see_what_one_would(monkeypatch):
    settings = {"num_judged": 500, "num_judged_others": 200}
    whole = judged(Generator(), **settings)
    made: list[Any] = []

    class Stop(Exception):
        """The process waits for the others here."""

    def wait(own):
        made.extend(own)
        raise Stop

    generators = [Generator() for _ in range(3)]
    monkeypatch.setattr(judge_module, "gather_object", wait)
    for index, generator in enumerate(generators):
        with pytest.raises(Stop):
            judged(generator, share=Share(index, 3), **settings)
    assert sum(len(call[0]) for one in generators for call in one.calls) == 900
    assert max(len(one.calls) for one in generators) == 2
    monkeypatch.setattr(judge_module, "gather_object", lambda own: made)
    assert judged(Generator(), share=Share(1, 3), **settings) == whole
