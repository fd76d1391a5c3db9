"""The configuration every method derives from: transformers', but strict."""

import dataclasses
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.generation import GenerationConfig

from salhub.errors import did_you_mean

# Keys the base class consumes or that transformers writes into config.json beside the fields.
_FOREIGN_KEYS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
        "use_return_dict",
    }
)


@strict
class SaliencyConfig(PreTrainedConfig):
    """Base configuration: every field is checked, and a key nobody knows is refused.

    Subclasses declare annotated fields with defaults, are decorated with
    `huggingface_hub.dataclasses.strict`, and put rules between fields in methods called
    `validate_SOMETHING`, which run after construction and again when a model is built.

    Raises:
        ValueError: An unknown key, or a value that breaks a rule.
        TypeError: A value of the wrong type.

    Example:
        >>> from salhub import NormGradConfig
        >>> NormGradConfig(method="grad_cam").method
        'grad_cam'
    """

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse unknown keys, then let transformers fill in its own."""
        fields = {field.name for field in dataclasses.fields(self)}
        accepted = fields | _FOREIGN_KEYS | GenerationConfig._get_default_generation_params().keys()
        for key in kwargs:
            if key not in accepted and not key.startswith("_"):
                hint = did_you_mean(key, sorted(fields)) or " Remove it or correct its spelling."
                raise ValueError(f"{type(self).__name__} has no field '{key}'.{hint}")
        super().__post_init__(**kwargs)
