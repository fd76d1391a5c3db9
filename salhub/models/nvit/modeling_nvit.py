"""A vision transformer whose blocks may all have shapes of their own."""

import warnings
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from salhub.modeling import SaliencyPreTrainedModel
from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.gates import (
    BlockFactors,
    GateSites,
    NViTFactors,
    gate_factors,
    mask_factors,
    scaled,
)
from salhub.models.nvit.shapes import NViTShape, UnitLayout
from salhub.models.nvit.vit_import import nvit_state, timm_heads

_NO_FACTORS = BlockFactors()


@dataclass
class NViTModelOutput(ModelOutput):
    """What the network without its heads returns.

    Args:
        last_hidden_state: Tokens after the last layer norm, the class token first, then the
            distillation token where there is one, then the patches, (B, N, E).
        hidden_states: Tokens before the first block and after each, (B, N, E); when asked for.
        attentions: Weights of each block, (B, H, N, N); when asked for.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class NViTClassifierOutput(ModelOutput):
    """What the classifier returns.

    Args:
        loss: Cross-entropy of `logits`, the mean over the batch, (); with labels only.
        logits: (B, num_labels), of a distilled network the mean of both heads.
        cls_logits: Those of the class token, (B, num_labels).
        distillation_logits: Those of the distillation token, where there is one.
        hidden_states: See `NViTModelOutput`.
        attentions: See `NViTModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cls_logits: Tensor | None = None
    distillation_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class NViTLayerNorm(nn.Module):
    """Layer norm over `width` channels, of which those that are not there are zeros."""

    def __init__(self, config: NViTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.width = config.layer_norm_width or config.hidden_size
        self.eps = config.layer_norm_eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        size = len(self.weight)
        if self.width == size:
            return F.layer_norm(hidden_states, (size,), self.weight, self.bias, self.eps)
        # Zeros and torch's kernel take half the time of means and deviations written out.
        zeros = (0, self.width - size)
        padded, weight, bias = (F.pad(t, zeros) for t in (hidden_states, self.weight, self.bias))
        return F.layer_norm(padded, (self.width,), weight, bias, self.eps)[..., :size]


class NViTAttention(nn.Module):
    """Attention whose queries and values may differ in width."""

    def __init__(self, config: NViTConfig, block: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads[block]
        self.qk, self.v = config.qk_head_dim[block], config.v_head_dim[block]
        self.scale, self.is_padded = config.scale_of(block), config.pad_head_dims
        width, bias = config.hidden_size, config.qkv_bias
        self.q_proj = _linear(width, self.heads * self.qk, bias)
        self.k_proj = _linear(width, self.heads * self.qk, bias)
        self.v_proj = _linear(width, self.heads * self.v, bias)
        self.o_proj = _linear(self.heads * self.v, width)

    def forward(
        self,
        hidden_states: Tensor,
        factors: BlockFactors = _NO_FACTORS,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batch, tokens, _ = hidden_states.shape
        if not self.heads:
            weights = hidden_states.new_zeros(batch, 0, tokens, tokens)
            return self.o_proj.bias.expand(hidden_states.shape), weights
        query, key, value = (
            scaled(projection(hidden_states).unflatten(-1, (self.heads, -1)), factor)
            for projection, factor in (
                (self.q_proj, factors.query),
                (self.k_proj, factors.key),
                (self.v_proj, factors.value),
            )
        )
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        weights = None
        if output_attentions:
            scores = query @ key.transpose(-1, -2) * self.scale
            weights = at_least_float32(scores).softmax(-1).to(value.dtype)
            context = weights @ value
        else:
            context = self._fast(query, key, value)
        return self.o_proj(context.transpose(1, 2).flatten(2)), weights

    def _fast(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention by torch's kernels, which are slow where the widths differ."""
        is_short = query.dtype.itemsize < 4
        if is_short and query.device.type == "cpu" and query.requires_grad:
            # Torch's gradients of 16-bit attention take several times as long on a CPU.
            return (query * self.scale @ key.transpose(-1, -2)).softmax(-1) @ value
        width = max(self.qk, self.v)
        if self.is_padded and self.qk != self.v:
            query, key, value = (F.pad(p, (0, width - p.shape[-1])) for p in (query, key, value))
        context = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return context[..., : self.v]


class NViTMLP(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, config: NViTConfig, block: int) -> None:
        super().__init__()
        hidden = config.intermediate_size[block]
        self.fc1 = _linear(config.hidden_size, hidden)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = _linear(hidden, config.hidden_size)

    def forward(self, hidden_states: Tensor, factors: BlockFactors = _NO_FACTORS) -> Tensor:
        if not self.fc1.out_features:
            return self.fc2.bias.expand(hidden_states.shape)
        neurons = self.activation(scaled(self.fc1(hidden_states), factors.neuron))
        return self.fc2(scaled(neurons, factors.activation))


class NViTLayer(nn.Module):
    """A block: attention, then the MLP, each on normed tokens and beside a shortcut."""

    def __init__(self, config: NViTConfig, block: int) -> None:
        super().__init__()
        self.attention_norm = NViTLayerNorm(config)
        self.attention = NViTAttention(config, block)
        self.mlp_norm = NViTLayerNorm(config)
        self.mlp = NViTMLP(config, block)

    def attend(
        self, tokens: Tensor, factors: BlockFactors = _NO_FACTORS, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The half with the attention, (B, N, E) to (B, N, E)."""
        normed = scaled(self.attention_norm(tokens), factors.norm)
        added, weights = self.attention(normed, factors, output_attentions)
        return tokens + scaled(added, factors.write), weights

    def transform(self, tokens: Tensor, factors: BlockFactors = _NO_FACTORS) -> Tensor:
        """The half with the MLP, (B, N, E) to (B, N, E)."""
        normed = scaled(self.mlp_norm(tokens), factors.norm)
        return tokens + scaled(self.mlp(normed, factors), factors.write)

    def forward(
        self, tokens: Tensor, factors: BlockFactors = _NO_FACTORS, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        tokens, weights = self.attend(tokens, factors, output_attentions)
        return self.transform(tokens, factors), weights


class NViTEmbeddings(nn.Module):
    """Patches as tokens, with the class token and the like before them, and positions."""

    def __init__(self, config: NViTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_extra = config.num_tokens - config.num_patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.distillation_token = (
            nn.Parameter(torch.zeros(1, 1, width)) if config.distilled else None
        )
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.num_tokens, width))
        self.patch_projection = nn.Conv2d(
            config.num_channels, width, config.patch_size, stride=config.patch_size
        )

    def forward(
        self, pixel_values: Tensor, factor: Tensor | None = None, kept: Tensor | None = None
    ) -> Tensor:
        patches = self.patch_projection(pixel_values).flatten(2).transpose(1, 2)
        places = self.position_embeddings
        patches = scaled(patches, factor) + places[:, self.num_extra :]
        if kept is not None:
            patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
        extra = [t for t in (self.cls_token, self.distillation_token) if t is not None]
        first = torch.cat(extra, 1) + places[:, : self.num_extra]
        return torch.cat([first.expand(patches.shape[0], -1, -1), patches], 1)


class NViTPreTrainedModel(SaliencyPreTrainedModel):
    """Base of both: fresh weights and checks."""

    config: NViTConfig
    base_model_prefix = "nvit"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _no_split_modules = ["NViTLayer", "NViTEmbeddings"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        spread = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d):
            if module.weight.numel():
                init.trunc_normal_(module.weight, std=spread)
            if module.bias is not None and module.bias.numel():
                init.zeros_(module.bias)
        elif isinstance(module, NViTLayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, NViTEmbeddings):
            for parameter in module._parameters.values():
                if parameter is not None:
                    init.trunc_normal_(parameter, std=spread)

    @property
    def layout(self) -> UnitLayout:
        """Where its prunable units stand in a mask."""
        return UnitLayout(NViTShape.of(self.config))


class NViTModel(NViTPreTrainedModel):
    """The network without its heads.

    Example:
        >>> config = NViTConfig(hidden_size=24, num_hidden_layers=2, image_size=32, patch_size=8,
        ...                     qk_head_dim=[4, 8], v_head_dim=8, intermediate_size=[16, 32])
        >>> NViTModel(config)(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape
        torch.Size([1, 17, 24])
    """

    def __init__(self, config: NViTConfig) -> None:
        super().__init__(config)
        self.embeddings = NViTEmbeddings(config)
        self.layers = nn.ModuleList(
            NViTLayer(config, block) for block in range(config.num_hidden_layers)
        )
        self.final_norm = NViTLayerNorm(config)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        *,
        mask: Tensor | None = None,
        gates: Tensor | None = None,
        gate_sites: GateSites = "weights",
        kept_patches: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> NViTModelOutput:
        """Turn pictures into tokens; see `NViTForImageClassification.forward`."""
        _check_pixel_values(pixel_values, self.config)
        factors = self._factors(pixel_values, mask, gates, gate_sites)
        _check_kept(kept_patches, pixel_values, self.config)
        tokens = self.embeddings(pixel_values, factors.patches, kept_patches)
        tokens = scaled(tokens, factors.embedded)
        # Only what is asked for is kept, as fresh memory for every block takes time.
        states, attentions = [tokens] if output_hidden_states else [], []
        for layer, own in zip(self.layers, factors.blocks, strict=True):
            tokens, weights = layer(tokens, own, bool(output_attentions))
            if output_hidden_states:
                states.append(tokens)
            attentions.append(weights)
        return NViTModelOutput(
            last_hidden_state=scaled(self.final_norm(tokens), factors.final),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _factors(
        self, pixels: Tensor, mask: Tensor | None, gates: Tensor | None, sites: GateSites
    ) -> NViTFactors:
        blocks = (_NO_FACTORS,) * len(self.layers)
        if mask is None and gates is None:
            return NViTFactors(blocks)
        layout, found = self.layout, NViTFactors(blocks)
        for name, flat in (("mask", mask), ("gates", gates)):
            rows = 1 if flat is None or flat.ndim == 1 else len(flat)
            if flat is not None and (
                flat.shape[-1] != layout.size or rows not in (1, len(pixels)) or flat.ndim > 2
            ):
                raise ValueError(
                    f"{name} must have shape ({layout.size},), (1, {layout.size}) or "
                    f"({len(pixels)}, {layout.size}), one value per unit, got "
                    f"{tuple(flat.shape)}."
                )
        if mask is not None:
            found = found.times(mask_factors(layout, mask.to(self.dtype)))
        if gates is not None:
            rows = gates.reshape(-1, layout.size).to(self.dtype)
            found = found.times(gate_factors(layout, rows, sites))
        return found


class NViTForImageClassification(NViTPreTrainedModel):
    """A vision transformer with blocks of any shape, and its classifier.

    Example:
        >>> config = NViTConfig(hidden_size=24, num_hidden_layers=2, image_size=32, patch_size=8,
        ...                     qk_head_dim=[4, 8], v_head_dim=8, intermediate_size=[16, 32])
        >>> NViTForImageClassification(config)(torch.zeros(1, 3, 32, 32)).logits.shape
        torch.Size([1, 2])

    Source: Yang et al. 2023 (arXiv 2110.04869); Touvron et al. 2021 (arXiv 2012.12877) for the
    distillation token.
    """

    def __init__(self, config: NViTConfig) -> None:
        super().__init__(config)
        self.nvit = NViTModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.distillation_classifier = (
            nn.Linear(config.hidden_size, config.num_labels)
            if config.num_classifiers == 2
            else None
        )
        self.post_init()

    @classmethod
    def from_vit(cls, source: Any, **settings: Any) -> Self:
        """Take over a trained ViT or DeiT; the weights are copied.

        Args:
            source: `ViTForImageClassification`, `DeiTForImageClassification` or
                `DeiTForImageClassificationWithTeacher` of transformers, the name or folder of one,
                or the state dictionary of a ViT or DeiT of timm.
            **settings: Fields of `NViTConfig` that the weights do not tell, such as
                `num_attention_heads` and `image_size` of a state dictionary, or `id2label`.

        Raises:
            TypeError: Another architecture.
            ValueError: A state dictionary that is not one of timm, or no number of heads.

        Example:
            >>> from transformers import ViTConfig, ViTForImageClassification
            >>> vit = ViTForImageClassification(ViTConfig(hidden_size=24, num_hidden_layers=1,
            ...     num_attention_heads=3, intermediate_size=32, image_size=32, patch_size=8))
            >>> NViTForImageClassification.from_vit(vit).config.qk_head_dim
            [8]
        """
        fields, state = nvit_state(source)
        fields |= settings
        if "qk_head_dim" not in fields:
            fields |= timm_heads(fields)
        model = cls(NViTConfig(**fields))
        model.load_state_dict(state)
        return model.eval()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        gates: Tensor | None = None,
        gate_sites: GateSites = "weights",
        kept_patches: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> NViTClassifierOutput:
        """Classify pictures.

        Args:
            pixel_values: Prepared pictures, (B, num_channels, image_size, image_size).
            labels: True classes in [0, num_labels), int64 (B,).
            mask: 0 for units that are to count as removed, 1 for others, (units,) in the order of
                `layout`.
            gates: Factors of the units, (units,), or (B, units) for each picture, by which the
                answer is to be differentiated.
            gate_sites: Where the gates act, see `gate_factors`.
            kept_patches: Patches that are looked at, int64 (B, k); None for all.
            output_hidden_states: Return the tokens between the blocks.
            output_attentions: Return the attention weights, at the cost of the fast kernels.

        Raises:
            TypeError: Pixels that are not floating point, or labels that are not int64.
            ValueError: Other shapes, or labels that are no classes.
        """
        _check_labels(labels, pixel_values, self.config.num_labels)
        found = self.nvit(
            pixel_values,
            mask=mask,
            gates=gates,
            gate_sites=gate_sites,
            kept_patches=kept_patches,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        tokens = found.last_hidden_state
        of_class = self.classifier(tokens[:, 0])
        logits, of_teacher = of_class, None
        if self.distillation_classifier is not None:
            of_teacher = self.distillation_classifier(tokens[:, 1])
            logits = (of_class + of_teacher) / 2
        return NViTClassifierOutput(
            loss=None if labels is None else F.cross_entropy(at_least_float32(logits), labels),
            logits=logits,
            cls_logits=of_class,
            distillation_logits=of_teacher,
            hidden_states=found.hidden_states,
            attentions=found.attentions,
        )


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they are."""
    return values.float() if values.dtype.itemsize < 4 else values


def _linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    with warnings.catch_warnings():
        # Of blocks without heads or neurons, which have nothing to draw.
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(inputs, outputs, bias=bias)


def _check_pixel_values(pixel_values: Tensor, config: NViTConfig) -> None:
    expected = (config.num_channels, config.image_size, config.image_size)
    if pixel_values.ndim != 4 or pixel_values.shape[1:] != expected:
        raise ValueError(
            f"pixel_values must have shape (B, {', '.join(map(str, expected))}), got "
            f"{tuple(pixel_values.shape)}; prepare pictures with the model's image processor."
        )
    if not pixel_values.is_floating_point():
        raise TypeError(
            f"pixel_values must be floating point and normalized, got {pixel_values.dtype}; "
            "prepare pictures with the model's image processor."
        )


def _check_kept(kept: Tensor | None, pixel_values: Tensor, config: NViTConfig) -> None:
    if kept is not None and (
        kept.dtype != torch.int64 or kept.ndim != 2 or len(kept) != len(pixel_values)
    ):
        raise ValueError(
            f"kept_patches must be int64 ({len(pixel_values)}, k), numbers below "
            f"{config.num_patches}, got {kept.dtype} {tuple(kept.shape)}."
        )


def _check_labels(labels: Tensor | None, pixel_values: Tensor, classes: int) -> None:
    if labels is None:
        return
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be class numbers, int64, got {labels.dtype}.")
    if labels.shape != (len(pixel_values),):
        raise ValueError(
            f"labels must have shape ({len(pixel_values)},), got {tuple(labels.shape)}."
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must be classes 0 to {classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )
