"""Naming pictures among any classes, and what is said of the answer."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from salhub.models.disa.pipeline_disa import ZeroShotImageClassificationPipeline
from salhub.models.disa.result_disa import ZeroShotImageClassificationResult
from tests import small_clip
from tests.models.disa.small_disa import NAMES, base_folder, small_model


def pipeline(**settings):
    image_processor = small_clip.processor().image_processor
    return ZeroShotImageClassificationPipeline.from_model(
        small_model(**settings), image_processor=image_processor
    )


def photo(width=30, height=20):
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_a_picture_is_named_among_the_classes_of_the_model(tmp_path):
    result = pipeline()(photo())
    assert sorted(result.labels) == sorted(NAMES)
    assert sum(result.scores) == pytest.approx(1, abs=1e-5)
    assert result.scores == sorted(result.scores, reverse=True)
    assert sum(result.frozen_scores) == pytest.approx(1, abs=1e-5)
    assert result.explained == result.label
    assert result.saliency.shape == (4, 4) and result.kept.sum() == 11
    assert result.raw().shape == (20, 30)
    assert result.viewed_box == pytest.approx((5, 0, 25, 20))
    result.save(tmp_path / "out.json")
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["label"] == result.label and saved["patches_kept"] == 11
    for view in result.views:
        result.save(tmp_path / f"{view}.png", view=view)
        assert Image.open(tmp_path / f"{view}.png").width > 20
    assert f"'{result.label}'" in result.summary() and "frozen CLIP" in result.summary()
    assert ZeroShotImageClassificationResult.compare({"a": result, "b": result}).width > 300


def test_dark_patches_are_those_that_training_hides():
    result = pipeline(mask_ratio=0.5)(photo(32, 32))
    assert result.kept.sum() == 8
    given, shown = np.asarray(result.image, float), np.asarray(result.mask_picture(), float)
    for row in range(4):
        for column in range(4):
            cell = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            light = 1.0 if result.kept[row, column] else 0.2
            np.testing.assert_allclose(shown[cell], light * given[cell], atol=0.51)


def test_what_clip_did_not_see_is_pale():
    result = pipeline()(photo())  # 30 x 20, of which the middle 20 are seen
    given, shown = np.asarray(result.image, float), np.asarray(result.mask_picture(), float)
    np.testing.assert_allclose(shown[:, :5], 255 - (255 - given[:, :5]) / 4, atol=0.51)
    assert (shown[:, 5:25] <= given[:, 5:25] + 0.51).all()


def test_classes_are_whatever_a_call_names():
    classify = pipeline()
    listed = classify(photo(), candidate_labels=["red car", "old tree"])
    assert set(listed.labels) == {"red car", "old tree"}
    written = classify(photo(), candidate_labels="red car, old tree")
    assert written.to_dict() == listed.to_dict()
    german = classify(photo(), candidate_labels={"Auto": "red car", "Baum": "old tree"})
    assert set(german.labels) == {"Auto", "Baum"} and german.scores == listed.scores
    assert german.explained == german.label
    assert dict(zip(german.labels, german.texts, strict=True))["Auto"] == "red car"
    first = classify(photo(), candidate_labels=["red car", "old tree", "house"], top_k=1)
    assert len(first.labels) == 1
    assert "2 of the 3 classes are not shown." in first.notes
    own = ", ".join(classify.model.config.class_names)
    for result in classify([photo(), photo()]):
        assert f"those of the model were compared: {own}. Name yours" in result.summary()
    assert "You named no classes" not in " ".join(listed.notes + first.notes)


def test_saved_prompts_alone_take_the_pictures_of_their_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(base_folder().parent)
    model = small_model()
    model.save_pretrained(tmp_path / "prompts")
    expected = pipeline()(photo())
    monkeypatch.chdir(tmp_path)  # the folder of the CLIP is found from anywhere
    result = ZeroShotImageClassificationPipeline.from_model(
        type(model).from_pretrained("prompts")
    )(photo())  # fmt: skip
    assert result.labels == expected.labels
    assert result.scores == pytest.approx(expected.scores, abs=1e-6)


def test_several_pictures_pass_together():
    classify = pipeline()
    photos = [photo(), photo(40, 24), photo(20, 20)]
    together = classify(photos, batch_size=3)
    for one, result in zip(photos, together, strict=True):
        alone = classify(one)
        assert alone.labels == result.labels
        assert alone.scores == pytest.approx(result.scores, abs=1e-5)
        np.testing.assert_allclose(alone.saliency, result.saliency, atol=1e-4)


def test_the_map_is_of_what_is_asked_for():
    classify = pipeline()
    one = classify(photo(), explain="a red car")
    two = classify(photo(), explain="cat")
    assert one.explained == "a red car"
    assert np.abs(one.saliency - two.saliency).max() > 0
    assert one.scores == two.scores
    assert classify(photo(), compare_frozen=False).frozen_scores is None
    half = classify(photo(), mask_ratio=0.5, saliency="cls")
    assert half.kept.sum() == 8 and classify.model.config.mask_ratio == 0.3


def test_a_clip_without_prompts_is_taken_as_it_is():
    classify = ZeroShotImageClassificationPipeline.from_model(
        small_clip.CLIPModel.from_pretrained(base_folder()),
        image_processor=small_clip.processor().image_processor,
    )
    result = classify(photo(), candidate_labels=["cat", "dog"])
    assert result.method == "zero_shot" and result.frozen_scores is None
    with pytest.raises(ValueError, match="This model has no classes of its own"):
        classify(photo())


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"candidate_labels": []}, ValueError, "candidate_labels has no name"),
        ({"candidate_labels": "cat, , dog"}, ValueError, "has a blank name"),
        ({"candidate_labels": ["cat", "cat"]}, ValueError, "has 'cat' twice"),
        ({"candidate_labels": ["zebra " * 9]}, ValueError, "is too long"),
        (
            {"candidate_labels": ["Cat", "dog", "cat"]},
            ValueError,
            "cannot tell 'Cat' and 'cat' apart",
        ),
        ({"explain": " "}, ValueError, "explain must be a text, got"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1"),
        ({"compare_frozen": 1}, TypeError, "compare_frozen must be True or False"),
        ({"mask_ratio": 1.0}, ValueError, "mask_ratio must be at least 0 and below 1"),
        ({"candidate_label": ["cat"]}, ValueError, "Did you mean 'candidate_labels'"),
        ({"n_ctx_text": 3}, ValueError, "can only be set when the model is loaded"),
    ],
)
def test_bad_settings_are_refused(settings, kind, message):
    with pytest.raises(kind, match=message):
        pipeline()(photo(), **settings)


def test_the_best_few_leave_the_frozen_answer_as_it_is(monkeypatch):
    classify, names = pipeline(), ["cat", "dog", "sea bird", "house"]
    everything = classify(photo(), candidate_labels=names)
    likeliest = everything.labels[-1]
    frozen = torch.tensor([[float(name == likeliest) for name in names]])
    monkeypatch.setattr(classify.model, "zero_shot_logits", lambda pixels, names: frozen)
    best = classify(photo(), candidate_labels=names, top_k=1)
    assert best.labels == everything.labels[:1]
    assert best.frozen_label == likeliest
    assert best.frozen_score == pytest.approx(float(frozen.softmax(-1).max()))
    assert f"is the most likely of 4 classes; the frozen CLIP says '{likeliest}'" in best.summary()
    assert best.to_dict()["frozen_label"] == likeliest


def test_names_too_long_for_the_frozen_sentences_are_refused_before_any_picture(monkeypatch):
    classify = pipeline()
    monkeypatch.setattr(classify, "preprocess", None)
    classify.model.check_classes(["cat", "zebra"])  # which is short enough for the prompts
    with pytest.raises(ValueError, match=r"a zebra\.' has 25 tokens"):
        classify(photo(), candidate_labels=["cat", "zebra"])


def test_one_class_alone_is_said():
    result = pipeline()(photo(), candidate_labels="cat")
    assert "You gave only one class, so it has all of the probability" in " ".join(result.notes)
    assert "most likely of 1 class;" in result.summary()


def test_a_class_is_explained_by_its_own_word():
    classify, names = pipeline(), {"Katze": "cat", "Haus": "house"}
    one = classify(photo(), candidate_labels=names, explain="Haus")
    other = classify(photo(), candidate_labels=names, explain="house")
    assert one.explained == other.explained == "Haus"
    assert np.array_equal(one.saliency, other.saliency)


def test_doubts_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        result = pipeline()(Image.new("RGB", (32, 32)))
    assert "The picture has only one colour, so there is nothing to recognize." in result.notes
