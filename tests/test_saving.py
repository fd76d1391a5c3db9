"""What is saved loads again to the same bytes, or is refused before anything is written."""

import copy
import functools
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from salhub import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    NormGradForImageSaliency,
    SaliencyVerbalizerModel,
    SalUnForImageClassification,
)
from salhub.saving import plain_state, unwrapped

NAMES = {0: "apple", 1: "pear", 2: "plum"}
CONFIG = ResNetConfig(
    embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", id2label=NAMES
)
PARTS = {
    "whole, compiled": lambda net: torch.compile(net),
    "whole, parallel": nn.DataParallel,
    "both": lambda net: torch.compile(nn.DataParallel(net)),
}


@pytest.fixture
def network() -> ResNetForImageClassification:
    return ResNetForImageClassification(CONFIG).eval()


@pytest.mark.parametrize("wrap", PARTS.values(), ids=PARTS)
def test_a_wrapped_network_is_saved_without_its_wrappers(network, wrap, tmp_path):
    model = NormGradForImageSaliency.from_classifier(wrap(network))
    assert model.id2label == NAMES
    check_round_trip(model, network, tmp_path)


@pytest.mark.parametrize("wrap", PARTS.values(), ids=PARTS)
def test_a_network_with_wrapped_parts_is_saved_without_them(network, wrap, tmp_path):
    plain = copy.deepcopy(network)
    network.resnet.encoder = wrap(network.resnet.encoder)
    check_round_trip(NormGradForImageSaliency.from_classifier(network), plain, tmp_path)
    assert unwrapped(network.resnet.encoder) is not network.resnet.encoder


def check_round_trip(model, network, folder):
    model.save_pretrained(folder)
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    expected = network.state_dict()
    found = loaded.backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.classify(pixels), network(pixels).logits)


def test_an_unlearned_classifier_is_saved_without_wrappers_too(tmp_path):
    network = CifarResNetForImageClassification(CifarResNetConfig(depth=8, num_labels=3)).eval()
    model = SalUnForImageClassification.from_classifier(nn.DataParallel(network)).eval()
    model.save_pretrained(tmp_path)
    loaded = SalUnForImageClassification.from_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(pixels).logits, network(pixels).logits)


def replace_head(network):
    network.classifier[1] = nn.Linear(8, 7)


def replace_head_by_another_kind(network):
    network.classifier = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 3))


def replace_activation(network):
    network.resnet.embedder.embedder.activation = nn.GELU()


def change_stride(network):
    network.resnet.embedder.embedder.convolution.stride = (1, 1)


def add_adapter(network):
    network.classifier[1].lora_A = nn.Linear(8, 2, bias=False)


def halve_head(network):
    network.classifier.half()


def double(module, inputs, output=None):
    return (2 * inputs[0],) if output is None else 2 * output


def replace_forward(network):
    head, own = network.classifier[1], network.classifier[1].forward
    head.forward = functools.wraps(own)(lambda inputs: 2 * own(inputs))


def change_eps(network):
    network.resnet.embedder.embedder.normalization.eps = 0.1


def change_names(network):
    network.resnet.forward = MethodType(ResNetForImageClassification.forward, network)


CHANGES = {
    lambda net: net.resnet.register_forward_hook(double): "has the hook .*double.*handle",
    lambda net: net.classifier[1].register_forward_pre_hook(double): "classifier.1' has the hook",
    replace_forward: "'forward' of 'backbone.classifier.1' .Linear. is .*builds .*Linear.forward",
    change_names: "'forward' of 'backbone.resnet'",
    change_eps: r"'eps' of 'backbone.*is 0.1, .*builds 1e-05",
    lambda net: net.classifier.append(nn.Softmax(-1)): r"'backbone.classifier' is Sequential",
    replace_head: r"'backbone.classifier.1.weight' has shape \(7, 8\).*builds \(3, 8\).*num_labels",
    replace_head_by_another_kind: r"has 'backbone.classifier.2.*change the configuration",
    replace_activation: r"activation' is GELU\(.*builds ReLU",
    change_stride: r"'stride' of 'backbone.*is \(1, 1\).*builds \(2, 2\)",
    add_adapter: "it has adapters; merge them with merge_and_unload",
    halve_head: r"classifier.1.weight' is torch.float16, while the model is torch.float32",
    lambda net: parametrizations.weight_norm(net.classifier[1]): "remove_parametrizations first",
    lambda net: prune.l1_unstructured(net.classifier[1], "weight", 0.5): "prune.remove first",
    lambda net: net.to("meta"): "The model cannot be saved, because its weights are not in memory",
}


@pytest.mark.parametrize(("change", "words"), CHANGES.items())
def test_a_network_that_its_configuration_does_not_build_is_refused(
    network, change, words, tmp_path
):
    # Some changes come after the network was wrapped.
    model = NormGradForImageSaliency.from_classifier(network)
    change(network)
    with pytest.raises(ValueError, match=words):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_hook_on_the_model_itself_is_refused_until_it_is_removed(network, tmp_path):
    model = NormGradForImageSaliency.from_classifier(network)
    handle = model.register_forward_hook(double)
    with pytest.raises(ValueError, match=r"again: the model itself has the hook .*double"):
        model.save_pretrained(tmp_path / "new")
    handle.remove()
    model.save_pretrained(tmp_path / "new")


def test_a_class_derived_with_another_forward_is_refused(tmp_path):
    class Contrary(ResNetForImageClassification):
        def forward(self, *arguments, **keywords):
            output = super().forward(*arguments, **keywords)
            output.logits = -output.logits
            return output

    class Named(ResNetForImageClassification):
        pass

    model = NormGradForImageSaliency.from_classifier(Contrary(CONFIG))
    with pytest.raises(ValueError, match="'backbone' is Contrary"):
        model.save_pretrained(tmp_path)
    NormGradForImageSaliency.from_classifier(Named(CONFIG)).save_pretrained(tmp_path)


def test_a_text_classifier_with_another_head_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    network = BertForSequenceClassification(BertConfig(vocab_size=20, intermediate_size=8, **sizes))
    network.classifier = nn.Linear(8, 5)
    model = SaliencyVerbalizerModel.from_classifier(network)
    with pytest.raises(ValueError, match=r"'backbone.classifier.weight' has shape \(5, 8\)"):
        model.save_pretrained(tmp_path)
    # Told so, it saves.
    model.config.backbone_config.num_labels = 5
    model.save_pretrained(tmp_path)
    found = SaliencyVerbalizerModel.from_pretrained(tmp_path).backbone.classifier.weight
    assert torch.equal(found, network.classifier.weight)


@pytest.mark.filterwarnings("ignore")
def test_a_changed_or_quantized_network_is_not_saved_as_another_one(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                       intermediate_size=8, image_size=32, patch_size=8)  # fmt: skip
    model = NormGradForImageSaliency.from_classifier(ViTForImageClassification(config).eval())
    attention = next(m for m in model.backbone.modules() if hasattr(m, "scaling"))
    attention.scaling *= 2
    with pytest.raises(ValueError, match=r"'scaling' of .*ViT.*configuration builds"):
        model.save_pretrained(tmp_path)
    model.backbone = torch.ao.quantization.quantize_dynamic(model.backbone, {nn.Linear})
    with pytest.raises(ValueError, match="it is quantized; save the network as it was before"):
        model.save_pretrained(tmp_path)


def test_settings_that_only_training_reads_may_be_changed_and_are_told(network, tmp_path, caplog):
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    check_round_trip(NormGradForImageSaliency.from_classifier(network), network, tmp_path)
    assert "is 0.5, and its configuration builds 0.1; this is not saved" in caplog.text
    assert "inplace" not in caplog.text


def test_saving_draws_nothing_at_random(network, tmp_path):
    model = NormGradForImageSaliency.from_classifier(network)
    before = torch.get_rng_state()
    model.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_names_lose_only_what_wrappers_put_before_them():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(1, 1)

    network = nn.Sequential(Holder(), nn.DataParallel(Holder()))
    names = ["0.module.weight", "0.module.bias", "1.module.weight", "1.module.bias"]
    assert list(plain_state(network)) == names


def drop_dropouts(network):
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, nn.Identity())


def share_weights(network):
    first, second = (
        network.vit.layers if hasattr(network.vit, "layers") else network.vit.encoder.layer
    )
    for one, other in zip(first.modules(), second.modules(), strict=True):
        if isinstance(one, nn.Linear):
            other.weight = one.weight


HARMLESS = {
    "half precision": lambda network: network.to(torch.bfloat16),
    "training": lambda network: network.train(),
    "checkpointing": lambda network: network.gradient_checkpointing_enable(),
    "eager": lambda network: network.set_attn_implementation("eager"),
    "channels last": lambda network: network.to(memory_format=torch.channels_last),
    "no dropout": drop_dropouts,
    "shared weights": share_weights,
    "compiled forward": lambda network: setattr(network, "forward", torch.compile(network.forward)),
    "recording": lambda network: network(torch.zeros(1, 3, 32, 32), output_attentions=True),
    "on disk": lambda network: None,
}


@pytest.mark.parametrize(("name", "change"), HARMLESS.items(), ids=HARMLESS)
def test_what_changes_no_answer_is_saved(name, change, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=8, image_size=32, patch_size=8)
    network = ViTForImageClassification(config).eval()
    change(network)
    expected = {key: value.clone() for key, value in network.state_dict().items()}
    if name == "on disk":
        network.save_pretrained(tmp_path / "network")
        network = ViTForImageClassification.from_pretrained(
            tmp_path / "network",
            device_map={"vit": "disk", "classifier": "cpu"},
            offload_folder=tmp_path / "offloaded",
        )
    model = NormGradForImageSaliency.from_classifier(network)
    model.save_pretrained(tmp_path / "saved")
    loaded = NormGradForImageSaliency.from_pretrained(tmp_path / "saved").backbone.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
