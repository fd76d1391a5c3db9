"""What a folder of somebody else's may hold: damage, pickles, code, and fields beyond reason."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
)

import salhub
from salhub import (
    AutoModelForSaliency,
    CifarResNetConfig,
    CifarResNetForImageClassification,
    ConditionalUNetConfig,
    EfficientNetLiteConfig,
    LexRankConfig,
    LexRankModel,
    NormGradConfig,
    NormGradForImageSaliency,
    SaliencyVerbalizerModel,
    SalientRelevanceForImageSaliency,
    SalUnConfig,
    SalUnDiffusionConfig,
    SalUnForConditionalDiffusion,
    SalUnForImageClassification,
    TextClassifierConfig,
    TextClassifierForSequenceClassification,
)
from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.errors import IntegrityError, ModelNotFoundError
from salhub.hub import load

FORMER = Path(__file__).parent / "former"
CONFIG = ResNetConfig(
    embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
)


@pytest.fixture
def network() -> ResNetForImageClassification:
    return ResNetForImageClassification(CONFIG).eval()


@pytest.fixture
def explainer(network, tmp_path) -> Path:
    NormGradForImageSaliency.from_classifier(network).save_pretrained(tmp_path / "explainer")
    return tmp_path / "explainer"


@pytest.fixture
def classifier(network, tmp_path) -> Path:
    network.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def change_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rename_weights(folder: Path, rename) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {rename(name): value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


LOADERS = (NormGradForImageSaliency, AutoModelForSaliency, AutoModel)


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
def test_weights_of_other_names_are_refused_by_every_class(explainer, loader):
    rename_weights(explainer, lambda name: name.replace("backbone.", "backbone._orig_mod."))
    with pytest.raises(IntegrityError, match=r"38 weights are missing.*38 weights are unexpected"):
        loader.from_pretrained(explainer)


def test_weights_that_nobody_wants_are_refused_in_our_networks_too(tmp_path):
    CifarResNetForImageClassification(CifarResNetConfig(depth=8)).save_pretrained(tmp_path)
    rename_weights(tmp_path, lambda name: name.replace("classifier.bias", "classifier.lora_A"))
    for loader in (CifarResNetForImageClassification, AutoModelForImageClassification):
        with pytest.raises(IntegrityError, match=r"'classifier.bias'.*'classifier.lora_A'"):
            loader.from_pretrained(tmp_path)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_header(content: bytes) -> bytes:
    return content[:20] + bytes([content[20] ^ 255]) + content[21:]


@pytest.mark.parametrize("damage", [cut, flip_header, lambda content: content[:4]])
def test_damaged_weights_are_named_with_what_to_do(explainer, classifier, damage):
    for folder, one in ((explainer, NormGradForImageSaliency), (classifier, None)):
        path = folder / "model.safetensors"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(IntegrityError) as caught:
            if one is None:
                salhub.NormGradForImageSaliency.from_classifier(folder)
            else:
                one.from_pretrained(folder)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert "copy it again" in str(caught.value)


def test_weights_of_other_shapes_are_named(explainer, classifier):
    change_config(classifier, hidden_sizes=[4, 16])
    own = json.loads((explainer / "config.json").read_text())["backbone_config"]
    change_config(explainer, backbone_config={**own, "hidden_sizes": [4, 16]})
    with pytest.raises(IntegrityError, match=r"other shapes than its config.json"):
        NormGradForImageSaliency.from_pretrained(explainer)
    with pytest.raises(IntegrityError, match=r"other shapes than its config.json"):
        NormGradForImageSaliency.from_classifier(classifier)


def test_a_damaged_or_missing_shard_is_named(network, tmp_path):
    network.save_pretrained(tmp_path, max_shard_size="1KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(cut(content))
    with pytest.raises(IntegrityError, match=shard.name):
        NormGradForImageSaliency.from_classifier(tmp_path)
    shard.unlink()
    with pytest.raises(IntegrityError, match=shard.name):
        NormGradForImageSaliency.from_classifier(tmp_path)
    shard.write_bytes(content)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"index.json is missing, damaged"):
        NormGradForImageSaliency.from_classifier(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", None])
def test_pickles_are_not_loaded(network, explainer, classifier, name):
    for folder in (explainer, classifier):
        (folder / "model.safetensors").unlink()
        if name is not None:
            torch.save(network.state_dict(), folder / name)
    words = f"no safetensors weights.*{name or ''}.*does not load pickles"
    with pytest.raises(ModelNotFoundError, match=words):
        NormGradForImageSaliency.from_pretrained(explainer)
    with pytest.raises(ModelNotFoundError, match=words):
        NormGradForImageSaliency.from_classifier(classifier)
    with pytest.raises(
        ValueError, match="is not supported: salhub only loads safetensors weights and"
    ):
        load(AutoModel, classifier, use_safetensors=False)


FIELDS = {
    "model_type": (3.5, "model_type in .* must be a text, got 3.5"),
    "id2label": (7, "id2label in .* must be a mapping, got 7"),
    "torch_dtype": ("", "torch_dtype in .* must be one of float32"),
    "dtype": ("bf16", "dtype in .*Did you mean 'bfloat16'"),
    "label2id": ({"a": []}, "label2id in .* must map"),
    "num_labels": (2**40, "num_labels in .* at most 1,048,576"),
    "depths": ([2**63, 1], "depths in .* at most 2,048"),
    "embedding_size": (2**63, "embedding_size in .* at most 67,108,864"),
    "hidden_sizes": ([4] * 5000, "hidden_sizes in .* at most 2,048 values"),
}


@pytest.mark.parametrize(("field", "case"), FIELDS.items(), ids=FIELDS)
def test_fields_that_cannot_be_meant_are_named(explainer, classifier, field, case):
    value, words = case
    own = json.loads((explainer / "config.json").read_text())["backbone_config"]
    change_config(classifier, **{field: value})
    change_config(explainer, backbone_config={**own, field: value})
    for build in (
        lambda: NormGradForImageSaliency.from_classifier(classifier),
        lambda: load(AutoImageProcessor, classifier),
        lambda: NormGradForImageSaliency.from_pretrained(explainer),
        lambda: AutoModelForSaliency.from_pretrained(explainer),
        lambda: NormGradConfig(backbone_config={**own, field: value}),
        lambda: SalUnConfig(backbone_config={**own, field: value}),
    ):
        with pytest.raises((TypeError, ValueError), match=words) as caught:
            build()
        assert "\n" not in str(caught.value)


def test_fields_of_our_own_networks_are_bounded():
    with pytest.raises(ValueError, match=r"depth_coefficient must be .* at most 32"):
        EfficientNetLiteConfig(depth_coefficient=2**63)
    with pytest.raises(ValueError, match=r"depth_coefficient must be .* at most 32"):
        EfficientNetLiteConfig(depth_coefficient=1000)
    with pytest.raises(ValueError, match=r"width must be .* at most"):
        CifarResNetConfig(width=2**40)
    with pytest.raises(ValueError, match=r"depth .* at most 2,048"):
        CifarResNetConfig(depth=6 * 10**9 + 2)


def test_a_configuration_that_is_a_list_is_refused(classifier):
    (classifier / "config.json").write_text("[1]")
    with pytest.raises(TypeError, match="must be a mapping of names to values, got"):
        NormGradForImageSaliency.from_classifier(classifier)


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    whole.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def with_pattern(tokenizer: Path, pattern: str) -> str:
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return json.dumps({**content, "pre_tokenizer": {**split, "invert": False}})


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["<html>", '{"a', "[]"])
def test_a_tokenizer_that_is_no_json_is_named(tokenizer, file, content):
    (tokenizer / file).write_text(content)
    with pytest.raises(IntegrityError, match=f"tokenizer/{file} cannot be read"):
        load(AutoTokenizer, tokenizer)


def test_a_tokenizer_with_a_broken_pattern_is_named(tokenizer):
    (tokenizer / "tokenizer.json").write_text(with_pattern(tokenizer, "(a"))
    with pytest.raises(IntegrityError, match=r"tokenizer/tokenizer\.json cannot be read"):
        load(AutoTokenizer, tokenizer)


def test_a_tokenizer_whose_pattern_explodes_is_named(tokenizer, tmp_path):
    folder = shutil.copytree(FORMER / "verbalizer", tmp_path / "verbalizer")
    path = folder / "tokenizer.json"
    path.write_text(with_pattern(folder, "(a+)+$"))
    explain = salhub.pipeline(folder)
    with pytest.raises(ValueError, match=r"of the rules in .*verbalizer/tokenizer\.json"):
        explain("a" * 40 + "b")


def test_code_of_a_repository_is_never_run(classifier, explainer, tokenizer, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks on the terminal"))
    marker = classifier / "ran"
    code = f"open({os.fspath(marker)!r}, 'w').close()\n"
    (classifier / "evil.py").write_text(code)
    change_config(classifier, model_type="evil", auto_map={
        "AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M", "AutoModel": "evil.M",
    })  # fmt: skip
    for loader in (AutoModelForImageClassification, AutoModel):
        with pytest.raises(
            ValueError, match="' needs custom code, but salhub does not run code from"
        ):
            load(loader, classifier)
    processor = {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.P"}}
    (explainer / "preprocessor_config.json").write_text(json.dumps(processor))
    (explainer / "evil.py").write_text(code)
    with pytest.raises(ValueError, match="' needs custom code, but salhub does not run code from"):
        salhub.pipeline(explainer)
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.T", None]}}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    (tokenizer / "evil.py").write_text(code)
    with pytest.raises(ValueError, match="' needs custom code, but salhub does not run code from"):
        load(AutoTokenizer, tokenizer)
    assert not marker.exists()
    with pytest.raises(
        ValueError,
        match="trust_remote_code=True is not supported: salhub only loads safetensors weights and",
    ):
        load(AutoModel, classifier, trust_remote_code=True)


def test_an_encoder_with_code_of_its_own_is_refused(classifier, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks on the terminal"))
    change_config(classifier, model_type="evil", auto_map={"AutoModel": "evil.M"})
    model = LexRankModel(LexRankConfig(representation="embedding", encoder=os.fspath(classifier)))
    with pytest.raises((ValueError, OSError)):
        model.rank(["One is here.", "Two is there."])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_when_the_answer_is_made(network, value):
    model = NormGradForImageSaliency.from_classifier(network)
    pixels = torch.randn(1, 3, 32, 32)
    model(pixels)
    with torch.no_grad():
        network.classifier[1].weight[0, 0] = value
    with pytest.raises(ValueError, match=r"NaN or infinite values.*'classifier\.1\.weight'"):
        model(pixels)


ASKED = {
    "a grid of maps": (NormGradForImageSaliency, "forward_grid"),
    "scores": (NormGradForImageSaliency, "class_scores"),
    "salient relevance": (SalientRelevanceForImageSaliency, "__call__"),
    "relevance": (SalientRelevanceForImageSaliency, "relevance"),
    "an audit": (SalientRelevanceForImageSaliency, "conservation_audit"),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_whatever_is_asked_of_broken_weights_names_them(network, asked):
    kind, method = asked
    settings = {} if kind is NormGradForImageSaliency else {"preset": "epsilon_plus"}
    model = kind.from_classifier(network, **settings)
    pixels = torch.randn(1, 3, 32, 32)
    getattr(model, method)(pixels)
    for name, value in (("classifier.1.weight", float("nan")), ("classifier.1.bias", float("inf"))):
        broken = copy.deepcopy(model)
        with torch.no_grad():
            broken.backbone.get_parameter(name).view(-1)[0] = value
        with pytest.raises(ValueError, match=f"NaN or infinite values.*'{name}'"):
            getattr(broken, method)(pixels)
    with pytest.raises(ValueError, match="on the device 'meta'"):
        getattr(kind.from_classifier(copy.deepcopy(network).to("meta"), **settings), method)(pixels)


@pytest.mark.parametrize("attribution", ["integrated_gradients", "gradient_x_input", "occlusion"])
@pytest.mark.parametrize("name", ["classifier.weight", "embeddings.weight"])
def test_a_text_classifier_of_broken_weights_is_named(attribution, name):
    config = TextClassifierConfig(vocab_size=20, embedding_size=4, num_filters=4)
    network = TextClassifierForSequenceClassification(config)
    model = SaliencyVerbalizerModel.from_classifier(network, attribution=attribution)
    ids = torch.tensor([[4, 5, 6]])
    model(ids)
    with torch.no_grad():
        # Of the embeddings those of the padding, which the text is only compared with.
        network.get_parameter(name)[0, 0] = float("nan")
    with pytest.raises(ValueError, match=f"NaN or infinite values.*'{name}'"):
        model(ids)


def test_a_pipeline_of_broken_weights_names_them():
    config = CifarResNetConfig(depth=8, width=4)
    model = SalUnForImageClassification(SalUnConfig(backbone_config=config)).eval()
    classify = salhub.pipeline(model, image_processor=CifarResNetImageProcessor())
    photo = Image.new("RGB", (40, 40))
    classify(photo)
    with torch.no_grad():
        model.backbone.classifier.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite.*'backbone\.classifier\.weight'"):
        classify(photo)


def test_pictures_of_broken_weights_are_not_drawn():
    sizes = {"image_size": 8, "base_channels": 8, "channel_multipliers": [1]}
    config = SalUnDiffusionConfig(
        backbone_config=ConditionalUNetConfig(**sizes, attention_resolutions=[])
    )
    model = SalUnForConditionalDiffusion(config).eval()
    draw = salhub.pipeline(model)
    draw(0, num_images=1, num_steps=2, seed=0)
    name, weight = next(iter(model.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=f"NaN or infinite values.*'{name}'"):
        draw(0, num_images=1, num_steps=2, seed=0)


@pytest.fixture
def encoder(tokenizer) -> Path:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    network = BertModel(BertConfig(vocab_size=20, intermediate_size=8, **sizes))
    network.save_pretrained(tokenizer)
    words = ["[PAD]", "[UNK]", "good", "bad", "old", "new"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]")
    whole.save_pretrained(tokenizer)
    return tokenizer


def test_an_encoder_of_broken_weights_is_named(encoder):
    network = BertModel.from_pretrained(encoder)
    sentences = ["good good", "bad good"]
    model = LexRankModel(LexRankConfig(representation="embedding", encoder=os.fspath(encoder)))
    model.rank(sentences)
    with torch.no_grad():
        network.encoder.layer[0].output.dense.bias[0] = float("nan")
    network.save_pretrained(encoder / "broken")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(encoder / "broken")
    config = LexRankConfig(representation="embedding", encoder=os.fspath(encoder / "broken"))
    with pytest.raises(ValueError, match=r"NaN or infinite.*'encoder\.layer\.0\.output\.dense"):
        LexRankModel(config).rank(sentences)


def test_an_encoder_without_its_weights_is_refused(encoder):
    config = LexRankConfig(representation="embedding", encoder=os.fspath(encoder))
    rename_weights(encoder, lambda name: name.replace("encoder.layer.0.output", "other"))
    with pytest.raises(ValueError, match=r"not a trained sentence encoder.*encoder\.layer\.0"):
        LexRankModel(config).rank(["good good", "bad good"])
    (encoder / "model.safetensors").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"model\.safetensors is missing, damaged"):
        LexRankModel(config).rank(["good good", "bad good"])


def test_an_encoder_may_lack_what_is_not_read(encoder):
    from safetensors.torch import load_file, save_file

    path = encoder / "model.safetensors"
    kept = {name: one for name, one in load_file(path).items() if not name.startswith("pooler")}
    save_file(kept, path, metadata={"format": "pt"})
    config = LexRankConfig(representation="embedding", encoder=os.fspath(encoder))
    assert len(LexRankModel(config).rank(["good good", "bad good"]).scores) == 2


def test_a_summary_of_a_broken_collection_is_refused():
    model = LexRankModel(LexRankConfig()).fit_idf(["a cat ran", "a cat sat"])
    model.idf[0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite values.*'idf'"):
        model.rank(["A cat ran.", "A cat sat."])


def test_a_network_without_weights_is_refused_in_words(network):
    model = NormGradForImageSaliency.from_classifier(network.to("meta"))
    with pytest.raises(ValueError, match="on the device 'meta'"):
        model(torch.randn(1, 3, 32, 32))


def test_the_former_name_of_dtype_is_honoured(classifier):
    model = NormGradForImageSaliency.from_classifier(classifier, torch_dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
        NormGradForImageSaliency.from_classifier(classifier, dtype="bf16")
    with pytest.raises(ValueError, match="num_labels"):
        NormGradForImageSaliency.from_classifier(classifier, num_labels=7)


def test_links_that_leave_a_folder_are_not_pushed(explainer, tmp_path):
    from salhub.publishing import files_to_push

    (tmp_path / "secret").write_text("secret")
    (explainer / "preprocessor_config.json").write_text("{}")
    (explainer / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(
        ValueError, match=r"Nothing was pushed, because .*notes\.txt is a link to a file outside"
    ):
        files_to_push(explainer, "me/mine")
    (explainer / "notes.txt").unlink()
    assert "notes.txt" not in files_to_push(explainer, "me/mine")


def test_templates_hold_names_and_no_formats():
    from salhub.models.verbalizer.realization import templates_of

    for sentence in ("{quotes:>999999999}", "{quotes!r}", "{quotes.__class__}", "{quotes[0]}"):
        config = salhub.VerbalizerConfig(templates={"first": sentence})
        with pytest.raises(ValueError, match="The template 'first'"):
            templates_of(config)
