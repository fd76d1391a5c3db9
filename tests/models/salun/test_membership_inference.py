"""Membership inference: features and attacks against slow, obvious arithmetic and scikit-learn."""

import logging
import math
import sys

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from salhub.errors import MissingExtraError
from salhub.models.salun import membership_inference as module
from salhub.models.salun.membership_inference import (
    FEATURES,
    membership_features,
    membership_inference,
    membership_inference_report,
    probabilities_from_logits,
)

# How a classifier answers: the share it gets right, and the mean and spread of its top logit.
OVERFIT = (1.0, 14.0, 3.0)
TEST_60 = (0.6, 9.0, 4.0)
FITTED = (0.995, 12.0, 2.5)
TEST_94 = (0.94, 11.0, 3.5)
SOFT = (0.9, 4.0, 1.5)
SOFT_TEST = (0.7, 3.0, 1.5)
RANDOM = (0.1, 3.0, 2.0)

SITUATIONS = {
    "overfit, forgets nothing": (OVERFIT, TEST_60, OVERFIT),
    "overfit, forgets everything": (OVERFIT, TEST_60, TEST_60),
    "overfit, random labels": (OVERFIT, TEST_60, RANDOM),
    "good classifier": (FITTED, TEST_94, TEST_94),
    "soft classifier": (SOFT, SOFT_TEST, SOFT_TEST),
    "nothing to tell apart": (TEST_94, TEST_94, FITTED),
}


def _outputs(kind, count, seed, classes=10):
    """Probabilities and labels of a made-up classifier."""
    share, mean, spread = kind
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=count)
    wrong = generator.random(count) >= share
    answers = np.where(wrong, (labels + generator.integers(1, classes, count)) % classes, labels)
    logits = generator.normal(size=(count, classes))
    logits[np.arange(count), answers] += np.abs(generator.normal(mean, spread, count))
    return probabilities_from_logits(torch.tensor(logits)), torch.tensor(labels)


def _situation(name, count=500, seed=0):
    members, non_members, targets = SITUATIONS[name]
    return (
        _outputs(members, count, seed),
        _outputs(non_members, count, seed + 1),
        _outputs(targets, count, seed + 2),
    )


def _log(value):
    return math.log(max(value, 1e-30))


def test_features_agree_with_loops():
    probabilities, labels = _outputs(TEST_60, 40, seed=0)
    found = membership_features(probabilities, labels)
    assert tuple(found) == FEATURES
    assert torch.equal(found["probability"], probabilities)
    for index, (row, label) in enumerate(zip(probabilities.tolist(), labels.tolist(), strict=True)):
        entropy = -sum(p * _log(p) for p in row)
        modified = -(1 - row[label]) * _log(row[label])
        modified -= sum(p * _log(1 - p) for other, p in enumerate(row) if other != label)
        assert found["confidence"][index].item() == row[label]
        assert found["correctness"][index].item() == float(row[label] == max(row))
        assert found["entropy"][index].item() == pytest.approx(entropy)
        assert found["modified_entropy"][index].item() == pytest.approx(modified)


def test_certain_answers_give_finite_features():
    certain = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = membership_features(certain, torch.tensor([0, 1]))
    assert found["entropy"].tolist() == [0.0, 0.0]
    assert found["correctness"].tolist() == [1.0, 0.0]
    right, wrong = found["modified_entropy"].tolist()
    assert right == 0.0
    assert wrong == pytest.approx(-2 * math.log(1e-30))


def test_features_are_float64_and_logits_keep_what_float32_rounds_away():
    logits = torch.tensor([[25.0, 0.0]])
    probabilities = probabilities_from_logits(logits)
    assert logits.softmax(dim=1)[0, 0] == 1 > probabilities[0, 0]
    assert probabilities[0, 1].item() == pytest.approx(math.exp(-25), rel=1e-6)
    found = membership_features(logits.softmax(dim=1), torch.tensor([0]))
    assert all(feature.dtype == torch.float64 for feature in found.values())


def _modified_entropy_of_the_published_code(probabilities, labels):
    """Restated with its two slips: it takes log p for log(1 - p), and [:, labels] for its rows."""
    probabilities = probabilities.clone()
    logs = probabilities.log()
    probabilities[:, labels] = 1 - probabilities[:, labels]
    return -(probabilities * logs).sum(dim=1)


def test_modified_entropy_is_not_that_of_the_published_code():
    probabilities, labels = _outputs(OVERFIT, 200, seed=1)
    ours = membership_features(probabilities, labels)["modified_entropy"]
    theirs = _modified_entropy_of_the_published_code(probabilities, labels)
    assert ours.median() < 0.01  # the model is certain and right
    assert theirs.median() > 10


@pytest.mark.parametrize("name", FEATURES)
def test_the_exact_attack_is_scikit_learns(name):
    sets = [membership_features(*outputs)[name] for outputs in _situation("good classifier", 300)]
    sets[0] = torch.cat([sets[0], sets[0] * 0])  # the surplus must not be seen
    found = membership_inference(*sets)
    members, non_members, targets = (each.numpy().reshape(len(each), -1) for each in sets)
    samples = np.concatenate([members[:300], non_members])
    truth = np.array([1] * 300 + [0] * 300)
    svc = SVC(C=3, gamma="auto", kernel="rbf").fit(samples, truth)
    assert found.efficacy == pytest.approx(np.mean(svc.predict(targets) == 0))
    assert found.attack_accuracy == pytest.approx(svc.score(samples, truth))


def test_efficacy_is_high_where_the_forget_set_looks_unseen():
    kept = membership_inference_report(*_situation("overfit, forgets nothing"), "threshold")
    forgotten = membership_inference_report(*_situation("overfit, forgets everything"), "threshold")
    assert kept["confidence"] < 0.05 < 0.4 < forgotten["confidence"]
    assert forgotten["correctness"] == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_threshold_attack_agrees_with_the_exact_one(situation):
    sets = [membership_features(*outputs) for outputs in _situation(situation)]
    for name in FEATURES[:-1]:
        features = [each[name] for each in sets]
        exact = membership_inference(*features, attack="svc")
        fast = membership_inference(*features, attack="threshold")
        assert fast.efficacy == pytest.approx(exact.efficacy, abs=0.01), name
        assert fast.attack_accuracy == pytest.approx(exact.attack_accuracy, abs=0.01), name


def _odd_sets():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(3, 500, generator=generator, dtype=torch.float64)
    normal = torch.randn(3, 500, generator=generator, dtype=torch.float64)
    powers = torch.tensor([[0.1], [0.4], [0.2]])
    sides = torch.tensor([[4.0], [0.0], [2.0]])
    return {
        "ties": (uniform**powers * 20).round() / 20,
        "all equal": torch.full((3, 500), 0.7),
        "piled up at 1 in float32": (1 - 10 ** (-40 * powers * uniform)).float(),
        "two intervals": torch.stack([normal[0].sign() * 2, *normal[1:]]) + normal * 0.1,
        "long tail": (normal * sides).exp(),
        "far targets": torch.stack([uniform[0], uniform[1] * 0.8, normal[2] * 1e6]),
        "far apart": uniform * 1e9,
    }


@pytest.mark.parametrize("shape", _odd_sets())
def test_the_threshold_attack_agrees_on_odd_shapes(shape):
    sets = _odd_sets()[shape]
    exact = membership_inference(*sets, attack="svc")
    fast = membership_inference(*sets, attack="threshold")
    assert fast.attack_accuracy == pytest.approx(exact.attack_accuracy, abs=0.01)
    if shape != "far apart":  # its targets lie beyond the kernel's reach: a toss of the bias
        assert fast.efficacy == pytest.approx(exact.efficacy, abs=0.01)


def test_twenty_thousand_samples_become_a_few_hundred_weighted_ones():
    features = [membership_features(*_outputs(kind, 10_000, seed=3)) for kind in (FITTED, TEST_94)]
    for name in ("confidence", "entropy", "modified_entropy"):
        members, non_members = (each[name].numpy() for each in features)
        values = np.unique(np.concatenate([members, non_members]))
        starts = values[module._cuts(values, 256) + 1]
        assert 200 < len(starts) < 600, name
        points, weights = module._run_means(members, starts)
        assert len(points) <= len(starts) + 1 and weights.sum() == 10_000
        assert points @ weights == pytest.approx(members.sum())


@pytest.mark.parametrize("outlier", [-100.0, 0.5, 100.0])
def test_an_outlier_is_a_run_of_its_own_and_costs_the_others_nothing(outlier):
    values = np.random.default_rng(0).random(5000)
    values = np.unique(np.append(values[np.abs(values - 0.5) > 0.1], outlier))
    cuts = module._cuts(values, 256)
    assert 200 < len(cuts) < 256
    runs = np.split(values, cuts + 1)
    assert [outlier] in [run.tolist() for run in runs]
    assert max(run[-1] - run[0] for run in runs) < 0.01


def test_few_distinct_values_are_merged_without_loss():
    points, weights = module._run_means(
        np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0])[module._cuts(np.array([0.0, 1.0]), 256) + 1]
    )
    assert (points.tolist(), weights.tolist()) == ([0.0, 1.0], [1, 2])


def test_values_between_landmarks_are_answered_as_if_asked():
    values = np.sort(np.random.default_rng(0).random(5000) ** 8)

    def in_an_interval(asked):
        return (asked > 0.001) & (asked < 0.3)

    found = module._ask_sparsely(in_an_interval, values)
    assert np.array_equal(found, in_an_interval(values))


def test_report_holds_every_feature():
    outputs = _situation("good classifier", 200)
    report = membership_inference_report(*outputs)
    assert tuple(report) == FEATURES
    features = [membership_features(*each) for each in outputs]
    for name, efficacy in report.items():
        assert efficacy == membership_inference(*(each[name] for each in features)).efficacy
    assert tuple(membership_inference_report(*outputs, "threshold")) == FEATURES[:-1]


def test_small_sets_are_named_once(caplog):
    outputs = [_outputs(TEST_60, count, seed=0) for count in (60, 49, 20)]
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        membership_inference_report(*outputs, "threshold")
    [said] = caplog.messages
    assert "only 49 test samples, which were never learned, and 20 samples to forget" in said
    caplog.clear()
    membership_inference_report(*outputs, "threshold", warns=False)
    membership_inference(*torch.rand(3, 50), attack="threshold")
    assert not caplog.messages


def test_scikit_learn_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for attack in ("svc", "threshold"):
        with pytest.raises(MissingExtraError, match=r"pip install 'salhub\[unlearning\]'"):
            membership_inference(*torch.rand(3, 60), attack=attack)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.ones(0, 3), torch.zeros(0, dtype=torch.long), r"at least one sample, got \(0, 3\)"),
        (torch.ones(3), torch.tensor([0]), r"shape \(N, K\) .* got \(3,\)"),
        (torch.tensor([[0.5, torch.nan]]), torch.tensor([0]), "finite and 0 or more"),
        (torch.tensor([[1.5, -0.5]]), torch.tensor([0]), "finite and 0 or more"),
        (torch.tensor([[3.0, 1.0]]), torch.tensor([0]), "off by 3; give logits"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([2]), "number of classes, 2, got 2"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([-1]), "0 or more, got -1"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]), "1 integers"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0.0]), "integers"),
    ],
)
def test_bad_outputs_are_named(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        membership_features(probabilities, labels)


def test_bad_sets_are_named():
    good = torch.rand(60)
    with pytest.raises(ValueError, match=r"non_members .* at least one sample, got \(0,\)"):
        membership_inference(good, torch.rand(0), good)
    with pytest.raises(ValueError, match="targets holds NaN"):
        membership_inference(good, good, torch.full((60,), torch.nan))
    with pytest.raises(ValueError, match="10, 10 and 5 numbers per sample"):
        membership_inference(torch.rand(60, 10), torch.rand(60, 10), torch.rand(60, 5))
    with pytest.raises(ValueError, match="needs one number per sample, got 10; use attack='svc'"):
        membership_inference(*torch.rand(3, 60, 10), attack="threshold")
    with pytest.raises(ValueError, match=r"got 'treshold'\. Did you mean 'threshold'\?"):
        membership_inference(good, good, good, attack="treshold")
    with pytest.raises(ValueError, match="Did you mean 'svc'"):
        membership_inference_report(*[_outputs(TEST_60, 60, seed=0)] * 3, attack="svm")
    with pytest.raises(TypeError, match="members must be a torch tensor"):
        membership_inference([0.5], good, good)
    with pytest.raises(TypeError, match="probabilities must be a torch tensor"):
        membership_features([[0.5, 0.5]], torch.tensor([0]))
    with pytest.raises(ValueError, match=r"logits must have shape \(N, K\)"):
        probabilities_from_logits(torch.rand(3))


def test_outputs_of_two_classifiers_are_refused():
    ten, five = _outputs(TEST_60, 60, seed=0), _outputs(TEST_60, 60, seed=0, classes=5)
    with pytest.raises(ValueError, match="10, 10 and 5 classes"):
        membership_inference_report(ten, ten, five, "threshold")
