"""The CLIP that prompts are for: where it is, how it is loaded, and whether it is the right one."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, PreTrainedModel

from salhub.hub import hub_keywords, load, read_config, resolve
from salhub.models.disa.configuration_disa import DiSaConfig
from salhub.models.disa.prompted_clip import fingerprint_of, sizes_of

logger = logging.getLogger(__name__)

BESIDE = "./"
# Half precision moves a number of a fingerprint by less; another CLIP by about 1.
_TOLERANCE = 0.05
_WHERE = ("cache_dir", "force_download", "local_files_only", "token")


class Place(NamedTuple):
    """Where a base is.

    Args:
        name: A folder, a shipped name or a Hub repository.
        where: Keywords of the Hub.
    """

    name: str
    where: dict[str, Any]


def place_of_base(config: DiSaConfig, adapter: str, keywords: Mapping[str, Any]) -> Place:
    """Where the base of saved prompts is.

    Args:
        config: Of the prompts.
        adapter: Where they were loaded from.
        keywords: Those that they were loaded with.

    Raises:
        ValueError: They name none.
    """
    name = config.base_model_name_or_path
    if name is None:
        raise ValueError(
            f"The prompts in '{adapter}' do not say which CLIP they belong to; load it and "
            "give base_model=..."
        )
    general = {key: keywords[key] for key in _WHERE if key in keywords}
    if not name.startswith(BESIDE):
        revision = config.base_model_revision
        return Place(name, general | ({} if revision is None else {"revision": revision}))
    found, inner = resolve(adapter, **hub_keywords(keywords)), name.removeprefix(BESIDE)
    if found.source != "hub":
        folder = Path(found.config_folder, keywords.get("subfolder") or "")
        return Place(str(folder / inner), {})
    outer = keywords.get("subfolder")
    own = hub_keywords(keywords) | {"subfolder": f"{outer}/{inner}" if outer else inner}
    return Place(found.name, own)


def load_base(place: Place, **loading: Any) -> CLIPModel:
    """Load a CLIP.

    Args:
        place: Where it is.
        **loading: `dtype` and `device_map`, as in transformers.

    Raises:
        ValueError: It is another kind of model.
        ModelNotFoundError: Nothing of that name was found.
    """
    kind = read_config(place.name, **place.where).get("model_type")
    if kind != "clip":
        raise ValueError(
            f"'{place.name}' is a model of type '{kind}', but prompts need a CLIPModel with "
            "a vision transformer, such as openai/clip-vit-base-patch16; SigLIP and CLIP "
            "with a ResNet are not supported."
        )
    return load(CLIPModel, place.name, **place.where, **loading)


def load_tokenizer(place: Place) -> Any:
    """Load the tokenizer of a base."""
    return load(AutoTokenizer, place.name, **place.where)


def save_image_processor(place: Place | None, folder: Path) -> None:
    """Put what prepares pictures for a base beside it, where there is such a thing."""
    if place is None:
        return
    try:
        processor = load(AutoImageProcessor, place.name, backend="pil", **place.where)
    except (OSError, ValueError):
        logger.info("%s has no image processor, so none is saved.", place.name)
        return
    processor.save_pretrained(folder)


def check_base(base: Any, config: DiSaConfig, owner: str) -> None:
    """Refuse a base that prompts do not fit, and warn of one that is not theirs.

    Args:
        base: Perhaps a CLIP.
        config: Of the prompts.
        owner: What the prompts are called in messages.

    Raises:
        TypeError: It is no model.
        ValueError: It is another kind of model, or has other sizes.
    """
    if not isinstance(base, PreTrainedModel):
        raise TypeError(
            f"base_model must be a loaded CLIPModel, got {type(base).__name__}; load it with "
            "CLIPModel.from_pretrained(...)."
        )
    if not isinstance(base, CLIPModel):
        raise ValueError(
            f"{type(base).__name__} is not a CLIPModel with a vision transformer, which "
            "prompts need; SigLIP and CLIP with a ResNet are not supported."
        )
    expected, found = config.base_config or {}, sizes_of(base.config)
    wrong = [name for name in found if expected.get(name, found[name]) != found[name]]
    if wrong:
        words = ", ".join(f"{name} {found[name]} instead of {expected[name]}" for name in wrong)
        wanted = config.base_model_name_or_path or "another CLIP"
        raise ValueError(
            f"{owner} was made for {wanted}, but this one has {words}; load the "
            "prompts with their own base."
        )
    if config.base_fingerprint is None or base.device.type == "meta":
        return
    numbers = torch.tensor(fingerprint_of(base)) - torch.tensor(config.base_fingerprint)
    if float(numbers.abs().max()) > _TOLERANCE:
        logger.warning(
            "%s was made for other weights, perhaps another revision of %s; its "
            "answers may be worse than those of the frozen CLIP.",
            owner, config.base_model_name_or_path or "its base",
        )  # fmt: skip
