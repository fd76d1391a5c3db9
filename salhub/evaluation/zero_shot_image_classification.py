"""Zero-shot accuracy of any CLIP: pictures are compared with sentences about the classes."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.data.class_names import first_name
from salhub.data.labelled_pictures import PictureData, pictures_of, read_labelled_pictures
from salhub.data.picture_preparation import PicturePreparation
from salhub.data.split_beside import find_split
from salhub.evaluation.held_out import held_out
from salhub.evaluation.shared_rows import ranges, shared_batches
from salhub.modeling import refuse_broken_weights
from salhub.results import Results, Table, measured
from salhub.tokenizing import token_limit

logger = logging.getLogger(__name__)

SHARES_ROWS = True
# Sentences that a name is put into; their mean direction is what a picture is compared with.
TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a small photo of a {}.",
    "a cropped photo of a {}.",
    "a close-up of a {}.",
)
_ROWS = 256
_TOP = 5
_NOTE = (
    "Each picture is compared with sentences about every class of its row, and gets the "
    "class with the most similar sentences. Accuracy in percent, with 95 % bootstrap "
    "intervals over pictures."
)


def evaluate(
    model: Any,
    processor: Any,
    data_path: str | os.PathLike[str],
    *,
    templates: list[str] | str | None = None,
    other_data: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    dataset_config_name: str | None = None,
    batch_size: int = _ROWS,
    seed: int = 0,
) -> Results:
    """Measure how often a CLIP finds the class of a picture by its name alone.

    Of a class that lists several names, "goldfish, Carassius auratus", the first is taken.

    Args:
        model: A `CLIPModel`, or another of transformers with features of pictures and of texts.
        processor: Its processor.
        data_path: Labelled pictures, see `read_labelled_pictures`, of which those are left out
            that the model has learned, see `held_out`.
        templates: Sentences with "{}" for the name; several simple ones by default.
        other_data: Further labelled pictures, of which the test part is measured as well, or all
            where there is none.
        image_column, label_column, dataset_config_name: Of both data, as of
            `read_labelled_pictures`.
        batch_size: Pictures that pass through the model at once.
        seed: Seed of the bootstrap.

    Returns:
        `Results` with "accuracy/all" and "top5/all"; "accuracy/one_template" with the first of the
        sentences alone; "accuracy/learned" and "accuracy/unseen", each among its own classes, and
        "accuracy/unseen_among_all", where the model's `split.json` tells which classes it has
        seen; "accuracy/other/NAME"; and the table of the card.

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_pictures` and `held_out`; two classes of
            one name; or a template without "{}".

    Example:
        >>> results = evaluate(model, processor, "photos")  # doctest: +SKIP
    """
    sentences = checked_templates(templates)
    columns = {
        "image_column": image_column,
        "label_column": label_column,
        "dataset_config_name": dataset_config_name,
    }
    paths = [data_path, *([other_data] if other_data is not None else [])]
    data, *others = (read_labelled_pictures(path, **columns, to_learn=False) for path in paths)
    names = [spoken_names(one.class_names) for one in (data, *others)]
    chosen = held_out(model.config.name_or_path, data, data.test_places, "pictures")
    results = Results.of_model(model, data.name, seed)
    results.data = {**chosen.facts, "templates": list(sentences)}
    preparation = PicturePreparation(processor.image_processor)
    places, tokenizer = chosen.sets["test"], processor.tokenizer
    with measured(results):
        images = _features_of(model, preparation, data, places, batch_size)
        refuse_broken_weights(model, images)
        labels = data.labels[places]
        classes = text_features(model, tokenizer, names[0], sentences).cpu()
        one = text_features(model, tokenizer, names[0], sentences[:1]).cpu()
        rows = add_accuracies(results, images @ classes.T, labels, _seen(model, data))
        found = results.add_mean(
            "accuracy/one_template", _right(images @ one.T, labels), unit="fraction"
        )
        rows.insert(1, [f"all, with '{sentences[0]}' alone", len(names[0]), len(labels),
                        _cell(found), rows[0][4]])  # fmt: skip
        for other, own in zip(others, names[1:], strict=True):
            measured_places = (
                other.test_places if len(other.test_places) else torch.arange(len(other))
            )
            features = _features_of(model, preparation, other, measured_places, batch_size)
            logits = features @ text_features(model, tokenizer, own, sentences).cpu().T
            right = _right(logits, other.labels[measured_places])
            found = results.add_mean(f"accuracy/other/{other.name}", right, unit="fraction")
            rows.append([f"those of {other.name}", len(own), len(right), _cell(found),
                         _percent(1 / len(own))])  # fmt: skip
            results.data[f"other {other.name}"] = other.describe()["fingerprint"]
    columns_of_table = ["classes", "how many", "pictures", "accuracy", "by chance"]
    results.tables.append(
        Table("Zero-shot classification", f"{_NOTE} {chosen.note}", columns_of_table, rows)
    )
    return results


def checked_templates(templates: Sequence[str] | str | None) -> tuple[str, ...]:
    """The sentences to use, one or more; several simple ones where none are given.

    Raises:
        ValueError: One without "{}", or none.

    Example:
        >>> checked_templates(["a sketch of a {}."])
        ('a sketch of a {}.',)
    """
    given = [templates] if isinstance(templates, str) else templates
    found = TEMPLATES if given is None else tuple(given)
    wrong = next((one for one in found if one.count("{}") != 1), None)
    if wrong is not None or not found:
        raise ValueError(
            f"templates must be sentences with one {{}} each, for the name, got {wrong or found!r}."
        )
    return found


def spoken_names(class_names: Sequence[str]) -> list[str]:
    """What every class is called in a sentence: its first name.

    Raises:
        ValueError: Two classes are called alike.
    """
    found = [first_name(name) for name in class_names]
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(
            f"several classes are called '{twice[0]}', so no sentence can distinguish them; "
            "give them different names."
        )
    return found


def add_accuracies(
    results: Results, logits: Tensor, labels: Tensor, groups: Mapping[str, Tensor] | None = None
) -> list[list[Any]]:
    """Write how often the nearest class is the right one.

    Args:
        results: To be filled; its seed is that of the bootstrap.
        logits: Similarities to all classes, (n, K).
        labels: int64 (n,).
        groups: Name, such as "unseen" -> its classes, int64 (k,). Pictures of a group are compared
            with its classes alone.

    Returns:
        The rows of a table: classes, how many, pictures, accuracy, accuracy by chance.
    """
    count = logits.shape[1]
    found = results.add_mean("accuracy/all", _right(logits, labels), unit="fraction")
    rows: list[list[Any]] = [["all", count, len(labels), _cell(found), _percent(1 / count)]]
    if count > _TOP:
        near = (logits.topk(_TOP).indices == labels[:, None]).any(1).double().numpy()
        top = results.add_mean(f"top{_TOP}/all", near, unit="fraction")
        rows.append([f"all, the right one among the {_TOP} nearest", count, len(labels), _cell(top),
                     _percent(_TOP / count)])  # fmt: skip
    for name, classes in (groups or {}).items():
        is_own = torch.isin(labels, classes)
        if len(classes) < 2:  # which cannot be mistaken for another
            continue
        if not is_own.any():
            logger.warning(
                "There are no pictures of %s classes, so these classes are left out.", name
            )
            continue
        right = (classes[logits[is_own][:, classes].argmax(1)] == labels[is_own]).double().numpy()
        own = results.add_mean(f"accuracy/{name}", right, unit="fraction")
        rows.append([f"{name}, among themselves", len(classes), len(right), _cell(own),
                     _percent(1 / len(classes))])  # fmt: skip
    if groups and "unseen" in groups and (is_own := torch.isin(labels, groups["unseen"])).any():
        among = results.add_mean(
            "accuracy/unseen_among_all", _right(logits[is_own], labels[is_own]), unit="fraction"
        )
        rows.append(["unseen, among all", count, int(is_own.sum()), _cell(among),
                     _percent(1 / count)])  # fmt: skip
    return rows


@torch.no_grad()
def text_features(
    model: Any, tokenizer: Any, names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """The mean direction of some sentences about each class.

    Args:
        model: A `CLIPModel`, or another with its `get_text_features`.
        tokenizer: Of the model.
        names: Of the K classes.
        templates: Sentences with "{}" for the name.

    Returns:
        float32 (K, D), each of length 1, on the device of the model.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.4.
    """
    texts = [template.replace("{}", name) for name in names for template in templates]
    most = token_limit(model.text_model, tokenizer)
    rows = tokenizer(texts, verbose=False)["input_ids"]
    too_long = [text for text, ids in zip(texts, rows, strict=True) if most and len(ids) > most]
    if too_long:
        logger.warning(
            "%d of %d sentences were cut to %d tokens, the limit of the model, such as '%s'.",
            len(too_long), len(texts), most, too_long[0],
        )  # fmt: skip
    limit = {"truncation": True, "max_length": most} if most else {}
    tokens = tokenizer(texts, padding=True, return_tensors="pt", **limit).to(model.device)
    parts = [
        _pooled(model.get_text_features(**{k: v[at : at + _ROWS] for k, v in tokens.items()}))
        for at in range(0, len(texts), _ROWS)
    ]
    units = F.normalize(torch.cat(parts).float(), dim=-1).view(len(names), len(templates), -1)
    return F.normalize(units.mean(1), dim=-1)


@torch.no_grad()
def image_features(model: Any, pixel_values: Tensor) -> Tensor:
    """Directions of pictures, float32 (B, D), each of length 1."""
    pixel_values = pixel_values.to(model.device, model.dtype)
    return F.normalize(_pooled(model.get_image_features(pixel_values=pixel_values)).float(), dim=-1)


def _features_of(
    model: Any, preparation: PicturePreparation, data: PictureData, places: Tensor, batch_size: int
) -> Tensor:
    """Of pictures of some data, (n, D) on the CPU."""
    pictures = pictures_of(data, places, preparation)

    def of_batch(rows: range) -> Tensor:
        return image_features(model, preparation(pictures[torch.tensor(rows)])).cpu()

    return shared_batches("pictures", ranges(len(places), batch_size), of_batch)


def _seen(model: Any, data: PictureData) -> dict[str, Tensor]:
    """Classes that the model has learned and those that it has not; nothing of other data."""
    name = model.config.name_or_path
    split = find_split(name) if name else None
    if split is None or split.data.get("fingerprint") != data.describe()["fingerprint"]:
        return {}
    every = torch.arange(len(data.class_names))
    is_learned = torch.isin(every, data.labels[split.train].unique())
    found = {"learned": every[is_learned], "unseen": every[~is_learned]}
    return {name: classes for name, classes in found.items() if len(classes)}


def _right(logits: Tensor, labels: Tensor) -> Any:
    return (logits.argmax(1) == labels).double().numpy()


def _cell(found: Any) -> str:
    return f"{100 * found.mean:.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _pooled(output: Any) -> Tensor:
    # Before transformers 5 these were tensors.
    return output if isinstance(output, Tensor) else output.pooler_output
