"""SliM-LLM: weights in two or three bits on average, more where they matter (arXiv 2405.14917)."""

# Imported first: it makes salhub register its quantizers, which must not happen half-way through
# the import of this one.
import transformers.modeling_utils  # noqa: F401
