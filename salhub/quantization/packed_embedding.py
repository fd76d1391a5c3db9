"""An embedding of 8 bits a value, and the head of a language model that shares it."""

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from salhub.quantization.blockwise_linear import BlockwiseLinear, Inference, keeping_types

_LARGEST = 127
# Rows of the head that are unpacked at a time.
_ROWS = 4096


class PackedEmbedding(nn.Embedding):
    """Each row in whole numbers from -127 to 127 times its own scale.

    Args:
        num_embeddings: Rows.
        embedding_dim: Values in a row.
        padding_idx: As of `torch.nn.Embedding`.
        dtype: Type of what it returns; that of torch by default.
    """

    weight: Tensor
    scales: Tensor
    # transformers fills embeddings with random numbers where a file lacks their weights.
    _is_hf_initialized = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        self.max_norm, self.norm_type = None, 2.0
        self.scale_grad_by_freq = self.sparse = False
        self.dtype = dtype or torch.get_default_dtype()
        codes = torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8)
        self.register_buffer("weight", codes)
        self.register_buffer("scales", torch.zeros(num_embeddings, 1, dtype=torch.float16))

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> Self:
        """Round an embedding."""
        weight = embedding.weight.detach()
        packed = cls(*weight.shape, embedding.padding_idx, weight.dtype)
        packed.scales = (weight.float().abs().amax(1, keepdim=True) / _LARGEST).half()
        steps = (weight.float() / packed.scales.float()).nan_to_num(0).round()
        packed.weight = steps.clamp(-_LARGEST, _LARGEST).to(torch.int8)
        return packed

    def to_embedding(self, dtype: torch.dtype) -> nn.Embedding:
        """Return a plain embedding of the same weights, rounded to a type."""
        weight = (self.weight.float() * self.scales.float()).to(dtype)
        return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self.padding_idx)

    def forward(self, input: Tensor) -> Tensor:
        rows = functional.embedding(input, self.weight).float()
        return (rows * functional.embedding(input, self.scales).float()).to(self.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(keeping_types(fn, self.scales), recurse)


class TiedHead(BlockwiseLinear):
    """A linear layer whose weights are those of a packed embedding; it stores none.

    Args:
        embedding: The embedding.
        inference: As of `BlockwiseLinear`.
    """

    def __init__(self, embedding: PackedEmbedding, inference: Inference = "dequantized") -> None:
        size = embedding.embedding_dim, embedding.num_embeddings
        super().__init__(*size, bias=False, inference=inference)
        # In a tuple, or it would be a part of this layer too, and be saved twice.
        self._shared = (embedding,)

    @property
    def weight(self) -> Tensor:
        return self._shared[0].weight

    @weight.setter
    def weight(self, _: Tensor) -> None:
        # transformers ties weights again whenever it is asked to; these always are.
        pass

    @property
    def scales(self) -> Tensor:
        return self._shared[0].scales

    def _row_blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        for codes, scales in zip(self.weight.split(_ROWS), self.scales.split(_ROWS), strict=True):
            yield (codes.float() * scales.float()).to(dtype)
