"""A linear layer whose weights stay in few bits."""

import functools
import importlib
import importlib.util
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from salhub.quantization.bit_planes import bytes_per_row, pack_codes, unpack_codes
from salhub.quantization.blockwise_linear import BlockwiseLinear, Inference, keeping_types
from salhub.quantization.quantized_weight import (
    LARGEST_WIDTH,
    QuantizedWeight,
    dequantize,
    group_count,
)

logger = logging.getLogger(__name__)

# Weights that are unpacked at a time where all of them must not be.
_BLOCK = 2**20
# Group sizes and the number of rows that torch's operation on 4 bits takes.
_FOUR_BIT_GROUPS = (256, 128, 64, 32)
_FOUR_BIT_ROWS = 16
# Two threads must not give up the packed codes of one layer at once.
_CHANGING_FORM = threading.Lock()


class PackedLinear(BlockwiseLinear):
    """A linear layer that holds a `QuantizedWeight`.

    Its state has the packed codes under the name `weight`. So whoever loads it as a plain linear
    layer is told of a wrong shape and gets no random weights.

    Args:
        in_features: Columns of the weight.
        out_features: Rows of the weight.
        group_size: Columns in a group.
        group_bits: The width of each group.
        bias: Whether there is one.
        inference: As of `BlockwiseLinear`.

    Raises:
        ValueError: The widths are not one for each group, or not from 1 to 5.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    means: Tensor
    group_bits: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        group_size: int,
        group_bits: Sequence[int],
        bias: bool = False,
        inference: Inference = "dequantized",
    ) -> None:
        super().__init__(in_features, out_features, bias, inference)
        self.group_size = group_size
        self.widths = tuple(int(width) for width in group_bits)
        groups = group_count(in_features, group_size)
        if len(self.widths) != groups or not set(self.widths) <= {*range(1, LARGEST_WIDTH + 1)}:
            raise ValueError(
                f"A layer of {in_features} columns in groups of {group_size} needs {groups} widths "
                f"from 1 to {LARGEST_WIDTH}, got {len(self.widths)}: {list(self.widths)}."
            )
        # Counted in Python: on the meta device there are no values to count.
        columns, zeros = Counter(), Counter()
        for group, width in enumerate(self.widths):
            columns[width] += min(group_size, in_features - group * group_size)
            zeros[width] += out_features * (width > 1)
        one_bit = self.widths.count(1)
        byte, half = torch.uint8, torch.float16
        size = out_features * bytes_per_row(columns)
        self.register_buffer("weight", torch.zeros(size, dtype=byte))
        self.register_buffer("scales", torch.zeros(out_features, groups, dtype=half))
        self.register_buffer("zeros", torch.zeros(bytes_per_row(zeros), dtype=byte))
        self.register_buffer("means", torch.zeros(out_features, one_bit, dtype=half))
        self.register_buffer("group_bits", torch.tensor(self.widths, dtype=byte))
        # Codes in torch's own order of 4 bits, which stand in for `weight`, with what they need.
        self._four_bits: tuple[Tensor, Tensor] | None = None
        # Where codes stand, for the kernel of GPUs.
        self._table: Tensor | None = None

    @classmethod
    def from_quantized(
        cls,
        weight: QuantizedWeight,
        bias: Tensor | None = None,
        inference: Inference = "dequantized",
    ) -> Self:
        """Pack a weight.

        Args:
            weight: What the layer is to hold.
            bias: That of the layer, which stays as it is.
            inference: As of the class.
        """
        rows, columns = weight.codes.shape
        widths = weight.group_bits.tolist()
        layer = cls(columns, rows, weight.group_size, widths, bias is not None, inference)
        layer.weight = pack_codes(weight.codes, weight.column_bits).flatten()
        layer.scales = weight.scales.clone()
        bits = weight.group_bits
        layer.zeros = pack_codes(
            weight.zeros[:, bits > 1].T.reshape(1, -1),
            bits[bits > 1].repeat_interleave(rows),
        )[0]
        layer.means = weight.means[:, bits == 1].contiguous()
        layer.group_bits = bits.clone()
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        return layer

    def to_quantized(self) -> QuantizedWeight:
        """Return the weight that the layer holds, unpacked."""
        codes = unpack_codes(self._packed_rows(), self._column_bits())
        values = self.group_bits, self.scales, *self._zeros_and_means()
        return QuantizedWeight(codes, self.group_size, *values)

    @property
    def is_symmetric(self) -> bool:
        """Whether all zeros are in the middle of the codes."""
        zeros, _ = self._zeros_and_means()
        return bool((zeros == 2 ** (self.group_bits.int() - 1)).all())

    def extra_repr(self) -> str:
        counts = ", ".join(f"{n} of {width}" for width, n in sorted(Counter(self.widths).items()))
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, group_size={self.group_size}, "
            f"bits: {counts}, inference={self.inference!r}"
        )

    def set_inference(self, inference: Inference) -> None:
        super().set_inference(inference)
        self._packed_rows()

    def kept_tensors(self) -> list[Tensor]:
        table = [] if self._table is None else [self._table]
        return [*super().kept_tensors(), *(self._four_bits or ()), *table]

    # --- unpacking --------------------------------------------------------------------------------

    def _column_groups(self) -> Tensor:
        columns = torch.arange(self.in_features, device=self.group_bits.device)
        return columns // self.group_size

    def _column_bits(self) -> Tensor:
        return self.group_bits[self._column_groups()]

    def _packed_rows(self) -> Tensor:
        """The codes as they are stored, a row for each of the weight's."""
        with _CHANGING_FORM:
            if self._four_bits is not None:
                self.weight = self._from_four_bits(*self._four_bits)
                self._four_bits = None
            return self.weight.view(self.out_features, -1)

    def _zeros_and_means(self) -> tuple[Tensor, Tensor]:
        """Those of all groups, 0 where a group has none."""
        bits = self.group_bits
        zeros = torch.zeros_like(self.scales, dtype=torch.uint8)
        packed_bits = bits[bits > 1].repeat_interleave(self.out_features)
        found = unpack_codes(self.zeros[None], packed_bits)
        zeros[:, bits > 1] = found.view(-1, self.out_features).T
        means = torch.zeros_like(self.scales)
        means[:, bits == 1] = self.means
        return zeros, means

    def _row_blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weights, a few rows at a time."""
        rows, bits = max(1, _BLOCK // self.in_features), self._column_bits()
        values = self._packed_rows(), self.scales, *self._zeros_and_means()
        for packed, *others in zip(*(one.split(rows) for one in values), strict=True):
            codes = unpack_codes(packed, bits)
            yield dequantize(codes, self.group_size, self.group_bits, *others).to(dtype)

    # --- without a dense copy ---------------------------------------------------------------------

    def _packed_product(self, inputs: Tensor) -> Tensor:
        if inputs.device.type == "cuda":
            return self._gpu_product(inputs)
        # In float32 the operation is slower than unpacking; in a training codes would be given up
        # and wanted back at every step.
        is_fast = inputs.dtype == torch.bfloat16 and inputs.device.type == "cpu"
        held = self._take_four_bits() if is_fast and not self.training else None
        if held is None:
            return self._unpacked_product(inputs)
        rows = inputs.reshape(-1, self.in_features).contiguous()
        outputs = _four_bit_product(rows, *held)
        return outputs.reshape(*inputs.shape[:-1], self.out_features)

    def _gpu_product(self, inputs: Tensor) -> Tensor:
        device = inputs.device
        if torch.is_autocast_enabled(device.type):
            inputs = inputs.to(torch.get_autocast_dtype(device.type))
        kernel = gpu_kernel(device, inputs.dtype)
        if kernel is None:
            return self._unpacked_product(inputs)
        if self._table is None or self._table.device != device:
            self._table = kernel.table_of(self)
        return kernel.triton_product(inputs, self, self._table)

    def _take_four_bits(self) -> tuple[Tensor, Tensor] | None:
        """Hold the codes as torch's operation wants them; None where it cannot take them."""
        if self._four_bits is not None:
            return self._four_bits
        group_size = _four_bit_group_size(self)
        if group_size is None or not has_four_bit_product():
            return None
        packed = self._packed_rows()
        with _CHANGING_FORM:
            held = self._four_bits = self._in_four_bits(packed, group_size)
            self.weight = self.weight.new_empty(0)
        return held

    def _in_four_bits(self, packed: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
        # The operation gives (code - 8) * scale + offset. Codes of fewer bits are moved to have
        # their zero at 8: an offset would be rounded to the type of the inputs.
        zeros, means = self._zeros_and_means()
        scales, missing = self.scales.float(), 8 - zeros.float() - self._moves(zeros)
        offsets = torch.where(self.group_bits == 1, means.float(), missing * scales)
        groups = torch.arange(0, self.in_features, group_size) // self.group_size
        both = torch.stack([scales, offsets], -1)[:, groups].transpose(0, 1)
        factor, moves = self._column_steps(), self._moves(zeros)[:, self._column_groups()]
        codes = unpack_codes(packed, self._column_bits()).int() * factor + moves
        held = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        return held, both.to(torch.bfloat16).contiguous()

    def _from_four_bits(self, held: Tensor, scales: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            # Only the operation knows its order: one times a code is the code.
            as_codes = torch.tensor([1, 8]).to(scales).expand_as(scales).contiguous()
            ones = torch.eye(self.in_features, dtype=scales.dtype).split(256)
            rows = torch.cat([_four_bit_product(some, held, as_codes) for some in ones])
            moves = self._moves(self._zeros_and_means()[0])[:, self._column_groups()]
            codes = (rows.T.int() - moves) // self._column_steps()
            return pack_codes(codes.to(torch.uint8), self._column_bits()).flatten()

    def _moves(self, zeros: Tensor) -> Tensor:
        """What is added to the codes of each row and group, so that they are from 0 to 15."""
        bits = self.group_bits
        return torch.where(bits == 1, 7, torch.where(bits < 4, 8 - zeros.int(), 0))

    def _column_steps(self) -> Tensor:
        """How far apart the codes of each column are then."""
        return 1 + (self._column_bits() == 1).int()

    # --- what torch does with a module ------------------------------------------------------------

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._packed_rows()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._packed_rows()
        self._dense = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._packed_rows()
        self._table = None
        return super()._apply(keeping_types(fn, self.scales, self.means), recurse)


def _four_bit_product(inputs: Tensor, held: Tensor, scales: Tensor) -> Tensor:
    group_size = inputs.shape[1] // len(scales)
    return torch.ops.aten._weight_int4pack_mm_for_cpu(inputs, held, group_size, scales)


def _four_bit_group_size(layer: PackedLinear) -> int | None:
    """The group size that torch's operation can take for a layer, or None."""
    if max(layer.widths) > 4 or layer.out_features % _FOUR_BIT_ROWS:
        return None
    fits = (
        size for size in _FOUR_BIT_GROUPS
        if layer.group_size % size == layer.in_features % size == 0
    )  # fmt: skip
    return next(fits, None)


@functools.cache
def has_four_bit_product() -> bool:
    """Whether this torch has its private product with 4-bit weights on CPUs, and it is right."""
    codes = (torch.arange(16 * 32, dtype=torch.int32) * 7 % 16).view(16, 32)
    scales = torch.tensor([0.5, 1.0], dtype=torch.bfloat16).expand(1, 16, 2).contiguous()
    inputs = torch.eye(32, dtype=torch.bfloat16)
    try:
        held = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        product = _four_bit_product(inputs, held, scales)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(product.T.float(), (codes.float() - 8) * 0.5 + 1)


@functools.cache
def gpu_kernel(device: torch.device, dtype: torch.dtype) -> Any:
    """The module `triton_product` where its kernel works; else None, and a warning says why."""
    try:
        if importlib.util.find_spec("triton") is None:
            raise ImportError("triton is not installed (pip install triton)")
        kernel = importlib.import_module("salhub.quantization.triton_product")
        _check_kernel(kernel, device, dtype)
    except Exception as error:  # of the import, the compiler of kernels, or the driver
        logger.warning(
            "On %s, packed weights of %s are unpacked a few rows at a time, which is slower "
            "than the kernel, because %s.",
            device,
            dtype,
            str(error) or type(error).__name__,
        )
        return None
    return kernel


def _check_kernel(kernel: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Raises ValueError where products of the kernel are not what they should be."""
    if dtype not in kernel.TYPES:
        raise ValueError("the kernel does not support this type")
    layer = PackedLinear(32, 16, 16, [3, 1])
    layer.weight = torch.arange(len(layer.weight), dtype=torch.uint8) * 37
    layer.scales, layer.means = layer.scales + 0.5, layer.means + 0.25
    layer, inputs = layer.to(device), torch.eye(32, dtype=dtype, device=device)
    expected, table = layer._unpacked_product(inputs), kernel.table_of(layer)
    for tokens in (32, 1):
        found = kernel.triton_product(inputs[:tokens], layer, table)
        if not torch.equal(found, expected[:tokens]):
            raise ValueError("the kernel gives wrong results here")
