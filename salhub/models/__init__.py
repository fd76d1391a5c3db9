"""One folder a method."""

# Imported first: it makes salhub register its classes, which must not happen half-way through the
# import of one of them.
import transformers.models.auto.configuration_auto  # noqa: F401
