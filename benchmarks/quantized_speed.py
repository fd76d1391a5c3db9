"""How long SliM-LLM takes beside the published order of work, and how fast its models write."""

import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.plain_slim_llm import quantize_block
from benchmarks.quantization_cells import Cell, Source, recipe_of, tokenizer_of
from salhub.data.documents import calibration_windows
from salhub.evaluation.language_model import decode_speed
from salhub.quantization.blockwise_linear import Inference
from salhub.quantization.decoder_blocks import decoder_blocks, first_inputs, linear_layers
from salhub.quantization.quantizer import packed_layers

PLAIN_ORDER = "published order of work"
# Ways to hold the weights of the decoder's linear layers.
FLOAT, BFLOAT, DENSE, PACKED, HQQ = "float32", "bfloat16", "dequantized once", "packed", "HQQ"
_HALF = 2


def shortened(model: PreTrainedModel, blocks: int) -> PreTrainedModel:
    """The same model with its first blocks only; it is changed."""
    model.model.layers = model.model.layers[:blocks]
    model.config.num_hidden_layers = blocks
    return model


def seconds_of_model(source: Source, method: str) -> float:
    """Seconds by the clock that a whole model at two bits takes, from the loaded model on."""
    torch.set_num_threads(source.threads)
    model = source.load()
    torch.set_float32_matmul_precision(source.precision)
    recipe, began = recipe_of(Cell(2, 0, method), source), time.perf_counter()
    recipe.compress(model, tokenizer_of(source))
    torch.set_float32_matmul_precision("highest")
    return time.perf_counter() - began


def seconds_of_blocks(source: Source, blocks: int, methods: tuple[str, ...]) -> dict[str, float]:
    """Processor seconds that the first blocks take, of each method in turn, at two bits.

    Args:
        source: The model and the text.
        blocks: How many.
        methods: Keys of `METHODS`.
    """
    torch.set_num_threads(source.threads)
    found: dict[str, float] = {}

    tokenizer = tokenizer_of(source)
    windows = calibration_windows(source.calibration, tokenizer, source.windows, source.length)

    def base() -> Any:
        return shortened(source.load(), blocks)

    for method in methods:
        model, recipe = base(), recipe_of(Cell(2, 0, method), source)
        torch.set_float32_matmul_precision(source.precision)
        began = time.process_time()
        recipe.compress(model, tokenizer, windows)
        found[method] = time.process_time() - began
    torch.set_float32_matmul_precision(source.precision)
    model, began = base(), time.process_time()
    inputs = first_inputs(model, windows, batch_size=1)
    for block in decoder_blocks(model).values():
        inputs.move_on(quantize_block(block, inputs, 2, source.group_size))
    found[PLAIN_ORDER] = time.process_time() - began
    torch.set_float32_matmul_precision("highest")
    return found


def inference_rows(source: Source, method: str, tokens: int = 32) -> dict[str, dict[str, float]]:
    """How fast a model writes, and the bytes of the decoder's linear layers while it does.

    Args:
        source: The model and the text.
        method: Key of `METHODS` of the model that is packed.
        tokens: That are written, after a prompt of twice as many.

    Returns:
        Way -> "decode" and "prefill" in tokens a second, and "bytes" as a share of 16 bits a
        weight.
    """
    torch.set_num_threads(source.threads)
    found: dict[str, dict[str, float]] = {}

    def note(name: str, model: Any) -> None:
        speed = decode_speed(model, prompt_tokens=2 * tokens, new_tokens=tokens)
        found[name] = {"decode": speed.decode, "prefill": speed.prefill, "bytes": _share(model)}

    for name, dtype in ((FLOAT, torch.float32), (BFLOAT, torch.bfloat16)):
        note(name, source.load(dtype=dtype))
    if importlib.util.find_spec("hqq") is not None:
        model = source.load(dtype=torch.bfloat16)
        _each_layer(model, lambda layer: _hqq_layer(layer, source.group_size))
        note(HQQ, model)
    model = source.load(dtype=torch.bfloat16)
    # How well the codes are chosen changes nothing here.
    little = replace(source, windows=2, length=64)
    packed = recipe_of(Cell(2, 0, method), little).compress(model, tokenizer_of(source))
    ways: tuple[tuple[str, Inference], ...] = ((DENSE, "dequantized"), (PACKED, "packed"))
    for name, inference in ways:
        for layer in packed_layers(packed).values():
            layer.set_inference(inference)
        note(name, packed)
    return found


def _each_layer(model: Any, made: Callable[[nn.Linear], nn.Module]) -> None:
    for block in decoder_blocks(model).values():
        for name, layer in linear_layers(block).items():
            block.set_submodule(name, made(layer))


def _hqq_layer(layer: nn.Linear, group_size: int) -> nn.Module:
    device = str(layer.weight.device)
    quantize = importlib.import_module("hqq.core.quantize")
    config = quantize.BaseQuantizeConfig(nbits=2, group_size=group_size, axis=1)
    return quantize.HQQLinear(layer, config, compute_dtype=torch.bfloat16, device=device)


def _share(model: Any) -> float:
    """Bytes that the decoder's linear layers hold, as a share of 16 bits a weight."""
    held, weights = 0, 0
    for block in decoder_blocks(model).values():
        for module in block.modules():
            if not hasattr(module, "in_features"):
                continue
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            tensors += module.kept_tensors() if hasattr(module, "kept_tensors") else []
            if hasattr(module, "W_q"):
                tensors += [one for one in module.meta.values() if isinstance(one, torch.Tensor)]
            held += sum(one.numel() * one.element_size() for one in tensors)
            weights += module.in_features * module.out_features
    return held / (_HALF * weights)
