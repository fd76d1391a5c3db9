"""The keywords that models are loaded with: one name for each, and nothing that runs code."""

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from salhub.config_fields import check_precision
from salhub.errors import SalhubError, UnknownSettingError, require_extra

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")

# What says where on the Hub a model is; every way of loading takes these.
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
# Keywords of transformers by which pickles are loaded or code is run, and the values that do it.
_REFUSED: dict[str, tuple[bool, ...]] = {
    "trust_remote_code": (True,),
    "use_safetensors": (False,),
    "weights_only": (False,),
    "from_tf": (True,),
    "from_flax": (True,),
}
CHECKED_KEYWORDS = tuple(_REFUSED)


def hub_keywords(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that say where on the Hub a model is."""
    return {key: settings[key] for key in HUB_KEYWORDS if key in settings}


def gguf_place(name: str, file: str | None = None) -> tuple[str, dict[str, Any]]:
    """Where a model lies that may be a GGUF file.

    Args:
        name: A GGUF file, or the name or folder of any model.
        file: A GGUF file in it; None where it is not meant to be read from one.

    Returns:
        A folder or repository, and keywords of `from_pretrained`.

    Raises:
        ValueError: The folder has no such file, or nothing but GGUF files and none was named.
        MissingExtraError: The package that reads such files is not installed.

    Example:
        >>> gguf_place("salhub/tiny-llama-en")
        ('salhub/tiny-llama-en', {})
    """
    path = Path(name)
    if file is not None and not file.lower().endswith(".gguf"):
        raise ValueError(f"gguf_file must end in .gguf, got {file}.")
    if file is None and path.suffix.lower() == ".gguf" and path.is_file():
        name, file, path = str(path.parent), path.name, path.parent
    elif file is not None and path.is_file():
        raise ValueError(f"gguf_file is {file}, but {name} is a file itself; give one of them.")
    held = path.iterdir() if path.is_dir() else ()
    there = sorted(one.name for one in held if one.suffix.lower() == ".gguf")
    if file is None:
        if there and not (path / "config.json").exists():
            raise ValueError(
                f"{name} has no config.json, but GGUF files; give one of them, such as "
                f"{path / there[0]}."
            )
        return name, {}
    if path.is_dir() and file not in there:
        others = ", ".join(there) or "no GGUF files"
        raise ValueError(f"{name} has no file {file}; it has {others}.")
    require_extra("gguf", "gguf")
    return name, {"gguf_file": file}


@contextmanager
def gguf_explained(name: str, where: Mapping[str, Any]) -> Generator[None]:
    """Name the file in what goes wrong while a GGUF file is read.

    Args:
        name: What the caller asked for.
        where: The keywords of `gguf_place`; nothing is done where they are empty.
    """
    try:
        yield
    except SalhubError:
        raise
    except Exception as error:
        if not where:
            raise
        raise ValueError(
            f"{where['gguf_file']} of {name} cannot be read as a GGUF file with a model and its "
            f"tokenizer ({type(error).__name__}: {str(error).partition(chr(10))[0]})."
        ) from error


def checked_keywords(cls: Any, keywords: Mapping[str, Any], *, is_model: bool) -> dict[str, Any]:
    """Return the keywords of loading so that nothing but safetensors is read, and no code run.

    Args:
        cls: What is loaded.
        keywords: Those of its `from_pretrained`.
        is_model: Whether it has weights.

    Raises:
        ValueError: Pickles or code were asked for, or the precision is none.
        TypeError: The precision is none at all.
    """
    checked = with_one_precision(keywords)
    for name, refused in _REFUSED.items():
        if name in checked and checked.pop(name) in refused:
            raise ValueError(
                f"{name}={keywords[name]} is not supported: salhub only loads safetensors "
                "weights and does not run code from repositories; load the model yourself "
                "and give the loaded object."
            )
    if is_model and checked.get("gguf_file") is None:
        checked["use_safetensors"] = True
    if cls.__name__.startswith("Auto"):
        checked["trust_remote_code"] = False
    return checked


def with_one_precision(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings whose precision is called `dtype`, whichever name it was given by.

    Args:
        settings: Keywords of loading; `torch_dtype` is the former name of `dtype`.

    Raises:
        ValueError: There is no such precision, or there are two.
        TypeError: It is none at all.

    Example:
        >>> with_one_precision({"torch_dtype": "float16"})
        {'dtype': 'float16'}
    """
    found = dict(settings)
    given = {key: found.pop(key) for key in ("torch_dtype", "dtype") if key in found}
    chosen = [value for value in given.values() if value is not None]
    if not chosen:
        return found
    if len(chosen) == 2 and str(chosen[0]).split(".")[-1] != str(chosen[1]).split(".")[-1]:
        raise ValueError(
            f"dtype={given['dtype']} and torch_dtype={given['torch_dtype']} contradict each "
            "other; give only dtype."
        )
    dtype = chosen[-1]
    if isinstance(dtype, str):
        check_precision(dtype)
    elif not getattr(dtype, "is_floating_point", isinstance(dtype, dict)):
        raise TypeError(f"dtype must be a precision such as torch.bfloat16, got {dtype!r}.")
    return {**found, "dtype": dtype}


@contextmanager
def unknown_explained(cls: Any, keywords: Mapping[str, Any]) -> Generator[None]:
    """Turn the complaint of a network's constructor about a keyword into one that names fields.

    Args:
        cls: What is loaded.
        keywords: What it is loaded with.

    Raises:
        UnknownSettingError: One of them is no field of the configuration.
    """
    try:
        yield
    except TypeError as error:
        # What is no field of the configuration ends in the constructor of the network.
        unknown = _UNEXPECTED.search(str(error))
        if unknown is None or unknown[1] not in keywords:
            raise
        config_class = getattr(cls, "config_class", None)
        known = {field.name for field in fields(config_class)} if config_class else set()
        raise UnknownSettingError(cls.__name__, unknown[1], known) from error


@contextmanager
def without_conversion() -> Generator[None]:
    """Keep transformers from asking somebody else's server to convert pickles."""
    name = "DISABLE_SAFETENSORS_CONVERSION"
    if name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)
