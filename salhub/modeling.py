"""The model classes every method derives from."""

import copy
import dataclasses
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging as transformers_logging

from salhub.configuration import SaliencyConfig
from salhub.hub import resolve


def all_modules(network: nn.Module) -> list[nn.Module]:
    """The modules of `network.modules()`, each once, in about a fifth of the time.

    `modules()` resumes one generator a level for every module, which counts where a network is
    walked for every picture.

    Args:
        network: Any module; itself is among the results.

    Example:
        >>> len(all_modules(nn.Sequential(nn.ReLU(), nn.Linear(2, 2))))
        3
    """
    found = {network: None}
    waiting = [network]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


@contextmanager
def attribution_scope(module: nn.Module) -> Generator[None]:
    """Gradients on, evaluation mode on, and everything back as it was afterwards.

    Works inside `torch.no_grad()` and `torch.inference_mode()`, which explainers meet whenever
    they are called from a pipeline. Tensors made under inference mode must be cloned inside.

    Args:
        module: The network to hold in evaluation mode.

    Example:
        >>> layer = nn.Dropout()
        >>> with torch.no_grad(), attribution_scope(layer):
        ...     layer.training, torch.is_grad_enabled()
        (False, True)
    """
    training = [part for part in all_modules(module) if part.training]
    try:
        for part in training:
            part.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def without_progress_bar() -> Generator[None]:
    """Keep transformers from drawing a bar for shipped weights, which load at once."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


class SaliencyPreTrainedModel(PreTrainedModel):
    """Base of all salhub models: `from_pretrained` also knows the models shipped with salhub."""

    config: SaliencyConfig
    base_model_prefix = "model"

    def __init__(self, config: SaliencyConfig, *arguments: Any, **kwargs: Any) -> None:
        # Validators run at construction only, and fields may have been assigned since.
        config.validate()
        super().__init__(config, *arguments, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | None, *arguments: Any, **kwargs: Any
    ) -> Self:
        """Load a model by name: a folder, a model shipped with salhub, or one on the Hub.

        Args:
            pretrained_model_name_or_path: A folder, a shipped name such as
                "salhub/normgrad-efficientnet-lite0", or a Hub repository.
            *arguments, **kwargs: As in transformers. Configuration fields may be overridden by
                name. `revision`, `force_download` or SALHUB_PREFER_HUB=1 ask for the Hub.

        Raises:
            UnknownNameError: Nothing of that name was found.
            IntegrityError: A shipped file is damaged.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *arguments, **kwargs)
        resolved = resolve(pretrained_model_name_or_path, **kwargs)
        if not resolved.is_bundled:
            with resolved.explain_missing():
                try:
                    return super().from_pretrained(resolved.name, *arguments, **kwargs)
                finally:
                    resolved.verify_download(**kwargs)
        return cls._from_bundle(resolved, *arguments, **kwargs)

    def with_settings(self, **settings: Any) -> Self:
        """Return the model with other settings, on the same weights; it stays as it is.

        Args:
            **settings: Fields of the configuration, see `SaliencyConfig.with_settings`.

        Raises:
            ValueError: No such setting, or a bad value.
            TypeError: A value of the wrong type.

        Example:
            >>> from salhub import LexRankConfig, LexRankModel
            >>> model = LexRankModel(LexRankConfig())
            >>> model.with_settings(damping=0.5).config.damping, model.config.damping
            (0.5, 0.85)
        """
        twin = copy.copy(self)
        # What compilers and dispatchers put in place of `forward` is bound to this very object.
        for name in ("forward", "_old_forward", "_hf_hook", "_compiled_call_impl"):
            vars(twin).pop(name, None)
        twin.config = self.config.with_settings(**settings)
        return twin

    @classmethod
    def _from_bundle(cls, resolved, *arguments, **kwargs):
        return_info = kwargs.get("output_loading_info", False)
        config = kwargs.pop("config", None)
        if config is None:
            settings = {key: kwargs.pop(key) for key in cls._config_fields() & kwargs.keys()}
            config = cls.config_class.from_pretrained(resolved.config_folder, **settings)
        kwargs.pop("revision", None)
        with without_progress_bar():
            loaded = super().from_pretrained(
                resolved.weights_folder, *arguments, config=config, **kwargs
            )
        model = loaded[0] if return_info else loaded
        # A path inside the installation must not show up in cards and messages.
        model.config.name_or_path = resolved.name
        model.name_or_path = resolved.name
        return loaded

    @classmethod
    def _config_fields(cls) -> set[str]:
        # transformers itself applies `dtype` to the weights as well as to the configuration.
        return {field.name for field in dataclasses.fields(cls.config_class)} - {"dtype"}


class ParameterFreeModel(SaliencyPreTrainedModel):
    """Base of models that learn nothing, such as a graph algorithm or an active contour.

    transformers cannot save or load a model without a single floating-point parameter, so this
    one holds a frozen scalar that nothing reads. `num_parameters(only_trainable=True)` is 0.
    """

    def __init__(self, config: SaliencyConfig, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(config, *arguments, **kwargs)
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    @classmethod
    def from_pretrained(cls, *arguments: Any, **kwargs: Any) -> Self:
        """Load a model; see `SaliencyPreTrainedModel.from_pretrained`."""
        loaded = super().from_pretrained(*arguments, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        # transformers makes every loaded parameter trainable.
        model.anchor.requires_grad_(False)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.zeros_(self.anchor)
