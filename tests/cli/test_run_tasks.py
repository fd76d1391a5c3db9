"""The commands on tasks that are not saliency: classifying pictures, and drawing classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from salhub import (
    ConditionalUNetConfig,
    SalUnConfig,
    SalUnDiffusionConfig,
    SalUnForConditionalDiffusion,
    SalUnForImageClassification,
)
from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.data.samples import sample_path, sample_text_path

QUICK = ["num_images=2", "--num-steps", "2"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small-salun"
    torch.manual_seed(0)
    network = {"model_type": "salhub_cifar_resnet", "depth": 8, "width": 8, "num_labels": 10}
    SalUnForImageClassification(SalUnConfig(backbone_config=network)).save_pretrained(folder)
    CifarResNetImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small-ddpm"
    torch.manual_seed(0)
    backbone = ConditionalUNetConfig(image_size=8, base_channels=8)
    names = {index: f"digit {index}" for index in range(10)}
    config = SalUnDiffusionConfig(backbone_config=backbone, id2label=names)
    SalUnForConditionalDiffusion(config).save_pretrained(folder)
    return folder


# --- classifying ----------------------------------------------------------------------------------


def test_a_picture_is_classified(call, call_json, classifier, tmp_path):
    output = call("run", classifier, "sample:cat").stdout
    path = tmp_path / "cat-small-salun.png"
    assert output.splitlines()[0] == f"Wrote {path}"
    assert "is the most likely class, then" in output
    with Image.open(path) as picture:
        assert picture.width > 700
    [record] = call_json("run", classifier, "sample:cat", "top-k=3", "-o", "cat.json")
    assert len(record["predictions"]) == 3 and record["model"] == str(classifier)
    written = json.loads((tmp_path / "cat.json").read_text())
    assert written["predictions"] == record["predictions"]


def test_a_folder_of_pictures_is_classified_in_batches(call_json, classifier, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("cat", "coffee", "rocket"):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(sample_path(name).read_bytes())
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    records = call_json("run", classifier, "photos", "-o", "out", "--batch-size", "2", code=1)
    assert [("error" in record) for record in records] == [True, False, False, False]
    [alone] = call_json("run", classifier, "sample:rocket")
    assert records[-1]["score"] == pytest.approx(alone["score"], abs=1e-5)


def test_what_a_classifier_does_not_take_is_named(call, classifier):
    assert "--class" in call("run", "--help").stdout
    error = call("run", classifier, "sample:cat", "--class", "3", code=2).stderr
    assert "small-salun has no setting 'class_labels'" in error
    error = call("run", classifier, "sample:cat", "--view", "overlay", code=2).stderr
    assert "no view 'overlay'; they have plot" in error
    error = call("run", classifier, "sample:cat", "--format", "npy", code=2).stderr
    assert "cannot be written as '.npy'; choose .png, .jpg, .jpeg, .json" in error
    error = call("run", "salun", "sample:cat", "--classifier", classifier, code=2).stderr
    assert "has no setting 'classifier'" in error


def test_models_are_compared_on_one_picture(call_json, classifier):
    [record] = call_json("compare", "sample:cat", classifier, "--vary", "top_k=2,3")
    assert [len(one["predictions"]) for one in record["results"]] == [2, 3]
    with Image.open(record["output"]) as picture:
        assert picture.width > 3 * 360


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "stem"), [("3", "3"), ("digit 3", "digit-3")])
def test_a_class_is_drawn(call, diffusion, tmp_path, asked, stem):
    output = call("run", diffusion, asked, *QUICK, "seed=5").stdout
    path = tmp_path / f"{stem}-small-ddpm.png"
    assert output.splitlines() == [
        f"Wrote {path}",
        "2 pictures of 'digit 3', drawn with num_steps=2, guidance_scale=2, eta=0 and seed=5.",
    ]
    assert Image.open(path).width > 300


def test_numbers_and_plain_pictures_are_written_too(call, call_json, diffusion, tmp_path):
    words = [*QUICK, "seed=5", "--batch-size", "1"]
    [record] = call_json("run", diffusion, "3", *words, "-o", "threes.npy")
    assert (record["input"], record["label"], record["seed"]) == ("3", "digit 3", 5)
    pixels = np.load(tmp_path / "threes.npy")
    assert pixels.shape == (2, 1, 8, 8) and pixels.dtype == np.float32
    call("run", diffusion, "3", *QUICK, "seed=5", "-o", "grid.png", "--view", "grid")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (8 + 2 + 8, 8)
    [record] = call_json("run", diffusion, "all", *QUICK, "-o", "all.png")
    assert record["num_images"] == 20 and record["label"].startswith("digit 0, digit 1")


def test_without_a_seed_the_record_says_how_to_draw_it_again(call_json, diffusion, tmp_path):
    [first] = call_json("run", diffusion, "3", *QUICK, "-o", "a.npy")
    seed = f"seed={first['seed']}"
    call_json("run", diffusion, "3", *QUICK, seed, "-o", "b.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_a_class_is_never_a_file_or_a_folder(call, diffusion, tmp_path):
    (tmp_path / "3").mkdir()
    call("run", diffusion, "3", *QUICK)
    assert (tmp_path / "3-small-ddpm.png").is_file()
    (tmp_path / "4").write_text("a file")
    call("run", diffusion, "4", *QUICK)
    assert (tmp_path / "4-small-ddpm.png").is_file()


def test_a_class_may_be_piped_in_and_the_picture_out(call, diffusion, tmp_path):
    result = call("run", diffusion, "-", *QUICK, "-o", "-", stdin=b"digit 3\n")
    (tmp_path / "piped.png").write_bytes(result.stdout_bytes)
    assert Image.open(tmp_path / "piped.png").width > 300
    assert "of 'digit 3'" in result.stderr
    assert "No class given" in call("run", diffusion, "-", code=1, stdin=b" \n").stderr


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["digit 33"], "no class 'digit 33'. Did you mean 'digit 3'", 1),
        (["12"], "no class '12'", 1),
        (["../3"], "no class '../3'", 1),
        (["3", "num_images=none"], "num_images must be a whole number, got 'none'", 1),
        (["3", "number=3"], "small-ddpm has no setting 'number'", 2),
        (["3", "--view", "overlay"], "they have plot, grid", 2),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(
    call, diffusion, tmp_path, words, message, code
):
    error = call("run", diffusion, *words, code=code).stderr
    assert message in error
    assert list(tmp_path.iterdir()) == []
    if code == 1:
        assert error.count("\n") == 1
        record = json.loads(call("run", diffusion, *words, "--json", code=1).stdout)
        assert record["input"] == words[0] and message in record["error"]


def test_models_are_compared_with_the_same_noise(call_json, diffusion):
    [record] = call_json("compare", "3", diffusion, *QUICK, "--vary", "guidance_scale=0,3")
    assert [one["guidance_scale"] for one in record["results"]] == [0, 3]
    assert {one["seed"] for one in record["results"]} == {0}
    [record] = call_json("compare", "3", diffusion, *QUICK, "--vary", "seed=1,2", "-o", "s.png")
    assert [one["seed"] for one in record["results"]] == [1, 2]


# --- what is known of them ------------------------------------------------------------------------


def test_info_names_settings_and_classes(call, call_json, classifier, diffusion):
    [info] = call_json("info", classifier)
    assert (info["task"], info["call_settings"]) == ("image-classification", ["top_k"])
    assert info["choices"] == {}
    [info] = call_json("info", diffusion)
    assert info["task"] == "image-generation" and "seed" in info["call_settings"]
    assert info["choices"]["class_labels"][3] == "3 digit 3"
    settings = {setting["name"]: setting for setting in info["settings"]}
    assert "forget" in settings and "default_backbone" not in settings
    text = call("info", diffusion).stdout
    assert (
        "(written the same way): num_images, num_steps" in text
        and "Choices for class_labels" in text
    )


def test_a_picture_and_a_class_are_not_compared(call, classifier, diffusion):
    error = call("compare", "sample:cat", classifier, diffusion, code=1).stderr
    assert "Only models of the same task can be compared" in error


def test_a_network_of_ours_is_still_no_method(call):
    error = call("run", "efficientnet-lite0", "sample:cat", code=1).stderr
    assert (
        "' is a network, not a method; give the name of a method and" in error
        and "--classifier efficientnet-lite0" in error
    )


@pytest.mark.parametrize("kind", ["classifier", "diffusion"])
def test_only_what_takes_pictures_is_pushed_with_an_image_processor(request, kind):
    from salhub.publishing import files_to_push

    folder = request.getfixturevalue(kind)
    files = files_to_push(folder, "me/model")
    assert {"config.json", "model.safetensors", "README.md"} <= files.keys()
    assert ("preprocessor_config.json" in files) is (kind == "classifier")


def test_a_classifier_without_its_image_processor_is_not_pushed(classifier, tmp_path):
    from salhub.publishing import files_to_push

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((classifier / name).read_bytes())
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json"):
        files_to_push(tmp_path, "me/model")


# --- summarising ----------------------------------------------------------------------------------

NEWS = "lexrank-news-en"


def test_a_text_is_summarised_on_the_screen_and_in_files(call, call_json, tmp_path):
    article = sample_text_path("article").read_text(encoding="utf-8")
    (tmp_path / "article.txt").write_text(article, encoding="utf-8")
    printed = call("run", NEWS, "article.txt", "--budget", "100w").stdout
    assert 50 < len(printed.split()) <= 100
    assert all(part.strip() in article for part in printed.split(".") if part.strip())
    assert [path.name for path in tmp_path.iterdir()] == ["article.txt"]
    assert call("run", NEWS, "-", "--budget", "100w", stdin=article.encode()).stdout == printed
    assert call("run", NEWS, article, "--budget", "100w").stdout == printed
    call("run", NEWS, "article.txt", "-o", "out.html", "--query", "shops")
    assert "<mark" in (tmp_path / "out.html").read_text(encoding="utf-8")
    [record] = call_json("run", NEWS, "sample:article", "--budget", "2")
    assert len(record["chosen"]) == 2 and record["output"] is None


def test_a_folder_of_reviews_one_by_one_and_together(call, tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    (folder / "a.txt").write_text("The battery lasts long. The screen is dark.")
    (folder / "b.txt").write_text("A battery that lasts. I like the keys.")
    call("run", NEWS, "reviews", "-o", "each", "--budget", "1")
    assert sorted(path.name for path in (tmp_path / "each").glob("*.txt")) == [
        f"a-{NEWS}.txt", f"b-{NEWS}.txt",
    ]  # fmt: skip
    together = call("run", NEWS, "reviews", "--together", "--budget", "1").stdout
    assert "battery" in together and len(together.splitlines()) == 1
    call("run", NEWS, "reviews", "--together", "-o", "all.txt")
    assert (tmp_path / "all.txt").read_text().startswith("The battery")


def test_summaries_of_two_settings_side_by_side(call, tmp_path):
    call("compare", "sample:article", NEWS, "--vary", "threshold=null,0.1")
    assert (tmp_path / "article-compare.png").stat().st_size > 5000


def test_texts_that_cannot_be_summarised(call, tmp_path):
    (tmp_path / "latin.txt").write_bytes("café ".encode("latin-1"))
    assert "save it as UTF-8" in call("run", NEWS, "latin.txt", code=1).stderr
    assert "no sentences to rank" in call("run", NEWS, " ", code=1).stderr
    said = call("run", NEWS, "sample:article", "--budget", "5 pages", code=1).stderr
    assert "is not a length; write 100w" in said


def test_a_blank_file_is_left_out_wherever_it_stands(call, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in {"a.txt": "  ", "b.txt": "One old bridge.", "c.txt": "Cats sleep."}.items():
        (folder / name).write_text(text)
    said = call("run", NEWS, "texts", "-o", "out", "--budget", "1", code=1)
    assert "Left out texts/a.txt: there are no sentences" in said.stderr
    assert len(list((tmp_path / "out").glob("*.txt"))) == 2
    again = call("run", NEWS, "texts", "-o", "out", "--budget", "1", code=1)
    assert "Left out texts/a.txt" in again.stderr
