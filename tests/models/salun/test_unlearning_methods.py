"""Every way of unlearning against its formula, written out with plain gradients and loops."""

import copy
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy.stats import chisquare
from torch import Tensor, nn

from salhub.data.labelled_split import LabelledSplit
from salhub.models.salun.recipe_boundary import BoundaryExpandingRecipe, BoundaryShrinkRecipe
from salhub.models.salun.recipe_salun import RandomLabelRecipe, SalUnRecipe, SalUnSoftRecipe
from salhub.models.salun.weight_mask import WeightMask
from salhub.runner.batches import generator_of
from salhub.runner.run import DivergedError
from tests.models.salun.small_archive import (
    Small,
    assert_same_model,
    descend,
    load,
    normalized,
    train,
    unlearn,
)

RATES = {
    "momentum and decay": {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.05},
    "plain": {"learning_rate": 0.02, "momentum": 0.0, "weight_decay": 0.0},
}


def written_out(small: Small, losses, options, **more) -> nn.Module:
    names = {"learning_rate": "rate", "momentum": "momentum", "weight_decay": "decay"}
    rates = {names[name]: options[name] for name in names}
    return descend(load(small.original), losses, **rates, **more)


def cross_entropy(small: Small, places: Tensor, labels: Tensor | None = None, sign: float = 1.0):
    pixels = small.pixels(places)
    labels = small.labels[places] if labels is None else labels
    return lambda model: sign * F.cross_entropy(model(pixels).logits, labels)


def places_of(recipe) -> tuple[Tensor, Tensor]:
    return recipe.forget.places, recipe.retain.places


class Labels:
    """Keeps the labels that each step learned for what was to be forgotten."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.learned: list[tuple[int, Tensor, Tensor]] = []

    def fetch_forget(self, batch):
        inputs = super().fetch_forget(batch)
        self.learned.append((batch.step, self.forget.places[batch.rows], inputs["labels"]))
        return inputs


class LabelledRandomly(Labels, RandomLabelRecipe): ...


class LabelledSalUn(Labels, SalUnRecipe): ...


class LabelledSoftly(Labels, SalUnSoftRecipe): ...


class LabelledByShrinking(Labels, BoundaryShrinkRecipe):
    """Keeps what the original looked at, too."""

    def prepare(self, model, accelerator):
        self.seen: list[Tensor] = []
        handle = model.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0]))
        super().prepare(model, accelerator)
        handle.remove()


def random_label_losses(small: Small, recipe, alpha: float = 1.0):
    """Each epoch: the drawn labels, then the true ones of the rest."""
    _, retain = places_of(recipe)
    kept = cross_entropy(small, retain, sign=alpha)
    return [
        loss
        for _, places, labels in recipe.learned
        for loss in (cross_entropy(small, places, labels), kept)
    ]


@pytest.mark.parametrize("rates", RATES)
def test_ft_descends_on_what_is_retained(tmp_path, small, rates):
    recipe = unlearn(small, tmp_path, "ft", num_train_epochs=3, **RATES[rates])
    _, retain = places_of(recipe)
    expected = written_out(small, [cross_entropy(small, retain)] * 3, RATES[rates])
    assert_same_model(load(tmp_path), expected, load(small.original))


@pytest.mark.parametrize("rates", RATES)
def test_ga_climbs_on_what_is_to_be_forgotten(tmp_path, small, rates):
    recipe = unlearn(small, tmp_path, "ga", num_train_epochs=3, **RATES[rates])
    forget, _ = places_of(recipe)
    expected = written_out(small, [cross_entropy(small, forget, sign=-1.0)] * 3, RATES[rates])
    assert_same_model(load(tmp_path), expected, load(small.original))


@pytest.mark.parametrize("rates", RATES)
def test_l1_sparse_adds_a_falling_penalty(tmp_path, small, rates):
    recipe = unlearn(
        small, tmp_path, "l1-sparse", num_train_epochs=3, l1_weight=0.01, **RATES[rates]
    )
    _, retain = places_of(recipe)
    kept = cross_entropy(small, retain)

    def loss_of(epoch):
        weight = 0.01 * (1 - epoch / 3)
        return lambda model: kept(model) + weight * sum(p.abs().sum() for p in model.parameters())

    expected = written_out(small, [loss_of(epoch) for epoch in range(3)], RATES[rates])
    assert_same_model(load(tmp_path), expected, load(small.original))
    without = written_out(small, [kept] * 3, RATES[rates])
    with pytest.raises(AssertionError):
        assert_same_model(load(tmp_path), without, load(small.original))


@pytest.mark.parametrize(("rates", "alpha"), [("momentum and decay", 0.3), ("plain", 1.0)])
def test_rl_learns_drawn_labels_and_then_the_true_ones_of_the_rest(tmp_path, small, rates, alpha):
    options = {"num_train_epochs": 2, "alpha": alpha, **RATES[rates]}
    recipe = unlearn(small, tmp_path, "rl", LabelledRandomly, **options)
    assert [step for step, *_ in recipe.learned] == [0, 2]
    losses = random_label_losses(small, recipe, alpha)
    expected = written_out(small, losses, RATES[rates])
    assert_same_model(load(tmp_path), expected, load(small.original))


def test_rl_mixes_both_sets_where_it_is_asked_to(tmp_path, small):
    class Mixed(RandomLabelRecipe):
        def _fetch_mixed(self, batch):
            found = super()._fetch_mixed(batch)
            places = torch.cat([self.forget.places, self.retain.places])[batch.rows]
            self.steps.append((places, found["labels"]))
            return found

        steps = []

    options = {"schedule": "mixed", "alpha": 0.3, "num_train_epochs": 2, **RATES["plain"]}
    recipe = unlearn(small, tmp_path, "rl", Mixed, **options)
    forget, _ = places_of(recipe)

    def loss_of(places, labels):
        is_forgotten = torch.isin(places, forget)
        assert bool((labels != small.labels[places])[is_forgotten].all())
        assert bool((labels == small.labels[places])[~is_forgotten].all())
        weights = torch.where(is_forgotten, 1.0, 0.3)

        def loss(model):
            logits = model(small.pixels(places)).logits
            return (weights * F.cross_entropy(logits, labels, reduction="none")).sum() / 64

        return loss

    assert [len(places) for places, _ in recipe.steps] == [64, 64]
    expected = written_out(small, [loss_of(*step) for step in recipe.steps], RATES["plain"])
    assert_same_model(load(tmp_path), expected, load(small.original))


def saliency_mask(model: nn.Module, batches, ratio: float) -> dict[str, Tensor]:
    """Section 2.1 of the specification, step by step."""
    model.eval().zero_grad()
    for pixels, labels in batches:
        F.cross_entropy(model(pixels).logits, labels).backward()  # signed sums of batch means
    scores = torch.cat([p.grad.abs().flatten() for p in model.parameters()])
    ranked = sorted(range(len(scores)), key=lambda place: (-float(scores[place]), place))
    opened = torch.zeros(len(scores), dtype=torch.bool)
    opened[ranked[: math.floor(ratio * len(scores))]] = True
    sizes = [p.numel() for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    parts = zip(names, model.parameters(), opened.split(sizes), strict=True)
    return {name: part.view(p.shape) for name, p, part in parts}


@pytest.mark.parametrize("ratio", [0.5, 0.13])
def test_the_mask_is_that_of_the_specification(tmp_path, small, ratio):
    unlearn(small, tmp_path, "salun", mask_ratio=ratio, mask_batch_size=6, learning_rate=1e-4)
    forget = LabelledSplit.load(tmp_path).forgotten
    batches = [(small.pixels(part), small.labels[part]) for part in forget.split(6)]
    assert [len(labels) for _, labels in batches] == [6, 6, 4]
    expected = saliency_mask(load(small.original), batches, ratio)
    found = WeightMask.from_pretrained(tmp_path)
    assert list(found.tensors) == list(expected)
    for name, opened in expected.items():
        assert torch.equal(found.tensors[name], opened), name
    whole = saliency_mask(load(small.original), [(small.pixels(forget), small.labels[forget])], 0.5)
    assert any(not torch.equal(found.tensors[name], opened) for name, opened in whole.items())


def test_weights_of_dead_units_are_opened_in_their_order(tmp_path, small):
    model = load(small.original)
    with torch.no_grad():
        model.backbone.stem.normalization.weight[:5] = 0
        model.backbone.stem.normalization.bias[:5] = -1
    for name in ("split.json", "preprocessor_config.json"):
        shutil.copy(Path(small.original) / name, tmp_path)
    model.save_pretrained(tmp_path)
    options = {"model": str(tmp_path), "mask_ratio": 0.99, "learning_rate": 1e-4}
    recipe = unlearn(small, tmp_path / "out", "salun", **options)
    forget, _ = places_of(recipe)
    batches = [(small.pixels(forget), small.labels[forget])]
    expected = saliency_mask(load(tmp_path), batches, 0.99)
    found = WeightMask.from_pretrained(tmp_path / "out")
    assert found == WeightMask(expected)
    opened = found.tensors["backbone.stem.convolution.weight"][:5].flatten().tolist()
    assert opened == sorted(opened, reverse=True)


@pytest.mark.parametrize("rates", RATES)
def test_salun_is_rl_on_the_open_weights(tmp_path, small, rates):
    options = {"num_train_epochs": 2, **RATES[rates]}
    recipe = unlearn(small, tmp_path, "salun", LabelledSalUn, **options)
    losses = random_label_losses(small, recipe)
    opened = WeightMask.from_pretrained(tmp_path).tensors
    original, found = load(small.original), load(tmp_path)
    assert_same_model(
        found, written_out(small, losses, RATES[rates], opened=opened), load(small.original)
    )
    for name, parameter in found.named_parameters():
        before = original.get_parameter(name)
        assert torch.equal(parameter[~opened[name]], before[~opened[name]])


@pytest.mark.parametrize("schedule", ["quantile", "beta"])
def test_salun_soft_pulls_small_changes_back(tmp_path, small, schedule):
    options = {"soft_schedule": schedule, "soft_ratio_start": 0.6, "soft_beta_start": 4e-4}
    options |= {"num_train_epochs": 3, **RATES["momentum and decay"]}
    recipe = unlearn(small, tmp_path, "salun-soft", LabelledSoftly, **options)
    original = load(small.original)
    model = load(small.original)
    steps = 6

    def proximal(step):
        left = 1 - step / steps
        changes = [p - q for p, q in zip(model.parameters(), original.parameters(), strict=True)]
        threshold = 4e-4 * left
        if schedule == "quantile":
            sizes = torch.cat([change.abs().flatten() for change in changes]).sort().values
            threshold = sizes[int(0.6 * left * len(sizes)) - 1]
        for p, q, change in zip(model.parameters(), original.parameters(), changes, strict=True):
            p.copy_(q + change.sign() * torch.clamp(change.abs() - threshold, min=0))

    losses = random_label_losses(small, recipe)
    rates = {"rate": 0.02, "momentum": 0.9, "decay": 0.05}
    descend(model, losses, **rates, after=proximal)
    assert_same_model(load(tmp_path), model, original)
    with pytest.raises(AssertionError):
        hard = written_out(small, losses, RATES["momentum and decay"])
        assert_same_model(load(tmp_path), hard, original)
    still = sum(
        int((p == original.get_parameter(n)).sum()) for n, p in load(tmp_path).named_parameters()
    )
    assert still > 0


def test_iu_saves_no_model_that_gives_no_numbers(tmp_path, small):
    with pytest.raises(DivergedError, match="after a step of influence_scale=1e"):
        unlearn(small, tmp_path / "out", "iu", influence_scale=1e30, num_fisher_samples=4)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(("wanted", "mask_ratio"), [(20, 0.5), (1000, None)])
def test_iu_is_the_recursion_over_single_retained_pictures(tmp_path, small, wanted, mask_ratio):
    options = {"influence_scale": 0.7, "num_fisher_samples": wanted, "mask_ratio": mask_ratio}
    recipe = unlearn(small, tmp_path, "iu", **options)
    original = load(small.original)

    def gradient(place: int) -> np.ndarray:
        loss = cross_entropy(small, torch.tensor([place]))(original)
        found = torch.autograd.grad(loss, list(original.parameters()))
        return torch.cat([g.flatten() for g in found]).double().numpy()

    forget, retain = ([gradient(int(place)) for place in part] for part in places_of(recipe))
    total = len(forget) + len(retain)
    g_forget = sum(forget) / total
    g_retain = len(forget) / (total * len(retain)) * sum(retain)
    samples = min(wanted, len(retain) - 1)
    order = torch.randperm(len(retain), generator=generator_of(0, 8)).tolist()
    assert order != sorted(order)  # a data set may be sorted by class
    shuffled = [retain[place] for place in order]
    k, o = g_forget - g_retain, shuffled[0].copy()
    for g in shuffled[1 : samples + 1]:
        tau = o @ g
        k = k - (k @ g) / (samples + tau) * o
        o = o - tau / (samples + tau) * o
    mask = None if mask_ratio is None else WeightMask.from_pretrained(tmp_path).tensors
    begin, expected = 0, load(small.original)
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            step = torch.from_numpy(k[begin : begin + parameter.numel()]).view(parameter.shape)
            begin += parameter.numel()
            step = step if mask is None else step * mask[name]
            parameter += 0.7 * step.float()
    assert_same_model(load(tmp_path), expected, original)


def test_bs_learns_the_class_just_across_the_boundary(tmp_path, small):
    options = {"num_train_epochs": 2, **RATES["momentum and decay"]}
    recipe = unlearn(small, tmp_path, "bs", LabelledByShrinking, **options, mask_batch_size=5)
    original = load(small.original)
    nearest, moved_pictures = {}, []
    for place in places_of(recipe)[0].tolist():
        image = (small.images[[place]].float() / 255).requires_grad_()
        F.cross_entropy(original(normalized(image)).logits, small.labels[[place]]).backward()
        moved = (image + 0.1 * image.grad.sign()).detach().clamp(0, 1)
        moved = torch.round(moved * 255) / 255
        moved_pictures.append(normalized(moved))
        nearest[place] = int(original(normalized(moved)).logits.argmax())
    # After a look at each of the three sets, it looked at every batch twice.
    found = torch.cat(recipe.seen[3:][1::2])
    levels, expected = (bytes_of(pixels) for pixels in (found, torch.cat(moved_pictures)))
    assert bool(((levels - levels.round()).abs() < 1e-3).all()) and levels.round().min() == 0
    # A step of 25.5 levels ends between two; and where a gradient is nearly 0, so may its sign be.
    assert ((levels - expected).abs() < 1.001).double().mean() > 0.999
    assert ((levels - expected).abs() < 1e-3).double().mean() > 0.9
    for _, places, labels in recipe.learned:
        assert labels.tolist() == [nearest[place] for place in places.tolist()]
    own = small.labels[list(nearest)].tolist()
    assert sum(a != b for a, b in zip(nearest.values(), own, strict=True)) > len(own) / 2
    losses = [cross_entropy(small, places, labels) for _, places, labels in recipe.learned]
    assert_same_model(load(tmp_path), written_out(small, losses, options), original)


def bytes_of(pixels: Tensor) -> Tensor:
    """The inverse of `normalized`, 0 to 255."""
    zero, one = normalized(torch.zeros(3, 1, 1)), normalized(torch.ones(3, 1, 1))
    return 255 * (pixels - zero) / (one - zero)


@pytest.mark.parametrize("mask_ratio", [None, 0.5])
def test_be_learns_a_class_that_is_dropped_afterwards(tmp_path, small, mask_ratio):
    class Kept(BoundaryExpandingRecipe):
        def network(self):
            network = super().network()
            self.extra = copy.deepcopy(network.extra)
            return network

    options = {"num_train_epochs": 3, **RATES["momentum and decay"]}
    recipe = unlearn(small, tmp_path, "be", Kept, mask_ratio=mask_ratio, **options)
    forget, _ = places_of(recipe)

    class Expanded(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.extra = load(small.original), recipe.extra

    def loss(model):
        features = model.inner.backbone.pooled_features(small.pixels(forget))
        logits = torch.cat([model.inner.backbone.classifier(features), model.extra(features)], 1)
        return F.cross_entropy(logits, torch.full((len(forget),), 4))

    opened = None
    if mask_ratio is not None:
        mask = WeightMask.from_pretrained(tmp_path).tensors
        opened = {f"inner.{name}": tensor for name, tensor in mask.items()}
        opened |= {"extra.weight": True, "extra.bias": True}
    rates = {"rate": 0.02, "momentum": 0.9, "decay": 0.05}
    expected = descend(Expanded(), [loss] * 3, **rates, opened=opened).inner
    found = load(tmp_path)
    assert_same_model(found, expected, load(small.original))
    assert type(found) is type(load(small.original)) and found.config.num_labels == 4
    assert found(small.pixels(forget)).logits.shape == (16, 4)
    assert load_file(tmp_path / "model.safetensors").keys() == found.state_dict().keys()


def test_retrain_knows_nothing_of_the_weights_of_the_original(tmp_path, small):
    train(small, tmp_path / "other", seed=5, num_train_epochs=1)
    options = {"num_train_epochs": 2, "batch_size": 16}
    for name, original in (("a", small.original), ("b", tmp_path / "other")):
        unlearn(small, tmp_path / name, "retrain", model=str(original), **options)
    one, other = (tmp_path / name / "model.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    unlearn(small, tmp_path / "c", "retrain", seed=1, forget="class:red", **options)
    assert one.read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


def test_retrain_is_training_without_what_is_forgotten(tmp_path, small):
    options = {"num_train_epochs": 3, "batch_size": 16, "seed": 3}
    train(small, tmp_path / "trained", leave_out="class:red", **options)
    unlearn(small, tmp_path / "retrained", "retrain", forget="class:red", **options)
    one, other = (tmp_path / name for name in ("trained", "retrained"))
    assert LabelledSplit.load(one).digest == LabelledSplit.load(other).digest
    for file in ("model.safetensors", "split.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()


def drawn(small, folder, epochs: int = 40, **options) -> dict[int, list[int]]:
    """The labels that each picture got, one an epoch."""
    options |= {"alpha": 0.0, "num_train_epochs": epochs, "learning_rate": 1e-8}
    recipe = unlearn(small, folder, "rl", LabelledRandomly, **options)
    found: dict[int, list[int]] = {int(place): [] for place in recipe.forget.places}
    for _, places, labels in recipe.learned:
        for place, label in zip(places.tolist(), labels.tolist(), strict=True):
            found[place].append(label)
    return found


def test_drawn_labels_are_uniform_among_the_wrong_classes_and_fresh_each_epoch(tmp_path, small):
    found = drawn(small, tmp_path)
    assert all(len(labels) == 40 for labels in found.values())
    for label in range(4):
        mine = [found[place] for place in found if int(small.labels[place]) == label]
        counts = np.bincount(np.concatenate(mine), minlength=4)
        assert counts[label] == 0
        others = np.delete(counts, label)
        assert others.sum() >= 80 and chisquare(others).pvalue > 0.01
    epochs = np.array(list(found.values())).T  # (epochs, pictures)
    assert len({tuple(labels) for labels in epochs.tolist()}) == 40
    # An independent draw repeats that of the epoch before in a third of all pictures.
    assert (epochs[1:] == epochs[:-1]).mean() == pytest.approx(1 / 3, abs=0.05)


def test_drawn_labels_may_be_the_true_ones_where_that_is_asked_for(tmp_path, small):
    found = drawn(small, tmp_path, epochs=30, relabel="uniform_all")
    for label in range(4):
        mine = [found[place] for place in found if int(small.labels[place]) == label]
        counts = np.bincount(np.concatenate(mine), minlength=4)
        assert counts.min() > 0 and chisquare(counts).pvalue > 0.01
