"""salhub: a hub of saliency models.

import salhub

result = salhub.pipeline("salhub/normgrad-efficientnet-lite0")("sample:cat")
result.save("explained.png")
"""

from importlib import import_module
from typing import Any

import salhub.auto
from salhub.entries import MODELS
from salhub.registration import install_registration

__version__ = "0.1.0"

# Public name -> module, imported when the name is first used.
_PUBLIC = {
    "AutoModelForSaliency": "salhub.auto",
    "ImageSaliencyOutput": "salhub.outputs",
    "ParameterFreeModel": "salhub.modeling",
    "SaliencyConfig": "salhub.configuration",
    "SaliencyOutput": "salhub.outputs",
    "SaliencyPreTrainedModel": "salhub.modeling",
    "list_models": "salhub.listing",
    "load_image": "salhub.processing",
    "load_text": "salhub.data.text_sources",
    "pipeline": "salhub.pipelines",
    "seed_cache": "salhub.hub",
    **salhub.auto.FUNCTIONS,
}
for _entry in MODELS.values():
    _PUBLIC |= _entry.public_classes()

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'salhub' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


install_registration()
