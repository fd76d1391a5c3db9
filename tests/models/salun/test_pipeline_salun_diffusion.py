"""Drawing classes: from a folder and a class to a result, and what a person gets."""

import io
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import salhub
from salhub import ConditionalUNetConfig, SalUnDiffusionConfig, SalUnForConditionalDiffusion
from salhub.models.salun.pipeline_salun_diffusion import ImageGenerationPipeline
from salhub.models.salun.result_salun_diffusion import ImageGenerationResult

NAMES = dict(
    enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
)
QUICK = {"num_images": 2, "num_steps": 2, "seed": 7}


def small_model(names: dict[int, str] = NAMES) -> SalUnForConditionalDiffusion:
    torch.manual_seed(0)
    backbone = ConditionalUNetConfig(image_size=8, base_channels=8, num_classes=len(names))
    model = SalUnForConditionalDiffusion(
        SalUnDiffusionConfig(backbone_config=backbone, id2label=names)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small-ddpm"
    small_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def draw(folder):
    return salhub.pipeline(folder)


def result(count=3, classes=(3,), channels=1, **fields):
    generator = np.random.default_rng(0)
    defaults = {
        "pixels": generator.uniform(-1, 1, (count * len(classes), channels, 8, 10)),
        "labels": [NAMES[one] for one in classes for _ in range(count)],
        "class_labels": [one for one in classes for _ in range(count)],
        "num_steps": 50,
        "guidance_scale": 2.0,
        "eta": 0.0,
        "seed": 7,
        "model_name": "salhub/salun-ddpm-mnist",
    }
    return ImageGenerationResult(**{**defaults, **fields})


# --- from a name to a result ----------------------------------------------------------------------


def test_pictures_are_those_of_the_model(draw, folder):
    assert type(draw) is ImageGenerationPipeline
    settings = {"num_steps": 3, "guidance_scale": 1.5, "eta": 0.5}
    found = draw(3, num_images=2, seed=7, **settings)
    generator = torch.Generator().manual_seed(7)
    expected = small_model().generate(torch.tensor([3, 3]), generator=generator, **settings)
    np.testing.assert_allclose(found.pixels, expected.numpy(), atol=1e-6)
    assert found.labels == ["three", "three"] and found.class_labels == [3, 3]
    assert (found.label, found.seed, found.model_name) == ("three", 7, str(folder))
    assert [image.size for image in found.images] == [(8, 8), (8, 8)]
    assert (found.num_steps, found.guidance_scale, found.eta) == (3, 1.5, 0.5)


def test_a_class_may_be_named_or_numbered(draw):
    pixels = draw(3, **QUICK).pixels
    for same in ("three", "Three", "3", np.int64(3), torch.tensor(3)):
        assert np.array_equal(draw(same, **QUICK).pixels, pixels)
    assert not np.array_equal(draw(4, **QUICK).pixels, pixels)


@pytest.mark.parametrize(
    "classes", [[3, "one"], (3, 1), np.array([3, 1]), torch.tensor([3, 1]), range(3, 0, -2)]
)
def test_a_list_gives_a_list_of_what_its_items_give(draw, classes):
    found = draw(classes, **QUICK)
    assert [one.label for one in found] == ["three", "one"]
    for one in found:
        assert np.array_equal(one.pixels, draw(one.label, **QUICK).pixels)
    assert draw([]) == []


def test_generators_are_worked_through_one_by_one(draw):
    found = draw((one for one in (3, 1)), **QUICK)
    assert next(iter(found)).label == "three"


@pytest.mark.parametrize(("method", "said"), [("salun", "made to forget"), ("retrain", "without")])
def test_a_class_that_was_forgotten_is_said_to_be(draw, monkeypatch, method, said):
    monkeypatch.setattr(draw.model.config, "forget", "class:three")
    monkeypatch.setattr(draw.model.config, "unlearn_method", method)
    found = draw(3, **QUICK)
    assert said in found.summary() and found.to_dict()["notes"] == found.notes
    assert not draw(1, **QUICK).notes


def test_every_class_in_one_result(draw):
    found = draw("all", **QUICK)
    assert found.class_labels == [index for index in range(10) for _ in range(2)]
    assert np.array_equal(found.pixels[6:8], draw(3, **QUICK).pixels)
    assert [label for label, _ in found.by_class()] == list(NAMES.values())


def test_a_class_that_is_called_all_is_a_class():
    draw = salhub.pipeline(small_model({0: "none", 1: "all"}))
    assert draw("all", **QUICK).class_labels == [1, 1]


def test_the_seed_makes_the_pictures(draw):
    first, again, other = (draw(3, **{**QUICK, "seed": seed}) for seed in (7, 7, 8))
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert not np.array_equal(first.pixels[0], first.pixels[1])
    # More pictures are other pictures beside the same ones.
    more = draw(3, **{**QUICK, "num_images": 3})
    np.testing.assert_allclose(more.pixels[:2], first.pixels, atol=1e-5)


def test_without_a_seed_every_result_says_which_one_it_had(draw):
    unseeded = {**QUICK, "seed": None}
    torch.manual_seed(1)
    first, second = draw([3, 3], **unseeded)
    assert first.seed != second.seed
    assert not np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(draw(3, **{**QUICK, "seed": second.seed}).pixels, second.pixels)
    torch.manual_seed(1)
    assert [one.seed for one in draw([3, 3], **unseeded)] == [first.seed, second.seed]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_pictures_do_not_depend_on_what_they_are_drawn_with(draw, monkeypatch, batch_size):
    sizes = []
    generate = draw.model.generate
    monkeypatch.setattr(
        draw.model,
        "generate",
        lambda labels, **k: sizes.append(len(labels)) or generate(labels, **k),
    )
    settings = {**QUICK, "num_images": 5, "eta": 1.0}
    found = draw(3, **settings, batch_size=batch_size)
    assert sum(sizes) == 5 and max(sizes) == min(5, batch_size)
    np.testing.assert_allclose(found.pixels, draw(3, **settings).pixels, atol=1e-4)


def test_settings_given_with_the_name_hold_for_every_call(folder):
    draw = salhub.pipeline(folder, num_images=3, num_steps=2, seed=1, batch_size=2)
    assert len(draw(0).images) == 3 and draw(0).seed == 1
    assert len(draw(0, num_images=1).images) == 1


def test_half_precision_draws_in_float32(folder, draw):
    half = salhub.pipeline(folder, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    found = half(3, **QUICK)
    assert found.pixels.dtype == np.float32 and np.abs(found.pixels).max() <= 1


def test_a_loaded_model_becomes_a_pipeline():
    found = salhub.pipeline(small_model())(3, **QUICK)
    assert found.model_name == "" and found.label == "three"


def test_plain_transformers_pipelines_know_the_task(folder, draw):
    theirs = transformers.pipeline("image-generation", model=str(folder))
    assert np.array_equal(theirs(3, **QUICK).pixels, draw(3, **QUICK).pixels)


@pytest.mark.parametrize(
    ("asked", "settings", "error", "sentence"),
    [
        ("thre", {}, ValueError, "no class 'thre'.*Did you mean 'three'"),
        (11, {}, ValueError, r"in \[0, 10\), or 10 for no class, got 11"),
        (True, {}, TypeError, "A class must be an index or a name, got True"),
        (1.5, {}, TypeError, "A class must be an index or a name, got"),
        (torch.tensor(1.5), {}, TypeError, "A class must be an index or a name, got"),
        (3, {"num_images": 0}, ValueError, "num_images must be at least 1, got 0"),
        (3, {"num_images": 1.5}, TypeError, "num_images must be a whole number, got 1.5"),
        (3, {"num_steps": 1001}, ValueError, "from 1 to 1000, got 1001"),
        (3, {"guidance_scale": -1}, ValueError, "at least 0, got -1"),
        (3, {"guidance_scale": "high"}, TypeError, "guidance_scale must be a number, got 'high'"),
        (3, {"guidance_scale": float("nan")}, TypeError, "must be a number, got nan"),
        (3, {"eta": 2}, ValueError, r"eta must be in \[0, 1\]"),
        (3, {"seed": -1}, ValueError, "seed must be at least 0 and below"),
        (3, {"seed": 2**63}, ValueError, "seed must be at least 0 and below"),
        (3, {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        (3, {"steps": 4}, ValueError, "has no setting 'steps'.*Did you mean 'num_steps'"),
    ],
)
def test_bad_requests_are_refused(draw, asked, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        draw(asked, **settings)


def test_a_classifier_is_not_explained(folder):
    with pytest.raises(
        ValueError, match="' does not explain classifiers; give the name of one of its"
    ):
        salhub.pipeline("salun-diffusion", classifier=folder)


# --- what a person gets ---------------------------------------------------------------------------


def test_pixels_become_8_bit_pictures():
    pixels = np.array([-1.0, -0.5, 0.0, 1.0]).reshape(1, 1, 2, 2)
    [grey] = result(pixels=pixels, labels=["three"], class_labels=[3]).images
    assert grey.mode == "L" and np.asarray(grey).tolist() == [[0, 64], [128, 255]]
    [colored] = result(1, pixels=np.stack([pixels[0, 0]] * 3)[None]).images
    assert colored.mode == "RGB" and colored.getpixel((1, 0)) == (64, 64, 64)


def test_the_dictionary_is_json_and_complete():
    data = result(2, (3, 1)).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["labels"] == ["three", "three", "one", "one"]
    assert data["class_labels"] == [3, 3, 1, 1]
    assert (data["num_images"], data["width"], data["height"], data["channels"]) == (4, 10, 8, 1)
    assert (data["seed"], data["num_steps"], data["guidance_scale"]) == (7, 50, 2.0)
    odd = result(seed=np.int64(3), class_labels=[np.int64(3)] * 3)
    assert json.loads(json.dumps(odd.to_dict()))["seed"] == 3


def test_the_summary_is_one_sentence_that_says_how_to_draw_it_again():
    settings = "drawn with num_steps=50, guidance_scale=2, eta=0 and seed=7."
    assert result().summary() == f"3 pictures of 'three', {settings}"
    assert result(1).summary() == f"1 picture of 'three', {settings}"
    assert result(2, (3, 1)).summary() == f"4 pictures of 2 classes, {settings}"


@pytest.mark.parametrize(("count", "classes"), [(1, (3,)), (8, (3,)), (11, (3,)), (4, (0, 1, 2))])
def test_the_figure_shows_every_picture_with_sharp_pixels(count, classes):
    pixels = np.full((count * len(classes), 3, 4, 4), -1.0)
    pixels[:, 0] = 1  # Red, which is nowhere else in the figure.
    figure = np.asarray(result(count, classes, pixels=pixels).plot())
    red = (figure == (255, 0, 0)).all(axis=-1)
    side = red.any(axis=1).nonzero()[0]
    drawn = red.sum() / (count * len(classes))
    assert drawn == round(drawn**0.5) ** 2 and drawn**0.5 % 4 == 0
    assert side[0] > 40 and figure.shape[1] < 1300


def test_the_grid_is_the_pictures_pixel_by_pixel():
    found = result(10, (3, 1))
    grid = np.asarray(found.grid())
    # Two lines a class: eight pictures, and the other two.
    assert grid.shape == (4 * 10 - 2, 8 * 12 - 2)
    assert np.array_equal(grid[:8, 12:22], np.asarray(found.images[1]))
    assert np.array_equal(grid[10:18, :10], np.asarray(found.images[8]))
    assert np.array_equal(grid[20:28, :10], np.asarray(found.images[10]))
    assert (grid[8:10] == 255).all() and (grid[10:18, 24:] == 255).all()
    assert result(channels=3).grid().mode == "RGB"


def test_saving_follows_the_ending(tmp_path):
    found = result()
    found.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == found.plot().size
    found.save(tmp_path / "b.png", view="grid")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), np.asarray(found.grid()))
    found.save(tmp_path / "c.npy")
    assert np.array_equal(np.load(tmp_path / "c.npy"), found.pixels)
    found.save(tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text(encoding="utf-8")) == found.to_dict()


def test_notebooks_show_the_figure():
    picture = Image.open(io.BytesIO(result()._repr_png_()))
    assert np.array_equal(np.asarray(picture), np.asarray(result().plot()))
    assert repr(result()) == (
        "ImageGenerationResult('three', 3 of 10 x 8 pixels, seed 7, "
        "model 'salhub/salun-ddpm-mnist')"
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"pixels": np.zeros((3, 8, 8))}, r"shape \(N, C, H, W\)"),
        ({"pixels": np.zeros((3, 2, 8, 8))}, "with C = 1 or 3"),
        ({"pixels": np.zeros((0, 1, 8, 8)), "labels": [], "class_labels": []}, "got \\(0, 1"),
        ({"pixels": np.full((3, 1, 8, 8), np.nan)}, "NaN or infinite"),
        ({"labels": ["three"]}, "3 pictures need as many classes, got 1 names and 3 indices"),
    ],
)
def test_results_that_do_not_fit_together_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        result(**fields)


def test_classes_of_one_name_are_told_apart():
    found = result(2, (3, 1), labels=["crane"] * 4)
    assert [(label, len(images)) for label, images in found.by_class()] == [("crane", 2)] * 2


def test_comparisons_show_every_result():
    compare = ImageGenerationPipeline.compare
    results = {"original": result(), "unlearned": result()}
    two, three = compare(results), compare({**results, "retrained": result()})
    assert three.width >= two.width and three.height > two.height
    classes = compare({name: result(3, (0, 1)) for name in results})
    assert classes.height > two.height
    with pytest.raises(ValueError, match="no result"):
        compare({})
    with pytest.raises(ValueError, match="different classes"):
        compare({"a": result(), "b": result(3, (1,))})
