"""`salhub.pipeline`: from a name and a picture to a result."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import (
    AutoImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import salhub
from salhub.data.samples import sample_path
from salhub.errors import ModelNotFoundError, UnknownNameError

NAME = "salhub/normgrad-efficientnet-lite0"


@pytest.fixture(scope="module")
def explain():
    return salhub.pipeline(NAME)


@pytest.fixture(scope="module")
def vision_transformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(str(processor).replace("'", '"'))
    return folder


def test_a_photo_is_explained_in_its_own_size(explain):
    photo = Image.open(sample_path("cat"))
    result = explain(str(sample_path("cat")))
    assert result.saliency.shape == (photo.height, photo.width)
    assert result.saliency.dtype == np.float32
    assert result.label in {"tabby", "tiger cat", "Egyptian cat"}
    assert result.predictions[0][2] == pytest.approx(result.probability)
    assert result.model_name == NAME
    assert not result.degenerate


def test_the_namespace_may_be_left_out():
    assert salhub.pipeline("gradcam-efficientnet-lite0")("sample:cat").model_name.startswith(
        "salhub/"
    )


def test_a_method_alone_gives_its_default_model():
    assert salhub.pipeline("normgrad").model.config.name_or_path == NAME


def test_a_list_gives_a_list_and_batches_agree_with_singles(explain):
    pictures = ["sample:cat", str(sample_path("coffee"))]
    together = explain(pictures, batch_size=2)
    for picture, result in zip(pictures, together, strict=True):
        alone = explain(picture)
        assert alone.label == result.label
        np.testing.assert_allclose(
            alone.saliency, result.saliency, atol=1e-5 * alone.saliency.max()
        )


def test_a_class_may_be_named_or_numbered(explain):
    named = explain("sample:cat", class_labels="tiger cat")
    numbered = explain("sample:cat", class_labels=282)
    assert (named.class_label, named.label) == (282, "tiger cat")
    np.testing.assert_array_equal(named.saliency, numbered.saliency)
    assert not np.array_equal(named.saliency, explain("sample:cat").saliency)


def test_settings_change_the_model():
    result = salhub.pipeline(NAME, method="grad_cam", layers=["blocks.15"])("sample:cat")
    assert result.saliency.min() >= 0


def test_unknown_names_settings_and_classes_are_refused(explain):
    with pytest.raises(ValueError, match=r"no class 'tiger catt'.*Did you mean 'tiger cat'"):
        explain("sample:cat", class_labels="tiger catt")
    with pytest.raises(ValueError, match=r"no class 'cat'.*Did you mean 'tiger cat'"):
        explain("sample:cat", class_labels="cat")
    with pytest.raises(ValueError, match="class 1000 is out of range"):
        explain("sample:cat", class_labels=1000)
    with pytest.raises(
        ValueError, match=r"has no setting 'class_label'.+Did you mean 'class_labels'"
    ):
        explain("sample:cat", class_label=3)
    with pytest.raises(ModelNotFoundError, match="Did you mean 'normgrad-efficientnet-lite0'"):
        salhub.pipeline("salhub/normgrad-efficientnet-lite")
    with pytest.raises(Exception, match="Did you mean 'grad_cam'"):
        salhub.pipeline(NAME, method="gradcam")
    with pytest.raises(
        UnknownNameError, match="' is a network, not a method; give the name of a method and"
    ):
        salhub.pipeline("salhub/efficientnet-lite0")


def test_a_model_that_brings_a_classifier_takes_no_other(vision_transformer):
    with pytest.raises(ValueError, match="name the method"):
        salhub.pipeline(NAME, classifier=vision_transformer)


def test_a_classifier_of_the_user_by_folder(vision_transformer):
    explain = salhub.pipeline("normgrad", classifier=vision_transformer)
    result = explain("sample:cat", class_labels="dog")
    assert (result.label, result.class_label) == ("dog", 1)
    explain.model.config.backbone_config.id2label = {0: "1", 1: "0"}
    for asked, index in (("1", 0), ("0", 1), (1, 1)):
        assert explain("sample:cat", class_labels=asked).class_label == index
    height, width = result.saliency.shape
    # A vision transformer's processor squashes the whole picture, so all of it was seen.
    assert tuple(result.viewed_box) == (0, 0, width, height)


def test_a_classifier_object_needs_its_processor(vision_transformer):
    network = ViTForImageClassification.from_pretrained(vision_transformer)
    with pytest.raises(ValueError, match="The classifier needs its image processor to prepare"):
        salhub.pipeline("normgrad", classifier=network)
    processor = AutoImageProcessor.from_pretrained(vision_transformer, backend="pil")
    explain = salhub.pipeline("normgrad", classifier=network, image_processor=processor)
    assert explain("sample:cat").saliency.shape == (300, 451)


def test_a_loaded_model_becomes_a_pipeline():
    model = salhub.AutoModelForSaliency.from_pretrained(NAME)
    assert salhub.pipeline(model)("sample:cat").label


def test_a_saved_pipeline_holds_a_model_and_no_code(tmp_path):
    folder = Path(__file__).parents[1] / "former" / "normgrad"
    salhub.pipeline(folder).save_pretrained(tmp_path)
    names = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    picture = folder.parent / "picture.png"
    found = transformers.pipeline("image-saliency", model=os.fspath(tmp_path))(os.fspath(picture))
    assert np.array_equal(found.saliency, salhub.pipeline(folder)(picture).saliency)


def test_plain_transformers_pipelines_know_the_task(tmp_path, explain):
    explain.model.save_pretrained(tmp_path)
    explain.image_processor.save_pretrained(tmp_path)
    result = transformers.pipeline("image-saliency", model=str(tmp_path))("sample:cat")
    np.testing.assert_allclose(result.saliency, explain("sample:cat").saliency, atol=1e-6)


def test_half_precision(explain):
    result = salhub.pipeline(NAME, dtype="bfloat16", fit="crop")("sample:cat")
    exact = explain("sample:cat", fit="crop")
    correlation = np.corrcoef(result.saliency.ravel(), exact.saliency.ravel())[0, 1]
    assert correlation > 0.9


def test_a_method_learns_from_the_image_processor_what_it_needs(vision_transformer, tmp_path):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=5, layer_type="basic"
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(vision_transformer, backend="pil")
    processor.save_pretrained(tmp_path)
    explain = salhub.pipeline("salient-relevance", classifier=tmp_path)
    # Pixels of 0..255 become -1..1 with a mean and deviation of one half.
    assert explain.model.config.input_low == pytest.approx([-1] * 3)
    assert explain.model.config.input_high == pytest.approx([1] * 3)
    assert explain("sample:cat").saliency.shape == (300, 451)


def test_every_picture_may_have_its_own_class(explain):
    pictures, labels = ["sample:cat", "sample:coffee"], ["Egyptian cat", 968]
    for batch_size in (1, 2):
        results = explain(pictures, class_labels=labels, batch_size=batch_size)
        assert [result.class_label for result in results] == [285, 968]
    alone = explain("sample:coffee", class_labels=968)
    np.testing.assert_allclose(results[1].saliency, alone.saliency, atol=1e-6)
    with pytest.raises(ValueError, match="Got 2 classes for a different"):
        explain("sample:cat", class_labels=labels)


def test_no_pictures_give_no_results(explain):
    assert explain([]) == []


@pytest.mark.parametrize("label", [True, 3.7, None.__class__])
def test_a_class_is_an_index_or_a_name(explain, label):
    with pytest.raises(TypeError, match="A class must be an index or a name, got"):
        explain("sample:cat", class_labels=label)


def test_names_that_differ_in_case_only_are_told_apart(explain):
    # The Cardigan is a dog, the cardigan is worn.
    assert explain.class_index("Cardigan") == 264
    assert explain.class_index("cardigan") == 474
    with pytest.raises(ValueError, match=r"2 classes are called 'CARDIGAN'.*264, 474"):
        explain.class_index("CARDIGAN")


def test_a_loaded_model_takes_no_settings():
    model = salhub.AutoModelForSaliency.from_pretrained(NAME)
    with pytest.raises(ValueError, match="'method' can be set only for a model loaded by name"):
        salhub.pipeline(model, method="grad_cam")


def test_a_named_classifier_takes_the_keywords_of_loading(vision_transformer):
    explain = salhub.pipeline(
        "normgrad", classifier=vision_transformer, dtype="bfloat16", local_files_only=True
    )
    assert explain.model.dtype == torch.bfloat16


def test_a_classifier_without_an_image_processor_says_how_to_save_one(tmp_path):
    ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                        intermediate_size=8, image_size=32, patch_size=8)
                              ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json.*save_pretrained"):
        salhub.pipeline("normgrad", classifier=tmp_path)


def test_an_explainer_saved_alone_prepares_pictures_as_its_classifier_does(tmp_path, explain):
    model = salhub.NormGradForImageSaliency.from_classifier(
        "salhub/efficientnet-lite0",
        method=explain.model.config.method,
        layers=explain.model.config.layers,
    )
    model.save_pretrained(tmp_path)
    result = salhub.pipeline(tmp_path)("sample:cat")
    np.testing.assert_allclose(result.saliency, explain("sample:cat").saliency, atol=1e-6)


@pytest.mark.parametrize("label", ["²", "9" * 5000, "999999999999999999999999"])
def test_odd_numbers_are_no_classes(explain, label):
    with pytest.raises(ValueError, match="no class"):
        explain("sample:cat", class_labels=label)


@pytest.mark.parametrize(
    ("name", "settings", "meant"),
    [
        (NAME, {"mehtod": "cam"}, "method"),
        ("salun", {"tok_k": 3}, "top_k"),
        ("lexrank", {"buget": 3}, "budget"),
        ("verbalizer", {"max_wrods": 3}, "max_words"),
    ],
)
def test_a_misspelled_setting_is_named_with_the_one_that_is_meant(name, settings, meant):
    with pytest.raises(ValueError, match=f"no setting '{next(iter(settings))}'.*'{meant}'") as said:
        salhub.pipeline(name, **settings)
    assert isinstance(said.value, TypeError) and "__init__" not in str(said.value)


def test_what_no_pipeline_is_made_of_gets_one_sentence():
    with pytest.raises(UnknownNameError, match=r"Linear is a plain network.*normgrad.*classifier="):
        salhub.pipeline(torch.nn.Linear(2, 2))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    network = ViTForImageClassification(ViTConfig(**sizes, intermediate_size=8))
    with pytest.raises(UnknownNameError, match=r"together with its image processor or tokenizer"):
        salhub.pipeline(network)
    for what, said in ((None, "got None"), (3, "got int")):
        with pytest.raises(TypeError, match=f"a name, a folder or a model, {said}"):
            salhub.pipeline(what)
