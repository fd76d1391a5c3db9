"""Where a text comes from: itself, a file, bytes, an open file, a sample."""

import codecs
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salhub.data.samples import PREFIX, sample_text_path
from salhub.errors import did_you_mean

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 64 * 2**20
_SURROGATE = re.compile("[\ud800-\udfff]")
# Judged by its looks: whether there is such a file is not for a text from elsewhere to find out.
_FILE_NAME = re.compile(r"(?!\w+://)\S+\.(?:txt|md|text|html?|json|csv)", re.IGNORECASE)
# What a byte order mark says; UTF-32 begins like UTF-16, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def load_text(source: Any) -> str:
    """Read a text.

    A `str` is the text itself, unless it is "sample:article" or another text that comes with
    salhub; a `pathlib` path is a file. Nothing is taken out or changed: markup, emoji and the ends
    of lines stay as they are, so places in the text are places in the file.

    Args:
        source: A text, a path, bytes, an open file, or {"text": one of these}, as in transformers.

    Returns:
        The text.

    Raises:
        FileNotFoundError: There is no such file.
        UnknownNameError: There is no such sample.
        ValueError: A folder, too many bytes, or bytes that are no text.
        TypeError: Not something a text can be read from.

    Example:
        >>> load_text("sample:review")[:14]
        'The first half'
    """
    if isinstance(source, str):
        if source.startswith(PREFIX) and len(source.split()) == 1:
            return _read_file(sample_text_path(source[len(PREFIX) :]))
        if _FILE_NAME.fullmatch(source):
            logger.warning(
                f"'{source}' is taken for the text itself. To read a file of that name, give "
                f"pathlib.Path('{source}')."
            )
        return whole_text(source, "The text")
    if isinstance(source, os.PathLike):
        return _read_file(Path(os.fsdecode(source)))
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_text(bytes(source), f"The {type(source).__name__} object")
    if callable(getattr(source, "read", None)):
        return load_text(source.read())
    if isinstance(source, Mapping):
        return load_text(_named_texts(source, ("text",))["text"])
    raise TypeError(
        f"A text cannot be read from an object of type {type(source).__name__}; give a str, a "
        "pathlib path, bytes or an open file."
    )


def load_text_or_pair(source: Any) -> str | tuple[str, str]:
    """Read a text, or the two of {"text": …, "text_pair": …}, as `load_text` reads each.

    Example:
        >>> load_text_or_pair({"text": "It rains.", "text_pair": "It is wet."})
        ('It rains.', 'It is wet.')
    """
    if not isinstance(source, Mapping):
        return load_text(source)
    texts = _named_texts(source, ("text", "text_pair"))
    if texts.get("text_pair") is None:
        return load_text(texts["text"])
    return load_text(texts["text"]), load_text(texts["text_pair"])


def _named_texts(source: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    unknown = [str(name) for name in source if name not in names]
    if unknown or "text" not in source:
        wrong = f"takes no '{unknown[0]}'" if unknown else "has no 'text'"
        raise ValueError(
            f"A text given as a dictionary {wrong}; it must be {{'text': …}}"
            f"{', with a text_pair if there are two' if len(names) > 1 else ''}."
        )
    return source


def decode_text(data: bytes, name: str) -> str:
    """Turn bytes into text: UTF-8, or what a byte order mark says.

    Args:
        data: The bytes.
        name: What to call them in messages.

    Raises:
        ValueError: They are no text, or in another encoding.

    Example:
        >>> decode_text("naïve".encode(), "The text")
        'naïve'
    """
    encoding = next((kind for mark, kind in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not text in {encoding.upper()} (byte {error.start} is "
            f"{data[error.start]:#04x}); save it as UTF-8, or decode it yourself and give the str."
        ) from None
    if "\0" in text:
        raise ValueError(f"{name} contains zero bytes, so it is not a text; give a text file.")
    return text


def whole_text(text: str, name: str) -> str:
    """Return a text that consists of whole characters.

    Args:
        text: The text.
        name: What to call it in messages.

    Raises:
        ValueError: It holds a lone surrogate: half of a character, which a text that was cut or
            wrongly decoded has, and which neither tokenizers nor files take.

    Example:
        >>> whole_text("naïve \U0001f642", "The text")
        'naïve \U0001f642'
    """
    broken = _SURROGATE.search(text)
    if broken is None:
        return text
    code = ord(broken[0])
    what = f"the byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "half a character"
    raise ValueError(
        f"{name} contains {what} (U+{code:04X}) at position {broken.start()}, so it was cut "
        "or is not UTF-8; give it in UTF-8, or remove that character."
    )


def _read_file(path: Path) -> str:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, [sibling.name for sibling in siblings])
        raise FileNotFoundError(f"There is no file '{path}'.{hint}") from None
    if not path.is_file():
        raise ValueError(f"'{path}' is not a regular file; give the path of a text file.")
    if size > MAX_TEXT_BYTES:
        raise ValueError(
            f"'{path}' has {size} bytes, more than the limit of {MAX_TEXT_BYTES}; split it."
        )
    return decode_text(path.read_bytes(), f"'{path}'")
