"""How transformers saves and loads models whose linear layers are packed in few bits."""

import inspect
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from salhub.errors import IntegrityError, UnknownSettingError, check_choice
from salhub.quantization.blockwise_linear import BlockwiseLinear, Inference
from salhub.quantization.packed_embedding import PackedEmbedding, TiedHead
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantized_weight import LARGEST_WIDTH, QuantizedWeight

_WIDTHS = {str(width) for width in range(1, LARGEST_WIDTH + 1)}


class PackedWeightsConfig(QuantizationConfigMixin):
    """Which layers are packed, and how: the `quantization_config` in config.json.

    Args:
        bits: The mean width that was asked for.
        group_size: Columns in a group.
        group_bits: Name of a packed layer -> the width of each of its groups, as one digit each,
            "2232…", or as a sequence of integers.
        modules_to_not_convert: Linear layers that were left as they are.
        inference: As of `BlockwiseLinear`; `set_inference` changes it in a loaded model.
        quantize_embeddings: "int8" stores the embedding, and a head that shares its weights, in 8
            bits a value and a scale for each row.
        **others: `quant_method`, as it is read from a file.

    Raises:
        UnknownSettingError: A setting is not known.
        ValueError: A setting has a wrong value.
    """

    # What `quant_method` says: "salhub_" and the name of the kind of model.
    method: ClassVar[str]
    quant_method: Any

    def __init__(
        self,
        bits: float,
        group_size: int,
        group_bits: Mapping[str, str | Sequence[int]] | None = None,
        modules_to_not_convert: Sequence[str] = ("lm_head",),
        inference: Inference = "dequantized",
        quantize_embeddings: Literal["int8"] | None = None,
        **others: Any,
    ) -> None:
        check_choice("quant_method", others.pop("quant_method", self.method), [self.method])
        for name in others:
            raise UnknownSettingError(type(self).__name__, name, self._setting_names())
        check_choice("inference", inference, get_args(Inference))
        check_choice("quantize_embeddings", quantize_embeddings, ["int8", None])
        if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
            raise ValueError(f"group_size must be an integer of at least 1, got {group_size!r}.")
        if not isinstance(group_bits, Mapping | None):
            raise ValueError(f"group_bits must map layer names to widths, got {group_bits!r}.")
        self.quant_method = self.method
        self.bits = bits
        self.group_size = group_size
        self.group_bits = {
            name: _as_digits(name, widths) for name, widths in (group_bits or {}).items()
        }
        self.modules_to_not_convert = list(modules_to_not_convert or ())
        self.inference = inference
        self.quantize_embeddings = quantize_embeddings
        both = sorted(self.group_bits.keys() & set(self.modules_to_not_convert))
        if both:
            raise ValueError(
                f"'{both[0]}' is both in group_bits and in modules_to_not_convert; leave it out of "
                "one of them."
            )

    @classmethod
    def _setting_names(cls) -> set[str]:
        parameters = (
            parameter
            for kind in cls.mro()
            for parameter in inspect.signature(kind.__init__).parameters.values()
        )
        return {
            one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        }


def _as_digits(name: str, widths: str | Sequence[int]) -> str:
    digits = "".join(str(width) for width in widths)
    if not digits or len(digits) != len(widths) or not set(digits) <= _WIDTHS:
        raise ValueError(
            f"group_bits of '{name}' must be a width from 1 to {LARGEST_WIDTH} for each group, got "
            f"{widths!r}."
        )
    return digits


class PackedWeightsQuantizer(HfQuantizer):
    """Puts packed layers where the configuration has them.

    A method subclasses it with its own `config_class`, and an entry in `salhub.auto` registers
    both.
    """

    config_class: ClassVar[type[PackedWeightsConfig]]
    requires_calibration = True
    quantization_config: PackedWeightsConfig

    def __init__(self, quantization_config: PackedWeightsConfig, **settings: Any) -> None:
        if not settings.get("pre_quantized", True):
            raise ValueError(
                f"'{quantization_config.quant_method}' needs calibration and cannot quantize "
                "a model during loading; run `salhub compress` first, and load its output "
                "folder."
            )
        super().__init__(quantization_config, **settings)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        config = self.quantization_config
        for stored_name, widths in config.group_bits.items():
            name, layer = _find_linear(model, stored_name)
            try:
                with torch.device("meta"):
                    packed = self._empty_layer(name, layer, [int(width) for width in widths])
            except ValueError as error:
                raise ValueError(f"'{stored_name}' cannot be loaded. {error}") from error
            model.set_submodule(name, packed)
        if config.quantize_embeddings:
            place = _find_embedding(model)
            embedding = model.get_input_embeddings()
            size = embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx
            with torch.device("meta"):
                _put_embedding(model, place, PackedEmbedding(*size), config.inference)

    def _empty_layer(self, name: str, layer: nn.Linear, widths: list[int]) -> PackedLinear:
        """The layer whose weights are loaded in place of a plain one."""
        config, has_bias = self.quantization_config, layer.bias is not None
        size = layer.in_features, layer.out_features, config.group_size
        return PackedLinear(*size, widths, has_bias, config.inference)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        _refuse_what_was_not_loaded(model)
        for name, layer in packed_layers(model).items():
            # A type that a family of models keeps some names in; there and back loses nothing.
            layer.scales, layer.means = layer.scales.half(), layer.means.half()
            # On the meta device where layers are left on the disk.
            if not layer.group_bits.is_meta and layer.group_bits.tolist() != list(layer.widths):
                raise IntegrityError(
                    f"The widths of '{name}' in the weights are not those in config.json; "
                    "the two files belong to different models, so download both again."
                )

    def _dequantize(self, model: PreTrainedModel, dtype: Any = None) -> PreTrainedModel:
        present = model.dtype
        # Saving a model leaves a text in its configuration.
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or present
        for name, layer in packed_layers(model).items():
            model.set_submodule(name, layer.to_linear(dtype))
        if self.quantization_config.quantize_embeddings:
            _take_embedding(model, dtype)
        # Otherwise some parts may be of another type on purpose.
        return model if dtype == present else model.to(dtype)

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[dict, dict]:
        return in_half_where_exact(model), {}

    def is_serializable(self, **_: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def _find_linear(model: PreTrainedModel, stored_name: str) -> tuple[str, nn.Linear]:
    """A layer by its name in a file, which may be that of the model with a head, or without."""
    prefix = f"{model.base_model_prefix}."
    modules = dict(model.named_modules())
    for name in (stored_name, stored_name.removeprefix(prefix), prefix + stored_name):
        if name in modules:
            if type(modules[name]) is not nn.Linear:
                raise ValueError(
                    f"'{stored_name}' is of type {type(modules[name]).__name__}, but only "
                    "plain linear layers can be packed; leave it out of group_bits."
                )
            return name, modules[name]
    raise ValueError(
        f"The model has no layer '{stored_name}', which group_bits names; the configuration "
        "belongs to another model."
    )


def _refuse_what_was_not_loaded(model: PreTrainedModel) -> None:
    """Buffers that no file held are whatever the memory held, which transformers only warns of."""
    loaded = {
        f"{name}.{key}": getattr(values, "_is_hf_initialized", False)
        for name, layer in model.named_modules()
        if isinstance(layer, PackedLinear | PackedEmbedding)
        for key, values in (*layer.named_buffers(), *layer.named_parameters())
    }
    missing = [name for name, is_loaded in loaded.items() if not is_loaded]
    # The mark goes where layers are spread over devices.
    if missing and len(set(getattr(model, "hf_device_map", {}).values())) < 2:
        raise IntegrityError(
            f"The weights lack {len(missing)} of {len(loaded)} packed tensors, such as "
            f"{missing[0]}; the file is damaged or belongs to another model, so download it "
            "again."
        )


def in_half_where_exact(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model, in half precision what loses nothing by it.

    Weights that lay in half precision are loaded as float32 where the configuration says so; they
    are not to take twice the room in the smaller model.
    """
    halves: dict[int, torch.Tensor] = {}

    def kept(values: torch.Tensor) -> torch.Tensor:
        if values.dtype != torch.float32 or values.is_meta:  # or it lies on the disk
            return values
        # Shared tensors stay shared.
        if values.data_ptr() not in halves:
            half = values.half()
            halves[values.data_ptr()] = half if torch.equal(half.float(), values) else values
        return halves[values.data_ptr()]

    return {name: kept(values) for name, values in model.state_dict().items()}


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """Return the packed layers of a model by their names."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, PackedLinear)}


def loaded_bytes(model: nn.Module) -> int:
    """Return how much memory a model takes now, with what its packed layers keep beside them."""
    kept = (layer.kept_tensors() for layer in model.modules() if isinstance(layer, BlockwiseLinear))
    tensors = {id(one): one for one in (*model.parameters(), *model.buffers(), *chain(*kept))}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def set_inference(model: nn.Module, inference: Inference) -> None:
    """Choose how the packed layers of a model compute, in place.

    Args:
        model: A model with packed layers.
        inference: "dequantized": a dense copy is made at the first use and kept, so that the model
            is as fast and as large as a plain one. "packed": no copy is kept.

    Raises:
        ValueError: It is neither.
    """
    check_choice("inference", inference, get_args(Inference))
    for layer in model.modules():
        if isinstance(layer, BlockwiseLinear):
            layer.set_inference(inference)
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if isinstance(config, PackedWeightsConfig):
        config.inference = inference


@contextmanager
def one_block_unpacked(blocks: Iterable[nn.Module]) -> Generator[None]:
    """Give up the dense copies of a block as soon as it has been passed.

    Args:
        blocks: Of a model, which is passed while the context is open; it computes the same, and
            unpacks every block in every pass.
    """

    def give_up(block: nn.Module, *_: Any) -> None:
        for layer in packed_layers(block).values():
            layer.set_inference(layer.inference)

    handles = [block.register_forward_hook(give_up) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def quantize_model(
    model: PreTrainedModel,
    weights: Mapping[str, QuantizedWeight],
    config: PackedWeightsConfig,
) -> PreTrainedModel:
    """Put packed layers into a plain model, in place, so that `save_pretrained` writes them packed.

    Args:
        model: A model in full precision.
        weights: Name of a linear layer -> what it is to hold.
        config: The settings; its `group_bits` are filled from the weights.

    Returns:
        The model.

    Raises:
        ValueError: The model is quantized already, a layer is not there, is tied to an embedding or
            has another shape, or `config` says something else than the weights.
    """
    quantizer_class = AUTO_QUANTIZER_MAPPING.get(config.quant_method)
    if quantizer_class is None:
        raise ValueError(
            f"No quantizer '{config.quant_method}' is registered; register it before you "
            "quantize a model with it."
        )
    refuse_quantized(model)
    if not weights:
        raise ValueError("There are no weights to pack; give at least one linear layer.")
    if config.quantize_embeddings:
        check_embedding(model)
    layers = {name: _layer_for(model, name, weight, config) for name, weight in weights.items()}
    for name, layer in layers.items():
        packed = PackedLinear.from_quantized(weights[name], layer.bias, config.inference)
        packed = packed.to(layer.weight.device).train(layer.training)
        model.set_submodule(name, packed)
    if config.quantize_embeddings:
        pack_embedding(model, config)
    return describe_packed(model, config)


def check_embedding(model: PreTrainedModel) -> None:
    """Raises ValueError where the embedding of a model is none that can be packed."""
    _find_embedding(model)


def pack_embedding(model: PreTrainedModel, config: PackedWeightsConfig) -> None:
    """Put a packed embedding into a model, in place, and a head that shares it.

    Args:
        model: Whose embedding is a plain one, see `check_embedding`.
        config: Says how it computes; its `quantize_embeddings` is set.
    """
    place = _find_embedding(model)
    embedding = PackedEmbedding.from_embedding(model.get_input_embeddings())
    _put_embedding(model, place, embedding, config.inference)
    config.quantize_embeddings = "int8"


def describe_packed(model: PreTrainedModel, config: PackedWeightsConfig) -> PreTrainedModel:
    """Tell a model that has packed layers so, as transformers tells one that it loads.

    Args:
        model: Has packed layers.
        config: The settings; its `group_bits` are filled from the layers.

    Returns:
        The model.
    """
    config.group_bits = {
        name: _as_digits(name, layer.widths) for name, layer in packed_layers(model).items()
    }
    model.config.quantization_config = config
    vars(model).update(
        hf_quantizer=AUTO_QUANTIZER_MAPPING[config.quant_method](config),
        quantization_method=config.quant_method,
        is_quantized=True,
    )
    return model


def _find_embedding(model: PreTrainedModel) -> tuple[str, str | None]:
    """The names of the embedding, and of the head that shares its weights if there is one."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    name = next((one for one, part in model.named_modules() if part is embedding), None)
    sharing = [
        target for target, source in model.all_tied_weights_keys.items()
        if source == f"{name}.weight"
    ]  # fmt: skip
    heads = [one for one, part in model.named_modules() if part is head and head is not None]
    is_plain = type(embedding) is nn.Embedding and embedding.max_norm is None
    is_shared_with_head_alone = set(sharing) <= {f"{one}.weight" for one in heads}
    if not is_plain or not is_shared_with_head_alone or (sharing and type(head) is not nn.Linear):
        raise ValueError(
            "quantize_embeddings needs a plain embedding, shared with a plain linear head "
            f"or not shared, but '{name}' is of type {type(embedding).__name__} and shared "
            f"with {', '.join(sharing) or 'nothing'}; leave quantize_embeddings out."
        )
    return name, heads[0] if sharing else None


def _put_embedding(
    model: PreTrainedModel,
    place: tuple[str, str | None],
    embedding: PackedEmbedding,
    inference: Inference,
) -> None:
    name, head = place
    model.set_submodule(name, embedding.train(model.get_submodule(name).training))
    if head is not None:
        model.set_submodule(head, TiedHead(embedding, inference).train(embedding.training))
        # transformers ties parameters, and would look for one.
        del model.all_tied_weights_keys[f"{head}.weight"]


def _take_embedding(model: PreTrainedModel, dtype: torch.dtype) -> None:
    for name, part in list(model.named_modules()):
        if isinstance(part, PackedEmbedding):
            model.set_submodule(name, part.to_embedding(dtype))
        elif isinstance(part, TiedHead):
            model.set_submodule(name, part.to_linear(dtype))
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    model.tie_weights()


def refuse_quantized(model: PreTrainedModel) -> None:
    """Raises ValueError where the weights of a model are in few bits already."""
    present = getattr(model.config, "quantization_config", None) or {}
    settings = present if isinstance(present, Mapping) else present.to_dict()
    method = settings.get("quant_method", "few bits")
    # A model read from a GGUF file is called quantized even where all of it was unpacked.
    is_gguf = any(".gguf" in type(part).__module__ for part in model.modules())
    if packed_layers(model) or (present and (method != "gguf" or is_gguf)):
        raise ValueError(
            f"The model is already quantized with {getattr(method, 'value', method)}; load it in "
            "full precision, or call dequantize() on it first."
        )


def _layer_for(
    model: PreTrainedModel, name: str, weight: QuantizedWeight, config: PackedWeightsConfig
) -> nn.Linear:
    found, layer = _find_linear(model, name)
    if found != name:
        raise ValueError(f"The model has no layer '{name}'; did you mean '{found}'?")
    embedding = model.get_input_embeddings()
    if embedding is not None and layer.weight is embedding.weight:
        raise ValueError(
            f"'{name}' shares its weights with the embedding and cannot be packed; leave it out."
        )
    if layer.weight.shape != weight.codes.shape:
        raise ValueError(
            f"'{name}' has weights of shape {tuple(layer.weight.shape)}, but the quantized "
            f"ones have {tuple(weight.codes.shape)}; quantize the layer of this model."
        )
    if weight.group_size != config.group_size:
        raise ValueError(
            f"'{name}' is quantized in groups of {weight.group_size}, but group_size is "
            f"{config.group_size}; all layers must have the same group_size."
        )
    if name in config.modules_to_not_convert:
        raise ValueError(
            f"'{name}' is in modules_to_not_convert, but there are quantized weights for it; "
            "leave it out of one of them."
        )
    return layer
