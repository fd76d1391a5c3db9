"""The model classes every method derives from."""

import copy
import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from salhub.configuration import SaliencyConfig
from salhub.hub import LoadedByName, load
from salhub.saving import check_rebuilds, plain_state


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


def refuse_broken_weights(network: nn.Module, answer: torch.Tensor) -> None:
    """Refuse an answer that is no number because weights are none.

    The weights are looked at only where the answer is not finite.

    Args:
        network: What answered.
        answer: Of any shape.

    Raises:
        ValueError: The answer has NaN or infinite values; naming the first such weight.
    """
    answer = answer.detach()
    # A sum is finite only where all its parts are, and is found in a tenth of the time.
    if not math.isfinite(answer.sum()) and not bool(answer.isfinite().all()):
        refuse_broken_network(network)
        raise ValueError(
            f"The output of {type(network).__name__} has NaN or infinite values, although "
            "its weights have none; the numbers became too large for its precision, so load "
            "it with dtype='float32'."
        )


@torch.no_grad()
def refuse_broken_network(network: nn.Module) -> None:
    """Raises ValueError, naming the first, where weights are NaN or infinite."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.detach().isfinite().all()):
            raise ValueError(
                f"The weights of {type(network).__name__} have NaN or infinite values, first "
                f"in '{name}', so its outputs would be meaningless; load or train it again."
            )


def load_trained(
    cls: Any, name: str | os.PathLike, kind: str, *, unused: tuple[str, ...] = (), **loading: Any
) -> Any:
    """Load a network of transformers of which no weight is drawn at random.

    Args:
        cls: An Auto class, such as `AutoModelForCausalLM`.
        name: A folder, a shipped name, or a Hub repository.
        kind: What it is to be, for the message.
        unused: Beginnings of the names of weights that are not used, so that they may be missing.
        **loading: As of `load`.

    Raises:
        ValueError: Its checkpoint lacks weights.
        ModelNotFoundError: Nothing of that name was found, or it has no safetensors weights.
    """
    network, info = load(cls, name, output_loading_info=True, **loading)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unused))
    if missing:
        raise ValueError(
            f"'{os.fspath(name)}' is not a trained {kind}: its checkpoint lacks "
            f"{', '.join(missing[:3])}; choose one that was trained for this task "
            f"({cls.__name__})."
        )
    return network


class SaliencyPreTrainedModel(LoadedByName, PreTrainedModel):
    """Base of all salhub models: `from_pretrained` also knows the models shipped with salhub."""

    config: SaliencyConfig
    base_model_prefix = "model"

    def __init__(self, config: SaliencyConfig, *arguments: Any, **kwargs: Any) -> None:
        # Validators run at construction only, and fields may have been assigned since.
        config.validate()
        super().__init__(config, *arguments, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model as one that loads again to the same weights.

        Args:
            save_directory: Folder to write.
            **kwargs: As in transformers.

        Raises:
            ValueError: The configuration does not build the network that is to be saved, as where
                its head was replaced, or it was pruned, quantized or given adapters. Nothing is
                written then.
        """
        # How a network inside is run, compiled or on several devices, is not saved.
        state = kwargs.pop("state_dict", None) or plain_state(self)
        # A quantizer builds other layers than the configuration alone, and loads them too.
        if getattr(self, "hf_quantizer", None) is None:
            check_rebuilds(self, state)
            kwargs["state_dict"] = state
        super().save_pretrained(save_directory, **kwargs)

    def with_settings(self, **settings: Any) -> Self:
        """Return the model with other settings, on the same weights; it stays as it is.

        The networks inside are the very same objects: who trains, moves or converts one of them
        changes both models. Parts that either model is given later belong to it alone.

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
        # The tables of parts and hooks, so that what one of the two is given is not the other's.
        tables = {key: table for key, table in vars(twin).items() if isinstance(table, dict | set)}
        vars(twin).update({key: copy.copy(table) for key, table in tables.items()})
        for name, parameter in self._parameters.items():
            if parameter is not None:
                # Converting a module swaps the data of its parameters.
                learns = parameter.requires_grad and not parameter.is_inference()
                twin._parameters[name] = nn.Parameter(parameter.detach(), learns)
        twin.config = self.config.with_settings(**settings)
        return twin


class LearnedSettingsModel(SaliencyPreTrainedModel):
    """Base of models whose parameters are numbers of their configuration.

    Each is a field of the configuration, from which it begins, and a parameter of shape ().

    Attributes:
        learned_settings: Names of the fields.
    """

    learned_settings: tuple[str, ...] = ()

    def __init__(self, config: SaliencyConfig, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(config, *arguments, **kwargs)
        for name in self.learned_settings:
            self.register_parameter(name, nn.Parameter(torch.tensor(float(getattr(config, name)))))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            for name in self.learned_settings:
                init.constant_(getattr(self, name), float(getattr(self.config, name)))

    @classmethod
    def from_pretrained(cls, *arguments: Any, **kwargs: Any) -> Any:
        """Load a model; a number that is set here replaces the learned one.

        See `SaliencyPreTrainedModel.from_pretrained`.
        """
        loaded = super().from_pretrained(*arguments, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        model._take(kwargs)
        return loaded

    def with_settings(self, **settings: Any) -> Self:
        """As of every model; numbers that are set here replace the learned ones."""
        twin = super().with_settings(**settings)
        twin._take(settings)
        return twin

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model; the configuration then says the numbers as they are."""
        self._take({})
        super().save_pretrained(save_directory, **kwargs)

    @torch.no_grad()
    def _take(self, settings: dict[str, Any]) -> None:
        for name in self.learned_settings:
            old = getattr(self, name)
            if name in settings:
                # Not in place: a twin may share the number.
                new = torch.full_like(old, settings[name])
                setattr(self, name, nn.Parameter(new, old.requires_grad))
            value = float(getattr(self, name))
            # As float32 the number would be another one than was written.
            if abs(value - getattr(self.config, name)) > 1e-6 * abs(value):
                setattr(self.config, name, value)


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
