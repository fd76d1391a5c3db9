"""Words of a text: what the vectors of sentences are made of."""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from salhub.errors import did_you_mean, require_extra

STOPWORDS = Path(__file__).parent / "stopwords"
# Scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana and ideographs.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_PLAIN = re.compile(r"[^\W_]+", re.ASCII)
_RUN = re.compile(f"[{UNSPACED}]+|[^{UNSPACED}]+")
_UNSPACED_START = re.compile(f"[{UNSPACED}]")


def words_of(text: str) -> list[str]:
    """Letters and digits that stand together, in any script, as they are written.

    Vowel signs and other marks belong to their letters. Where a script has no spaces between words,
    every two neighbouring characters count as one word.

    Example:
        >>> words_of("Don't panic, it's 4 p.m.")
        ['Don', 't', 'panic', 'it', 's', '4', 'p', 'm']
        >>> words_of("नमस्ते दुनिया 你好世界")
        ['नमस्ते', 'दुनिया', '你好', '好世', '世界']
    """
    if text.isascii():
        return _PLAIN.findall(text)
    # The underscore is the one word character that is no letter, digit or mark.
    found = _any_script().findall(text.replace("_", " "))
    return [word for run in found for word in ((run,) if run.isascii() else _without_spaces(run))]


@functools.cache
def _any_script() -> re.Pattern[str]:
    # There are none beyond, but for variants of ideographs.
    marks = [c for c in map(chr, range(0x20000)) if unicodedata.category(c)[0] == "M"]
    # Marks are looked at only where a run of letters ends, as a set of this size is slow.
    return re.compile(rf"\w+(?:[{''.join(map(re.escape, marks))}]+\w*)*")


def has_unspaced(text: str) -> bool:
    """Whether some of a text is in a script that puts no spaces between words."""
    return not text.isascii() and _UNSPACED_START.search(text) is not None


def _without_spaces(run: str) -> Iterable[str]:
    if not has_unspaced(run):
        return (run,)
    words = []
    for part in _RUN.findall(run):
        is_pairs = _UNSPACED_START.match(part) and len(part) > 1
        words += [part[i : i + 2] for i in range(len(part) - 1)] if is_pairs else [part]
    return words


def stopwords_of(stopwords: str | Iterable[str] | None) -> frozenset[str]:
    """Words that are left out, in lower case.

    Args:
        stopwords: A language whose list comes with salhub, such as "en"; words; or None.

    Raises:
        ValueError: There is no list of that language.

    Example:
        >>> "the" in stopwords_of("en")
        True
    """
    if stopwords is None:
        return frozenset()
    if not isinstance(stopwords, str):
        return frozenset(word.lower() for word in stopwords)
    known = sorted(path.stem for path in STOPWORDS.glob("*.txt"))
    if stopwords not in known:
        raise ValueError(
            f"There is no list of stop words for '{stopwords}'; lists exist for "
            f"{', '.join(known)}.{did_you_mean(stopwords, known)} Or give the words as a "
            "list."
        )
    return frozenset(words_of((STOPWORDS / f"{stopwords}.txt").read_text(encoding="utf-8")))


def stemmer_of(language: str | None) -> Callable[[list[str]], list[str]]:
    """What turns words into their stems; words as they are for None.

    Args:
        language: Of the Snowball stemmers, such as "english".

    Raises:
        MissingExtraError: The stemmers are not installed.
        ValueError: There is none of that language.
    """
    if language is None:
        return lambda words: words
    require_extra("snowballstemmer", "text")
    import snowballstemmer

    known = snowballstemmer.algorithms()
    if language not in known:
        raise ValueError(
            f"stemmer must be one of {', '.join(known)}, got '{language}'."
            f"{did_you_mean(language, known)}"
        )
    return snowballstemmer.stemmer(language).stemWords
