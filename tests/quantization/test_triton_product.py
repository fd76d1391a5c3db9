"""The kernel of GPUs against the layer that unpacks: on a GPU, or interpreted without one."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from salhub.quantization import packed_linear
from salhub.quantization.packed_linear import PackedLinear
from tests.machine import Machine
from tests.quantization.packed_toy import random_weight

triton_product = pytest.importorskip(
    "salhub.quantization.triton_product", reason="triton is not installed; pip install triton"
)
HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
# Rows, columns, columns in a group, and the width of each group, random where there are none.
SHAPES = {
    "a model's": (48, 576, 128, [1, 3, 2, 4, 2]),
    "odd": (7, 37, 8, None),
    "narrow end": (16, 72, 32, [3, 1, 5]),
    "one group": (33, 100, 100, [5]),
    "one bit": (5, 8, 3, [1, 1, 1]),
    "no bit of its own": (65, 24, 8, [4, 4, 4]),
}
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def layer_of(shape: str) -> PackedLinear:
    layer = PackedLinear.from_quantized(random_weight(*SHAPES[shape]), None, "packed")
    return layer.eval().to(DEVICE)


def inputs_for(layer: PackedLinear, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(*size, layer.in_features, generator=draw).to(dtype).to(DEVICE)


@pytest.fixture
def on_gpu(monkeypatch):
    """Layers take the way of GPUs."""
    packed_linear.gpu_kernel.cache_clear()
    monkeypatch.setattr(PackedLinear, "_packed_product", PackedLinear._gpu_product)
    yield
    packed_linear.gpu_kernel.cache_clear()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_kernel_computes_what_unpacked_weights_do(shape, dtype):
    layer = layer_of(shape)
    table = triton_product.table_of(layer)
    for size in ((), (1, 1), (0, 2), (2, 3), (70,)):
        inputs = inputs_for(layer, size, dtype)
        if dtype == torch.bfloat16 and inputs[..., 0].numel() > 1 and not HAS_GPU:
            continue  # the interpreter multiplies tiles of bfloat16 as if they were integers
        found, expected = (
            triton_product.triton_product(inputs, layer, table),
            layer._unpacked_product(inputs),
        )
        assert found.dtype == dtype and found.shape == expected.shape
        if found.numel():
            error = (found.double() - expected.double()).abs().max() / expected.abs().max()
            assert error < TOLERANCES[dtype]


@pytest.mark.parametrize("width", range(1, 6))
def test_every_code_of_every_width_is_read(width):
    # An input that is 1 in one place reads a column: nothing is rounded.
    layer = PackedLinear.from_quantized(random_weight(9, 43, 10, [width] * 5), None).to(DEVICE)
    ones = torch.eye(43, device=DEVICE)
    found = triton_product.triton_product(ones, layer, triton_product.table_of(layer))
    assert torch.equal(found.T, layer.to_quantized().dequantize())


def test_the_argument_that_chooses_the_packed_form_chooses_the_kernel(on_gpu, caplog):
    layer = layer_of("a model's")
    inputs = inputs_for(layer, (2, 3), torch.float32)
    with torch.no_grad():
        found = layer(inputs)
    assert layer._table is not None and layer._dense is None and not caplog.records
    torch.testing.assert_close(found, layer._unpacked_product(inputs))
    # Training goes through unpacked rows, as the kernel has no gradient.
    layer(inputs.requires_grad_()).sum().backward()
    torch.testing.assert_close(inputs.grad, layer.to_linear().weight.sum(0).expand_as(inputs))
    layer.to(torch.float16)
    assert layer._table is None


@pytest.mark.parametrize("fault", ["missing", "wrong", "type"])
def test_where_the_kernel_does_not_work_a_sentence_says_why(fault, on_gpu, caplog, monkeypatch):
    layer = layer_of("odd")
    dtype = torch.float64 if fault == "type" else torch.float32
    if fault == "missing":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if fault == "wrong":
        monkeypatch.setattr(triton_product, "triton_product", lambda inputs, layer, table: inputs)
    inputs = inputs_for(layer, (2,), dtype)
    with torch.no_grad():
        assert torch.equal(layer(inputs), layer._unpacked_product(inputs))
        layer(inputs)
    [said] = [record.getMessage() for record in caplog.records]
    reason = {
        "missing": "pip install triton",
        "wrong": "the kernel gives wrong results here",
        "type": "this type",
    }
    assert "unpacked a few rows at a time" in said and reason[fault] in said


def test_it_is_compiled_for_gpus(tmp_path):
    code = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from salhub.quantization.triton_product import _product
names = [one.name for one in _product.params]
types = {"scales": "*fp16", "means": "*fp16", "weight": "*u8", "zeros": "*u8", "table": "*i32"}
for dtype, tokens in (("bf16", 16), ("fp16", 1)):
    sizes = {"GROUP": 128, "FIELDS": 9, "TOKENS": tokens, "ROWS": 16, "COLUMNS": 64}
    of = types | {"inputs": "*" + dtype, "outputs": "*" + dtype} | dict.fromkeys(sizes, "constexpr")
    source = ASTSource(
        fn=_product,
        signature={name: of.get(name, "i32") for name in names},
        constexprs={(names.index(name),): size for name, size in sizes.items()},
    )
    print(len(compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]) > 1000)
"""
    settings = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    packages = [Path(triton_product.triton.__file__).parents[1]]
    run = Machine(settings, packages, preload=False).run(
        code, folder=tmp_path, environment=settings
    )
    assert run.stdout.split() == ["True"] * 2, run.stderr
