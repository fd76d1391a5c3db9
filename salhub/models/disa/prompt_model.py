"""Prompts as a model: made on a CLIP, loaded with the one that they name, and saved alone."""

import logging
import os
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from salhub.hub import hub_keywords
from salhub.loading_keywords import with_one_precision
from salhub.modeling import SaliencyPreTrainedModel
from salhub.models.disa.base_clip import (
    BESIDE,
    Place,
    check_base,
    load_base,
    load_tokenizer,
    place_of_base,
    save_image_processor,
)
from salhub.models.disa.class_texts import check_context
from salhub.models.disa.configuration_disa import DiSaConfig
from salhub.models.disa.prompt_adapters import PromptAdapters
from salhub.models.disa.prompted_clip import fingerprint_of, sizes_of

logger = logging.getLogger(__name__)

_CLIP = "clip."
_BASE_FOLDER = "base"
# The directional term of full weight is too strong for tiny CLIPs, by our measurements [D].
_SMALL_WIDTH, _SMALL_LAMBDA = 512, 1.0


class PromptModel(PromptAdapters, SaliencyPreTrainedModel):
    """Prompts for both encoders of a CLIP that they do not own, with the classes that it is for."""

    config: DiSaConfig
    _pushes_base = False
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]

    def __init__(self, config: DiSaConfig, base_model: nn.Module | None = None) -> None:
        super().__init__(config)
        if config.base_config is None:
            raise ValueError(
                "The configuration does not name its CLIP; start with "
                "DiSaForImageClassification.from_base('openai/clip-vit-base-patch16')."
            )
        sizes = config.base_config
        self.register_module("clip", None)
        for kind in ("text", "vision"):
            shape = (
                getattr(config, f"prompt_depth_{kind}"),
                getattr(config, f"n_ctx_{kind}"),
                sizes[f"{kind}_hidden_size"],
            )
            prompts = nn.Parameter(torch.empty(shape)) if shape[0] else None
            self.register_parameter(f"{kind}_prompts", prompts)
        count = config.num_prototypes
        stored = torch.zeros(count, sizes["projection_dim"]) if count else None
        self.register_buffer("prototypes", stored)
        self._tokenizer: Any = None
        self._base_place: Place | None = None
        self._features: dict[Any, Tensor] = {}
        self._read: tuple[tuple[str, ...], Tensor] | None = None
        self.post_init()
        if base_model is not None:
            self.set_base_model(base_model)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            for prompts in (self.text_prompts, self.vision_prompts):
                if prompts is not None:
                    init.normal_(prompts, std=self.config.prompt_std)
            if self.prototypes is not None:
                init.zeros_(self.prototypes)

    @classmethod
    def from_base(
        cls,
        base: str | os.PathLike | nn.Module,
        preset: str = "disa",
        *,
        tokenizer: Any = None,
        dtype: Any = None,
        device_map: Any = None,
        **settings: Any,
    ) -> Self:
        """Begin with fresh prompts on a CLIP.

        Args:
            base: A folder, a shipped name, a Hub repository, or a `CLIPModel`, which is frozen and
                used as it is.
            preset: As of `DiSaConfig.from_preset`.
            tokenizer: Of the base; by default the one saved with it.
            dtype, device_map: As in transformers, for a base given by name.
            **settings: Fields of `DiSaConfig`. Where no depth is given, it is at most the layers
                that there are; where another number of text vectors is given and no `ctx_init`,
                they start from noise. Image encoders of fewer than 512 channels have lambda_dir 1
                unless it is given.

        Raises:
            ValueError: It is no CLIP with a vision transformer, or a setting does not fit it.

        Example:
            >>> DiSaForImageClassification.from_base("salhub/tiny-clip-32")  # doctest: +SKIP
        """
        revision = settings.get("base_model_revision")
        place = None
        if isinstance(base, nn.Module):
            clip: Any = base
            name = getattr(clip.config, "name_or_path", "") or None
            place = Place(name, {}) if name else None
        else:
            # Of a folder all of the place, so that it is found from anywhere.
            name = os.fspath(Path(base).absolute() if Path(base).is_dir() else base)
            place = Place(name, {} if revision is None else {"revision": revision})
            clip = load_base(place, **_given(dtype=dtype, device_map=device_map))
        check_base(clip, DiSaConfig(), "A new set of prompts")
        sizes = sizes_of(clip.config)
        fields = {
            "base_model_name_or_path": name,
            "base_config": sizes,
            "base_fingerprint": fingerprint_of(clip),
            **settings,
        }
        config = DiSaConfig.from_preset(preset, **{**fields, "base_config": None})
        for kind in ("text", "vision"):
            depth, layers = getattr(config, f"prompt_depth_{kind}"), sizes[f"{kind}_layers"]
            if f"prompt_depth_{kind}" not in settings and depth > layers:
                logger.info("All %d %s layers have prompts.", layers, kind)
                fields[f"prompt_depth_{kind}"] = layers
        if "n_ctx_text" in settings and settings["n_ctx_text"] != 4 and "ctx_init" not in settings:
            fields["ctx_init"] = None
        if preset == "disa" and sizes["vision_hidden_size"] < _SMALL_WIDTH:
            fields.setdefault("lambda_dir", _SMALL_LAMBDA)
        config = DiSaConfig.from_preset(preset, **fields, dtype=clip.dtype)
        model = cls(config)
        model._came_from(place, tokenizer)
        model.set_base_model(clip)
        if model.text_prompts is not None and config.ctx_init is not None:
            model._start_from(config.ctx_init)
        if config.class_names is not None:
            model.set_classes(config.class_names)
        return model

    @torch.no_grad()
    def _start_from(self, words: str) -> None:
        check_context(self.tokenizer, self.config)
        ids = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        table = self.base_model_of_prompts.text_model.embeddings.token_embedding
        prompts: Any = self.text_prompts
        prompts[0] = table(torch.tensor(ids, device=table.weight.device))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *arguments: Any,
        base_model: nn.Module | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Load prompts by name, and the CLIP that they are for.

        Args:
            pretrained_model_name_or_path: A folder, a shipped name or a Hub repository.
            *arguments, **kwargs: As in transformers; settings may be overridden by name.
            base_model: The CLIP where it is loaded already; it is used as it is, so that several
                sets of prompts share it.
            tokenizer: Of the base; by default the one saved with it.

        Raises:
            ValueError: The base has other sizes than the prompts are for, or is no CLIP.
            ModelNotFoundError: Prompts or base were not found.
        """
        name = pretrained_model_name_or_path
        if name is None:
            return super().from_pretrained(None, *arguments, **kwargs)
        kwargs = with_one_precision(kwargs)
        config = kwargs.pop("config", None)
        if not isinstance(config, cls.config_class):
            config_class: Any = cls.config_class
            fields = {k: kwargs.pop(k) for k in kwargs.keys() & config_class.field_names()}
            config = config_class.from_pretrained(config or name, **hub_keywords(kwargs), **fields)
        device_map = kwargs.pop("device_map", None)
        dtype = kwargs.get("dtype")
        found = super().from_pretrained(name, *arguments, config=config, **kwargs)
        model = found[0] if kwargs.get("output_loading_info") else found
        place = None
        if base_model is None or config.base_model_name_or_path is not None:
            place = place_of_base(config, os.fspath(name), kwargs)
        model._came_from(place, tokenizer)
        if base_model is None:
            precision = config.dtype if dtype is None else dtype
            base_model = load_base(place, **_given(dtype=precision, device_map=device_map))
        model.set_base_model(base_model)
        return found

    def _came_from(self, place: Place | None, tokenizer: Any) -> None:
        """Note where the tokenizer of the base is, or which it is."""
        self._base_place, self._tokenizer = place, tokenizer

    def set_base_model(self, base_model: nn.Module) -> None:
        """Put the prompts on a CLIP, which is frozen; they follow its device and precision.

        Raises:
            TypeError: It is no model.
            ValueError: It is no CLIP, or has other sizes than the prompts are for.
        """
        owner = Path(self.config.name_or_path or "").name or "This set of prompts"
        check_base(base_model, self.config, owner)
        base_model.requires_grad_(requires_grad=False)
        self.clip = base_model.eval()
        self._features, self._read = {}, None
        clip: Any = base_model
        if clip.device.type != "meta":
            for value in [*self._parameters.values(), *self._buffers.values()]:
                if value is not None:
                    value.data = value.data.to(clip.device, clip.dtype)

    @property
    def base_model_of_prompts(self) -> Any:
        """The CLIP.

        Raises:
            ValueError: There is none yet.
        """
        if self.clip is None:
            raise ValueError(
                "The prompts have no CLIP yet; load them with from_pretrained(...), or call "
                "set_base_model(clip)."
            )
        return self.clip

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the base, loaded when it is first needed."""
        if self._tokenizer is None:
            if self._base_place is None:
                raise ValueError("The CLIP came without a tokenizer; give tokenizer=...")
            self._tokenizer = load_tokenizer(self._base_place)
        return self._tokenizer

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, save_base: bool = False, **kwargs: Any
    ) -> None:
        """Save the prompts, and the name of the CLIP.

        Args:
            save_directory: Folder to write.
            save_base: Save the CLIP, its tokenizer and its image processor too, in a folder "base"
                beside the prompts, which then load without any other place.
            **kwargs: As in transformers.
        """
        if not (save_base or self._pushes_base):
            return super().save_pretrained(save_directory, **kwargs)
        before = self.config.base_model_name_or_path, self.config.base_model_revision
        folder = Path(save_directory, _BASE_FOLDER)
        self.base_model_of_prompts.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_image_processor(self._base_place, folder)
        self.config.base_model_name_or_path = f"{BESIDE}{_BASE_FOLDER}"
        self.config.base_model_revision = None
        try:
            return super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config.base_model_name_or_path, self.config.base_model_revision = before

    def push_to_hub(self, repo_id: str, *, save_base: bool = False, **kwargs: Any) -> str:
        """Put the prompts on the Hub.

        Args:
            repo_id: Where to: "owner/name".
            save_base: Put the CLIP and its tokenizer there too, see `save_pretrained`.
            **kwargs: As in transformers.

        Raises:
            ValueError: The CLIP is named by a folder of this machine, and does not come along.
        """
        base = self.config.base_model_name_or_path
        if not save_base and base is not None and Path(base).is_dir():
            raise ValueError(
                f"The prompts refer to a CLIP in a local folder, '{base}', which others do "
                "not have; give save_base=True, or use a CLIP from the Hub."
            )
        self._pushes_base = save_base
        try:
            return super().push_to_hub(repo_id, **kwargs)
        finally:
            self._pushes_base = False

    def state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """The prompts alone: the CLIP is somebody else's."""
        state = super().state_dict(*arguments, **keywords)
        prefix = keywords.get("prefix", "") + _CLIP
        for name in [name for name in state if name.startswith(prefix)]:
            del state[name]
        return state

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load prompts; the CLIP stays as it is."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        found.missing_keys[:] = [n for n in found.missing_keys if not n.startswith(_CLIP)]
        if strict and (found.missing_keys or found.unexpected_keys):
            raise RuntimeError(
                f"The prompts do not match: missing {found.missing_keys}, unexpected "
                f"{found.unexpected_keys}."
            )
        return found

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the prompts; the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        if self.clip is not None:
            self.clip.eval()
        return self

    def set_classes(self, names: Any) -> None:
        """Set the classes of later calls."""
        raise NotImplementedError


def _given(**keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if value is not None}
