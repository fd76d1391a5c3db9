"""The network: saving, calling, uneven heads, and where its weights may come from."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.shapes import STRUCTURES
from salhub.models.nvit.unit_weights import without_units
from tests.models.nvit.small_vit import UNEVEN, network, pictures
from tests.models.nvit.test_reference import mask_of
from tests.testers import BatchTester, SavingTester

AutoConfig.register("salhub_nvit", NViTConfig, exist_ok=True)


class TestNViT(SavingTester, BatchTester):
    model_class = NViTForImageClassification
    auto_classes = ()
    half_tolerance = 0.1

    def config(self):
        return NViTConfig(**UNEVEN, layer_norm_width=40, attention_scale=0.5)

    def model(self):
        return network(layer_norm_width=40, attention_scale=0.5)

    def inputs(self):
        return {"pixel_values": pictures(3)[0]}

    def run(self, model, **replaced):
        asked = {"output_hidden_states": True, "output_attentions": True}
        return model(**{**self.inputs(), **asked, **replaced})

    def bad_inputs(self):
        pixels = self.inputs()["pixel_values"]
        return [
            ({"pixel_values": pixels[0]}, ValueError, r"\(B, 3, 16, 16\), got \(3, 16, 16\)"),
            (
                {"pixel_values": pixels.byte()},
                TypeError,
                "pixel_values must be floating point and normalized, got",
            ),
            ({"labels": torch.zeros(3)}, TypeError, "class numbers, int64, got torch.float32"),
            ({"labels": torch.zeros(2, dtype=torch.long)}, ValueError, r"\(3,\), got \(2,\)"),
            ({"labels": torch.tensor([0, 1, 5])}, ValueError, "classes 0 to 4, got 0 to 5"),
            ({"mask": torch.ones(7)}, ValueError, r"mask must have shape \(\d+,\).*got \(7,\)"),
            ({"gates": torch.ones(2, 139)}, ValueError, "gates must have shape"),
            ({"kept_patches": torch.zeros(3, 4)}, ValueError, "kept_patches must be int64"),
        ]


@pytest.mark.parametrize("structures", [(), *((one,) for one in STRUCTURES), STRUCTURES], ids=str)
def test_any_pruned_shape_saves_and_loads_with_an_empty_report(structures, tmp_path):
    model, (pixels, _) = network(), pictures()
    small = without_units(model, mask_of(model, structures), record={"score": "batch"})
    small.save_pretrained(tmp_path)
    loaded, info = NViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.config.pruning_record == {"score": "batch"}
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, small(pixels).logits)


def test_blocks_without_heads_or_neurons_leave_their_biases(tmp_path):
    model, (pixels, _) = network(), pictures()
    mask = torch.ones(model.layout.size, dtype=torch.bool)
    mask[model.layout.place("head", 1)] = False
    mask[model.layout.place("mlp", 2)] = False
    with pytest.raises(ValueError, match="num_attention_heads of block 1 must be at least 1"):
        without_units(model, mask)
    small = without_units(model, mask, allow_empty=True)
    small.save_pretrained(tmp_path)
    loaded = NViTForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(pixels, mask=mask).logits
        torch.testing.assert_close(loaded(pixels).logits, expected, rtol=0, atol=1e-5)
        found = loaded(pixels, output_attentions=True)
    assert [tuple(one.shape[:2]) for one in found.attentions] == [(4, 2), (4, 0), (4, 4)]


def test_padding_and_plain_attention_change_nothing():
    model, (pixels, _) = network(), pictures()
    plain = network(pad_head_dims=False)
    with torch.no_grad():
        expected = plain(pixels).logits
        torch.testing.assert_close(model(pixels).logits, expected, rtol=0, atol=1e-5)
        spelled = model(pixels, output_attentions=True)
    torch.testing.assert_close(spelled.logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(spelled.attentions[0].sum(-1), torch.ones(4, 2, 18))


def test_learning_in_16_bits_on_a_cpu_has_the_gradients_of_the_plain_attention():
    """There the kernels of torch are slow, so that the products are written out."""
    model, (pixels, labels) = network(), pictures()
    found = {}
    for name, plain in (("own", None), ("plain", True)):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(pixels, labels=labels, output_attentions=plain).loss
        loss.backward()
        found[name] = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    model(pixels, labels=labels).loss.backward()
    exact = torch.cat([p.grad.flatten() for p in model.parameters()])
    for gradient in found.values():
        assert float((gradient - exact).norm() / exact.norm()) < 0.05


def test_dropped_patches_keep_their_positions():
    model, (pixels, _) = network(), pictures()
    with torch.no_grad():
        whole = model(pixels).logits
        order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).expand(4, 16)
        turned = model(pixels, kept_patches=order).logits
        torch.testing.assert_close(turned, whole, rtol=0, atol=1e-5)
        half = model(pixels, kept_patches=order[:, :8], output_hidden_states=True)
    assert half.hidden_states[0].shape == (4, 2 + 8, 24)
    assert not torch.allclose(half.logits, whole)


SMALL = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8, "num_labels": 5, "layer_norm_eps": 1e-3,
}  # fmt: skip
SOURCES = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL, qkv_bias=False)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**SMALL)),
    "teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**SMALL)),
}


def spread(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


@pytest.mark.parametrize("source", SOURCES)
def test_a_vit_of_transformers_is_taken_over(source, tmp_path):
    original = spread(SOURCES[source]())
    model, pixels = NViTForImageClassification.from_vit(original), torch.randn(2, 3, 32, 32)
    original.save_pretrained(tmp_path)
    loaded = NViTForImageClassification.from_vit(str(tmp_path))
    with torch.no_grad():
        expected = original(pixels).logits
        torch.testing.assert_close(model(pixels).logits, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(loaded(pixels).logits, expected, rtol=0, atol=1e-5)
    assert model.config.layer_norm_eps == 1e-3 and model.config.attention_scale == 8**-0.5
    assert (model(pixels).distillation_logits is None) == (source != "teacher")


def test_a_state_dictionary_of_timm_is_taken_over():
    teacher = spread(SOURCES["teacher"]())
    state = {}
    names = {
        "cls_token": "embeddings.cls_token", "dist_token": "embeddings.distillation_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
    }  # fmt: skip
    for block in range(2):
        at, own = f"blocks.{block}", f"layers.{block}"
        names |= {
            f"{at}.norm1": f"{own}.layernorm_before", f"{at}.norm2": f"{own}.layernorm_after",
            f"{at}.attn.proj": f"{own}.attention.o_proj",
            f"{at}.mlp.fc1": f"{own}.mlp.fc1", f"{at}.mlp.fc2": f"{own}.mlp.fc2",
        }  # fmt: skip
    parts = dict(teacher.deit.state_dict())
    for name, own in names.items():
        for ending in ("", ".weight", ".bias"):
            if own + ending in parts:
                state[name + ending] = parts[own + ending]
    for block, ending in ((b, e) for b in range(2) for e in ("weight", "bias")):
        fused = [parts[f"layers.{block}.attention.{one}_proj.{ending}"] for one in "qkv"]
        state[f"blocks.{block}.attn.qkv.{ending}"] = torch.cat(fused)
    for name, head in (
        ("head", teacher.cls_classifier),
        ("head_dist", teacher.distillation_classifier),
    ):
        state |= {f"{name}.{ending}": one for ending, one in head.state_dict().items()}
    settings = {"num_attention_heads": 3, "layer_norm_eps": 1e-3}
    model, pixels = (
        NViTForImageClassification.from_vit(state, **settings),
        torch.randn(2, 3, 32, 32),
    )
    with torch.no_grad():
        found, expected = model(pixels), teacher(pixels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.cls_logits, expected.cls_logits, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="give num_attention_heads, a divisor of 24, got None"):
        NViTForImageClassification.from_vit(state)
    with pytest.raises(ValueError, match=r"The network has 'blocks\.0\.ls1\.gamma'"):
        NViTForImageClassification.from_vit({**state, "blocks.0.ls1.gamma": torch.ones(24)})


def test_other_architectures_are_refused():
    resnet = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    )
    with pytest.raises(TypeError, match="ResNetForImageClassification cannot be pruned; supported"):
        NViTForImageClassification.from_vit(resnet)
    with pytest.raises(TypeError, match="int is not a vision transformer; supported"):
        NViTForImageClassification.from_vit(3)
    with pytest.raises(ValueError, match=r"has no 'patch_embed.proj.weight'"):
        NViTForImageClassification.from_vit({"conv.weight": torch.zeros(1)})


BAD_CONFIGS = [
    ({"qk_head_dim": [5, 6]}, "one per block, got"),
    ({"intermediate_size": [32, 0, 24]}, "intermediate_size of block 1 must be at least 1, got 0"),
    ({"v_head_dim": -1}, "v_head_dim of block 0 must be at least 1, got -1"),
    ({"attention_scale": [0.5]}, "attention_scale must be one number or a list of 3"),
    ({"image_size": 18}, "image_size must be a multiple of patch_size=4, got 18"),
    ({"layer_norm_width": 8}, "layer_norm_width must be at least hidden_size=24, got 8"),
]


@pytest.mark.parametrize(("settings", "sentence"), BAD_CONFIGS, ids=lambda one: str(one)[:24])
def test_bad_configurations_are_refused_with_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        NViTConfig(**{**UNEVEN, **settings})


def test_single_widths_are_written_as_lists(tmp_path):
    config = NViTConfig(num_hidden_layers=2, num_attention_heads=[4, 2], qk_head_dim=8)
    config.save_pretrained(tmp_path)
    loaded = NViTConfig.from_pretrained(tmp_path)
    assert loaded.qk_head_dim == [8, 8] and loaded.max_num_attention_heads == 4
    assert loaded.scale_of(1) == 8**-0.5
