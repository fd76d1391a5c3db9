"""Configuration of classifiers that were, or can be, unlearned, and what their unlearning was."""

from typing import Any

from salhub.config_fields import ranged
from salhub.configuration import CLASS_FIELDS, strict
from salhub.data.class_names import ClassNames
from salhub.network_inside import NetworkInsideConfig


def classes_in(forget: str | None, id2label: dict[int, str] | None) -> list[str]:
    """Names of the classes in words such as "class:3"; none where single pictures are meant.

    Args:
        forget: What was forgotten.
        id2label: Names of all classes.
    """
    kind, _, value = (forget or "").partition(":")
    names: Any = id2label or {}
    if kind != "class":
        return []
    # A name may have commas in it.
    words = [value] if value in names.values() else value.split(",")
    found = [(word.strip(), ClassNames(names).find(word.strip())) for word in words]
    return [names[places[0]] if places else word for word, places in found]


def note_of_answers(done: str) -> str:
    """What to know of every answer of a classifier, such as one "made to forget 'cat'"."""
    return f"This model was {done}: it should give such pictures another class."


@strict
class UnlearnedConfig(NetworkInsideConfig):
    """What was forgotten, and how; every field is None for a model that was only trained.

    Args:
        backbone_config: Configuration of the network.
        unlearn_method: Method that made it forget, such as "salun"; "retrain" for a model trained
            without the forgotten data.
        forget: What was forgotten, such as "class:3".
        num_forgotten: Number of forgotten pictures.
        forget_digest: SHA-256 of their indices in the data set; the pictures themselves are not
            stored.
        mask_ratio: Share of the weights that could change; None if all could.
        saliency: Score that ranked the weights, see `compute_saliency`.
        scope: Which weights were ranked together, see `make_mask`.
        closed_weights_sha256: Digest of the bits of all weights that could not change; the
            original has the same, see `closed_weights_digest`.

    Source: Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency in
    Both Image Classification and Generation", 2024 (arXiv 2310.12508).
    """

    unlearn_method: str | None = None
    forget: str | None = None
    num_forgotten: int | None = ranged(None, least=0)
    forget_digest: str | None = None
    mask_ratio: float | int | None = ranged(None, least=0, most=1)
    saliency: str | None = None
    scope: str | None = None
    closed_weights_sha256: str | None = None

    @property
    def forgotten_classes(self) -> list[str]:
        """Names of the classes that were forgotten as a whole."""
        return classes_in(self.forget, self.id2label)

    @property
    def forgotten_words(self) -> str:
        """What was done to the model, for a sentence, such as "made to forget 'cat'"."""
        how = "trained without" if self.unlearn_method == "retrain" else "made to forget"
        names = ", ".join(f"'{name}'" for name in self.forgotten_classes)
        return f"{how} {names}"


@strict
class SalUnConfig(UnlearnedConfig):
    """Configuration of an image classifier that was, or can be, unlearned; see `UnlearnedConfig`.

    Example:
        >>> SalUnConfig().backbone_config.model_type
        'salhub_cifar_resnet'
    """

    model_type = "salhub_salun"
    default_backbone = "salhub_cifar_resnet"
    inherited_fields = CLASS_FIELDS

    def __post_init__(self, **kwargs: Any) -> None:
        """The classes are those of the network inside; given here, they are given to it."""
        is_named = self.id2label is not None or kwargs.get("num_labels") is not None
        super().__post_init__(**kwargs)
        network: Any = self.backbone_config
        names: Any = self.id2label if is_named else network.id2label
        self.problem_type = self.problem_type or getattr(network, "problem_type", None)
        for config in (self, network) if is_named else (self,):
            config.id2label = dict(names)
            # Not all configurations have it, and it may be that of other names.
            config.label2id = {name: index for index, name in names.items()}

    @property
    def answer_notes(self) -> list[str]:
        """What to know of every answer: which classes it was made to forget."""
        return [note_of_answers(self.forgotten_words)] if self.forgotten_classes else []
