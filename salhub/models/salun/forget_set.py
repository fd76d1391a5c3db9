"""What is to be forgotten and what is to be kept, checked before any work is done."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from salhub.data.labelled_pictures import PictureData
from salhub.data.labelled_split import FILE_NAME, LabelledSplit
from salhub.data.split_beside import find_split
from salhub.data.subset import describe_spec
from salhub.hub import read_config
from salhub.models.salun.configuration_salun import (
    UnlearnedConfig,
    classes_in,
    note_of_answers,
)
from salhub.models.salun.configuration_salun_diffusion import SalUnDiffusionConfig

logger = logging.getLogger(__name__)


def load_split(name: str, archive: PictureData) -> LabelledSplit:
    """What a model was trained on: its `split.json`, which must be of the same archive.

    A model without one is taken to know every picture of the archive that is not for testing.

    Args:
        name: A folder, a shipped name or a Hub repository.
        archive: The data set.

    Raises:
        ValueError: The split is of other data, or damaged.
    """
    split = find_split(name)
    if split is None:
        logger.warning(
            "%s has no %s, so salhub assumes that it was trained on all training pictures "
            "of %s and cannot check whether it learned the data to forget.",
            name,
            FILE_NAME,
            archive.name,
        )
        learned, test, validation = (
            part.nonzero()[:, 0]
            for part in (
                ~(archive.is_test | archive.is_validation),
                archive.is_test,
                archive.is_validation,
            )
        )
        return LabelledSplit(archive.describe(), learned, test, validation=validation)
    _check_same_data(name, split, archive)
    return split


def evaluated_split(name: str, archive: PictureData) -> LabelledSplit:
    """What a model that is to be evaluated was trained on, which must be known.

    Args:
        name: A folder, a shipped name or a Hub repository; "" for a model that was never saved.
        archive: The data set.

    Raises:
        ValueError: Nobody knows what it was trained on, or it was other data.
    """
    split = find_split(name) if name else None
    if split is None:
        raise ValueError(
            f"'{name}' has no {FILE_NAME}, so its training data are unknown; evaluate a "
            "model that salhub trained."
        )
    _check_same_data(name, split, archive)
    return split


def _check_same_data(name: str, split: LabelledSplit, archive: PictureData) -> None:
    found, expected = archive.describe()["fingerprint"], split.data.get("fingerprint")
    if found != expected:
        raise ValueError(
            f"{name} was trained on {split.data.get('name')} (fingerprint {expected}), but "
            f"{archive.name} holds other data (fingerprint {found}); give the archive that "
            "it was trained on."
        )


def check_kind(name: str, *, is_diffusion: bool) -> None:
    """Refuse a model of the other kind, before any of it is loaded.

    Args:
        name: A folder, a shipped name or a Hub repository.
        is_diffusion: Whether a diffusion model is wanted; otherwise a classifier.

    Raises:
        ValueError: Naming what it is and which recipe takes it.
    """
    found = read_config(name).get("model_type")
    if is_diffusion and found != SalUnDiffusionConfig.model_type:
        raise ValueError(
            f"{name} is a model of type '{found}', but this recipe needs a diffusion model "
            "trained with `salhub train salun-ddpm`; for a classifier use 'salun', 'rl' or "
            "'ga'."
        )
    if not is_diffusion and found == SalUnDiffusionConfig.model_type:
        raise ValueError(
            f"{name} is a diffusion model, but this recipe needs a classifier; use "
            "'salun-diffusion', 'rl-diffusion' or 'ga-diffusion'."
        )


def check_reference_split(name: str, split: LabelledSplit, forget: str) -> None:
    """Refuse to compare with a model that was not trained on what is left here.

    Args:
        name: The model that never saw what is forgotten.
        split: What is left after forgetting.
        forget: Words that name what is forgotten.

    Raises:
        ValueError: It knows other pictures, or nobody knows which.
    """
    known = find_split(name)
    if known is None:
        raise ValueError(
            f"the reference {name} has no {FILE_NAME}, so its training data are unknown."
        )
    if known.digest != split.digest:
        raise ValueError(
            f"the reference {name} was trained on {len(known.train)} pictures (split "
            f"{known.digest[:12]}), but {len(split.train)} pictures are left here (split "
            f"{split.digest[:12]}); give a model trained without {describe_spec(forget)}."
        )


def check_class_names(data: Sequence[str], model: Mapping[int, str], name: str) -> None:
    """Refuse a model whose classes are not those of the data, or stand in another order.

    Args:
        data: Class names of the data.
        model: `id2label` of the model; names such as LABEL_3 say nothing.
        name: The model.

    Raises:
        ValueError: Another number of classes, fewer than two, or the same names in another order.
    """
    if len(data) < 2 or len(model) != len(data):
        raise ValueError(
            f"{name} has {len(model)} classes and the data {len(data)}; both must have the "
            "same number of classes, 2 or more."
        )
    own = [str(model[index]) for index in sorted(model)]
    if sorted(own) == sorted(data) and own != list(data):
        raise ValueError(
            f"{name} has the classes of the data in another order ({', '.join(own[:3])} "
            "...), so its labels would be wrong; give data with the same order."
        )


def check_forget_and_retain(forget: Tensor, retain: Tensor, *, allow_no_retain: bool) -> None:
    """Refuse sets that overlap or are empty.

    Args:
        forget, retain: Places, int64.
        allow_no_retain: Whether nothing at all may be retained.

    Raises:
        ValueError: Naming how many places are in both, and the first of them.
    """
    if not len(forget):
        raise ValueError(
            "there is nothing to forget: the forget set is empty, or has already been forgotten."
        )
    if not len(retain) and not allow_no_retain:
        raise ValueError(
            "the retain set is empty, so the model would forget everything; retain some "
            "pictures, or set allow_no_retain=true."
        )
    both = forget[torch.isin(forget, retain)]
    if len(both):
        raise ValueError(
            f"{len(both)} pictures are in both the forget set and the retain set, the first "
            f"being {', '.join(map(str, both[:5].tolist()))}; give sets that do not overlap."
        )


def check_retain_is_known(retain: Tensor, split: LabelledSplit) -> None:
    """Refuse to retain what the model does not know: test pictures, or what it has forgotten.

    Args:
        retain: Places, int64.
        split: What is left after forgetting.

    Raises:
        ValueError: Naming how many places those are, and the first of them.
    """
    foreign = retain[~torch.isin(retain, split.train)]
    if len(foreign):
        raise ValueError(
            f"{len(foreign)} of the {len(retain)} pictures to retain are not among the "
            f"{len(split.train)} training pictures that are left, the first being "
            f"{', '.join(map(str, foreign[:5].tolist()))}; retain only pictures that the "
            "model was trained on."
        )


def places_digest(places: Tensor) -> str:
    """SHA-256 over places of a data set, so that a set of pictures is named without showing it.

    Args:
        places: int64 (n,), ascending.
    """
    return hashlib.sha256(places.numpy().astype("<i8").tobytes()).hexdigest()


def record_retraining(config: UnlearnedConfig, recipe: Any) -> None:
    """Write down what a model is trained without.

    Args:
        config: Of the model.
        recipe: Has `arguments.leave_out` and the `split`.
    """
    if recipe.arguments.leave_out is None:
        return
    config.unlearn_method = "retrain"
    config.forget = describe_spec(recipe.arguments.leave_out)
    config.num_forgotten = len(recipe.split.forgotten)
    config.forget_digest = places_digest(recipe.split.forgotten)


def record_in_config(config: Any, recipe: Any) -> None:
    """Write down what was unlearned and how.

    A configuration without room for it gets the classes, as a sentence in `answer_notes`.

    Args:
        config: Of the model, of whatever kind.
        recipe: An unlearning recipe after its run.
    """
    if not isinstance(config, UnlearnedConfig):
        names = classes_in(describe_spec(recipe.arguments.forget), config.id2label)
        if names:
            note = note_of_answers(f"made to forget {', '.join(map(repr, names))}")
            earlier = getattr(config, "answer_notes", ())
            config.answer_notes = list(dict.fromkeys([*earlier, note]))
        return
    mask = recipe.weight_mask
    config.unlearn_method = recipe.name
    config.forget = describe_spec(recipe.arguments.forget)
    config.num_forgotten = len(recipe.forget_places)
    config.forget_digest = places_digest(recipe.forget_places)
    config.mask_ratio = None if mask is None else mask.ratio
    config.saliency = None if mask is None else mask.saliency
    # The file of a mask does not say which weights were ranked together.
    is_ranked_here = mask is not None and recipe.arguments.mask is None
    config.scope = recipe.arguments.scope if is_ranked_here else None
    config.closed_weights_sha256 = recipe.closed_digest
