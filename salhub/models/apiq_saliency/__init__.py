"""ApiQ with saliency-aware regularisation: few bits and small adapters (arXiv 2504.13932)."""

# Imported first: it makes salhub register its quantizers, which must not happen half-way through
# the import of this one.
import transformers.modeling_utils  # noqa: F401
