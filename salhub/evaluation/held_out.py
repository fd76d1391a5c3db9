"""Which rows of some data a model is measured on: those that it has not learned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

import torch
from torch import Tensor

from salhub.data.split_beside import find_split
from salhub.errors import did_you_mean
from salhub.modeling import refuse_broken_weights
from salhub.results import Results, Table, measured

# Beyond, a table of all pairs of classes is no longer read.
_MOST_CONFUSED = 20


@dataclass(frozen=True)
class HeldOut:
    """Rows to measure a model on.

    Args:
        sets: "test", and "forgotten" for what was unlearned -> places, int64 (n,).
        facts: What a results file says of the data.
        note: A sentence that says which rows these are.
    """

    sets: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    note: str


def held_out(name: str, data: Any, test: Tensor, unit: str) -> HeldOut:
    """Choose what a model is measured on.

    Of the data that it was trained on, that is what its `split.json` holds out; of other data, the
    part for testing, or everything where there is none.

    Args:
        name: The model: a folder, a shipped name or a Hub repository; "" for none of these.
        data: Has a `title` and `describe()`.
        test: Places of its own part for testing, int64 (n,), perhaps none.
        unit: What a row is, such as "pictures".

    Raises:
        ValueError: Everything was learned, or the data have changed since.
    """
    described = data.describe()
    split = find_split(name) if name else None
    if split is not None and split.data.get("fingerprint") == described["fingerprint"]:
        places = split.test if len(split.test) else split.held_out
        if not len(places):
            raise ValueError(
                f"the model was trained on all {len(split.train)} {unit} of {data.title}, and "
                "nothing was held out; give other data."
            )
        note = (
            f"Measured on the {len(places)} {unit} of {data.title} that were held out of "
            f"training; the {len(split.train)} training items are left out."
        )
        if repeated := split.data.get("num_held_out_that_are_learned"):
            note += f" But {repeated} of them also occur in the training data."
        sets = {"test": places}
        if len(split.forgotten):
            sets["forgotten"] = split.forgotten
        return HeldOut(sets, {**described, "split": split.digest[:16]}, note)
    if split is not None and split.data.get("name") == described["name"]:
        raise ValueError(
            f"{data.title} has changed since training, or was read with other columns or "
            "class names, so the held-out part is unknown; give the original data, or new "
            "data under another name."
        )
    places = test if len(test) else torch.arange(len(data))
    which = f"the {len(test)} test {unit}" if len(test) else f"all {len(data)} {unit}"
    doubt = "the training data of the model are unknown"
    if split is not None:
        doubt = f"the model was trained on {split.data.get('name')}"
    note = (
        f"Measured on {which} of {data.title}; {doubt}, so some of them may have been used for "
        "training."
    )
    return HeldOut({"test": places}, described, note)


def evaluate_held_out(
    model: Any,
    data: Any,
    unit: str,
    seed: int,
    logits_of: Callable[[Tensor], Tensor],
) -> tuple[Results, dict[str, tuple[Tensor, Tensor]]]:
    """Measure how often the true class is the most likely one, of what a model has not learned.

    Args:
        model: A classifier of transformers or of ours.
        data: Has `name`, `title`, `describe()`, `labels`, `class_names` and `test_places`.
        unit: What a row is, such as "pictures".
        seed: Seed of the bootstrap.
        logits_of: Gives the logits of the rows at some places, (n, K).

    Returns:
        `Results` with "accuracy/test", "accuracy/class/NAME" and the tables of the card; and the
        logits and labels of the other sets of `held_out`.

    Raises:
        ValueError: As of `held_out` and `classes_of_model`.
    """
    id2label = model.config.id2label
    labels = classes_of_model(torch.as_tensor(data.labels), data.class_names, id2label, data.title)
    chosen = held_out(model.config.name_or_path, data, data.test_places, unit)
    results = Results.of_model(model, data.name, seed)
    results.data = dict(chosen.facts)
    with measured(results):
        outputs = {
            name: (logits_of(places), labels[places]) for name, places in chosen.sets.items()
        }
        logits, expected = outputs.pop("test")
        refuse_broken_weights(model, logits)
        add_by_class(results, logits, expected, names_of_classes(model), chosen.note)
    return results, outputs


def names_of_classes(model: Any) -> list[str]:
    """Names of the classes of a model, in order."""
    id2label = model.config.id2label
    return [str(id2label[index]) for index in sorted(id2label)]


def classes_of_model(
    labels: Tensor, data_names: Sequence[str], id2label: Mapping[int, str], name: str
) -> Tensor:
    """Classes of rows as a model counts them, by their names.

    Args:
        labels: As the data count them, int64 (n,).
        data_names: Names of the data's classes.
        id2label: Of the model; names such as LABEL_3 stand for the class called "3".
        name: Of the data, for messages.

    Returns:
        int64 (n,).

    Raises:
        ValueError: The model has no class of that name.

    Example:
        >>> labels = torch.tensor([0, 1, 1])
        >>> classes_of_model(labels, ["cat", "dog"], {0: "dog", 1: "cow", 2: "cat"}, "d").tolist()
        [2, 0, 0]
    """
    own = {normalize("NFC", str(label)): index for index, label in id2label.items()}
    known = {label.removeprefix("LABEL_"): index for label, index in own.items()} | own
    data_names = [normalize("NFC", one) for one in data_names]
    strange = [one for one in data_names if one not in known]
    if strange:
        shown = ", ".join(str(id2label[index]) for index in sorted(id2label)[:5])
        raise ValueError(
            f"'{strange[0]}', a class of {name}, is not a class of the model, which has "
            f"{len(id2label)}: "
            f"{shown}{', ...' if len(id2label) > 5 else ''}.{did_you_mean(strange[0], known)}"
        )
    order = torch.tensor([known[one] for one in data_names], dtype=torch.long)
    return order[labels]


def add_by_class(
    results: Results, logits: Tensor, labels: Tensor, class_names: Sequence[str], note: str
) -> None:
    """Write accuracy in all and by class, and what is taken for what.

    Args:
        results: To be filled.
        logits: float (n, K).
        labels: int64 (n,).
        class_names: K names.
        note: Which rows these are.
    """
    verdicts = logits.argmax(-1)
    right = verdicts == labels
    counts = torch.zeros(len(class_names), len(class_names), dtype=torch.long)
    counts.index_put_((labels, verdicts), torch.ones_like(labels), accumulate=True)
    found = results.add_mean("accuracy/test", right.double().numpy(), unit="fraction")
    rows: list[list[Any]] = [
        ["all", f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]",
         len(labels), None]
    ]  # fmt: skip
    present = [place for place in range(len(class_names)) if counts[place].sum()]
    for place in present:
        total = int(counts[place].sum())
        share = float(counts[place, place]) / total
        results.add_metric(f"accuracy/class/{class_names[place]}", share, n=total, unit="fraction")
        wrong = counts[place].clone()
        wrong[place] = 0
        most = int(wrong.argmax())
        other = f"{class_names[most]} ({int(wrong[most])})" if int(wrong[most]) else None
        rows.append([class_names[place], f"{100 * share:.1f}", total, other])
    columns = ["of", "accuracy", "n", "most often mistaken for"]
    text = "Accuracy in percent, with 95 % bootstrap interval."
    results.tables.append(Table("Accuracy", f"{text} {note}", columns, rows))
    if len(present) > _MOST_CONFUSED:
        return
    taken = [p for p in range(len(class_names)) if p in present or counts[:, p].sum()]
    matrix = [[class_names[p], *(int(counts[p, q]) for q in taken)] for p in present]
    title = "Rows are true classes, columns are predicted classes; the numbers are counts."
    results.tables.append(Table("Confusion", title, ["", *(class_names[q] for q in taken)], matrix))
