"""Classifying pictures: from a folder and a picture to a result, and what a person gets."""

import io
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import salhub
from salhub import SalUnConfig, SalUnForImageClassification
from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.data.samples import sample_path
from salhub.entries import TASKS
from salhub.errors import NoImageProcessorError
from salhub.pipelines.image_classification import ImageClassificationPipeline
from salhub.pipelines.image_classification_result import ImageClassificationResult

NAMES = dict(
    enumerate(("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"))
)
PICTURES = ["sample:cat", "sample:coffee", "sample:rocket"]


def small_model() -> SalUnForImageClassification:
    torch.manual_seed(0)
    network = {"model_type": "salhub_cifar_resnet", "depth": 8, "width": 8, "id2label": NAMES}
    return SalUnForImageClassification(SalUnConfig(backbone_config=network)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small-salun"
    small_model().save_pretrained(folder)
    CifarResNetImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classify(folder):
    return salhub.pipeline(folder)


def result(**fields):
    photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    defaults = {
        "image": Image.fromarray(photo),
        "labels": ["cat", "dog", "frog"],
        "scores": [0.62, 0.3, 0.004],
        "class_labels": [3, 5, 6],
        "model_name": "salhub/salun-resnet8-cifar10",
    }
    return ImageClassificationResult(**{**defaults, **fields})


# --- from a name to a result ----------------------------------------------------------------------


def test_a_photo_is_classified_as_the_model_does(classify, folder):
    assert type(classify) is ImageClassificationPipeline
    found = classify("sample:cat")
    pixels = CifarResNetImageProcessor()("sample:cat", return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        scores = small_model()(pixels).logits[0].softmax(0)
    order = scores.argsort(descending=True)[:5].tolist()
    assert found.class_labels == order
    assert found.labels == [NAMES[index] for index in order]
    assert found.scores == pytest.approx(scores[order].tolist(), abs=1e-6)
    assert (found.label, found.score) == (found.labels[0], found.scores[0])
    assert found.model_name == str(folder)
    assert found.image.size == (451, 300)


def test_the_number_of_classes_named_is_chosen_in_a_call_or_for_all_of_them(classify, folder):
    assert len(classify("sample:cat", top_k=2).labels) == 2
    everything = classify("sample:cat", top_k=99)
    assert len(everything.labels) == 10 and sum(everything.scores) == pytest.approx(1)
    assert len(salhub.pipeline(folder, top_k=3)("sample:cat").labels) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_agree_with_singles(classify, batch_size):
    together = classify(PICTURES, batch_size=batch_size)
    for picture, found in zip(PICTURES, together, strict=True):
        alone = classify(picture)
        assert found.class_labels == alone.class_labels
        assert found.scores == pytest.approx(alone.scores, abs=1e-5)
        assert found.image.size == alone.image.size


def test_generators_are_worked_through_one_by_one(classify):
    asked = []

    def pictures():
        for picture in PICTURES:
            asked.append(picture)
            yield picture

    found = classify(pictures())
    assert next(iter(found)).labels == classify("sample:cat").labels
    assert len(asked) < len(PICTURES)
    assert classify([]) == []


def test_a_loaded_model_and_one_made_here(classify, folder):
    loaded = SalUnForImageClassification.from_pretrained(folder)
    expected = classify("sample:cat").scores
    assert salhub.pipeline(loaded, top_k=5)("sample:cat").scores == pytest.approx(expected)
    processor = CifarResNetImageProcessor()
    own = salhub.pipeline(small_model(), image_processor=processor)("sample:cat")
    assert own.scores == pytest.approx(expected) and own.model_name == ""
    with pytest.raises(ValueError, match="The classifier needs its image processor to prepare"):
        salhub.pipeline(small_model())
    with pytest.raises(ValueError, match="'forget' can be set only for a model loaded by name"):
        salhub.pipeline(loaded, forget="class:3")


def test_half_precision(classify, folder):
    half = salhub.pipeline(folder, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half("sample:cat").scores == pytest.approx(classify("sample:cat").scores, abs=0.02)


def test_a_folder_without_an_image_processor_says_how_to_save_one(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(NoImageProcessorError, match=r"image_processor\.save_pretrained"):
        salhub.pipeline(tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ({"top_k": 2.5}, TypeError, "top_k must be a whole number, got 2.5"),
        ({"top_k": True}, TypeError, "whole number"),
        ({"topk": 3}, ValueError, "has no setting 'topk'.*Did you mean 'top_k'"),
    ],
)
def test_bad_settings_are_refused(classify, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        classify("sample:cat", **settings)


def test_a_classifier_of_somebody_else_is_not_explained(folder):
    with pytest.raises(
        ValueError, match="' does not explain classifiers; give the name of one of its"
    ):
        salhub.pipeline("salun", classifier=folder)
    with pytest.raises(
        ValueError, match="' does not explain classifiers; give the name of one of its"
    ):
        salhub.pipeline(folder, classifier=folder)


# --- transformers ---------------------------------------------------------------------------------


def test_transformers_keeps_its_own_pipeline_and_it_works_with_our_models(classify, folder):
    theirs = transformers.pipeline("image-classification", model=str(folder), top_k=3)
    assert type(theirs) is transformers.ImageClassificationPipeline
    answers = theirs(Image.open(sample_path("cat")))
    ours = classify("sample:cat", top_k=3)
    assert [answer["label"] for answer in answers] == ours.labels
    assert [answer["score"] for answer in answers] == pytest.approx(ours.scores, abs=1e-5)


def test_no_task_of_transformers_is_replaced():
    from transformers.pipelines import SUPPORTED_TASKS

    for task in TASKS.values():
        is_ours = SUPPORTED_TASKS[task.name]["impl"] is task.pipeline_class
        assert is_ours is not task.is_transformers_own


@pytest.mark.parametrize(
    ("forget", "method", "said"),
    [
        ("class:cat", "salun", ["This model was made to forget 'cat'"]),
        ("class:3, dog", "retrain", ["This model was trained without 'cat', 'dog'"]),
        ("random:0.1", "salun", []),
        (None, None, []),
    ],
)
def test_classes_that_were_forgotten_are_said_to_be(classify, monkeypatch, forget, method, said):
    monkeypatch.setattr(classify.model.config, "forget", forget)
    monkeypatch.setattr(classify.model.config, "unlearn_method", method)
    found = classify("sample:cat")
    assert [note.partition(":")[0] for note in classify.model.config.answer_notes] == said
    notes = [note.partition(":")[0] for note in found.notes if note.startswith("This model")]
    assert notes == said
    assert set(found.notes) == set(found.to_dict()["notes"])
    assert all(note in found.summary() for note in found.notes)


def test_a_network_without_a_record_of_its_own_says_it_too(tmp_path):
    network = salhub.pipeline("salhub/deit-nano-cifar10")
    network.model.config.answer_notes = ["This model was made to forget 'cat'."]
    network.save_pretrained(tmp_path)
    assert "This model was made to forget 'cat'." in salhub.pipeline(tmp_path)("sample:cat").notes


# --- what a person gets ---------------------------------------------------------------------------


def test_the_dictionary_is_json_and_complete():
    data = result(scores=[np.float32(0.5), 0.25, float("nan")]).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["label"], data["class_label"], data["score"]) == ("cat", 3, 0.5)
    assert data["predictions"][1] == {"label": "dog", "class_label": 5, "score": 0.25}
    assert data["predictions"][2]["score"] is None
    assert (data["width"], data["height"]) == (48, 32)
    assert data["model"] == "salhub/salun-resnet8-cifar10"


def test_the_summary_is_one_sentence():
    assert result().summary() == (
        "'cat' (62 %) is the most likely class, then 'dog' (30 %), 'frog' (under 1 %)."
    )
    alone = result(labels=["cat"], scores=[1.0], class_labels=[3])
    assert alone.summary() == "'cat' (100 %) is the most likely class."
    few = result(num_classes=10)
    choice = "The network always chooses one of its 10 classes."
    assert few.summary() == f"{result().summary()} {choice}"
    assert few.to_dict()["num_classes"] == 10
    for others in ({"num_classes": 1000}, {"num_classes": 10, "score_function": "sigmoid"}):
        assert "always chooses" not in result(**others).summary()


def test_the_figure_shows_the_picture_with_sharp_pixels_beside_bars():
    figure = np.asarray(result().plot()).astype(int)
    # 48 pixels fit 7 times into 360, so that most of a picture's pixels are flat squares.
    row = figure[figure.shape[0] // 2, 24 : 24 + 360]
    assert (np.abs(np.diff(row, axis=0)).sum(axis=-1) < 30).mean() > 0.5
    bars = figure[:, 24 + 360 + 16 :]
    dark, pale = ((bars == color).all(axis=-1) for color in ((33, 145, 140), (156, 201, 198)))
    widths = [area.sum(axis=1).max() for area in (dark, pale)]
    assert widths[0] == pytest.approx(0.62 * 336, abs=2)
    assert widths[1] == pytest.approx(0.3 * 336, abs=2)


def test_saving_follows_the_ending(tmp_path):
    found = result()
    assert found.save(tmp_path / "a.png") == tmp_path / "a.png"
    assert Image.open(tmp_path / "a.png").size == found.plot().size
    found.save(tmp_path / "b.jpg")
    found.save(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == found.to_dict()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match=r"' has an unknown ending; use one of"):
        found.save(tmp_path / "d.npy")
    with pytest.raises(ValueError, match="view must be one of plot"):
        found.save(tmp_path / "d.png", view="overlay")


def test_notebooks_show_the_figure():
    picture = Image.open(io.BytesIO(result()._repr_png_()))
    assert np.array_equal(np.asarray(picture), np.asarray(result().plot()))
    assert repr(result()) == (
        "ImageClassificationResult('cat', score 62 %, 48 x 32 pixels, "
        "model 'salhub/salun-resnet8-cifar10')"
    )


def test_results_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="3 names, 2 scores and 3 indices"):
        result(scores=[0.5, 0.5])
    with pytest.raises(ValueError, match="at least one class"):
        result(labels=[], scores=[], class_labels=[])


def test_comparisons_show_every_result_once():
    compare = ImageClassificationPipeline.compare
    one = compare({"original": result()})
    two = compare({"original": result(), "unlearned": result(scores=[0.1, 0.05, 0.01])})
    assert two.width - one.width == 360 + 16
    with pytest.raises(ValueError, match="no result"):
        compare({})
    with pytest.raises(ValueError, match="different sizes"):
        compare({"a": result(), "b": result(image=Image.new("RGB", (8, 8)))})
