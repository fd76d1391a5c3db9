"""Pictures of all shapes through the pipeline: the map covers them, and what was done is said."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    PreTrainedConfig,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import salhub
from salhub.pipelines.doubts import doubts_of_scores
from salhub.pipelines.image_classification import ImageClassificationPipeline

SHAPES = [(60, 40), (40, 60), (48, 48), (8, 8), (300, 30)]


def photo(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def resnet(**settings):
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        **{"num_labels": 4, **settings},
    )  # fmt: skip
    return ResNetForImageClassification(config).eval()


def vit(**settings):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, num_labels=4, **settings,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


def cropping():
    return ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875)


def squeezing(**settings):
    return ViTImageProcessorPil(size={"height": 32, "width": 32}, **settings)


def explaining(network, processor, method="normgrad", **settings):
    return salhub.pipeline(method, classifier=network, image_processor=processor, **settings)


def scores_of(network, pixels):
    with torch.no_grad():
        return network(pixels).logits[0].softmax(-1)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize(
    ("network", "processor", "fits"),
    [
        (resnet, cropping, {"whole"}),
        (vit, cropping, {"letterbox"}),
        (vit, squeezing, {"squeeze", "whole"}),
        (resnet, squeezing, {"squeeze", "whole"}),
    ],
)
def test_the_map_covers_the_picture(network, processor, fits, size):
    explain = explaining(network(), processor())
    picture = photo(*size)
    result = explain(picture)
    assert result.fit in fits
    assert result.saliency.shape == (picture.height, picture.width)
    left, top, right, bottom = result.viewed_box
    assert left <= 0.5 and top <= 0.5
    assert right >= picture.width - 0.5 and bottom >= picture.height - 0.5
    view = explain.view(picture)
    # What is reported is of the input that was really used.
    scores = scores_of(explain.model.backbone, view.fitted.pixel_values)
    assert result.probability == pytest.approx(float(scores.max()), abs=1e-5)
    assert result.class_label == int(scores.argmax())


@pytest.mark.parametrize(
    ("network", "processor", "size", "words"),
    [
        (vit, cropping, (480, 30), "and its shorter side to 2"),
        (vit, cropping, (30, 480), "or set fit='crop'."),
        (vit, squeezing, (480, 30), "The image processor squeezed the picture 16"),
        (vit, cropping, (60, 40), None),
        (vit, squeezing, (90, 40), None),
    ],
)
def test_a_picture_of_which_little_is_left_is_to_be_cut(network, processor, size, words):
    view = explaining(network(), processor()).view(photo(*size))
    [note] = view.notes([], None)
    assert (
        words in note
        if words
        else "Little detail is left: crop the picture to the part that matters" not in note
    )
    assert ("Little detail is left: crop the picture to the part that matters" in note) == (
        words is not None
    )


def test_salient_relevance_goes_the_same_way():
    explain = explaining(resnet(), cropping(), "salient_relevance")
    whole, crop = explain(photo(60, 40)), explain(photo(60, 40), fit="crop")
    assert whole.saliency.shape == crop.saliency.shape == (40, 60)
    assert (whole.fit, crop.fit) == ("whole", "crop")


class FixedSize(nn.Module):
    """Takes 32 x 32 pixels only, as a network with a flattened head does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8 * 16 * 16, 4)

    def forward(self, pixels):
        return self.head(self.features(pixels).flatten(1))


def test_bars_stay_inside_the_bounds_of_the_box_rule():
    explain = explaining(FixedSize().eval(), cropping(), "salient_relevance", preset="deep_taylor")
    result = explain(photo(90, 30))
    assert result.fit == "letterbox" and any(
        "so the whole picture was shrunk to fit, with bars at its" in one for one in result.notes
    )


class ManyRows(FixedSize):
    """Answers a larger picture with more rows of logits, and without an error."""

    def forward(self, pixels):
        return self.head(self.features(pixels).reshape(-1, 8 * 16 * 16))


def test_a_network_that_answers_otherwise_does_not_take_any_size():
    explain = explaining(ManyRows().eval(), cropping())
    assert explain(photo(96, 64)).fit == "letterbox"


def test_crop_is_what_the_image_processor_does():
    network, processor = resnet(), cropping()
    picture = photo(60, 40)
    result = explaining(network, processor, fit="crop")(picture)
    assert result.fit == "crop"
    assert any("only the middle of the picture" in note for note in result.notes)
    scores = scores_of(network, processor(picture, return_tensors="pt")["pixel_values"])
    assert result.probability == pytest.approx(float(scores.max()), abs=1e-6)
    with pytest.raises(ValueError, match=r"fit must be one of whole, crop.*Did you mean 'whole'"):
        explaining(network, processor)(picture, fit="hole")


def test_another_answer_of_the_crop_is_said():
    network, processor = resnet(), cropping()
    explain = explaining(network, processor)
    with torch.no_grad():
        network.classifier[1].weight.mul_(40)  # far from a tie
    for seed in range(40):
        picture = photo(96, 32, seed)
        whole, crop = explain(picture), explain(picture, fit="crop")
        said = [note for note in whole.notes if "fit='crop'" in note]
        assert bool(said) == (whole.class_label != crop.class_label)
        if said:
            assert f"'{crop.label}'" in said[0]
            break
    else:
        pytest.fail("no picture of which the crop is answered otherwise")


def test_batches_of_mixed_sizes_agree_with_singles():
    explain = explaining(resnet(), cropping())
    pictures = [photo(*size) for size in SHAPES]
    for alone, together in zip(
        map(explain, pictures), explain(pictures, batch_size=3), strict=True
    ):
        assert alone.notes == together.notes and alone.fit == together.fit
        np.testing.assert_allclose(alone.saliency, together.saliency, atol=1e-5)


def test_photos_are_turned_upright_and_large_ones_fit(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    photo(4000, 3000).save(path, exif=exif)
    result = explaining(resnet(), cropping())(path)
    assert result.image.size == (3000, 4000)
    assert result.saliency.shape == (4000, 3000) and result.fit == "whole"
    panorama = explaining(resnet(), cropping()).view(photo(10_000, 1_000))
    assert panorama.fitted.pixel_values[0, 0].numel() <= 4 * 32 * 32


# --- what scores mean -------------------------------------------------------------------------


def with_biases(network, biases):
    with torch.no_grad():
        network.classifier[1].weight.mul_(1e-6)
        network.classifier[1].bias.copy_(torch.tensor(biases))
    return network


def predict(network, method="normgrad"):
    return explaining(network, cropping(), method)(photo(48, 48))


def test_labels_that_do_not_exclude_each_other_are_shown_each_by_itself():
    several = with_biases(resnet(problem_type="multi_label_classification"), [3.4, 3.3, 3.2, -2.0])
    result = predict(several)
    shown = [round(100 * score) for *_, score in result.predictions]
    assert shown == [97, 96, 96, 12] and result.score_function == "sigmoid"
    doubts = [note for note in result.notes if "hardly depends on the class" not in note]
    assert doubts == [] and ", 97 %." in result.summary()
    none = predict(with_biases(several, [-2.0, -3.0, -4.0, -5.0]))
    assert "finds none of its classes" in none.notes[0] and "12 %" in none.notes[0]


def test_one_output_is_a_probability_and_a_number_is_none():
    alone = predict(with_biases(resnet(num_labels=1), [-2.0]))
    assert alone.probability == pytest.approx(0.1192, abs=1e-3)
    regression = resnet(num_labels=2, problem_type="regression")
    number = predict(with_biases(regression, [3.21, -40.0]))
    assert number.probability == pytest.approx(3.21) and "%" not in number.summary()
    data = number.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["value"] == pytest.approx(3.21) and "probability" not in data
    assert number.plot().size == predict(regression, "salient_relevance").plot().size


# --- doubts -------------------------------------------------------------------------------------


def test_an_unsure_network_says_so_before_the_map():
    result = predict(with_biases(resnet(num_labels=10), [0.1] + [0.0] * 9))
    assert result.summary().startswith("The network is unsure: the most likely class, 'LABEL_0'")
    assert result.to_dict()["notes"] == result.notes
    sure = predict(with_biases(resnet(), [9.0, 0.0, 0.0, 0.0]))
    # Its weights are drawn at random, so nothing but the biases tells the classes apart.
    assert all(note.startswith("This map hardly depends") for note in sure.notes)
    assert "LABEL_0, " in sure.summary()
    tie = predict(with_biases(resnet(), [5.0, 4.9, 0.0, 0.0]))
    assert "undecided between 'LABEL_0' (52 %) and 'LABEL_1' (47 %)" in tie.notes[0]


@pytest.mark.parametrize(
    ("scores", "unsure"),
    [((0.33, 0.06), True), ((0.37, 0.06), False), ((0.60, 0.37), True), ((0.60, 0.35), False)],
)
def test_an_answer_is_in_doubt_when_it_is_low_or_another_is_near(scores, unsure):
    predictions = [(f"class {place}", place, score) for place, score in enumerate(scores)]
    assert bool(doubts_of_scores(predictions, "softmax")) == unsure
    assert not doubts_of_scores([(*predictions[0][:2], 0.4)], "softmax")


def test_an_answer_of_one_class_is_in_doubt_for_the_next_one():
    network = with_biases(resnet(), [5.0, 4.9, 0.0, 0.0])
    classify = ImageClassificationPipeline(network, image_processor=squeezing())
    result = classify(photo(60, 40), top_k=1)
    assert result.labels == ["LABEL_0"] and "and 'LABEL_1' (47 %)" in result.notes[0]


def test_the_photo_of_a_rocket_is_called_a_drilling_platform_with_doubt():
    result = salhub.pipeline("gradcam-efficientnet-lite0", device="cpu")("sample:rocket")
    assert "the most likely class, 'drilling platform', has only 33 %" in result.notes[0]


def test_pictures_in_which_there_is_nothing_are_told():
    explain = explaining(resnet(), cropping())
    assert "only one colour" in explain(Image.new("RGB", (50, 40))).notes[0]
    assert (
        "only 8 x 8 pixels; it was enlarged 4 times for the network"
        in explain(photo(8, 8)).notes[0]
    )


def test_a_constant_map_is_not_drawn():
    network = resnet()
    with torch.no_grad():
        network.classifier[1].weight.copy_(-network.classifier[1].weight.abs())
    # Grad-CAM keeps what speaks for a class, and nothing does.
    result = explaining(network, cropping(), method="normgrad")(photo(48, 48), method="grad_cam")
    assert result.degenerate and "constant" in result.summary()
    assert "set method='norm_grad'" in result.notes[-1]
    assert np.ptp(np.asarray(result.overlay()).astype(int), axis=-1).max() == 0


# --- grey ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["normgrad", "salient_relevance"])
def test_a_grey_classifier_is_explained(method):
    result = explaining(resnet(num_channels=1), squeezing(), method)(photo(60, 40))
    assert result.saliency.shape == (40, 60) and result.image.mode == "RGB"


def test_a_grey_classifier_classifies(tmp_path):
    network = resnet(num_channels=1, problem_type="multi_label_classification")
    classify = ImageClassificationPipeline(network, image_processor=squeezing())
    result = classify(photo(60, 40))
    assert result.score_function == "sigmoid" and 0.3 < min(result.scores) < 0.7
    assert (
        result.plot().size[0] > 300
        and "Longer bars mean more likely classes" not in result.summary()
    )
    number = with_biases(resnet(num_labels=1, problem_type="regression"), [27.5])
    number = ImageClassificationPipeline(number, image_processor=squeezing())(photo(60, 40))
    assert number.score == pytest.approx(27.5)
    assert "%" not in number.summary() and number.plot().size[0] > 300


def test_the_function_of_scores_is_that_of_transformers():
    from salhub.ops.class_scores import score_function

    kinds = {
        (None, 3): "softmax", (None, 1): "sigmoid", ("regression", 1): "none",
        ("regression", 5): "none", ("multi_label_classification", 3): "sigmoid",
        ("single_label_classification", 3): "softmax",
    }  # fmt: skip
    for (problem_type, count), expected in kinds.items():
        config = PreTrainedConfig(num_labels=count, problem_type=problem_type)
        assert score_function(config, count) == expected
