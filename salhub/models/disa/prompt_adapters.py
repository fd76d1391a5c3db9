"""Several sets of prompts on one CLIP in memory."""

import os
from typing import Any

DEFAULT = "default"


class PromptAdapters:
    """Adds `load_adapter` and `set_adapter` to a model of prompts.

    Each set has its own settings and classes; the CLIP and its tokenizer are there once.
    """

    _others: dict[str, Any]
    _active: str

    def load_adapter(
        self, name: str | os.PathLike, adapter_name: str = DEFAULT, **kwargs: Any
    ) -> None:
        """Load further prompts for the same CLIP, which `set_adapter` makes the ones in use.

        Args:
            name: A folder, a shipped name or a Hub repository.
            adapter_name: What they are called from now on.
            **kwargs: As of `from_pretrained`.

        Raises:
            ValueError: The name is taken, or they are for a CLIP of other sizes.
        """
        model: Any = self
        if adapter_name in self.adapter_names:
            raise ValueError(
                f"Prompts called '{adapter_name}' already exist; choose another adapter_name."
            )
        loaded = type(model).from_pretrained(
            name, base_model=model.base_model_of_prompts, tokenizer=model._tokenizer, **kwargs
        )
        # Held without the CLIP: moving the model moves that once.
        loaded.clip = None
        self._table()[adapter_name] = loaded

    def set_adapter(self, adapter_name: str) -> None:
        """Use other prompts, with their settings and classes.

        Raises:
            ValueError: There are none of that name.
        """
        model: Any = self
        if adapter_name not in self.adapter_names:
            raise ValueError(
                f"There are no prompts called '{adapter_name}'; there are "
                f"{', '.join(self.adapter_names)}."
            )
        if adapter_name == self.active_adapter:
            return
        other = self._table().pop(adapter_name)
        self._table()[self.active_adapter] = other
        self._active = adapter_name
        clip = model.base_model_of_prompts
        for table in ("_parameters", "_buffers"):
            own, new = getattr(model, table), getattr(other, table)
            for key in (*own,):
                own[key], new[key] = new[key], own[key]
                if own[key] is not None:
                    own[key].data = own[key].data.to(clip.device, clip.dtype)
        model.config, other.config = other.config, model.config

    @property
    def active_adapter(self) -> str:
        """The prompts in use."""
        return vars(self).get("_active", DEFAULT)

    @property
    def adapter_names(self) -> list[str]:
        """All prompts that are loaded, those in use first."""
        return [self.active_adapter, *self._table()]

    def _table(self) -> dict[str, Any]:
        # Not among the modules, whose weights would be saved with these.
        return vars(self).setdefault("_others", {})
