"""Requests that cannot be met: refused in one sentence, before anything is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.backbones.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from salhub.data.labelled_split import LabelledSplit
from salhub.errors import MissingExtraError
from salhub.models.salun.forget_set import check_class_names
from salhub.models.salun.recipe_boundary import ExpandedClassifier
from salhub.models.salun.weight_mask import WeightMask
from tests.models.salun.small_archive import (
    Small,
    load,
    recipe_of,
    record,
    unlearn,
    write_archive,
)

METHODS = ("salun", "salun-soft", "ft", "rl", "ga", "iu", "be", "bs", "l1-sparse", "retrain")


def copy_of(small: Small, folder: Path, split: LabelledSplit | None = None) -> str:
    """The classifier in another folder, with another split where one is given."""
    shutil.copytree(small.original, folder)
    if split is not None:
        split.save(folder)
    return str(folder)


def split_of(small: Small) -> LabelledSplit:
    return LabelledSplit.load(small.original)


def part_of(small: Small, train: torch.Tensor) -> LabelledSplit:
    split = split_of(small)
    return LabelledSplit(split.data, train, split.test)


def model_with(small: Small, folder: Path, **fields) -> str:
    """A fresh network of other fields, with the preprocessing and the split of the classifier."""
    names = dict(enumerate(("red", "green", "blue", "dark")))
    settings = {"width": 4, "image_size": 12, "id2label": names, **fields}
    CifarResNetForImageClassification(CifarResNetConfig(**settings)).save_pretrained(folder)
    for name in ("split.json", "preprocessor_config.json"):
        shutil.copy(Path(small.original) / name, folder)
    return str(folder)


@pytest.fixture
def refused(small, tmp_path):
    def check(words: str, error: type[Exception] = ValueError, name: str = "salun", **options):
        with pytest.raises(error, match=words):
            unlearn(small, tmp_path / "out", name, **options)
        assert not (tmp_path / "out").exists()

    return check


# --- what is forgotten and retained ---------------------------------------------------------------


def test_sets_that_overlap(refused):
    words = "3 pictures are in both the forget set and the retain set, the first being 1, 5, 9"
    refused(words, forget="indices:0,1,5,9", retain="indices:1,2,5,9")


@pytest.mark.parametrize("name", ["salun", "retrain"])
def test_what_was_never_learned_cannot_be_forgotten(refused, name):
    # 64 and 70 are test pictures: forgetting them is a leak.
    words = "2 of the 3 pictures to forget are not among the 64 .* the first being 64, 70; only"
    refused(words, name=name, forget="indices:3,64,70")


def test_training_pictures_that_this_model_did_not_learn(small, tmp_path, refused):
    model = copy_of(small, tmp_path / "part", part_of(small, torch.arange(32)))
    words = "1 of the 2 pictures to forget are not among the 32 .* the first being 40"
    refused(words, model=model, forget="indices:3,40")
    recipe = unlearn(small, tmp_path / "all", "ga", model=model, forget="class:red")
    assert recipe.forget.places.tolist() == list(range(0, 32, 4))


def test_what_is_retained_was_learned_too(small, tmp_path, refused):
    words = "2 of the 3 pictures to retain are not among the 48 .* the first being 100, 123; retain"
    refused(words, forget="class:red", retain="indices:1,100,123")
    model = copy_of(small, tmp_path / "once", split_of(small).without(torch.tensor([6, 7])))
    words = "1 of the 2 pictures to retain are not among the 46 .* the first being 6; retain"
    refused(words, model=model, forget="class:red", retain="indices:5,6")


def test_sets_without_pictures(small, tmp_path, refused):
    model = copy_of(small, tmp_path / "no_red", split_of(small).without(torch.arange(0, 64, 4)))
    refused("nothing to forget: the forget set is empty", model=model, forget="class:red")
    refused("retain some pictures, or set allow_no_retain=true", forget="random:1.0")
    refused("the retain set is empty", model=model, forget="class:dark", retain="class:red")


@pytest.mark.parametrize("name", METHODS)
def test_methods_with_and_without_retained_pictures(small, tmp_path, refused, name):
    options = {"forget": "random:1.0", "allow_no_retain": True, "attack": "threshold"}
    if name in ("ft", "iu", "l1-sparse", "retrain"):
        words = f"the recipe '{name}' trains on the retained pictures, but there are none"
        refused(words, name=name, **options)
        return
    recipe = unlearn(small, tmp_path, name, **options)
    assert len(recipe.retain) == 0 and not len(LabelledSplit.load(tmp_path).train)
    # Strict JSON has no NaN.
    found = json.loads((tmp_path / "unlearning.json").read_text(), parse_constant=pytest.fail)
    assert found["reports"]["after"]["retain_accuracy"] is None
    assert found["reports"]["after"]["membership"] == {}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("forget", "'klass:red' is not a valid subset; expected"),
        ("retain", "'klass:red' is not a valid subset; expected"),
    ],
)
def test_words_that_name_no_pictures(refused, option, words):
    refused(words, **{option: "klass:red"})
    refused("no class 'gren'.* Did you mean 'green'", **{option: "class:gren"})
    refused("There is no file of places at", FileNotFoundError, **{option: "file:none.txt"})


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "error", "words"),
    [
        (1.5, ValueError, "mask_ratio must be a share above 0 and at most 1, such as 0.5, got 1.5"),
        (True, ValueError, "such as 0.5, got True"),
        (float("nan"), ValueError, "such as 0.5, got nan"),
        (0, ValueError, "above 0 and at most 1"),
        (-0.5, ValueError, "above 0 and at most 1"),
        ("half", TypeError, "must be a number"),
        (1e-9, ValueError, "ratio=1e-09 of 19756 weights, ranked global, selects none of them"),
    ],
)
def test_ratios_that_make_no_mask(refused, ratio, error, words):
    for name in ("salun", "ft", "iu"):
        refused(words, error, name=name, mask_ratio=ratio)


def test_masks_of_other_models_and_damaged_ones(small, tmp_path, refused):
    shapes = {name: p.shape for name, p in load(small.original).named_parameters()}
    whole = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    less = dict(list(whole.items())[1:])
    WeightMask(less).save_pretrained(tmp_path / "less")
    words = (
        r"mask belongs to another model \(missing: 'backbone\.stem\.convolution\.weight'; "
        "extra: none"
    )
    refused(words, KeyError, mask=str(tmp_path / "less"))
    WeightMask(whole | {"more": torch.ones(1).bool()}).save_pretrained(tmp_path / "more")
    refused("missing: none; extra: 'more'", KeyError, name="iu", mask=str(tmp_path / "more"))
    first = next(iter(whole))
    WeightMask(whole | {first: torch.ones(1).bool()}).save_pretrained(tmp_path / "shape")
    refused(r"has shape \(1,\), but the parameter has \(8, 3, 3, 3\)", mask=str(tmp_path / "shape"))
    refused("There is no mask at", FileNotFoundError, mask=str(tmp_path / "none"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "mask.safetensors").write_bytes(b"bad")
    refused("damaged or not a safetensors", mask=str(tmp_path / "bad"))


def test_options_of_masks_that_contradict_each_other(refused):
    refused("mask and mask_ratio contradict each other", mask="m", mask_ratio=0.3)
    refused("mask and mask_ratio contradict each other", name="ft", mask="m", mask_ratio=0.5)
    refused("salun needs a mask; give mask_ratio or mask, or use the recipe 'rl'", mask_ratio=None)
    refused("save_delta needs a mask", name="ft", save_delta=True)
    refused("scope must be one of .* Did you mean 'per_tensor'", scope="per_tensr")
    refused("saliency must be one of .* Did you mean 'fisher'", saliency="fischer")
    refused(r"pattern 'norm\*' in exclude matches no parameter", exclude=["norm*"])
    refused("exclude fewer parameters", exclude=["*"])
    for option in ("mask_ratio", "mask"):
        refused("retrain starts from new weights", name="retrain", **{option: 0.5})


# --- models, data and references ------------------------------------------------------------------


def test_archives_that_the_model_was_not_trained_on(small, tmp_path, refused):
    labels = np.arange(64) % 4
    labels[:4] = labels[3::-1]
    other = write_archive(tmp_path / "other.npz", train_labels=labels)
    refused(r"original was trained on colours \(fingerprint .*\), but other holds", data=other)
    refused("There is no archive of pictures", FileNotFoundError, data="none.npz")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(64) % 5, r"has labels 0 to 4 but 4 class names"),
        (np.where(np.arange(64) == 3, -100, 0), r"has labels -100 to 3 but 4 class names"),
        (np.arange(64) % 4 + 0.5, "give one whole number per picture, its class"),
        (np.eye(4)[np.arange(64) % 4], "give one whole number per picture, its class"),
        (np.eye(4, dtype=int)[np.arange(64) % 4], "give one whole number per picture, its class"),
        (np.arange(63) % 4, "is damaged: it needs one label per picture, and uint8 pictures"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, refused, labels, words):
    refused(words, data=write_archive(tmp_path / "colours.npz", train_labels=labels))


def test_classes_in_another_order_or_number(small, tmp_path, refused):
    # Classes go by their names, so that these labels are not those that the network learned.
    names = dict(enumerate(("green", "red", "blue", "dark")))
    refused("holds other data", model=model_with(small, tmp_path / "order", id2label=names))
    with pytest.raises(ValueError, match=r"m has the classes of the data in another order \(b, a"):
        check_class_names(["a", "b"], {0: "b", 1: "a"}, "m")
    for count in (3, 5, 1):
        model = model_with(small, tmp_path / str(count), id2label=dict.fromkeys(range(count), "x"))
        refused(f"has {count} classes and the data 4; both must have the same number", model=model)
    with pytest.raises(ValueError, match=r"m has 1 classes and the data 1; both .* 2 or more"):
        check_class_names(["one"], {0: "one"}, "m")
    # The same pictures with their classes written in another order are the same data.
    order = np.array([1, 0, 2, 3])
    with np.load(small.data) as content:
        turned = {
            "class_names": content["class_names"][order],
            "train_labels": order[content["train_labels"]],
            "test_labels": order[content["test_labels"]],
        }
    data = write_archive(tmp_path / "colours.npz", **turned)
    unlearn(small, tmp_path / "one", "ft", num_train_epochs=1)
    unlearn(small, tmp_path / "other", "ft", num_train_epochs=1, data=data)
    files = [tmp_path / name / "model.safetensors" for name in ("one", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()
    # Names that say nothing, and other names, say nothing of the order.
    check_class_names(["0", "1"], {0: "LABEL_0", 1: "LABEL_1"}, "m")
    check_class_names(["0", "1"], {0: "zero", 1: "one"}, "m")


def test_pictures_that_the_network_does_not_take(small, tmp_path, refused):
    grey = model_with(small, tmp_path / "grey", num_channels=1)
    words = r"not accept these pictures \(\(3, 12, 12\) before preparation\)"
    refused(words, model=grey)
    large = model_with(small, tmp_path / "large", image_size=16)
    refused(r"the network does not accept these pictures \(", model=large)


def test_models_that_lack_something(small, tmp_path, refused):
    model = copy_of(small, tmp_path / "a")
    (tmp_path / "a" / "preprocessor_config.json").unlink()
    refused("preprocessor_config", OSError, model=model)
    model = copy_of(small, tmp_path / "b")
    (tmp_path / "b" / "split.json").write_text("{}")
    refused("is damaged, or was not written by salhub", model=model)
    (tmp_path / "c").mkdir()
    refused("has no config.json, so it does not contain a classifier", model=str(tmp_path / "c"))


def test_models_of_the_other_kind(refused):
    # Shipped models may be named without "salhub/", as everywhere.
    refused(
        "salhub/salun-ddpm-mnist is a diffusion model.*'salun-diffusion'", model="salun-ddpm-mnist"
    )


def test_references_that_know_other_pictures(small, tmp_path, refused):
    words = r"was trained on 64 pictures \(split .*\), but 48 pictures are left here .* class:red"
    refused(words, forget="class:red", reference=small.original)
    model = copy_of(small, tmp_path / "other", part_of(small, torch.arange(48)))
    refused("was trained on 48 pictures", forget="class:red", reference=model)
    (tmp_path / "other" / "split.json").unlink()
    refused("has no split.json, so its training data are unknown", reference=model)


def test_a_network_without_a_last_linear_layer():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(ValueError, match="'be' needs a linear layer with 4 outputs at the end"):
        ExpandedClassifier(network, 4)


# --- options of methods ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("salun", {"relabel": "exclude_tru"}, "relabel must be one of .* mean 'exclude_true'"),
        ("rl", {"schedule": "mixd"}, "schedule must be one of .* Did you mean 'mixed'"),
        ("rl", {"alpha": -1.0}, "alpha must be 0 or more, got -1.0"),
        ("rl", {"alpha": float("nan")}, "alpha must be 0 or more, got nan"),
        ("ft", {"attack": "scv"}, "attack must be one of .* Did you mean 'svc'"),
        ("ft", {"mask_batch_size": 0}, "mask_batch_size must be"),
        ("l1-sparse", {"l1_weight": 0.0}, "l1_weight must be a finite number above 0"),
        ("salun-soft", {"soft_schedule": "betta"}, "soft_schedule must be .* mean 'beta'"),
        ("salun-soft", {"soft_ratio_start": 50}, "soft_ratio_start must be above 0 and at most 1"),
        ("salun-soft", {"soft_beta_start": -1.0}, "soft_beta_start must be a finite number above"),
        ("iu", {"influence_scale": float("inf")}, "influence_scale must be a finite number above"),
        ("iu", {"num_fisher_samples": 0}, "num_fisher_samples must be an integer, 1 or more"),
        ("bs", {"attack_step": 0.0}, "attack_step must be a finite number above 0"),
    ],
)
def test_options_out_of_range(refused, name, options, words):
    refused(words, name=name, **options)


def test_unknown_options_are_named():
    from salhub.models.salun.recipe_salun import SalUnArguments

    settings = {"output_dir": "o", "model": "m", "data": "d", "forget": "class:1"}
    with pytest.raises(ValueError, match=r"no option 'relable'\. Did you mean 'relabel'"):
        SalUnArguments.from_settings({**settings, "relable": "uniform_all"}, owner="It")
    settings.pop("forget")
    with pytest.raises(ValueError, match=r"It needs 'forget'; give forget=VALUE"):
        SalUnArguments.from_settings(settings, owner="It")


def test_scikit_learn_is_asked_for_before_any_work(refused, monkeypatch):
    def missing(module, extra):
        raise MissingExtraError(f"{module} is missing; install salhub[{extra}]")

    monkeypatch.setattr("salhub.models.salun.unlearning_report.require_extra", missing)
    refused(r"sklearn is missing; install salhub\[unlearning\]", MissingExtraError, attack="svc")


def test_options_of_a_ranking_that_is_not_made_are_refused(tmp_path, small):
    words = r"{} controls how a mask is made, but no mask is made here; give mask_ratio too"
    for name, value in {"exclude": "*norm*", "saliency": "fisher", "scope": "per_tensor"}.items():
        with pytest.raises(ValueError, match=words.format(name)):
            recipe_of(small, tmp_path, "rl", **{name: value})


@pytest.mark.parametrize("forget", ["random:2", "random:0.2"])
def test_how_much_is_forgotten_is_said_before_the_work(tmp_path, small, caplog, forget):
    unlearn(small, tmp_path / "out", "ga", forget=forget, dry_run=True)
    known = len(split_of(small).train)
    count = 2 if forget == "random:2" else int(0.2 * known)
    assert f"forget={forget} means {count} of the {known} training pictures (" in caplog.text


def test_single_places_are_not_told_to_others(tmp_path, small):
    (tmp_path / "secret.txt").write_text("5\n6\n")
    for spec in ("indices:3,8,9", f"file:{tmp_path / 'secret.txt'}"):
        folder = tmp_path / spec[:4]
        unlearn(small, folder, "ga", forget=spec, attack="none")
        for name in ("README.md", "results.json", "unlearning.json", "config.json"):
            text = (folder / name).read_text()
            assert "3,8,9" not in text and str(tmp_path) not in text, name
        assert "sha256" in record(folder)["forget"]
