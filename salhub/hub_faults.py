"""What goes wrong when files are fetched or read, in one sentence each; and what may be retried."""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from salhub.errors import (
    DownloadError,
    IntegrityError,
    ModelNotFoundError,
    NoImageProcessorError,
    SalhubError,
)
from salhub.loading_keywords import hub_keywords
from salhub.manifest import file_sha256

logger = logging.getLogger(__name__)

# Seconds to wait before each further try.
WAITS = (0.5, 1.0, 2.0)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


# --- the Hub ----------------------------------------------------------------------------------


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def fault_of_hub(error: BaseException) -> str | None:
    """What the Hub or the network did wrong, in words; None for any other error.

    Args:
        error: What the Hub's client or transformers raised.
    """
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    for one in chain(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(one, HfHubHTTPError) and status is not None:
            return f"it returned status {status}" if status >= 500 or status == 429 else None
        if isinstance(one, FileMetadataError):
            return (
                "the answer did not come from a Hub, but for example from the login page of a "
                "network"
            )
        if str(one).startswith("Consistency check failed"):
            return "the answer has the wrong length: it was cut off, or is a different page"
        if type(one).__module__.startswith("httpx") and type(one).__name__ != "ConnectError":
            return f"the connection was interrupted ({type(one).__name__})"
    return None


@contextmanager
def access_explained(
    name: str, kind: str, keywords: Mapping[str, Any], *, is_of_hub: bool
) -> Generator[None]:
    """Say that there is no access, where transformers takes a file kept back for a missing one.

    Args:
        name: The repository.
        kind: "model", "tokenizer", or anything else.
        keywords: Those of the Hub are looked at.
        is_of_hub: Whether it is read from the Hub at all.

    Raises:
        ModelNotFoundError: There is no access to the repository, or no such revision.
    """
    try:
        yield
    except (OSError, NoImageProcessorError) as error:
        if not is_of_hub or fault_of_hub(error) is not None:
            raise
        said = _refusal(error, name, keywords) or _refusal(
            _asked_again(error, name, kind, keywords), name, keywords
        )
        if said is None:
            raise
        raise ModelNotFoundError(said) from error


def _asked_again(
    error: Exception, name: str, kind: str, keywords: Mapping[str, Any]
) -> Exception | None:
    """What the Hub says of the file that was not found; faults of it are raised."""
    from huggingface_hub import constants, hf_hub_download

    is_image = isinstance(error, NoImageProcessorError) or lacks_image_processor(error)
    is_missing = is_image or isinstance(error, ModelNotFoundError)
    is_said = not is_image and is_missing_repository(error)
    is_offline = keywords.get("local_files_only") or constants.HF_HUB_OFFLINE
    if not is_missing or is_said or is_offline:
        return None
    of_kind = {"model": "model.safetensors", "tokenizer": "tokenizer_config.json"}
    file = "preprocessor_config.json" if is_image else of_kind.get(kind, "config.json")
    try:
        hf_hub_download(name, file, **hub_keywords(keywords))
    except Exception as found:
        if fault_of_hub(found) is not None:
            raise
        return found
    return None


def _refusal(error: Exception | None, name: str, keywords: Mapping[str, Any]) -> str | None:
    from huggingface_hub import errors
    from huggingface_hub.constants import ENDPOINT

    for one in chain(error):
        if isinstance(one, errors.RevisionNotFoundError):
            revision = keywords.get("revision") or "main"
            return f"'{name}' has no revision '{revision}' on {ENDPOINT}; give an existing one."
        status = getattr(getattr(one, "response", None), "status_code", None)
        is_gated = isinstance(one, errors.GatedRepoError)
        if isinstance(one, errors.RepositoryNotFoundError) and not is_gated:
            return None  # also of one that is missing, so that it is said otherwise
        if isinstance(one, errors.HfHubHTTPError) and status in (401, 403):
            why = "it is gated" if is_gated else "it is private, or your token cannot read it"
            return (
                f"{ENDPOINT} denies access to '{name}' (status {status}), because {why}; log in "
                f"with `hf auth login`, accept the terms on {ENDPOINT}/{name} if there are any, "
                "and try again."
            )
    return None


def is_tried_again_already(error: BaseException) -> bool:
    """Whether the Hub's client has tried several times itself, as it does before downloads."""
    return "HEAD" in map(_method, chain(error))


def _method(error: BaseException) -> str | None:
    try:
        return getattr(error, "request").method  # noqa: B009
    except (AttributeError, RuntimeError):  # of no request, or of one that is not known
        return None


def lacks_image_processor(error: BaseException | None) -> bool:
    """Whether transformers says that there is no image processor."""
    return error is not None and str(error).startswith("Can't load image processor")


def is_missing_repository(error: BaseException | None) -> bool:
    """Whether an error says that a repository is not to be had, from wherever."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if lacks_image_processor(error):
        # Raised without a cause when transformers found no file at all.
        return error.__cause__ is None and error.__context__ is None
    missing = (RepositoryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled)
    return any(
        isinstance(one, missing) and not isinstance(one, GatedRepoError) for one in chain(error)
    )


def download_error(name: str, fault: str) -> DownloadError:
    """The error for a Hub that failed to the end."""
    from huggingface_hub.constants import ENDPOINT

    return DownloadError(
        f"'{name}' could not be downloaded from {ENDPOINT}: {fault}, even after a second "
        "try; check the network and try later, or use the cache with local_files_only=True."
    )


def patiently(
    read: Callable[[], Any],
    name: str,
    snapshot: Callable[[], Path | None],
    *,
    with_weights: bool,
    force: bool,
    local: bool,
) -> Any:
    """Read from the Hub, a few times where files break on the way, and heal the cache meanwhile.

    Args:
        read: Does it.
        name: The repository.
        snapshot: Where its files are in the cache, once there are some.
        with_weights: Whether weights are read.
        force: Whether files are fetched anew.
        local: Whether only the cache may be used.

    Raises:
        DownloadError: The Hub failed to the end.
        IntegrityError: Files are damaged, and fetching them again did not help.
    """
    from huggingface_hub import constants

    is_offline = local or constants.HF_HUB_OFFLINE

    def damaged() -> list[Path]:
        folder = snapshot()
        return [] if folder is None else damaged_files(folder, with_weights=with_weights)

    if force and not is_offline:
        # The Hub's client keeps the name of a damaged file on the damaged content.
        remove_damaged(damaged())
    for wait in (*WAITS, None):
        failure, result, fault = None, None, None
        try:
            result = read()
        except Exception as error:
            failure, fault = error, fault_of_hub(error)
        broken = damaged()
        if failure is None and not broken:
            return result
        is_final = wait is None or is_offline
        if broken:
            if is_final:
                raise damage_error(name, broken) from failure
            remove_damaged(broken)
        elif failure is not None and fault is None:
            raise failure
        elif failure is not None and (is_final or is_tried_again_already(failure)):
            raise download_error(name, str(fault)) from failure
        logger.warning("%s: %s; trying again.", name, fault or "a file arrived damaged")
        time.sleep(wait or 0)
    raise AssertionError("the last try returns or raises")


# --- files that came from it --------------------------------------------------------------------


def damaged_files(snapshot: Path, *, with_weights: bool) -> list[Path]:
    """The files of a snapshot in the cache whose content is not what the Hub gave the hash of.

    The Hub's client compares lengths only; the cache keeps each file under its hash: SHA-256 for
    large files, that of git for others.

    Args:
        snapshot: Folder of one revision.
        with_weights: Whether to look at weights too, which takes a second a gigabyte.
    """
    files = sorted(snapshot.rglob("*"))
    return [f for f in files if (with_weights or f.suffix != ".safetensors") and _is_damaged(f)]


def remove_damaged(files: Iterable[Path]) -> None:
    """Remove files from the cache that nobody has fetched again meanwhile, so that they are."""
    for path in files:
        for one in (path, path.resolve()) if _is_damaged(path) else ():
            with suppress(OSError):  # a cache that cannot be written
                one.unlink()


def damage_error(name: str, files: Iterable[Path]) -> IntegrityError:
    """The error for files whose content is not what the Hub announced."""
    names = ", ".join(sorted({path.name for path in files}))
    return IntegrityError(
        f"{names} of '{name}' is damaged: its sha256 or git hash differs from the Hub's; "
        "download it again with force_download=True."
    )


def _is_damaged(path: Path) -> bool:
    """Whether something in the cache is a file that is called by the hash of other content."""
    expected = path.resolve().name
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", expected):
        return False
    try:
        if len(expected) == 64:
            return file_sha256(path.resolve()) != expected
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):  # another process fetches it again just now
        return False
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest() != expected


@contextmanager
def encoding_explained(tokenizer: Any) -> Generator[None]:
    """Turn a tokenizer that breaks down over a text into one sentence that names it.

    Args:
        tokenizer: One of transformers.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        name = getattr(tokenizer, "name_or_path", "")
        file = Path(name, "tokenizer.json") if name else "its tokenizer.json"
        raise ValueError(
            "The tokenizer cannot split the text into tokens "
            f"({' '.join(str(error).split())}), because of the rules in {file}; give another "
            "tokenizer."
        ) from error


# --- reading ------------------------------------------------------------------------------------


@contextmanager
def reading_explained(name: str, folder: str | os.PathLike | None, kind: str) -> Generator[None]:
    """Turn what goes wrong while files are read into one sentence that names them.

    Args:
        name: What the caller asked for.
        folder: Where the files lie, or None where that is not known.
        kind: "model", "tokenizer", or anything else.
    """
    try:
        yield
    except (SalhubError, KeyboardInterrupt, SystemExit, MemoryError, ImportError):
        raise
    except BaseException as error:
        found = _explained(error, name, Path(folder) if folder else None, kind)
        if found is None:
            raise
        raise found from error


def _explained(error: BaseException, name: str, folder: Path | None, kind: str) -> Exception | None:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return ValueError(
            f"'{name}' needs custom code, but salhub does not run code from repositories; "
            "choose another model, or load it yourself and give the loaded object."
        )
    is_plain = isinstance(error, OSError | ValueError | TypeError | NotImplementedError)
    if kind == "model" and (found := _weights_error(error, name, folder, text)) is not None:
        return found
    if kind == "tokenizer" and not isinstance(error, OSError):
        return _damaged_tokenizer(error, name, folder, text)
    if is_plain or not isinstance(error, Exception):
        return None
    return ValueError(
        f"'{name}' cannot be loaded: its files are damaged or do not belong together "
        f"({type(error).__name__}: {text[:200]}); download or save it again."
    )


def _weights_error(
    error: BaseException, name: str, folder: Path | None, text: str
) -> Exception | None:
    is_missing = text.startswith("Error no file named model")
    if is_missing or "cannot be loaded with `safetensors`" in text:
        return no_weights(name, folder)
    is_shard = isinstance(error, FileNotFoundError) and ".safetensors" in text
    is_index = isinstance(error, json.JSONDecodeError | KeyError | UnicodeDecodeError)
    if type(error).__name__ == "SafetensorError" or is_shard or is_index:
        return _damaged_weights(name, folder, text)
    # transformers prints a table of what does not fit, and raises this.
    if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" in text:
        return _other_shapes(name)
    return None


def no_weights(name: str, folder: Path | None) -> ModelNotFoundError:
    """The error for a model without weights that may be loaded."""
    pickles = [
        path.name
        for pattern in _PICKLES
        for path in (folder.glob(pattern) if folder is not None and folder.is_dir() else ())
    ]
    has = f", only {', '.join(sorted(pickles)[:3])}" if pickles else ""
    return ModelNotFoundError(
        f"'{name}' has no safetensors weights (model.safetensors){has}, and salhub does not "
        "load pickles, because they can run any code; choose a repository with safetensors, "
        "or load it elsewhere and save it with model.save_pretrained(folder)."
    )


def wrong_weights(name: str, info: Any, *, may_mismatch: bool) -> IntegrityError | None:
    """The error for weights that are not those of the model; None where they are.

    Args:
        name: The model.
        info: What `output_loading_info` gives.
        may_mismatch: Whether the caller asked for new weights where shapes differ.
    """
    keys = {kind: sorted(map(_key, info[f"{kind}_keys"])) for kind in ("missing", "unexpected")}
    mismatched = sorted(map(_key, info.get("mismatched_keys") or ()))
    if mismatched and not may_mismatch:
        return _other_shapes(name)
    if may_mismatch:
        keys["missing"] = [key for key in keys["missing"] if key not in mismatched]
    parts = [
        f"{len(found)} weights are {kind}, such as '{found[0]}'"
        for kind, found in keys.items()
        if found
    ]
    if not parts:
        return None
    return IntegrityError(
        f"The weight file of '{name}' does not match its config.json: {' and '.join(parts)}; "
        "save the model again, without wrappers and adapters."
    )


def _key(entry: Any) -> str:
    return entry[0] if isinstance(entry, tuple) else str(entry)


def _other_shapes(name: str) -> IntegrityError:
    return IntegrityError(
        f"The weights in model.safetensors of '{name}' have other shapes than its "
        "config.json describes, so the two belong to different models; give the "
        "configuration of these weights, or save or download both again."
    )


def _damaged_weights(name: str, folder: Path | None, text: str) -> IntegrityError:
    files = _broken_weights(folder)
    shown = " and ".join(map(str, files)) if files else f"A weight file of '{name}'"
    return IntegrityError(
        f"{shown} is missing, damaged or incomplete ({text[:120]}); save or copy it again, "
        "or if it came from the Hub, download it again with force_download=True."
    )


def _broken_weights(folder: Path | None) -> list[Path]:
    from safetensors import SafetensorError, safe_open

    broken = []
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else ():
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError):
            broken.append(path)
    index = None if folder is None else folder / "model.safetensors.index.json"
    if broken or index is None or not index.is_file():
        return broken
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        return [index]
    return [index.parent / str(one) for one in shards if not (index.parent / str(one)).is_file()]


def _damaged_tokenizer(
    error: BaseException, name: str, folder: Path | None, text: str
) -> Exception | None:
    is_panic = type(error).__name__ == "PanicException"
    if not isinstance(error, Exception) and not is_panic:
        return None
    shown = f"The tokenizer of '{name}'" if folder is None else _broken_json(folder)
    return IntegrityError(
        f"{shown} cannot be read ({type(error).__name__}: {text[:160]}); save the tokenizer again "
        "with tokenizer.save_pretrained(folder), or download it again with force_download=True."
    )


def _broken_json(folder: Path) -> str:
    """The first file of a tokenizer that is no JSON; else the one that holds all of it."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")
    for name in names:
        try:
            if (folder / name).is_file():
                content = json.loads((folder / name).read_text(encoding="utf-8"))
                if not isinstance(content, dict):
                    return str(folder / name)
        except (ValueError, RecursionError):
            return str(folder / name)
    return str(folder / names[0])
