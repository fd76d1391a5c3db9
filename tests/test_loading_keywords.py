"""No keyword of loading vanishes: it is refused, or it is what the model then has."""

from dataclasses import fields

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedConfig,
    ResNetConfig,
    ResNetForImageClassification,
)

import salhub
from salhub import (
    AutoModelForSaliency,
    CifarResNetConfig,
    CifarResNetForImageClassification,
    ConditionalUNetConfig,
    ConditionalUNetForDiffusion,
    EditIQConfig,
    EditIQModel,
    EfficientNetLiteConfig,
    EfficientNetLiteForImageClassification,
    LexRankConfig,
    LexRankModel,
    NormGradForImageSaliency,
    NViTConfig,
    NViTForImageClassification,
    RepMTLForMultiTask,
    SaliencyActiveContourConfig,
    SaliencyActiveContourForSegmentation,
    SaliencyVerbalizerModel,
    SalientRelevanceForImageSaliency,
    SalUnConfig,
    SalUnDiffusionConfig,
    SalUnForConditionalDiffusion,
    SalUnForImageClassification,
    SDLSegConfig,
    SDLSegForVolumeSegmentation,
    TextClassifierConfig,
    TextClassifierForSequenceClassification,
)
from salhub.entries import MODELS
from salhub.errors import IntegrityError
from tests.models.disa.small_disa import small_model as small_disa
from tests.models.rep_mtl.small_tasks import small_config

SMALL_UNET = {"image_size": 8, "base_channels": 8, "channel_multipliers": [1], "num_classes": 2}


def resnet():
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=2))


def bert():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=20, intermediate_size=8, **sizes)
    return BertForSequenceClassification(config)


def small_unet():
    return ConditionalUNetConfig(**SMALL_UNET, attention_resolutions=[])


SMALL = {
    "normgrad": lambda: NormGradForImageSaliency.from_classifier(resnet()),
    "salient_relevance": lambda: SalientRelevanceForImageSaliency.from_classifier(resnet()),
    "verbalizer": lambda: SaliencyVerbalizerModel.from_classifier(bert()),
    "lexrank": lambda: LexRankModel(LexRankConfig()),
    "salun": lambda: SalUnForImageClassification(
        SalUnConfig(backbone_config=CifarResNetConfig(depth=8, width=4))
    ),
    "salun_diffusion": lambda: SalUnForConditionalDiffusion(
        SalUnDiffusionConfig(backbone_config=small_unet())
    ),
    "conditional_unet": lambda: ConditionalUNetForDiffusion(small_unet()),
    "efficientnet_lite": lambda: EfficientNetLiteForImageClassification(
        EfficientNetLiteConfig(width_coefficient=0.1, depth_coefficient=0.1, num_labels=2)
    ),
    "cifar_resnet": lambda: CifarResNetForImageClassification(CifarResNetConfig(depth=8, width=4)),
    "text_classifier": lambda: TextClassifierForSequenceClassification(
        TextClassifierConfig(vocab_size=20, embedding_size=4, num_filters=4)
    ),
    "sdl_seg": lambda: SDLSegForVolumeSegmentation(SDLSegConfig(channels=[2, 2])),
    "active_contour": lambda: SaliencyActiveContourForSegmentation(SaliencyActiveContourConfig()),
    "rep_mtl": lambda: RepMTLForMultiTask(small_config()),
    "disa": small_disa,
    "editiq": lambda: EditIQModel(EditIQConfig()),
    "nvit": lambda: NViTForImageClassification(
        NViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            qk_head_dim=4,
            v_head_dim=4,
            intermediate_size=8,
            image_size=16,
        )
    ),
}
# What every configuration of transformers has, and values that are not what it has by itself.
VALUES = {
    "architectures": ["Other"],
    "chunk_size_feed_forward": 3,
    "dtype": torch.bfloat16,
    "id2label": {0: "apple", 1: "pear"},
    "is_encoder_decoder": True,
    "label2id": {"apple": 0, "pear": 1},
    "model_type": "other",
    "num_labels": 7,
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "multi_label_classification",
    "return_dict": False,
    "save_pretrained": 1,
    "transformers_version": "1.0",
    "use_return_dict": False,
    "is_composition": True,
    "top_p": 0.5,
    "mehtod": "cam",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name, build in SMALL.items():
        found[name] = tmp_path_factory.mktemp(name)
        build().save_pretrained(found[name])
    return found


def test_all_kinds_of_models_and_all_fields_are_tried():
    assert SMALL.keys() == {name for name, entry in MODELS.items() if entry.is_ours}
    assert {field.name for field in fields(PreTrainedConfig)} <= VALUES.keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_keyword_is_honoured_or_refused(name, folders):
    entry, folder = MODELS[name], folders[name]
    loaders = [entry.model_class.from_pretrained]
    if entry.method is not None:
        loaders.append(AutoModelForSaliency.from_pretrained)
    if entry.pipeline_class is not None:
        loaders.append(lambda folder, **given: salhub.pipeline(folder, **given).model)
    own = entry.config_class.inherited_fields | {"dtype"}
    for key, value in VALUES.items():
        for load in loaders if key not in own else loaders[:1]:
            honoured = check_keyword(load, folder, key, value)
            assert honoured == (key in own and honoured is not None) or honoured is None, key


def check_keyword(load, folder, key: str, value) -> bool | None:
    """Whether the model has what was given; False where it was refused by name."""
    try:
        config = load(folder, **{key: value}).config
    except IntegrityError:
        # A head for more classes is in no file.
        assert key == "num_labels"
        return None
    except (ValueError, TypeError) as error:
        assert key in str(error) and "\n" not in str(error), (key, error)
        return False
    assert getattr(config, key) == value, key
    return True


def test_names_of_classes_and_precision_are_honoured(folders):
    for name in ("cifar_resnet", "efficientnet_lite", "text_classifier", "salun"):
        load = MODELS[name].model_class.from_pretrained
        model = load(folders[name], id2label={0: "apple", 1: "pear"}, dtype=torch.bfloat16)
        assert model.config.id2label == {0: "apple", 1: "pear"} and model.dtype == torch.bfloat16
        resized = load(folders[name], num_labels=7, ignore_mismatched_sizes=True)
        assert resized.config.num_labels == 7
        [weight] = [
            one for key, one in resized.named_parameters() if key.endswith("classifier.weight")
        ]
        assert len(weight) == 7
        # As in every guide to fine-tuning.
        both = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}, "num_labels": 2}
        assert load(folders[name], **both).config.id2label == both["id2label"]
        for given in ({"label2id": {"a": 1, "b": 0}}, {"num_labels": 3}):
            with pytest.raises(ValueError, match="id2label"):
                load(folders[name], **{**both, **given})


def test_what_is_shipped_takes_the_same_keywords():
    name = "salhub/salun-resnet8-cifar10"
    names = {index: f"class-{index}" for index in range(10)}
    resized = SalUnForImageClassification.from_pretrained(
        name, num_labels=3, ignore_mismatched_sizes=True
    )
    assert resized.config.num_labels == len(resized.backbone.classifier.weight) == 3
    assert (
        SalUnForImageClassification.from_pretrained(name, id2label=names).config.id2label == names
    )
    for loader in (SalUnForImageClassification, AutoModelForSaliency):
        with pytest.raises(ValueError, match="return_dict"):
            loader.from_pretrained(name, return_dict=False)
    for name in ("normgrad-efficientnet-lite0", "lexrank-news-en"):
        for given in ({"num_labels": 3}, {"output_attentions": True}, {"is_encoder_decoder": True}):
            with pytest.raises(ValueError, match=next(iter(given))):
                AutoModelForSaliency.from_pretrained(name, **given)


def test_transformers_own_classes_refuse_the_same(folders):
    with pytest.raises(ValueError, match="LexRankConfig has no setting 'num_labels'"):
        AutoModel.from_pretrained(folders["lexrank"], num_labels=7)
    with pytest.raises(ValueError, match="NormGradConfig has no setting 'return_dict'"):
        AutoModel.from_pretrained(folders["normgrad"], return_dict=False)


def test_another_classifier_does_not_take_the_name_of_the_one_that_is_saved(folders):
    for loader in (NormGradForImageSaliency, AutoModelForSaliency, AutoModel):
        with pytest.raises(ValueError, match="backbone names another classifier"):
            loader.from_pretrained(folders["normgrad"], backbone="microsoft/resnet-50")
    with pytest.raises(ValueError, match="'backbone'"):
        NormGradForImageSaliency.from_classifier(resnet(), backbone="microsoft/resnet-50")


def test_an_explainer_that_names_its_classifier_takes_no_fields_of_it(tmp_path):
    name = "salhub/efficientnet-lite0"
    model = NormGradForImageSaliency.from_classifier(name)
    model.save_pretrained(tmp_path, save_backbone=False)
    with pytest.raises(ValueError, match="image_size"):
        NormGradForImageSaliency.from_pretrained(tmp_path, image_size=64)
    assert NormGradForImageSaliency.from_pretrained(tmp_path, method="cam").config.method == "cam"


def test_several_labels_of_a_picture_stay_so_when_its_classifier_is_unlearned():
    config = CifarResNetConfig(depth=8, width=4, problem_type="multi_label_classification")
    assert SalUnConfig(backbone_config=config).problem_type == config.problem_type
