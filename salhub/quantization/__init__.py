"""Weights in few bits: how they are written, packed, and loaded by transformers."""

# Quantizers are registered at the end of this import, which imports files that stand here.
import transformers.modeling_utils  # noqa: F401
