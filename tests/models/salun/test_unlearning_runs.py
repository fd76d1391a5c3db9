"""Runs from beginning to end: closed weights, reports, and files."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from salhub.data.labelled_split import LabelledSplit
from salhub.models.salun.forget_set import places_digest
from salhub.models.salun.masked_optimizer import closed_weights_digest
from salhub.models.salun.membership_inference import (
    membership_features,
    membership_inference,
    probabilities_from_logits,
)
from salhub.models.salun.weight_delta import apply_delta, state_digest
from salhub.models.salun.weight_mask import WeightMask
from salhub.results import Results
from salhub.runner.run import run
from tests.models.salun.small_archive import (
    CLASSES,
    Small,
    descend,
    load,
    recipe_of,
    record,
    train,
    unlearn,
)

ROOT = Path(__file__).parents[3]
MASKED = ("salun", "salun-soft", "ft", "rl", "ga", "iu", "be", "bs", "l1-sparse")


# --- closed weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", MASKED)
def test_closed_weights_keep_their_bits_and_the_certificate_says_so(
    tmp_path, small, name, optimizer
):
    options = {"num_train_epochs": 2, "batch_size": 16, "weight_decay": 0.1, "momentum": 0.9}
    options |= {"learning_rate": 0.005, "optimizer": optimizer, "mask_ratio": 0.5}
    unlearn(small, tmp_path, name, **options)
    mask = WeightMask.from_pretrained(tmp_path)
    assert mask.num_open == mask.num_weights // 2 == 19756 // 2
    original, found = load(small.original), load(tmp_path)
    moved = 0
    for key, parameter in found.named_parameters():
        opened, before = mask.tensors[key], original.get_parameter(key)
        same = parameter.detach().view(torch.int32) == before.detach().view(torch.int32)
        assert bool(same[~opened].all())
        moved += int((~same).sum())
    assert moved > mask.num_open / 4
    digest = closed_weights_digest(original, mask)
    assert record(tmp_path)["mask"]["closed_weights_sha256"] == digest
    assert found.config.closed_weights_sha256 == digest == closed_weights_digest(found, mask)
    assert closed_weights_digest(original, ~mask) != closed_weights_digest(found, ~mask)


def test_zeros_with_a_sign_keep_it(tmp_path, small):
    model = load(small.original)
    with torch.no_grad():  # as pruning leaves them: negative weights times 0
        weight = model.backbone.blocks[1].first.convolution.weight
        weight[weight < 0] = -0.0
    folder = tmp_path / "pruned"
    shutil.copytree(small.original, folder)
    model.save_pretrained(folder)
    unlearn(small, tmp_path / "out", "salun-soft", model=str(folder), mask_ratio=0.5)
    mask = WeightMask.from_pretrained(tmp_path / "out")
    digest = record(tmp_path / "out")["mask"]["closed_weights_sha256"]
    assert digest == closed_weights_digest(load(folder), mask)


def test_a_run_that_moves_a_closed_weight_fails(tmp_path, small):
    from salhub.models.salun.recipe_salun import SalUnRecipe

    class Leaky(SalUnRecipe):
        def finish(self, model):
            finished = super().finish(model)
            with torch.no_grad():
                for name, parameter in finished.named_parameters():
                    parameter[~self.weight_mask.tensors[name]] += 1e-3
            return finished

    with pytest.raises(RuntimeError, match="masked weights have changed"):
        unlearn(small, tmp_path, "salun", Leaky)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_mask_of_a_file_is_kept_to_and_the_delta_changes_the_original(tmp_path, small):
    options = {"saliency": "random", "mask_ratio": 0.2, "scope": "per_tensor", "seed": 4}
    unlearn(small, tmp_path / "one", "salun", **options, exclude=["*classifier*"])
    mask = WeightMask.from_pretrained(tmp_path / "one")
    assert mask.per_tensor()["backbone.classifier.weight"] == 0
    options = {"mask": str(tmp_path / "one"), "save_delta": True, "batch_size": 16}
    recipe = unlearn(small, tmp_path / "two", "salun", **options)
    assert recipe.weight_mask == mask == WeightMask.from_pretrained(tmp_path / "two")
    unlearn(small, tmp_path / "again", "salun", **options)
    for name in ("mask.safetensors", "delta.safetensors", "model.safetensors"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    model, found = load(small.original), load(tmp_path / "two")
    apply_delta(model, tmp_path / "two")
    assert state_digest(model.state_dict()) == state_digest(found.state_dict())
    assert (found.config.saliency, found.config.mask_ratio) == ("random", 0.2)
    assert load(tmp_path / "one").config.scope == "per_tensor" and found.config.scope is None
    assert record(tmp_path / "two")["options"]["mask"] == "one"


@pytest.mark.parametrize("name", ["salun", "iu"])
def test_norm_statistics_move_unless_they_are_held(tmp_path, small, name):
    original = dict(load(small.original).named_buffers())
    for folder, held in (("free", False), ("held", True)):
        options = {"freeze_norm_stats": held, "batch_size": 16}
        unlearn(small, tmp_path / folder, name, **options)
        found = dict(load(tmp_path / folder).named_buffers())
        changed = any(not torch.equal(found[key], value) for key, value in original.items())
        assert changed == (not held and name != "iu")
        assert record(tmp_path / folder)["norm_statistics_changed"] == changed


def test_held_norm_statistics_are_those_that_training_uses(tmp_path, small):
    options = {"learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0}
    recipe = unlearn(small, tmp_path, "ga", freeze_norm_stats=True, **options)
    places = recipe.forget.places

    def loss(model):
        logits = model.eval()(small.pixels(places)).logits
        return -torch.nn.functional.cross_entropy(logits, small.labels[places])

    expected = descend(load(small.original), [loss], rate=0.01, momentum=0.0, decay=0.0)
    for name, values in load(tmp_path).state_dict().items():
        torch.testing.assert_close(values, expected.state_dict()[name], rtol=1e-5, atol=1e-6)


# --- what is reported -----------------------------------------------------------------------------


def by_hand(small: Small, folder, split: LabelledSplit, red: bool) -> dict[str, float]:
    """Accuracies, counted one picture after the other."""
    with torch.no_grad():
        rows = load(folder)(small.pixels(torch.arange(len(small.labels)))).logits.tolist()

    def share(places) -> float:
        right = sum(rows[place].index(max(rows[place])) == place % 4 for place in places)
        return 100 * right / len(places)

    tested = split.test.tolist()
    found = {"UA": 100 - share(split.forgotten.tolist()), "RA": share(split.train.tolist())}
    found["TA"] = share([place for place in tested if not red or place % 4])
    if red:
        found["TA/forgotten classes"] = share([place for place in tested if place % 4 == 0])
    return found


@pytest.mark.parametrize("forget", ["class:red", "random:16"])
def test_accuracies_and_gaps_are_those_counted_by_hand(tmp_path, small, forget):
    train(small, tmp_path / "reference", leave_out=forget, num_train_epochs=3)
    options = {"forget": forget, "reference": str(tmp_path / "reference"), "attack": "none"}
    options |= {"batch_size": 16, "num_train_epochs": 2, "learning_rate": 0.05}
    recipe = unlearn(small, tmp_path / "out", "rl", **options)
    split = LabelledSplit.load(tmp_path / "out")
    assert len(split.forgotten) == 16 and len(split.train) == 48
    values = {metric.name: metric.value for metric in recipe.results.metrics}
    models = {"": tmp_path / "out", "before/": small.original, "reference/": tmp_path / "reference"}
    expected = {
        prefix: by_hand(small, folder, split, forget == "class:red")
        for prefix, folder in models.items()
    }
    for prefix, numbers in expected.items():
        for name, value in numbers.items():
            assert values[prefix + name] == pytest.approx(value, abs=1e-9), (prefix, name)
        gaps = [abs(numbers[n] - expected["reference/"][n]) for n in ("UA", "RA", "TA")]
        assert values[f"{prefix}average_gap"] == pytest.approx(sum(gaps) / 3, abs=1e-9)
    assert ("TA/forgotten classes" in values) == (forget == "class:red")
    assert values["average_gap"] > 0 == values["reference/average_gap"]
    # The same numbers in both files, and no more of what was forgotten than its digest.
    saved = Results.load(tmp_path / "out" / "results.json")
    assert (
        saved.metric("UA").value
        == record(tmp_path / "out")["reports"]["after"]["unlearning_accuracy"]
    )
    sets = {key: record(tmp_path / "out")[key] for key in ("num_forget", "num_retain", "num_test")}
    assert sets == {"num_forget": 16, "num_retain": 48, "num_test": 60}
    found = load(tmp_path / "out").config
    assert (found.unlearn_method, found.forget, found.num_forgotten) == ("rl", forget, 16)
    assert found.forget_digest == places_digest(split.forgotten) == saved.data["forget_digest"]


@pytest.mark.parametrize("attack", ["threshold", "svc"])
def test_membership_inference_is_that_of_the_metric(tmp_path, small, attack):
    recipe = unlearn(small, tmp_path, "rl", attack=attack, learning_rate=0.05, reference=None)
    split, values = LabelledSplit.load(tmp_path), record(tmp_path)["reports"]
    assert len(split.train) == 48 < len(split.test)
    for name, folder in (("before", small.original), ("after", tmp_path)):
        model = load(folder)
        with torch.no_grad():
            features = [
                membership_features(
                    probabilities_from_logits(model(small.pixels(places)).logits),
                    small.labels[places],
                )
                for places in (split.train, split.test, split.forgotten)
            ]
        for feature, found in values[name]["membership"].items():
            # All of what is retained, and as many of the test pictures.
            sets = [one[feature] for one in features]
            expected = membership_inference(*sets, attack=attack).efficacy
            assert found == pytest.approx(100 * expected, abs=1e-6), feature
    assert ("probability" in values["after"]["membership"]) == (attack == "svc")
    headline = recipe.results.metric("MIA").value
    assert headline == recipe.results.metric("MIA/confidence").value
    assert headline == values["after"]["membership"]["confidence"]


# --- one request after the other ------------------------------------------------------------------


def test_a_second_request_builds_on_the_first(tmp_path, small):
    options = {"batch_size": 16, "mask_ratio": 0.3}
    unlearn(small, tmp_path / "a", "salun", forget="class:red", **options)
    train(small, tmp_path / "reference", leave_out="class:red,green", num_train_epochs=1)
    options |= {"model": str(tmp_path / "a"), "reference": str(tmp_path / "reference")}
    recipe = unlearn(small, tmp_path / "b", "salun", forget="class:green", **options)
    first, second = (LabelledSplit.load(tmp_path / name) for name in "ab")
    assert first.forgotten.tolist() == list(range(0, 64, 4))
    assert second.forgotten.tolist() == sorted([*range(0, 64, 4), *range(1, 64, 4)])
    assert second.train.tolist() == sorted([*range(2, 64, 4), *range(3, 64, 4)])
    assert recipe.forget.places.tolist() == list(range(1, 64, 4))
    mask = WeightMask.from_pretrained(tmp_path / "b")
    digest = record(tmp_path / "b")["mask"]["closed_weights_sha256"]
    assert digest == closed_weights_digest(load(tmp_path / "a"), mask)
    options = {"model": str(tmp_path / "b")}
    with pytest.raises(ValueError, match="there is nothing to forget"):
        unlearn(small, tmp_path / "c", "ga", forget="class:red", **options)
    with pytest.raises(ValueError, match="1 of the 2 pictures to forget are not among the 32"):
        unlearn(small, tmp_path / "c", "ga", forget="indices:2,4", **options)
    with pytest.raises(ValueError, match="pictures to retain are not among the 16"):
        unlearn(small, tmp_path / "c", "ft", forget="class:blue", retain="indices:0", **options)


def test_only_a_part_may_be_retained(tmp_path, small):
    retain = tmp_path / "kept.txt"
    retain.write_text("1 2 3 5 6 7")
    options = {"forget": "class:red", "retain": f"file:{retain}", "learning_rate": 0.02}
    recipe = unlearn(small, tmp_path / "out", "ft", momentum=0.0, weight_decay=0.0, **options)
    kept = torch.tensor([1, 2, 3, 5, 6, 7])
    assert torch.equal(recipe.retain.places, kept)
    # What is not retained is not forgotten either: the model still knows it.
    assert len(LabelledSplit.load(tmp_path / "out").train) == 48
    found = record(tmp_path / "out")
    assert (found["num_retain"], found["num_left"]) == (6, 48)
    assert str(tmp_path) not in json.dumps(found) + (tmp_path / "out/options.json").read_text()


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MASKED, "retrain"])
def test_a_dry_run_writes_nothing(tmp_path, small, name, capsys):
    assert run(recipe_of(small, tmp_path / "out", name, dry_run=True)) is None
    plan = json.loads(capsys.readouterr().out)
    assert plan["recipe"] == f"unlearn {name}"
    assert plan.get("steps", 0) == {"iu": 0, "salun": 2, "salun-soft": 2, "rl": 2}.get(name, 1)
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_leaves_no_mask_behind(tmp_path, small):
    unlearn(small, tmp_path, "salun", save_delta=True)
    assert {"mask.safetensors", "delta.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    unlearn(small, tmp_path, "ft", overwrite=True)
    assert not list(tmp_path.glob("mask*")) and not list(tmp_path.glob("delta*"))
    assert "mask" not in record(tmp_path)
    config = load(tmp_path).config
    assert (config.unlearn_method, config.mask_ratio, config.scope) == ("ft", None, None)
    assert config.closed_weights_sha256 is None


def test_a_run_may_fill_the_folder_of_its_mask_but_not_that_of_its_model(tmp_path, small):
    folder = str(tmp_path / "a")
    unlearn(small, folder, "salun", forget="class:red", batch_size=16)
    mask = WeightMask.from_pretrained(folder)
    options = {"forget": "class:green", "mask": folder, "batch_size": 16, "overwrite": True}
    for name in ("model", "reference"):
        with pytest.raises(ValueError, match=f"output_dir is the folder of {name}="):
            unlearn(small, folder, "salun", **{**options, name: folder})
    assert LabelledSplit.load(folder).forgotten.tolist() == list(range(0, 64, 4))
    unlearn(small, folder, "salun", **options)
    assert LabelledSplit.load(folder).forgotten.tolist() == list(range(1, 64, 4))
    assert WeightMask.from_pretrained(folder) == mask


def test_a_run_goes_on_only_with_the_model_and_mask_that_it_began_with(tmp_path, small):
    unlearn(small, tmp_path / "mask", "salun", batch_size=16)
    shutil.copytree(small.original, tmp_path / "original")
    options = {"model": str(tmp_path / "original"), "mask": str(tmp_path / "mask")}
    unlearn(small, tmp_path / "out", "salun", **options)
    (tmp_path / "out" / "results.json").unlink()
    options["resume_from_checkpoint"] = "latest"
    unlearn(small, tmp_path / "out", "salun", **options)
    (tmp_path / "mask" / "split.json").unlink()  # of its folder only the mask counts
    unlearn(small, tmp_path / "out", "salun", **options)
    text = (tmp_path / "out" / "options.json").read_text()
    assert '"model": "original"' in text and '"mask sha256"' in text
    for name, file in (("mask", "mask.safetensors"), ("model", "model.safetensors")):
        path = tmp_path / ("original" if name == "model" else "mask") / file
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(ValueError, match=f"other contents of its {name} "):
            unlearn(small, tmp_path / "out", "salun", **options)
        path.write_bytes(content)


def test_the_output_loads_as_what_it_was_and_prepares_pictures_as_before(tmp_path, small):
    unlearn(small, tmp_path, "salun")
    found = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(found).__name__ == "SalUnForImageClassification"
    assert tuple(found.config.id2label.values()) == CLASSES
    picture = small.images[3].permute(1, 2, 0).numpy()
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")
    torch.testing.assert_close(pixels["pixel_values"], small.pixels(torch.tensor([3])))


def test_a_seed_repeats_a_run_to_the_bit(tmp_path, small):
    options = {"batch_size": 16, "augment": True}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        unlearn(small, tmp_path / name, "salun", seed=seed, forget="class:red", **options)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


# --- models of transformers -----------------------------------------------------------------------


@pytest.fixture
def vit(tmp_path) -> str:
    folder = tmp_path / "vit"
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=24, patch_size=8, id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["salun", "iu", "be", "bs", "retrain"])
def test_a_transformer_of_transformers_is_unlearned(tmp_path, small, vit, name, caplog):
    options = {"mask_ratio": 0.5} if name != "retrain" else {}
    options |= {"num_train_epochs": 2, "batch_size": 16, "augment": True, "learning_rate": 0.01}
    unlearn(small, tmp_path / "out", name, model=vit, forget="class:red", **options)
    assert (
        f"{vit} has no split.json, so salhub assumes that it was trained on all training pictures"
        in caplog.text
    )
    split = LabelledSplit.load(tmp_path / "out")
    assert (len(split.train), len(split.test), len(split.forgotten)) == (48, 60, 16)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert type(model) is ViTForImageClassification and model.config.num_labels == 4
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    pictures = list(small.images[:2].permute(0, 2, 3, 1).numpy())
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    assert model(pixels).logits.shape == (2, 4)
    if name != "retrain":
        mask = WeightMask.from_pretrained(tmp_path / "out")
        original = ViTForImageClassification.from_pretrained(vit)
        digest = closed_weights_digest(original, mask)
        assert record(tmp_path / "out")["mask"]["closed_weights_sha256"] == digest
        assert closed_weights_digest(model, mask) == digest
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert any(
        not torch.equal(v, found[n]) for n, v in load_file(f"{vit}/model.safetensors").items()
    )
    # There are no running statistics here that could have moved.
    assert record(tmp_path / "out")["norm_statistics_changed"] is False


def test_a_second_request_is_measured_without_the_classes_of_the_first(tmp_path, small):
    first, second = tmp_path / "first", tmp_path / "second"
    unlearn(small, first, "rl", forget="class:red", num_train_epochs=3, batch_size=16)
    recipe = unlearn(small, second, "rl", forget="class:blue", model=str(first))
    assert recipe.forgotten_classes == (0, 2)
    model = load(second)
    test = torch.arange(len(small.labels) - 60, len(small.labels))
    kept = test[~torch.isin(small.labels[test], torch.tensor([0, 2]))]
    accuracy = (model(small.pixels(kept)).logits.argmax(1) == small.labels[kept]).double().mean()
    assert recipe.report.test_accuracy == pytest.approx(100 * float(accuracy))
    earlier = (small.labels[:64] == 0).nonzero()[:, 0]
    again = (model(small.pixels(earlier)).logits.argmax(1) == 0).double().mean()
    found = Results.load(second / "results.json").metric("UA/forgotten earlier").value
    assert found == pytest.approx(100 - 100 * float(again))
    assert "UA/forgotten earlier" not in (first / "results.json").read_text()


def test_before_a_retraining_is_the_model_that_was_given(tmp_path, small):
    recipe = unlearn(small, tmp_path, "retrain")
    other = unlearn(small, tmp_path / "other", "ga")
    assert recipe.before == other.before


def test_frozen_weights_are_closed_in_the_mask_that_is_written(tmp_path, small):
    folder = tmp_path / "frozen"
    recipe = recipe_of(small, folder, "salun", mask_ratio=0.5)
    build = recipe.build_model

    def frozen():
        model = build()
        next(model.parameters()).requires_grad_(False)
        return model

    recipe.build_model = frozen
    run(recipe)
    mask = WeightMask.from_pretrained(folder).for_model(load(folder))  # where nothing is frozen
    assert not next(iter(mask.tensors.values())).any()


def test_an_archive_of_jpeg_files_will_do(tmp_path, small):
    files = []
    for picture in small.images.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=95)
        files.append(buffer.getvalue())
    labels = small.labels.numpy()
    np.savez(
        tmp_path / "files.npz",
        jpeg_bytes=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=labels.astype(np.uint8),
        is_test=np.arange(len(labels)) >= 64,
        class_names=np.array(CLASSES),
    )
    jpeg = Small(
        str(tmp_path / "files.npz"), str(tmp_path / "original"), small.images, small.labels
    )
    train(jpeg, jpeg.original, num_train_epochs=1)
    unlearn(jpeg, tmp_path / "out", "salun", forget="class:green")
    assert record(tmp_path / "out")["num_forget"] == 16
