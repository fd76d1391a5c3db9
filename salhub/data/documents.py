"""Texts for language models: read from the files that people have, encoded and cut."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salhub.data.tables import (
    FILE_TYPES,
    TEST,
    TEXT_NAMES,
    TRAIN,
    VALIDATION,
    choose_column,
    column_of,
    is_table_file,
    kind_of,
    read_tables,
    read_text,
)

# Lines that may hold spaces; the indentation of what comes after them is part of it.
_BLANK_LINES = re.compile(r"\r?\n(?:[ \t\r]*\n)+")
_BETWEEN_ROWS = "\n\n"
TOKEN_FILES = (".npy", ".safetensors")
# Names that end so are files, and no data sets on the Hub.
_FILE_ENDINGS = (".txt", ".md", *TOKEN_FILES)
# What is expected instead of pictures, archives and the like.
_GIVE = (
    "give a text file, such as book.txt, or a table with a column of texts, ending in "
    f"{', '.join(FILE_TYPES)}"
)


class _UnclearError(ValueError):
    """It is not clear which tensor of a file holds the tokens."""


@dataclass(frozen=True)
class Text:
    """Texts of one file or data set.

    Args:
        name: What messages call it.
        pieces: The whole file, or what stands in each row of a table.
        part: "train", "validation" or "test"; "" for a file, which has no parts.
    """

    name: str
    pieces: list[str]
    part: str = ""

    @property
    def whole(self) -> str:
        """All of it in one; between the rows of a table stands a blank line."""
        return _BETWEEN_ROWS.join(self.pieces)

    @property
    def documents(self) -> list[str]:
        """What stands between the blank lines of a file, or in the rows of a table."""
        pieces = self.pieces if self.part else _BLANK_LINES.split(self.pieces[0])
        return [text for text in pieces if text.strip()]


def read_texts(
    data: str | PathLike[str],
    *,
    text_column: str | None = None,
    dataset_config_name: str | None = None,
    part: str | None = TRAIN,
    prefix: str = "",
) -> Text:
    """Read a text file as it is, or the column of a table.

    Args:
        data: A file of text (perhaps with .gz behind its name); a table of `read_tables`; or the
            name of a data set on the Hub.
        text_column: Column with the texts; None to find it by its heading.
        dataset_config_name: The configuration of a data set on the Hub.
        part: "train", "validation" or "test", of data with parts; None for the last of these that
            there is.
        prefix: Of the names of the options for the caller, such as "test_", for messages.

    Raises:
        FileNotFoundError: There is no such file, folder or data set.
        MissingExtraError: It needs the package `datasets`.
        ValueError: It is no text, holds nothing, or has no such part or column.
    """
    path = Path(data)
    if not path.exists() and kind_of(path) in _FILE_ENDINGS:
        raise FileNotFoundError(f"The text file {data} does not exist.")
    if path.is_file():
        config_name = {f"{prefix}dataset_config_name": dataset_config_name}
        check_no_columns(path.name, "a file", **config_name)
    if path.is_file() and not is_table_file(path):
        check_no_columns(path.name, "a text", **{f"{prefix}text_column": text_column})
        found = Text(path.name, [_read_plain(path)])
    else:
        try:
            tables = read_tables(str(data), dataset_config_name)
        except FileNotFoundError:
            if not path.is_dir():
                raise
            raise FileNotFoundError(f"The folder {data} has no table of texts; {_GIVE}.") from None
        if part is None:
            part = next(one for one in (TEST, VALIDATION, TRAIN) if one in tables)
        if part not in tables:
            raise ValueError(f"{path.name} has no part '{part}'; it has {', '.join(tables)}.")
        table = tables[part]
        column = choose_column(table, text_column, TEXT_NAMES, f"{prefix}text_column")
        values = column_of(table, column)
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise ValueError(
                    f"{table.place(row)} of {table.name} has {str(value)[:40]!r} where a text "
                    f"should be, in '{column}'."
                )
        found = Text(table.name, [value or "" for value in values], part)
    if not any(text.strip() for text in found.pieces):
        raise ValueError(f"{path.name} contains no text; give a file with text.")
    return found


def check_no_columns(name: str, kind: str, **given: str | None) -> None:
    """Refuse options of tables for what is none.

    Args:
        name, kind: Of the file, such as "a text".
        given: The options; None for those that were not given.

    Raises:
        ValueError: One was given.
    """
    for option, value in given.items():
        if value is not None:
            raise ValueError(
                f"{option} is {value}, but {name} is {kind}, which has none; leave {option} out."
            )


def _read_plain(path: Path) -> str:
    try:
        return read_text(path)
    except ValueError:
        if b"\0" not in path.read_bytes():  # a text in another encoding
            raise
        raise ValueError(f"{path.name} is not a text; {_GIVE}.") from None


def read_documents(
    data: str | PathLike[str],
    *,
    text_column: str | None = None,
    dataset_config_name: str | None = None,
    part: str | None = TRAIN,
) -> list[str]:
    """Read the documents of a text file, which stand between blank lines, or the rows of a table.

    Args:
        data, text_column, dataset_config_name, part: As of `read_texts`.

    Raises:
        FileNotFoundError, MissingExtraError, ValueError: As of `read_texts`.

    Example:
        >>> read_documents("books.txt")[0]  # doctest: +SKIP
        'In the beginning ...'
    """
    return read_texts(
        data, text_column=text_column, dataset_config_name=dataset_config_name, part=part
    ).documents


def encode_documents(documents: Sequence[str], tokenizer: Any) -> Tensor:
    """Tokens of documents one after another, each with the token of its end.

    Args:
        documents: The texts.
        tokenizer: With an `eos_token_id`.

    Returns:
        int64 (n,).

    Raises:
        ValueError: The tokenizer has no token for the end of a text.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError(
            f"This {type(tokenizer).__name__} has no end token to put between documents; set "
            "its eos_token."
        )
    rows = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([token for row in rows for token in (*row, end)], dtype=torch.long)


def encode_text(text: str, tokenizer: Any) -> Tensor:
    """Tokens of one text without any that the tokenizer would add, int64 (n,)."""
    found = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(found, dtype=torch.long)


def is_token_file(data: str | PathLike[str]) -> bool:
    """Whether the ending says that it holds tokens and no text."""
    return Path(data).suffix.lower() in TOKEN_FILES


def read_tokens(path: str | PathLike[str], vocab_size: int) -> Tensor:
    """Tokens that somebody has encoded already.

    Args:
        path: A .npy file, or a .safetensors file with one tensor, or with one called "input_ids".
        vocab_size: Tokens that there are.

    Returns:
        int64 (windows, length) or (n,), as it was saved.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else, nothing, or tokens that there are not.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The token file {path} does not exist.")
    try:
        tokens = _saved_tensor(path)
    except _UnclearError:
        raise
    except Exception as error:  # of many kinds, as each package has its own
        why = str(error).partition("\n")[0].rstrip(".")
        # numpy would have it read as objects.
        why = "it is no array of numbers" if "pickle" in why else why
        raise ValueError(
            f"{path.name} cannot be read as tokens ({why}); write whole numbers with numpy.save "
            "or safetensors.torch.save_file, or give a text."
        ) from error
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"{path.name} contains {tokens.dtype}, but tokens must be whole numbers.")
    if tokens.ndim not in (1, 2) or not tokens.numel():
        raise ValueError(
            f"{path.name} has the shape {tuple(tokens.shape)}; tokens must have shape "
            "(windows, length) or (number,), with at least one token."
        )
    tokens = tokens.long()
    check_tokens(tokens, vocab_size, path.name)
    return tokens


def _saved_tensor(path: Path) -> Tensor:
    if path.suffix.lower() == ".npy":
        found = np.load(path, allow_pickle=False)
        # torch has few operations for unsigned numbers.
        return torch.from_numpy(found.astype(np.int64) if found.dtype.kind == "u" else found)
    from safetensors.torch import load_file

    tensors = load_file(path)
    if len(tensors) != 1 and "input_ids" not in tensors:
        raise _UnclearError(
            f"{path.name} has the tensors {', '.join(tensors)}; call one of them input_ids."
            if tensors
            else f"{path.name} has no tensors; give one that is called input_ids."
        )
    return tensors["input_ids"] if "input_ids" in tensors else next(iter(tensors.values()))


def check_tokens(tokens: Tensor, vocab_size: int, name: str) -> None:
    """Refuse tokens that a model does not know.

    Args:
        tokens: int64, of any shape.
        vocab_size: How many it knows.
        name: What messages call them.

    Raises:
        ValueError: One is below 0, or not below that number.
    """
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"{name} has tokens from {low} to {high}, but the model only knows 0 to "
            f"{vocab_size - 1}; encode the text with the model's own tokenizer."
        )


def windows_of(tokens: Tensor, length: int, first: int = 0) -> Tensor:
    """Cut tokens into windows; those at the end that fill none are left out.

    Args:
        tokens: int64 (n,).
        length: Tokens of a window.
        first: Tokens that are passed over at the beginning.

    Returns:
        int64 (windows, length), a view.

    Example:
        >>> windows_of(torch.arange(8), 3, first=1).tolist()
        [[1, 2, 3], [4, 5, 6]]
    """
    count = max(len(tokens) - first, 0) // length
    return tokens[first : first + count * length].view(count, length)


def calibration_windows(
    data: str | PathLike[str],
    tokenizer: Any,
    num_windows: int,
    length: int,
    seed: int = 0,
    *,
    text_column: str | None = None,
    dataset_config_name: str | None = None,
    part: str | None = TRAIN,
    as_documents: bool = True,
) -> Tensor:
    """Windows of text that a model is fitted to while it is compressed.

    Args:
        data: Of `read_documents`; or a file of tokens, see `read_tokens`. Of one that is cut into
            windows already they are taken as they are, some of them where there are more.
        tokenizer: Of the model.
        num_windows: How many.
        length: Tokens of a window.
        seed: Draws where each window begins.
        text_column, dataset_config_name, part: As of `read_texts`.
        as_documents: Whether a token for the end stands behind every document; or else the text is
            encoded as one.

    Returns:
        int64 (num_windows, length).

    Raises:
        FileNotFoundError, MissingExtraError: As of `read_texts`.
        ValueError: There is less text than one window, or fewer windows in a file of tokens;
            tokens that the tokenizer does not know; or no token for the end of a document.
    """
    for name, value, least in (("num_windows", num_windows, 1), ("length", length, 2)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    name, generator = Path(data).name, torch.Generator().manual_seed(seed)
    if is_token_file(data):
        options = {"text_column": text_column, "dataset_config_name": dataset_config_name}
        check_no_columns(name, "a file of tokens", **options)
        tokens = read_tokens(data, len(tokenizer))
    else:
        texts = read_texts(
            data, text_column=text_column, dataset_config_name=dataset_config_name, part=part
        )
        if as_documents:
            tokens = encode_documents(texts.documents, tokenizer)
        else:
            tokens = encode_text(texts.whole, tokenizer)
    if tokens.ndim == 2:
        if tokens.shape[1] != length or len(tokens) < num_windows:
            raise ValueError(
                f"{name} has {len(tokens)} windows of {tokens.shape[1]} tokens, but you "
                f"asked for {num_windows} of {length}."
            )
        chosen = torch.randperm(len(tokens), generator=generator)[:num_windows]
        return tokens[chosen.sort().values]
    if len(tokens) < length:
        raise ValueError(
            f"{name} has {len(tokens)} tokens, fewer than one window of {length}; give more text, "
            "or shorter windows."
        )
    starts = torch.randint(len(tokens) - length + 1, (num_windows,), generator=generator)
    return tokens.unfold(0, length, 1)[starts]
