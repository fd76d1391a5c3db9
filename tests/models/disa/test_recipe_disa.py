"""Runs: prompts learned from some pictures of each class, on folders and by the splits of CoOp."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from salhub.models.disa.coop_split import read_coop_split
from salhub.models.disa.few_shots import draw_shots
from salhub.models.disa.modeling_disa import DiSaForImageClassification
from salhub.models.disa.prompt_averaging import gaussian_weights
from salhub.models.disa.recipe_disa import DiSaArguments, DiSaRecipe
from salhub.results import Results
from salhub.runner.run import run
from tests.models.disa.small_disa import base_folder
from tests.testers.recipe import TrainingRecipeTester

CLASSES = {
    "cat": (220, 40, 40),
    "dog": (40, 220, 40),
    "sea_bird": (40, 40, 220),
    "house": (200,) * 3,
}
SMALL = {
    "shots": 3, "batch_size": 4, "num_train_epochs": 2, "learning_rate": 0.05,
    "checkpointing_steps": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    """A folder of four classes of six pictures each, of several sizes."""
    folder = tmp_path_factory.mktemp("data") / "things"
    generator = np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(6):
            size = (20 + number, 24, 3)
            array = np.clip(np.array(colour) + generator.normal(0, 30, size), 0, 255)
            Image.fromarray(array.astype(np.uint8)).save(folder / name / f"{number}.png")
    return str(folder)


def made(folder, data, **options):
    base = {"base": str(base_folder()), "cpu": True}
    return DiSaRecipe(
        DiSaArguments(output_dir=str(folder), data=data, **{**base, **SMALL, **options})
    )


class TestDiSaRecipe(TrainingRecipeTester):
    @pytest.fixture
    def make(self, pictures):
        return lambda folder, **options: made(folder, pictures, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "promptsrc"},
        {"saliency": "random", "mask_schedule": "linear", "augment": False},
    ],
)
def test_other_settings_go_on_as_well(tmp_path, pictures, options):
    from tests.testers.recipe import Stopped, counted, products

    options = {**options, "checkpointing_steps": 2}
    run(made(tmp_path / "whole", pictures, **options))
    again = {**options, "resume_from_checkpoint": "latest"}
    recipe, _ = counted(made(tmp_path / "stopped", pictures, **again), 4)
    with pytest.raises(Stopped):
        run(recipe)
    run(made(tmp_path / "stopped", pictures, **again))
    assert products(tmp_path / "stopped") == products(tmp_path / "whole")


def test_the_prompts_load_and_know_their_classes(tmp_path, pictures):
    results = run(made(tmp_path, pictures))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "split.json"} <= names
    model = DiSaForImageClassification.from_pretrained(tmp_path)
    assert model.config.class_names == ["cat", "dog", "house", "sea_bird"]
    assert load_file(tmp_path / "model.safetensors").keys() == {"text_prompts", "vision_prompts"}
    metrics = {metric.name for metric in results.metrics}
    assert {"accuracy/test/prompts", "accuracy/test/frozen", "agreement/test"} <= metrics
    card = (tmp_path / "README.md").read_text()
    assert "lambda_dir 1.0" in card and "There are" not in card


def test_learning_lowers_the_loss(tmp_path, pictures):
    options = {"num_train_epochs": 12, "learning_rate": 0.05, "preset": "ivlp", "logging_steps": 3}
    run(made(tmp_path, pictures, **options))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_half_of_the_classes_are_learned_and_both_halves_measured(tmp_path, pictures):
    results = run(made(tmp_path, pictures, protocol="base_to_novel", save_prototypes=True))
    model = DiSaForImageClassification.from_pretrained(tmp_path)
    assert model.config.class_names == ["cat", "dog"]
    assert model.prototypes.shape == (2, 16)
    values = {metric.name: metric for metric in results.metrics}
    base, novel = (values[f"accuracy/{part}/prompts"] for part in ("base", "novel"))
    # Three of each class were learned, and nothing of the novel ones.
    assert (base.n, novel.n) == (6, 12)
    mean = 2 * base.value * novel.value / max(base.value + novel.value, 1e-9)
    assert values["harmonic_mean/prompts"].value == pytest.approx(mean)
    [*_, last] = results.tables[0].rows
    assert last[0] == "harmonic mean of base and novel"
    assert last[2] == f"{100 * mean:.1f}" and len(last) == len(results.tables[0].columns)
    change = novel.value - values["accuracy/novel/frozen"].value
    assert values["change_from_frozen/novel"].value == pytest.approx(change)


def test_prompts_are_measured_on_other_data(tmp_path, pictures):
    others = tmp_path / "others"
    shutil.copytree(pictures, others)
    shutil.rmtree(others / "house")
    recipe = made(tmp_path / "run", pictures, transfer=[str(others)])
    results = run(recipe)
    assert results.metric("accuracy/transfer/others/prompts").n == 18
    assert (
        DiSaForImageClassification.from_pretrained(tmp_path / "run").config.prompt_depth_text == 3
    )


def test_pictures_that_are_learned_are_no_other_data(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "copy")
    with pytest.raises(ValueError, match="copy in transfer holds the"):
        made(tmp_path / "run", pictures, transfer=[str(tmp_path / "copy")]).build_model()


def test_clip_reads_the_names_that_are_given_for_folders(tmp_path, pictures):
    given = ["a cat", "a dog", "a house", "a bird"]
    recipe = made(tmp_path, pictures, class_names=given)
    assert recipe.build_model().config.class_names == given == recipe.names
    with pytest.raises(ValueError, match="has 2 names for the 4 classes of things, which are cat,"):
        made(tmp_path, pictures, class_names=given[:2]).build_model()
    with pytest.raises(ValueError, match="cannot tell 'Cat' and 'cat' apart"):
        made(tmp_path, pictures, class_names=["Cat", "cat", "dog", "house"]).build_model()


def test_augmentation_sees_a_small_part_of_a_picture(pictures, tmp_path):
    recipe = made(tmp_path, pictures)
    recipe.build_model()
    smallest = torch.tensor([[0.0, 0.5, 0.0, 0.0, 0.9]])
    view = recipe.train_images.read(torch.tensor([0]), smallest)
    assert view.shape == (1, 3, 16, 16)
    from salhub.data.picture_preparation import view_box

    left, top, right, bottom = view_box(100, 100, smallest[0].tolist(), (0.08, 1.0))
    assert (right - left) * (bottom - top) == pytest.approx(800, rel=1e-6)


def test_the_average_of_prompts_is_that_of_its_epochs(tmp_path, pictures):
    recipe = made(tmp_path, pictures, preset="ivlp", gpa=True, gpa_mean=1.5, gpa_std=0.5)
    seen, after = [], recipe.after_step

    def noted(model, optimizer, step):
        after(model, optimizer, step)
        if (step + 1) % 3 == 0:  # 12 shots in steps of 4
            seen.append(model.text_prompts.detach().clone())

    recipe.after_step = noted
    run(recipe)
    weights = gaussian_weights(2, 1.5, 0.5)
    expected = sum(weight * one.double() for weight, one in zip(weights, seen, strict=True))
    saved = load_file(tmp_path / "model.safetensors")["text_prompts"]
    torch.testing.assert_close(saved, expected.float())


# --- data -----------------------------------------------------------------------------------------


def write_split(folder, pictures, **changes):
    content = {
        part: [
            [f"{name}/{number}.png", label, name]
            for label, name in enumerate(sorted(CLASSES))
            for number in numbers
        ]
        for part, numbers in (("train", (3, 4, 5)), ("val", (2,)), ("test", (0, 1)))
    } | changes
    path = folder / "split_zhou_Things.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_splits_of_coop_say_which_pictures_are_which(tmp_path, pictures):
    data = read_coop_split(pictures, write_split(tmp_path, pictures))
    assert data.class_names == ["cat", "dog", "house", "sea_bird"]
    assert (len(data), int(data.is_test.sum()), int(data.is_validation.sum())) == (24, 8, 4)
    results = run(
        made(tmp_path / "run", pictures, split_file=write_split(tmp_path, pictures), shots=2)
    )
    assert results.metric("accuracy/test/prompts").n == 8
    assert isinstance(Results.load(tmp_path / "run" / "results.json"), Results)


def test_splits_that_cannot_be_followed_are_refused(tmp_path, pictures):
    with pytest.raises(ValueError, match="is not a split file of CoOp, which has the form"):
        read_coop_split(pictures, write_split(tmp_path, pictures, val=None))
    lost = [["cat/99.png", 0, "cat"]]
    with pytest.raises(FileNotFoundError, match=r"1 of the 17 .* first being cat/99"):
        read_coop_split(pictures, write_split(tmp_path, pictures, test=lost))
    twice = [["cat/0.png", 0, "tiger"]]
    with pytest.raises(ValueError, match="gives class 0 two names, 'cat' and 'tiger'"):
        read_coop_split(pictures, write_split(tmp_path, pictures, test=twice))
    with pytest.raises(FileNotFoundError, match="The folder of pictures"):
        read_coop_split(tmp_path / "none", write_split(tmp_path, pictures))


def test_classes_with_fewer_pictures_are_said(tmp_path, pictures, caplog):
    recipe = made(tmp_path, pictures, shots=16)
    recipe.build_model()
    assert "There are fewer than 16 pictures of cat (6), dog (6)" in caplog.text
    assert "so all of them are learned." in caplog.text
    assert "so nothing is measured; give fewer shots to keep some of them" in caplog.text
    assert "No pictures are left" not in caplog.text
    assert len(recipe.shots.split.test) == 0


def test_the_same_seed_draws_the_same_shots(pictures, tmp_path):
    recipe = made(tmp_path, pictures)
    recipe.build_model()
    data = recipe._read(pictures)
    same, other = (draw_shots(data, 3, only_base=False, seed=seed).split.train for seed in (0, 1))
    assert torch.equal(recipe.shots.split.train, same)
    assert not torch.equal(same, other)
    assert data.labels[same].bincount().tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "shots must be an integer, 1 or more"),
        ({"mask_ratio": 1.0}, "mask_ratio must be at least 0 and below 1"),
        ({"preset": "zero_shot"}, "preset='zero_shot' has nothing to learn"),
        ({"preset": "disaa"}, "Did you mean 'disa'"),
        ({"momentum": 1.0}, "momentum must be 0 or more and below 1"),
        ({"warmup_epochs": 6, "num_train_epochs": 10}, "warmup_epochs=6 is more than half of"),
        ({"gpa": True, "gpa_mean": 11, "num_train_epochs": 10}, "from 1 to num_train_epochs=10"),
        ({"gpa_mean": 2}, "gpa_mean=2 has no effect without gpa=true"),
    ],
)
def test_bad_options_are_refused(options, message, tmp_path, pictures):
    with pytest.raises(ValueError, match=message):
        made(tmp_path, pictures, **options)


def test_a_base_that_is_no_clip_is_refused_by_its_type(tmp_path, pictures):
    with pytest.raises(ValueError, match="is a model of type 'llama', but prompts need a CLIPMod"):
        made(tmp_path, pictures, base="tiny-llama-en").build_model()


def test_bad_depths_are_refused_before_any_work(tmp_path, pictures):
    recipe = made(tmp_path, pictures, prompt_depth_text=7)
    with pytest.raises(ValueError, match="prompt_depth_text is 7, but the base has 3 layers"):
        recipe.build_model()
