"""Unlearning of diffusion models: steps and masks written out, and what they leave alone."""

import json
import shutil

import pytest
import torch
from PIL import Image, ImageChops

from salhub.backbones.conditional_unet.sampling import draw_sample_sheet
from salhub.data.labelled_split import LabelledSplit
from salhub.models.salun.judge import Judge, judge_model
from salhub.models.salun.masked_optimizer import closed_weights_digest
from salhub.models.salun.weight_delta import apply_delta
from salhub.models.salun.weight_mask import WeightMask
from salhub.results import Results
from salhub.runner.batches import Share, generator_of, step_batches
from salhub.runner.summary import summary
from tests.backbones.small_pictures import (
    Adam,
    assert_close,
    lines,
    recipe_of,
    signals,
    weights,
    write_pictures,
)
from tests.models.salun.small_diffusion import (
    FORGOTTEN,
    STEPS,
    load,
    make_original,
    make_recipe,
    noisy,
    predict,
    record,
    slow_losses,
    unlearn,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def original(tmp_path_factory, data) -> str:
    return make_original(tmp_path_factory.mktemp("original"), data)


@pytest.fixture(scope="module")
def judge(tmp_path_factory, data) -> str:
    """A classifier of the pictures, which knows them after a second."""
    from salhub.runner.run import run

    folder = tmp_path_factory.mktemp("judge")
    options = {"width": 4, "stem_stride": 1, "batch_size": 20, "num_train_epochs": 3}
    run(recipe_of("cifar-resnet", "train", folder, data, **options))
    return str(folder)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view(torch.int32)


# --- steps ----------------------------------------------------------------------------------------

METHODS = [
    ("rl-diffusion", "random", {}),
    ("rl-diffusion", "random", {"teacher": "online", "alpha": 0.3}),
    ("rl-diffusion", "next", {"retain_reduction": "sum", "alpha": 0.02, "class_dropout": 0.7}),
    ("rl-diffusion", "null", {"teacher": "online", "retain_reduction": "sum", "alpha": 0.01}),
    ("rl-diffusion", "0", {"alpha": 2.0, "class_dropout": 0.0}),
    ("ga-diffusion", None, {"alpha": 0.5}),
]


@pytest.mark.parametrize(("name", "target", "options"), METHODS)
def test_steps_are_those_of_plain_arithmetic(tmp_path, data, original, name, target, options):
    given = options if target is None else {**options, "target": target}
    unlearn(tmp_path, data, original, name, **given)
    model, frozen = load(original).train(), load(original)
    adam, alpha = Adam(model, 1e-3), options.get("alpha", 1.0)
    teacher = model if options.get("teacher") == "online" else frozen
    ours = {key: options[key] for key in ("retain_reduction", "class_dropout") if key in options}
    for step, line in enumerate(lines(tmp_path)):
        forget, retain = slow_losses(
            data, step, model, None if target is None else teacher, target or "next", **ours
        )
        assert line["forget_loss"] == pytest.approx(float(forget.detach()), rel=1e-4)
        assert line["retain_loss"] == pytest.approx(float(retain.detach()), rel=1e-4)
        assert line["loss"] == pytest.approx(float((forget + alpha * retain).detach()), rel=1e-4)
        adam.step(forget + alpha * retain)
    assert step == 1
    # Adam makes as much of a small gradient as of a large one, its rounding included.
    assert_close(weights(tmp_path), model.state_dict(), tolerance=5e-5)


def test_a_model_that_is_its_own_teacher_teaches_something_else(data, original):
    """What tells the two teachers apart in the test above: the second step."""
    moved = load(original)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 1e-3 * torch.randn_like(parameter).sign()
        frozen, online = (slow_losses(data, 1, moved, one)[0] for one in (load(original), moved))
    assert float(frozen) != pytest.approx(float(online), rel=3e-4)


def test_the_frozen_teacher_never_moves(tmp_path, data, original):
    recipe = unlearn(tmp_path, data, original, "rl-diffusion", learning_rate=0.01)
    assert not recipe.original.training
    before, after = weights(original), weights(tmp_path)
    for name, values in recipe.original.state_dict().items():
        assert torch.equal(bits(values), bits(before[name])), name
    assert not any(p.requires_grad for p in recipe.original.parameters())
    assert any(not torch.equal(after[name], before[name]) for name in after)
    expected = draw_sample_sheet(load(original))
    with Image.open(tmp_path / "samples_before.png") as found:
        assert ImageChops.difference(found, expected).getbbox() is None


def test_no_picture_is_to_be_taken_for_what_is_forgotten(tmp_path, data, original):
    recipe = make_recipe(tmp_path, data, original, "rl-diffusion")
    recipe.build_model()
    found = []
    for step in range(2):
        [batch] = step_batches(torch.arange(3000), seed=0, step=step, epoch=0)
        found.append(recipe.target_classes(batch))
        counts = found[-1].bincount(minlength=3).tolist()
        assert counts[FORGOTTEN] == 0 and len(counts) == 3
        assert min(counts[0], counts[2]) > 1400
    assert not torch.equal(*found)


@pytest.mark.parametrize("name", ["salun-diffusion", "ga-diffusion"])
@torch.no_grad()
def test_a_step_is_the_same_however_it_is_shared(tmp_path, data, original, name):
    recipe = make_recipe(tmp_path, data, original, name)
    model, rows = recipe.build_model(), torch.arange(5)
    [stage] = recipe.stages(0)

    def losses(**sharing):
        for batch in step_batches(rows, seed=0, step=0, epoch=0, **sharing):
            found = recipe.loss(model, stage.fetch(batch), batch).samples
            assert len(found) == len(batch)
            if not batch.is_padding:
                yield found

    whole = torch.cat(list(losses()))
    parts = [loss for index in range(4) for loss in losses(share=Share(index, 4), largest=1)]
    assert len(parts) == 5
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)


def test_a_run_that_goes_on_from_a_checkpoint_has_the_same_teacher_and_mask(
    tmp_path, data, original
):
    options = {"max_train_steps": 4, "checkpointing_steps": 2, "learning_rate": 0.01}
    unlearn(tmp_path / "whole", data, original, "salun-diffusion", **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("results.json", "model.safetensors", "mask.safetensors"):
        (tmp_path / "killed" / name).unlink()
    options["resume_from_checkpoint"] = "latest"
    unlearn(tmp_path / "killed", data, original, "salun-diffusion", **options)
    for name in ("log.jsonl", "model.safetensors", "samples_before.png"):
        found, expected = (tmp_path / folder / name for folder in ("killed", "whole"))
        assert found.read_bytes() == expected.read_bytes(), name
    masks = [WeightMask.from_pretrained(tmp_path / folder) for folder in ("killed", "whole")]
    assert masks[0] == masks[1]


# --- masks ----------------------------------------------------------------------------------------


def slow_scores(model, data: str, guidance: float, batch_size: int) -> dict[str, torch.Tensor]:
    """|sum over batches of the gradient of the mean squared error of guided predictions|."""
    images, labels = signals(data)
    images = images[labels == FORGOTTEN]
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    generator = generator_of(0, 30)
    for part in images.split(batch_size):
        noise = torch.randn(part.shape, generator=generator)
        steps = torch.randint(STEPS, (len(part),), generator=generator).tolist()
        for place, picture in enumerate(part):
            sample = noisy(picture, noise[place], steps[place])
            known = predict(model, sample, steps[place], FORGOTTEN)
            unknown = predict(model, sample, steps[place], 3)
            guided = (1 + guidance) * known - guidance * unknown
            loss = ((guided - noise[place]) ** 2).sum() / len(part)
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            for name, gradient in zip(parameters, gradients, strict=True):
                sums[name] += gradient
    return {name: values.abs() for name, values in sums.items()}


def test_the_mask_is_that_of_the_guided_loss(tmp_path, data, original):
    options = {"mask_guidance": 1.5, "mask_ratio": 0.3, "mask_batch_size": 16}
    unlearn(tmp_path, data, original, "salun-diffusion", max_train_steps=1, **options)
    found = WeightMask.from_pretrained(tmp_path)
    scores = slow_scores(load(original), data, 1.5, 16)
    assert list(found.tensors) == list(scores)
    flat = torch.cat([values.flatten() for values in scores.values()])
    opened = torch.cat([one.flatten() for one in found.tensors.values()])
    count = int(0.3 * len(flat))
    assert int(opened.sum()) == count
    expected = torch.zeros_like(opened)
    expected[flat.sort(descending=True, stable=True).indices[:count]] = True
    # Rounding decides about the few weights at the threshold.
    threshold = flat.sort(descending=True).values[count]
    doubtful = (flat - threshold).abs() < 1e-3 * threshold
    assert torch.equal(opened[~doubtful], expected[~doubtful])
    assert int(doubtful.sum()) < 0.002 * len(flat)


MASKED = [
    ("salun-diffusion", {}),
    ("salun-diffusion", {"saliency": "random"}),
    ("salun-diffusion", {"saliency": "fisher", "mask_ratio": 0.2, "exclude": ["*norm*"]}),
    ("rl-diffusion", {"mask_ratio": 0.1, "saliency": "magnitude", "scope": "per_tensor"}),
    ("ga-diffusion", {"mask_ratio": 0.5}),
]


@pytest.mark.parametrize(("name", "options"), MASKED)
def test_closed_weights_keep_their_bits_and_the_certificate_is_that_of_the_original(
    tmp_path, data, original, name, options
):
    common = {"max_train_steps": 4, "learning_rate": 0.01, "max_grad_norm": 1.0}
    unlearn(tmp_path, data, original, name, save_delta=True, **common, **options)
    mask = WeightMask.from_pretrained(tmp_path)
    before, after = weights(original), weights(tmp_path)
    moved = total = 0
    for parameter, opened in mask.tensors.items():
        is_same = bits(after[parameter]) == bits(before[parameter])
        assert bool(is_same[~opened].all()), parameter
        moved += int((~is_same).sum())
        total += opened.numel()
        assert not ("norm" in parameter and "exclude" in options and opened.any())
    assert moved > 0.9 * mask.num_open
    if options.get("scope") is None and "exclude" not in options:
        assert mask.num_open == int(options.get("mask_ratio", 0.5) * total)
    certificate = closed_weights_digest(load(original), mask)
    model = load(tmp_path)
    assert certificate == closed_weights_digest(model, mask)
    assert certificate == model.config.closed_weights_sha256
    assert certificate == record(tmp_path)["mask"]["closed_weights_sha256"]
    assert record(tmp_path)["mask"]["density"] == mask.density()
    rebuilt = load(original)
    apply_delta(rebuilt, tmp_path)
    assert all(torch.equal(p, after[n]) for n, p in rebuilt.state_dict().items())


def test_a_random_mask_is_as_dense_and_another_one(tmp_path, data, original):
    found = {}
    for kind in ("batch_mean_grad", "random"):
        folder = tmp_path / kind
        unlearn(folder, data, original, "salun-diffusion", saliency=kind, max_train_steps=1)
        found[kind] = WeightMask.from_pretrained(folder)
    salient, drawn = found.values()
    assert salient.num_open == drawn.num_open and drawn.saliency == "random"
    assert salient.iou(drawn) == pytest.approx(1 / 3, abs=0.03)  # what chance gives
    # A mask of one's own takes the place of the ratio.
    folder = tmp_path / "again"
    unlearn(
        folder, data, original, "salun-diffusion", mask=str(tmp_path / "random"), max_train_steps=1
    )
    assert WeightMask.from_pretrained(folder) == drawn


# --- what is left behind --------------------------------------------------------------------------


def test_the_record_says_what_was_forgotten(tmp_path, data, original):
    options = {"max_train_steps": 6, "learning_rate": 3e-3}
    recipe = unlearn(tmp_path, data, original, "salun-diffusion", **options)
    with torch.no_grad():
        before, after = (
            slow_losses(data, 0, load(folder), load(original))[0] for folder in (original, tmp_path)
        )
    assert float(after) < 0.8 * float(before)
    split = LabelledSplit.load(tmp_path)
    assert split.forgotten.tolist() == list(range(40, 80)) and len(split.train) == 80
    config = load(tmp_path).config
    assert (config.unlearn_method, config.forget) == ("salun-diffusion", "class:middle")
    assert (config.num_forgotten, config.mask_ratio, config.scope) == (40, 0.5, "global")
    found = record(tmp_path)
    assert found["method"] == "salun-diffusion" and found["num_left"] == 80
    assert found["forget_digest"] == config.forget_digest and found["reports"] == {}
    assert "/" not in json.dumps({**found["options"], "exclude": []}).replace("output_dir", "")
    assert Results.load(tmp_path / "results.json").metric("mask/density").value == pytest.approx(
        0.5, abs=1e-4
    )
    assert recipe.results.data["split"] == split.digest[:16]
    # What is forgotten cannot be forgotten again, and another class can.
    with pytest.raises(ValueError, match="there is nothing to forget"):
        make_recipe(tmp_path / "b", data, str(tmp_path), "rl-diffusion").build_model()
    again = make_recipe(tmp_path / "b", data, str(tmp_path), "rl-diffusion", forget="class:top")
    again.build_model()
    assert again.split.forgotten.tolist() == list(range(80)) and len(again.retain) == 40


def test_a_judge_looks_at_both_models(tmp_path, data, original, judge):
    options = {"num_judged": 6, "num_judged_others": 4, "sampling_steps": 3, "guidance_scale": 1.0}
    given = {**options, "judge": judge, "max_train_steps": 1, "learning_rate": 0.05}
    recipe = unlearn(tmp_path, data, original, "rl-diffusion", **given)
    images, labels = signals(data)
    eye = Judge.from_pretrained(judge)
    real = images[labels != FORGOTTEN]
    verdicts = eye.look(real).verdicts
    accuracy = 100 * float((verdicts == labels[labels != FORGOTTEN]).double().mean())
    assert recipe.results.metric("judge_accuracy").value == pytest.approx(accuracy)
    reports = record(tmp_path)["reports"]
    for name, prefix, folder in (("after", "", tmp_path), ("before", "before/", original)):
        expected = judge_model(eye, load(folder), FORGOTTEN, real, **options)
        verdicts = reports[name].pop("verdicts")
        assert verdicts == expected.verdicts and [sum(row) for row in verdicts] == [4, 6, 4]
        numbers = {key: value for key, value in vars(expected).items() if key != "verdicts"}
        assert reports[name] == pytest.approx(numbers)
        found = recipe.results.metric(f"{prefix}UA").value
        assert found == pytest.approx(expected.unlearning_accuracy)
        assert recipe.results.metric(f"{prefix}judge_distance").value > 0
    folder = tmp_path / "after-only"
    recipe = unlearn(folder, data, original, "rl-diffusion", judge_original=False, **given)
    assert not any("before" in metric.name for metric in recipe.results.metrics)
    after = json.loads((folder / "unlearning.json").read_text())["reports"]["after"]
    assert summary(type(recipe), recipe.results, "out")[2:4] == [
        "Pictures of the forgotten class in which the judge finds it: "
        f"{100 - after['unlearning_accuracy']:.1f} % now.",
        "Pictures of other classes in which it finds what was asked for: "
        f"{after['retain_accuracy']:.1f} % now.",
    ]


@pytest.mark.parametrize("name", ["salun-diffusion", "rl-diffusion", "ga-diffusion"])
def test_dry_run_needs_no_mask_and_writes_nothing(tmp_path, data, original, name, capsys):
    unlearn(tmp_path / "out", data, original, name, dry_run=True, max_train_steps=None)
    plan = json.loads(capsys.readouterr().out)
    assert plan["stages"] == {"forget": 40}
    assert plan["recipe"] == f"unlearn {name}"
    assert not (tmp_path / "out").exists()


def test_a_model_in_half_precision_is_trained_in_full(tmp_path, data):
    half = make_original(tmp_path / "half", data, torch.bfloat16)
    unlearn(tmp_path / "out", data, half, "salun-diffusion", max_train_steps=1)
    assert {values.dtype for values in weights(tmp_path / "out").values()} == {torch.float32}


# --- bad input ------------------------------------------------------------------------------------


def test_nothing_that_holds_the_other_classes_is_warned_of(tmp_path, data, original, caplog):
    make_recipe(tmp_path, data, original, "rl-diffusion", alpha=0).build_model()
    assert (
        "alpha is 0: nothing preserves the other classes, so all of them will be lost"
        in caplog.text
    )


BAD = [
    ("rl-diffusion", {"forget": "class:top,bottom"}, "forgets one class at a time"),
    ("rl-diffusion", {"forget": "random:0.1"}, "forgets one class at a time"),
    ("rl-diffusion", {"forget": "indices:40,41"}, "forgets one class at a time"),
    ("rl-diffusion", {"forget": "class:3"}, "no class '3'. Give a name, or an index"),  # the null
    ("rl-diffusion", {"forget": "class:botom"}, "Did you mean 'bottom'"),
    ("rl-diffusion", {"target": 1}, "target must be another class than 1, 0 to 2, got 1"),
    ("rl-diffusion", {"target": "3"}, "target must be another class than 1, 0 to 2, got 3"),
    ("rl-diffusion", {"target": -1}, "target must be one of random, next, null"),
    ("rl-diffusion", {"target": "nul"}, "Did you mean 'null'"),
    ("rl-diffusion", {"teacher": "live"}, "teacher must be one of frozen, online"),
    ("ga-diffusion", {"retain_reduction": "max"}, "retain_reduction must be one of mean, sum"),
    ("ga-diffusion", {"alpha": -1.0}, "alpha must be 0 or more, got -1.0"),
    ("ga-diffusion", {"alpha": float("nan")}, "alpha must be 0 or more, got nan"),
    ("ga-diffusion", {"mask_guidance": -0.5}, "mask_guidance must be 0 or more, got -0.5"),
    ("ga-diffusion", {"guidance_scale": -2.0}, "guidance_scale must be 0 or more, got -2.0"),
    ("ga-diffusion", {"class_dropout": 1.0}, r"class_dropout must be 0 or more and below 1"),
    ("ga-diffusion", {"num_judged": 0}, "num_judged must be 1 or more, got 0"),
    ("ga-diffusion", {"num_judged_others": 1}, "num_judged_others must be 2 or more, got 1"),
    ("ga-diffusion", {"sampling_steps": 0}, "sampling_steps must be 1 or more, got 0"),
    ("ga-diffusion", {"mask_batch_size": 0}, "mask_batch_size must be 1 or more, got 0"),
    ("ga-diffusion", {"save_delta": True}, "save_delta needs a mask"),
    ("ga-diffusion", {"mask_ratio": 50}, "mask_ratio must be a share above 0 and at most 1"),
    ("ga-diffusion", {"mask_ratio": 1e-9}, "selects none of them"),
    ("salun-diffusion", {"mask_ratio": None}, "salun-diffusion needs a mask"),
    ("salun-diffusion", {"mask": "m", "mask_ratio": 0.3}, "contradict each other"),
    ("salun-diffusion", {"exclude": ["*batch_norm*"]}, "matches no parameter"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_options_are_refused_in_one_sentence(tmp_path, data, original, name, options, message):
    with pytest.raises(ValueError, match=message):
        unlearn(tmp_path / "out", data, original, name, **options)
    assert not (tmp_path / "out").exists()


def test_other_data_is_refused_in_one_sentence(tmp_path, data, original):
    def refused(message, data=data, original=original, **options):
        with pytest.raises(ValueError, match=message):
            make_recipe(tmp_path / "out", data, original, "rl-diffusion", **options).build_model()

    for name, changes, message in (
        ("turned", {"class_names": ["bottom", "middle", "top"]}, "holds other data"),
        ("more", {"class_names": ["top", "middle", "bottom", "none"]}, "3 classes and the data 4"),
        ("colour", {"channels": 3}, "holds other data"),
    ):
        (tmp_path / name).mkdir()
        refused(message, data=write_pictures(tmp_path / name, **changes))
    bare = tmp_path / "bare"
    shutil.copytree(original, bare)
    (bare / "split.json").unlink()
    refused(
        "draws pictures with 1 channels, but the data have 3",
        data=str(tmp_path / "colour" / "bands.npz"),
        original=str(bare),
    )


def test_a_classifier_is_refused_in_one_sentence(tmp_path, data):
    with pytest.raises(ValueError, match=r"'salhub_cifar_resnet'.*for a classifier use 'salun'"):
        unlearn(tmp_path / "out", data, "salhub/mnist-resnet8", "salun-diffusion")
    assert not (tmp_path / "out").exists()


def test_a_judge_that_does_not_fit_is_refused_before_any_work(tmp_path, data, original, judge):
    def refused(message, **options):
        recipe = make_recipe(tmp_path / "out", data, original, "rl-diffusion", **options)
        with pytest.raises(ValueError, match=message):
            recipe.build_model()

    refused("sampling_steps must be at most 4", judge=judge)
    other = tmp_path / "other"
    shutil.copytree(judge, other)
    content = json.loads((other / "config.json").read_text())
    content["id2label"] = {"0": "bottom", "1": "middle", "2": "top"}
    content["label2id"] = {"bottom": 0, "middle": 1, "top": 2}
    (other / "config.json").write_text(json.dumps(content))
    refused("has the classes of the data in another order", judge=str(other), sampling_steps=3)
