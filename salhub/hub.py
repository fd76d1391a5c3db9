"""Where weights come from: a folder, the installation, or the Hugging Face Hub."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from salhub.config_fields import check_fields
from salhub.errors import ModelNotFoundError, NoImageProcessorError, UnknownNameError, did_you_mean
from salhub.files import put_in_place, scratch_folder, write_text
from salhub.hub_faults import (
    access_explained,
    fault_of_hub,
    is_missing_repository,
    lacks_image_processor,
    patiently,
    reading_explained,
    wrong_weights,
)
from salhub.hub_reach import is_reachable, missing_message
from salhub.loading_keywords import (
    HUB_KEYWORDS,
    checked_keywords,
    hub_keywords,
    unknown_explained,
    without_conversion,
)
from salhub.manifest import NAMESPACE, BundledModel, read_manifest
from salhub.other_kinds import kind_explained

logger = logging.getLogger(__name__)

# Endings of files that hold weights and no model.
_WEIGHT_FILES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx")


@dataclass(frozen=True)
class Resolved:
    """Where a model's files are.

    Args:
        name: What the caller asked for: a folder or a repository name.
        config_folder: Folder or repository with the configuration and processor.
        weights_folder: Folder or repository with `model.safetensors`.
        source: "folder", "bundle" or "hub".
        revision: Revision of a bundled model, else None.
        is_reached: False where the Hub was asked and there was no connection.
    """

    name: str
    config_folder: str
    weights_folder: str
    source: str
    revision: str | None = None
    is_reached: bool = True

    @property
    def is_bundled(self) -> bool:
        """Whether the files are the ones shipped with salhub."""
        return self.source == "bundle"

    @contextmanager
    def explain_missing(self, **hub_arguments: Any) -> Generator[None]:
        """Turn the Hub client's failure to find a repository into one that says what was tried.

        Args:
            **hub_arguments: The keywords given to `from_pretrained`.
        """
        try:
            yield
        except OSError as error:
            if self.source != "hub" or not is_missing_repository(error):
                raise
            if lacks_image_processor(error) and _cached_config(self.name, hub_arguments):
                raise NoImageProcessorError(
                    f"'{self.name}' has no preprocessor_config.json, which defines how "
                    "pictures are prepared; push it with "
                    f"image_processor.push_to_hub('{self.name}')."
                ) from error
            raise ModelNotFoundError(
                missing_message(self.name, is_reached=self.is_reached)
            ) from error

    def snapshot(self, **hub_arguments: Any) -> Path | None:
        """The folder that the files are read from; None where none of the Hub's is here yet.

        Args:
            **hub_arguments: The keywords given to `from_pretrained`.
        """
        if self.source != "hub":
            return Path(self.weights_folder, hub_arguments.get("subfolder") or "")
        config = _cached_config(self.name, hub_arguments)
        return None if config is None else config.parent


def canonical_name(name: str | os.PathLike) -> str:
    """Return the full name of a shipped model written without its namespace.

    Example:
        >>> canonical_name("efficientnet-lite0")
        'salhub/efficientnet-lite0'
    """
    name = os.fspath(name)
    if not os.path.isdir(name) and name in read_manifest():
        return NAMESPACE + name
    return name


def bundled_model(name: str, **hub_arguments: Any) -> BundledModel | None:
    """Return the shipped model that a name (with its namespace) means, or None.

    Args:
        name: The name; a folder that is there is meant before a shipped model.
        **hub_arguments: The keywords given to `from_pretrained`, which may ask for the Hub.
    """
    if not name.startswith(NAMESPACE) or os.path.isdir(name):
        return None
    model = read_manifest().get(name.removeprefix(NAMESPACE))
    return None if model is None or _asks_for_hub(model, hub_arguments) else model


def resolve(name: str | os.PathLike, **hub_arguments: Any) -> Resolved:
    """Decide where the files of a model come from.

    In this order: an existing folder; the Hub when `force_download`, a `subfolder` or a `revision`
    other than the bundled one is given; the bundle; the Hub. SALHUB_PREFER_HUB=1 tries the Hub
    before the bundle.

    Args:
        name: A folder, a shipped name with or without "salhub/", or a Hub repository.
        **hub_arguments: The keywords given to `from_pretrained`; the Hub's are looked at.

    Raises:
        IntegrityError: A bundled file is missing or damaged.
        ModelNotFoundError: It is a file of weights.
    """
    name = canonical_name(name)
    if os.path.isdir(name):
        return Resolved(name, name, name, "folder")
    if name.lower().endswith(_WEIGHT_FILES) and Path(name).is_file():
        raise ModelNotFoundError(
            f"{name} is a file of weights, but a model is a folder with a config.json; give such a "
            "folder (only `salhub compress` takes GGUF files)."
        )
    model = bundled_model(name, **hub_arguments)
    from_hub = Resolved(name, name, name, "hub")
    if model is None:
        logger.info("%s: from the Hub or its cache", name)
        return from_hub
    if os.environ.get("SALHUB_PREFER_HUB") == "1" and _hub_has(name, hub_arguments):
        logger.info("%s: from the Hub, as SALHUB_PREFER_HUB asks", name)
        return from_hub
    model.verify()
    logger.info("%s: shipped with salhub, weights sha256 %s", name, model.weights_sha256[:12])
    config_folder = str(model.folder_of("config.json"))
    weights_folder = str(model.folder_of("model.safetensors"))
    return Resolved(name, config_folder, weights_folder, "bundle", model.revision)


def load(cls: Any, name: str | os.PathLike | None, *arguments: Any, **keywords: Any) -> Any:
    """Load a model, configuration, image processor or tokenizer by name.

    Args:
        cls: A class with `from_pretrained`: one of salhub, or any of transformers, Auto classes
            among them.
        name: A folder, a shipped name such as "salhub/efficientnet-lite0", or a Hub repository.
        *arguments, **keywords: As for its `from_pretrained`: `HUB_KEYWORDS`, and fields of the
            configuration by name.

    Returns:
        What `from_pretrained` returns; of shipped files, `name_or_path` is `name` and no path of
        the installation.

    Raises:
        ModelNotFoundError: Nothing of that name was found.
        IntegrityError: A shipped or downloaded file is damaged.

    Example:
        >>> from transformers import AutoConfig
        >>> load(AutoConfig, "salhub/efficientnet-lite0").name_or_path
        'salhub/efficientnet-lite0'
    """
    if issubclass(cls, LoadedByName):
        return cls.from_pretrained(name, *arguments, **keywords)
    return _load(cls, cls.from_pretrained, name, *arguments, **keywords)


class LoadedByName:
    """Makes `from_pretrained` of a class derived from transformers know the shipped models."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *arguments: Any, **kwargs: Any
    ) -> Self:
        """Load by name: a folder, what is shipped with salhub, or what is on the Hub.

        Args:
            pretrained_model_name_or_path: A folder, a shipped name such as
                "salhub/normgrad-efficientnet-lite0", or a Hub repository.
            *arguments, **kwargs: As in transformers. Settings may be overridden by name.
                `revision`, `force_download` or SALHUB_PREFER_HUB=1 ask for the Hub.

        Raises:
            ModelNotFoundError: Nothing of that name was found.
            IntegrityError: A shipped or downloaded file is damaged.
        """
        read = super().from_pretrained  # ty: ignore[missing-attribute]
        return _load(cls, read, pretrained_model_name_or_path, *arguments, **kwargs)


def _load(
    cls: Any, read: Callable, name: str | os.PathLike | None, *arguments: Any, **keywords: Any
) -> Any:
    with unknown_explained(cls, keywords), kind_explained(cls, name):
        return _load_by_name(cls, read, name, *arguments, **keywords)


def _load_by_name(
    cls: Any, read: Callable, name: str | os.PathLike | None, *arguments: Any, **keywords: Any
) -> Any:
    kind = _kind_of(cls)
    keywords = checked_keywords(cls, keywords, is_model=kind == "model")
    if name is None:
        return read(None, *arguments, **keywords)
    resolved = resolve(name, **keywords)
    is_own = kind == "model" and issubclass(cls, LoadedByName)
    wants_info = keywords.pop("output_loading_info", False)
    if is_own or wants_info:
        keywords["output_loading_info"] = True
    if resolved.is_bundled:
        loaded = _read_bundled(cls, kind, read, resolved, *arguments, **keywords)
    else:
        loaded = _read_patiently(kind, read, resolved, *arguments, **keywords)
    if not is_own:
        return loaded
    may_mismatch = bool(keywords.get("ignore_mismatched_sizes"))
    error = wrong_weights(resolved.name, loaded[1], may_mismatch=may_mismatch)
    if error is not None:
        raise error
    return loaded if wants_info else loaded[0]


def _kind_of(cls: Any) -> str:
    if hasattr(cls, "from_config") or hasattr(cls, "_from_config"):
        return "model"
    return "tokenizer" if "Tokenizer" in cls.__name__ else "other"


def _read_bundled(
    cls: Any, kind: str, read: Callable, resolved: Resolved, *arguments: Any, **keywords: Any
) -> Any:
    own = {key: value for key, value in keywords.items() if key not in HUB_KEYWORDS}
    if kind == "model" and own.get("config") is None:
        own["config"] = _take_config(cls, resolved.config_folder, own)
    folder = resolved.weights_folder if kind == "model" else resolved.config_folder
    with without_progress_bar():
        loaded = read(folder, *arguments, **own)
    result = loaded[0] if isinstance(loaded, tuple) else loaded
    # A path inside the installation must not show up in cards and messages.
    for part in (result, getattr(result, "config", None)):
        if hasattr(part, "name_or_path"):
            part.name_or_path = resolved.name
    return loaded


def _read_patiently(
    kind: str, read: Callable, resolved: Resolved, *arguments: Any, **keywords: Any
) -> Any:
    """Read from a folder, or from the Hub, of which files that broke on the way are tried again."""

    def attempt() -> Any:
        with (
            access_explained(resolved.name, kind, keywords, is_of_hub=resolved.source == "hub"),
            resolved.explain_missing(**keywords),
            reading_explained(resolved.name, resolved.snapshot(**keywords), kind),
        ):
            if not isinstance(keywords.get("config"), PreTrainedConfig):
                _check_config(resolved, keywords)
            if kind == "tokenizer" and resolved.source == "hub":
                # transformers goes on without it where the Hub fails.
                _fetch(resolved.name, "tokenizer_config.json", keywords)
            with without_conversion():
                return read(resolved.name, *arguments, **keywords)

    from transformers import PreTrainedConfig

    if resolved.source == "folder":
        return attempt()
    if _needs_hub(kind, resolved, keywords) and not is_reachable(
        resolved.name, token=keywords.get("token")
    ):
        if keywords.get("force_download") or kind == "model":
            raise ModelNotFoundError(missing_message(resolved.name, is_reached=False))
        # The client would ask for every file, several times, with seconds in between.
        resolved, keywords["local_files_only"] = replace(resolved, is_reached=False), True
    return patiently(
        attempt,
        resolved.name,
        lambda: resolved.snapshot(**keywords),
        with_weights=kind == "model",
        force=bool(keywords.get("force_download")),
        local=bool(keywords.get("local_files_only")),
    )


def _needs_hub(kind: str, resolved: Resolved, keywords: Mapping[str, Any]) -> bool:
    """Whether the Hub would be asked for more than what is in the cache, and may be."""
    from huggingface_hub import constants

    if keywords.get("local_files_only") or constants.HF_HUB_OFFLINE:
        return False
    if keywords.get("force_download") or kind == "tokenizer":
        return True  # transformers lists the repository of a tokenizer each time
    snapshot = resolved.snapshot(**keywords)
    weights = keywords.get("gguf_file") or "*.safetensors"
    return snapshot is None or (kind == "model" and not any(snapshot.glob(weights)))


def _check_config(resolved: Resolved, keywords: Mapping[str, Any]) -> None:
    """Refuse what no network can be built of before transformers builds it."""
    if resolved.source == "hub":
        path = _fetch(resolved.name, "config.json", keywords)
    else:
        path = Path(resolved.config_folder, keywords.get("subfolder") or "", "config.json")
    if path is None or not path.is_file():
        return
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return  # transformers names the file
    check_fields(fields, f"config.json of '{resolved.name}'")


def _fetch(name: str, file: str, keywords: Mapping[str, Any]) -> Path | None:
    """A file of a repository, or None where it is not to be had; faults of the Hub are raised."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, **hub_keywords(keywords)))
    except Exception as error:
        if fault_of_hub(error) is not None:
            raise
        return None


def _take_config(cls: Any, folder: str, settings: dict[str, Any]) -> Any:
    """Read a configuration that may lie in another folder than the weights; takes its fields."""
    from transformers import AutoConfig

    config = (getattr(cls, "config_class", None) or AutoConfig).from_pretrained(folder)
    # transformers itself applies `dtype` to the weights as well as to the configuration.
    own = [key for key in settings if key != "dtype" and hasattr(config, key)]
    taken = {key: settings.pop(key) for key in own}
    return type(config).from_pretrained(folder, **taken) if taken else config


def read_config(name: str | os.PathLike, /, **settings: Any) -> dict[str, Any]:
    """Return what stands in the config.json of a model, without building anything.

    Args:
        name: A folder, a shipped name, or a Hub repository.
        **settings: Those of `HUB_KEYWORDS` are looked at.

    Raises:
        ModelNotFoundError: Nothing of that name was found.
    """
    from transformers import PreTrainedConfig

    resolved = resolve(name, **settings)
    where = {} if resolved.is_bundled else hub_keywords(settings)

    def read(folder: str, **where: Any) -> dict[str, Any]:
        return PreTrainedConfig.get_config_dict(folder, **where)[0]

    if resolved.is_bundled:
        return read(resolved.config_folder)
    return _read_patiently("other", read, resolved, **where)


@contextmanager
def without_progress_bar() -> Generator[None]:
    """Keep transformers from drawing a bar for shipped weights, which load at once."""
    from transformers.utils import logging as transformers_logging

    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def seed_cache(
    names: list[str] | None = None, cache_dir: str | os.PathLike | None = None
) -> list[Path]:
    """Copy shipped models into the Hugging Face cache, so that plain transformers finds them.

    Args:
        names: Models to copy; all of them by default.
        cache_dir: The cache; by default the one huggingface_hub uses.

    Returns:
        The snapshot folders, one per model. An existing snapshot is not changed.

    Raises:
        UnknownNameError: A name is not shipped with salhub.

    Example:
        >>> seed_cache(["efficientnet-lite0"], cache_dir=folder)  # doctest: +SKIP
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    models = [_shipped(name) for name in names] if names else list(read_manifest().values())
    root = Path(cache_dir or HF_HUB_CACHE)
    return [_seed_one(model, root) for model in models]


def _shipped(name: str) -> BundledModel:
    model = read_manifest().get(name.removeprefix(NAMESPACE))
    if model is None:
        raise UnknownNameError(
            f"'{name}' is not shipped with salhub; `salhub list` shows what is."
            f"{did_you_mean(name.removeprefix(NAMESPACE), read_manifest())}"
        )
    return model


def _asks_for_hub(model: BundledModel, hub_arguments: dict[str, Any]) -> bool:
    revision = hub_arguments.get("revision")
    # What is shipped has no subfolders.
    wanted = hub_arguments.get("force_download") or hub_arguments.get("subfolder")
    return bool(wanted) or revision not in (None, model.revision)


def _hub_has(name: str, hub_arguments: dict[str, Any]) -> bool:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if hub_arguments.get("local_files_only"):
        return _cached_config(name, hub_arguments) is not None
    revision = hub_arguments.get("revision")
    try:
        # One question without retries: the answer may be that the Hub is out of reach.
        get_hf_file_metadata(
            hf_hub_url(name, "config.json", revision=revision), token=hub_arguments.get("token")
        )
    except Exception as error:  # whatever went wrong, the cache or the bundle is the answer
        logger.info("%s: not available from the Hub (%s)", name, type(error).__name__)
        return _cached_config(name, hub_arguments) is not None
    return True


def _cached_config(name: str, hub_arguments: dict[str, Any]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    folder = hub_arguments.get("subfolder") or ""
    path = try_to_load_from_cache(
        name,
        f"{folder}/config.json".lstrip("/"),
        cache_dir=hub_arguments.get("cache_dir"),
        revision=hub_arguments.get("revision"),
    )
    return Path(path) if isinstance(path, str) else None


def _seed_one(model: BundledModel, root: Path) -> Path:
    model.verify()
    repository = root / f"models--{model.full_name.replace('/', '--')}"
    snapshot = repository / "snapshots" / model.revision
    if not snapshot.is_dir():
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        # Not among the snapshots, where the Hub's client would take a draft for one.
        with scratch_folder(repository) as scratch:
            complete = scratch / model.revision
            complete.mkdir()
            for file in model.files:
                shutil.copyfile(file.path, complete / file.name)
            put_in_place(complete, snapshot, replace=False)
    _point_main_at(model.revision, repository)
    return snapshot


def _point_main_at(revision: str, repository: Path) -> None:
    # A `main` that the user's own download wrote is newer than anything shipped; it stays.
    reference = repository / "refs" / "main"
    seeded = repository / ".salhub-seed"
    current = reference.read_text(encoding="utf-8") if reference.is_file() else None
    is_ours = seeded.is_file() and seeded.read_text(encoding="utf-8") == current
    if current is None or is_ours:
        write_text(reference, revision)
        write_text(seeded, revision)
