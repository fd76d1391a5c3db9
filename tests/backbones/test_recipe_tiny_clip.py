"""The small CLIP: its captions, what it learns, and what it has never seen."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, BertConfig, BertModel, CLIPModel, CLIPProcessor

from salhub.backbones.tiny_clip import recipe_tiny_clip
from salhub.backbones.tiny_clip.captions import TEMPLATES, Captions, hypernyms, imagenet_names
from salhub.backbones.tiny_clip.recipe_tiny_clip import TinyClipArguments, TinyClipRecipe
from salhub.backbones.tiny_clip.teaching import features_of_kept_patches
from salhub.backbones.tiny_clip.tokenizer_tiny_clip import train_tokenizer
from salhub.data.class_names import first_name
from salhub.data.labelled_pictures import read_labelled_pictures
from salhub.data.split_beside import find_split
from salhub.results import Results
from salhub.runner.batches import step_batches
from salhub.runner.run import run
from tests import small_clip
from tests.testers.recipe import TrainingRecipeTester

CLASSES = (
    "sports car, sport car",
    "goldfish, Carassius auratus",
    "tabby",
    "Persian cat",
    "red barn",
)
WORDS = ["zebra", "red house", "tabby", "sea"]
SIZE = 8
SMALL = {
    "image_size": SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "text_hidden_size": 16,
    "text_num_hidden_layers": 1,
    "text_num_attention_heads": 2,
    "projection_dim": 8,
    "vocab_size": 600,
    "words_per_step": 3,
    "held_out_classes_every": 5,
    "batch_size": 8,
    "lr_warmup_steps": 2,
}


@pytest.fixture(autouse=True)
def _few_words(monkeypatch):
    monkeypatch.setattr(recipe_tiny_clip, "imagenet_names", lambda: WORDS)


def write_pictures(folder, classes=CLASSES):
    """Noise, each class in a colour of its own."""
    generator = np.random.default_rng(0)
    content = {"class_names": np.array(classes)}
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 0, 0]])
    for part, count in (("train", 6), ("test", 4)):
        labels = np.repeat(np.arange(len(classes)), count)
        noise = generator.integers(0, 50, (len(labels), SIZE, SIZE, 3))
        content[f"{part}_images"] = (noise + colours[labels % len(colours)][:, None, None]).astype(
            np.uint8
        )
        content[f"{part}_labels"] = labels
    np.savez(folder / "colours.npz", **content)
    return folder / "colours.npz"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A sentence encoder that has learned nothing, but tells texts apart."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1}
    words = {"vocab_size": len(small_clip.tokenizer()), "max_position_embeddings": 24}
    BertModel(BertConfig(intermediate_size=16, **sizes, **words)).save_pretrained(folder)
    small_clip.tokenizer().save_pretrained(folder)
    return folder


def recipe_of(data, folder, **options):
    settings = {"cpu": True, "num_train_epochs": 2, **SMALL, **options}
    return TinyClipRecipe(TinyClipArguments(output_dir=str(folder), data=str(data), **settings))


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "clip"
    settings = {"num_train_epochs": 20, "learning_rate": 3e-3, "validation_steps": 0}
    run(recipe_of(pictures, folder, **settings))
    return folder, Results.load(folder / "results.json")


class TestTinyClip(TrainingRecipeTester):
    @pytest.fixture
    def make(self, pictures, teacher):
        settings = {"batch_size": 10, "text_teacher": str(teacher), "validation_steps": 3}
        return lambda folder, **options: recipe_of(pictures, folder, **{**settings, **options})


# --- captions -------------------------------------------------------------------------------------


def test_captions_name_every_class_its_coarser_word_and_further_words():
    captions = Captions(CLASSES, WORDS)
    tokenizer = train_tokenizer(captions.texts(), 600, model_max_length=48)
    captions.encode(tokenizer)
    assert captions.names[:6] == [
        "sports car", "sport car", "goldfish", "Carassius auratus", "tabby", "Persian cat",
    ]  # fmt: skip
    # "tabby" is a class already.
    assert captions.names[6:] == [
        "red barn",
        "car",
        "automobile",
        "cat",
        "zebra",
        "red house",
        "sea",
    ]
    assert captions.hypernym_of.tolist() == [0, -1, 1, 1, -1]
    seen = set()
    for seed in range(20):
        found = captions.draw(torch.Generator().manual_seed(seed), 2)
        assert found.sizes == (5, 2, 2)
        names = [captions.names[place] for place in found.names.tolist()]
        assert names[0] in ("sports car", "sport car") and names[1] in CLASSES[1]
        assert names[2:5] == ["tabby", "Persian cat", "red barn"]
        assert names[5] in ("car", "automobile") and names[6] == "cat"
        assert set(names[7:]) < {"zebra", "red house", "sea"}
        for name, ids in zip(names, found.input_ids, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            said = [template.format(name).lower().replace(" ", "") for template in TEMPLATES]
            assert text.replace(" ", "") in said
        seen.update(names)
    assert seen == set(captions.names)


def test_coarser_words_are_those_of_the_file_and_each_class_has_one_kind():
    known = hypernyms()
    assert known["sports car"] == ("car", "automobile") and known["goose"] == ("bird",)
    assert len(known) > 100 and not set(known) & {"", "goldfish"}
    # All of them are classes of ImageNet, or are called otherwise there.
    names = {name.lower() for name in imagenet_names()}
    assert sum(name in names for name in known) > 0.9 * len(known)


def test_long_captions_are_cut_and_it_is_said(caplog):
    captions = Captions(["very long name of an old tree that stands beside the house", "cat"])
    captions.encode(small_clip.tokenizer())
    count = len(TEMPLATES)
    assert (
        f"{count} of {2 * count} captions were cut to 24 tokens, such as 'a photo of a very lo"
        in (caplog.text)
    )
    found = captions.draw(torch.Generator().manual_seed(0), 0).input_ids
    assert found.shape == (2, 24) and int(found[0, -1]) == small_clip.tokenizer().eos_token_id
    Captions(["cat"]).encode(small_clip.tokenizer())
    assert "of 11 captions" not in caplog.text


# --- what is learned ------------------------------------------------------------------------------


def test_patches_that_are_left_out_change_nothing_that_is_seen():
    clip = small_clip.network()
    pixels = torch.randn(2, 3, 16, 16)
    keep = torch.tensor([[0, 3, 7, 9], [1, 2, 14, 15]])
    found = features_of_kept_patches(clip, pixels, keep)
    hidden = torch.ones(2, 17, dtype=torch.bool)
    hidden[:, 0] = False
    hidden.scatter_(1, keep + 1, value=False)
    mask = torch.zeros(2, 1, 17, 17).masked_fill(hidden[:, None, None], -torch.inf)
    pooled = clip.vision_model(pixels, attention_mask=mask).pooler_output
    torch.testing.assert_close(found, clip.visual_projection(pooled), rtol=0, atol=1e-5)
    whole = clip.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(features_of_kept_patches(clip, pixels), whole, rtol=0, atol=1e-6)


def test_the_loss_is_that_of_names_coarser_words_and_meanings(pictures, teacher, tmp_path):
    recipe = recipe_of(pictures, tmp_path, text_teacher=str(teacher))
    torch.manual_seed(0)
    model = recipe.build_model().eval()
    [stage] = recipe.stages(0)
    batch = next(step_batches(torch.tensor([0, 7, 13, 20]), seed=0, step=0, epoch=0))
    inputs = stage.fetch(batch)
    assert inputs["keep"].shape == (4, 2)
    found = recipe.loss(model, inputs, batch)
    clip, scale = model.clip, float(model.clip.logit_scale.detach().exp())
    expected = []
    texts = clip.get_text_features(input_ids=inputs["input_ids"]).pooler_output
    meanings = model.meanings[inputs["names"]] @ model.map.weight.T

    def penalty_of(picture, others, answer):
        logits = torch.stack([scale * F.cosine_similarity(picture, o, dim=0) for o in others])
        chances = logits.log_softmax(0)
        return -0.9 * chances[answer] - 0.1 * chances.mean()

    for row in range(4):
        keep = inputs["keep"][row : row + 1]
        pixels = inputs["pixel_values"][row : row + 1]
        picture = features_of_kept_patches(clip, pixels, keep)[0]
        label = int(inputs["labels"][row])
        total = penalty_of(picture, texts[:4], label)
        total = total + 0.5 * penalty_of(picture, meanings[:4], label)
        kind = [0, -1, 1, 1][label]
        if kind >= 0:
            total = total + penalty_of(picture, texts[4:6], kind) / 3
        expected.append(total)
    assert sorted(inputs["labels"].tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(found.samples, torch.stack(expected), rtol=1e-4, atol=1e-4)
    words = 1 - F.cosine_similarity(texts[6:], meanings[6:])
    torch.testing.assert_close(found.penalty, words.mean(), rtol=1e-4, atol=1e-5)


def test_the_last_steps_see_all_patches_and_the_map_begins_as_principal_components(
    pictures, teacher, tmp_path
):
    recipe = recipe_of(pictures, tmp_path, text_teacher=str(teacher), whole_share=0.5)
    model = recipe.build_model()
    [stage] = recipe.stages(0)
    rows = torch.arange(4)
    seen = [
        "keep" in stage.fetch(next(step_batches(rows, seed=0, step=n, epoch=0))) for n in range(6)
    ]
    assert seen == [True] * 3 + [False] * 3
    weight = model.map.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-5)
    left = model.meanings - model.meanings @ weight.T @ weight
    singular = torch.linalg.svdvals(model.meanings)
    assert float(left.detach().square().sum()) == pytest.approx(
        float(singular[8:].square().sum()), abs=1e-4
    )


def test_passes_in_bfloat16_give_the_loss_and_the_gradients_to_two_digits(pictures, tmp_path):
    found = []
    for name in ("no", "bf16"):
        recipe = recipe_of(pictures, tmp_path, mixed_precision=name)
        torch.manual_seed(0)
        model = recipe.build_model()
        [stage] = recipe.stages(0)
        batch = next(step_batches(torch.arange(8), seed=0, step=0, epoch=0))
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
            loss = recipe.loss(model, stage.fetch(batch), batch).samples
        loss.mean().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradients), model.clip.config._attn_implementation))
    exact, rounded = found
    assert (exact[2], rounded[2]) == ("sdpa", "eager") and rounded[0].dtype == torch.float32
    assert not torch.equal(exact[0], rounded[0])
    torch.testing.assert_close(rounded[0], exact[0], rtol=0.02, atol=0.02)
    assert float(F.cosine_similarity(rounded[1], exact[1], dim=0)) > 0.99


def test_the_best_model_is_not_chosen_by_test_pictures(pictures, tmp_path):
    recipe = recipe_of(pictures, tmp_path, keep_best=True)
    model = recipe.build_model().eval()
    chosen = set(recipe.split.validation.tolist())
    assert chosen and not chosen & {*recipe.split.train.tolist(), *recipe.split.test.tolist()}
    recipe.images["test"] = None  # would fail where it was used
    assert 0 <= recipe.validate(model, Accelerator(cpu=True))["accuracy"] <= 1


# --- what comes out -------------------------------------------------------------------------------


def test_a_run_gives_a_clip_that_plain_transformers_loads_and_that_knows_its_classes(
    trained, pictures
):
    folder, results = trained
    model, info = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert type(model) is CLIPModel and not any(info.values()) and model.dtype == torch.float32
    assert model.config._attn_implementation == "sdpa"
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {
        torch.float16
    }
    for kind in (AutoProcessor, CLIPProcessor):
        processor = kind.from_pretrained(folder)
    data = read_labelled_pictures(pictures)
    learned = [first_name(name) for name in CLASSES[:4]]
    texts = [f"a photo of a {name}." for name in learned]
    shown = [data.picture(place) for place in data.test_places[:16].tolist()]
    tokens = processor(text=texts, padding="longest", return_tensors="pt")
    inputs = {**tokens, **processor(images=shown, return_tensors="pt")}
    with torch.no_grad():
        guesses = model.eval()(**inputs).logits_per_image.argmax(1)
    right = (guesses == data.labels[data.test_places[:16]]).float().mean()
    assert right > 0.7 and results.metric("accuracy/learned").value > 0.7
    assert results.metric("accuracy/learned").n == 16
    assert results.data["unseen_classes"] == ["red barn"]
    assert (
        "trained from scratch on 24 pictures of 4 classes of" in (folder / "README.md").read_text()
    )


def test_pictures_and_names_of_classes_that_are_held_out_are_not_learned(
    trained, pictures, tmp_path
):
    folder, _ = trained
    split = find_split(folder)
    data = read_labelled_pictures(pictures)
    assert set(data.labels[split.train].tolist()) == {0, 1, 2, 3}
    assert set(data.labels[split.test].tolist()) == set(range(5))
    other = (*CLASSES[:4], "quartz")
    again = recipe_of(write_pictures(tmp_path, other), tmp_path / "out")
    again.build_model()
    recipe = recipe_of(pictures, tmp_path / "out")
    recipe.build_model()
    assert again.captions.names == recipe.captions.names
    assert not any("barn" in name for name in recipe.captions.names)


def test_pictures_in_folders_are_cut_to_squares_as_the_processor_does(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for place in range(3):
            array = generator.integers(0, 256, (24, 40, 3), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / "pictures" / name / f"{place}.png")
    recipe = recipe_of(tmp_path / "pictures", tmp_path / "out", held_out_classes_every=0)
    recipe.build_model()
    data = read_labelled_pictures(tmp_path / "pictures")
    places = recipe.split.train
    found = recipe._prepared(recipe.images["train"])
    shown = [data.picture(place) for place in places.tolist()]
    expected = recipe.processor(images=shown, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"held_out_classes_every": 1}, "held_out_classes_every must be 0, or 2 or more, got 1"),
        (
            {"hidden_size": 17},
            "hidden_size must be a multiple of num_attention_heads, got 17 and 2",
        ),
        ({"patch_size": 3}, "image_size must be a multiple of patch_size, got 8 and 3"),
        ({"patch_dropout": 1.0}, "patch_dropout must be 0 or more and below 1, got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, got -1.0"),
        ({"words_per_step": -1}, "words_per_step must be an integer, 0 or more, got -1"),
        ({"vocab_size": 500}, "vocab_size must be at least 514, got 500"),
        ({"text_teacher": "nowhere/at-all"}, "text_teacher"),
        ({"data": "nowhere.csv"}, "csv do not exist; give a file or folder"),
    ],
)
def test_bad_options_are_refused(pictures, tmp_path, options, sentence):
    with pytest.raises((ValueError, OSError), match=sentence):
        run(recipe_of(options.pop("data", pictures), tmp_path / "out", **options))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_two_classes_have_to_be_learned_and_names_have_to_differ(tmp_path):
    data = write_pictures(tmp_path, ("cat", "dog"))
    with pytest.raises(ValueError, match="colours has 2 classes; at least 2 must be learned"):
        recipe_of(data, tmp_path / "out", held_out_classes_every=2).build_model()
    data = write_pictures(tmp_path, ("crane, bird", "crane, machine", "dog"))
    recipe = recipe_of(data, tmp_path / "out", held_out_classes_every=0)
    with pytest.raises(ValueError, match="several classes are called 'crane'"):
        recipe.build_model()
