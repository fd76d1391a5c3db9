"""Names of classes as texts that CLIP reads: templates, tokens, and which names are refused."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from salhub.models.disa.configuration_disa import DiSaConfig

logger = logging.getLogger(__name__)

_PLACEHOLDER = "x"
_PHOTOS = (
    "", "good ", "bad ", "blurry ", "bright ", "dark ", "cropped ", "close-up ", "grainy ",
    "black and white ",
)  # fmt: skip
_THINGS = (
    "big", "little", "clean", "dirty", "old", "new", "strange", "beautiful", "hidden", "single",
)  # fmt: skip
_WORKS = (
    "drawing", "painting", "sketch", "sculpture", "rendering", "cartoon", "print", "model",
    "picture", "video",
)  # fmt: skip


def default_templates() -> list[str]:
    """60 sentences about a class, of our own words [D].

    Example:
        >>> templates = default_templates()
        >>> len(templates), templates[0]
        (60, 'a photo of a {}.')
    """
    found = []
    for article in ("a", "the"):
        found += [f"a {kind}photo of {article} {{}}." for kind in _PHOTOS]
        found += [f"a photo of {article} {kind} {{}}." for kind in _THINGS]
        found += [f"a {kind} of {article} {{}}." for kind in _WORKS]
    return found


def checked_names(names: Any, what: str = "class_names") -> list[str]:
    """Names of classes as they were given.

    Args:
        names: Perhaps a list of names.
        what: What they were given as, for messages.

    Raises:
        TypeError: One text, or something that is no text.
        ValueError: No names, a blank one, or one twice.

    Example:
        >>> checked_names(("cat", "dog"))
        ['cat', 'dog']
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(
            f'{what} must be a list of texts, got {type(names).__name__}; give ["cat", "dog"].'
        )
    found = list(names)
    wrong = next((name for name in found if not isinstance(name, str)), None)
    if wrong is not None:
        raise ValueError(
            f"{what} must be texts, got {wrong!r} ({type(wrong).__name__}); give the name of "
            "each class."
        )
    if not found or not all(name.strip() for name in found):
        lack = "no name" if not found else "a blank name"
        raise ValueError(f"{what} has {lack}; give the name of each class.")
    counts = Counter(map(spoken, found))
    twice = next((name for name in found if counts[spoken(name)] > 1), None)
    if twice is not None:
        raise ValueError(f"{what} has '{twice}' twice; give each class once.")
    return found


def spoken(name: str) -> str:
    """A name as it stands in a sentence.

    Example:
        >>> spoken("traffic_light ")
        'traffic light'
    """
    return " ".join(name.replace("_", " ").split())


def prompted_texts(names: Sequence[str], config: DiSaConfig) -> list[str]:
    """Sentences in which the learned vectors take the place of the first words."""
    count = config.n_ctx_text
    if count == 0:
        return [f"{config.ctx_init or ''} {spoken(name)}.".strip() for name in names]
    words = config.ctx_init or " ".join([_PLACEHOLDER] * count)
    return [f"{words} {spoken(name)}." for name in names]


def frozen_texts(names: Sequence[str], config: DiSaConfig) -> list[list[str]]:
    """Sentences of each class for the frozen CLIP: its descriptions, or the templates.

    Raises:
        ValueError: Some classes have descriptions and some have none.
    """
    descriptions: Mapping[str, list[str]] = config.class_descriptions or {}
    missing = [name for name in names if not descriptions.get(name)]
    if descriptions and len(missing) < len(names) and missing:
        raise ValueError(
            f"class_descriptions lacks '{missing[0]}' ({len(missing)} classes in all); "
            "describe every class, or none."
        )
    if not missing:
        return [list(descriptions[name]) for name in names]
    templates = config.templates or default_templates()
    return [[one.replace("{}", spoken(name)) for one in templates] for name in names]


def longest_texts(
    tokenizer: Any, names: Sequence[str], config: DiSaConfig
) -> tuple[list[str], list[str]]:
    """Sentences of `frozen_texts` among which the longest of each class is, and their classes.

    Of templates it is the same one for all names, so that not every sentence has to be made.
    """
    if config.class_descriptions is None:
        templates = config.templates or default_templates()
        sizes = [len(ids) for ids in tokenizer(list(templates), verbose=False)["input_ids"]]
        longest = templates[sizes.index(max(sizes))]
        return [longest.replace("{}", spoken(name)) for name in names], list(names)
    texts = frozen_texts(names, config)
    pairs = [(text, name) for name, own in zip(names, texts, strict=True) for text in own]
    return [text for text, _ in pairs], [name for _, name in pairs]


def check_context(tokenizer: Any, config: DiSaConfig) -> None:
    """Refuse words to start from that are not as many tokens as there are learned vectors.

    Raises:
        ValueError: They are more or fewer.
    """
    if config.n_ctx_text == 0 or config.ctx_init is None:
        return
    count = len(tokenizer(config.ctx_init, add_special_tokens=False)["input_ids"])
    if count != config.n_ctx_text:
        raise ValueError(
            f"ctx_init '{config.ctx_init}' is {count} tokens, but n_ctx_text is "
            f"{config.n_ctx_text}; give n_ctx_text={count}, other words, or ctx_init=None."
        )


def tokens_of(tokenizer: Any, texts: Sequence[str], names: Sequence[str], limit: int) -> Tensor:
    """Tokens of sentences, padded to the longest.

    Args:
        tokenizer: Of the base.
        texts: One sentence or several of each class.
        names: The class of each, for messages.
        limit: Tokens that the base takes.

    Returns:
        int64 (K, L).

    Raises:
        ValueError: A sentence is too long, naming the class.
    """
    found = tokenizer(list(texts), padding=False, truncation=False, verbose=False)["input_ids"]
    for ids, text, name in zip(found, texts, names, strict=True):
        if len(ids) > limit:
            raise ValueError(
                f"The class '{_short(name)}' is too long: '{_short(text)}' has {len(ids)} "
                f"tokens, but this CLIP reads only {limit}; give it a shorter name."
            )
    longest = max(map(len, found))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return torch.tensor([ids + [padding] * (longest - len(ids)) for ids in found])


def check_apart(ids: Tensor, names: Sequence[str]) -> None:
    """Refuse classes that CLIP cannot tell apart, since it reads the same tokens for both.

    Args:
        ids: Tokens of one sentence a class, (K, L).
        names: The classes.

    Raises:
        ValueError: Two have the same tokens, naming both.
    """
    first: dict[tuple[int, ...], str] = {}
    for tokens, name in zip(ids.tolist(), names, strict=True):
        other = first.setdefault(tuple(tokens), name)
        if other is not name:
            raise ValueError(
                f"This CLIP cannot tell '{_short(other)}' and '{_short(name)}' apart; give "
                "each class a distinct name."
            )


def query_tokens(tokenizer: Any, text: str, limit: int) -> tuple[Tensor, bool]:
    """Tokens of a text that a map is asked for, cut where it is too long.

    Returns:
        int64 (1, L), and whether something was cut off, which is logged.
    """
    ids = tokenizer(text, truncation=False, verbose=False)["input_ids"]
    is_cut = len(ids) > limit
    if is_cut:
        logger.warning(
            "'%s' has %d tokens but this CLIP reads only %d, so it was cut at its end.",
            _short(text), len(ids), limit,
        )  # fmt: skip
        ids = [*ids[: limit - 1], ids[-1]]
    return torch.tensor([ids]), is_cut


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"
