"""Where weights come from: a folder, the installation, or the Hugging Face Hub."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from salhub.errors import (
    IntegrityError,
    ModelNotFoundError,
    NoImageProcessorError,
    UnknownNameError,
    UnknownSettingError,
    did_you_mean,
)
from salhub.files import put_in_place, scratch_folder, write_text
from salhub.manifest import NAMESPACE, BundledModel, file_sha256, read_manifest

logger = logging.getLogger(__name__)

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
# What says where on the Hub a model is; every way of loading takes these.
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


@dataclass(frozen=True)
class Resolved:
    """Where a model's files are.

    Args:
        name: What the caller asked for: a folder or a repository name.
        config_folder: Folder or repository with the configuration and processor.
        weights_folder: Folder or repository with `model.safetensors`.
        source: "folder", "bundle" or "hub".
        revision: Revision of a bundled model, else None.
    """

    name: str
    config_folder: str
    weights_folder: str
    source: str
    revision: str | None = None

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
            if self.source != "hub" or not _is_missing_repository(error):
                raise
            if _lacks_image_processor(error) and _cached_config(self.name, hub_arguments):
                raise NoImageProcessorError(
                    f"'{self.name}' has no preprocessor_config.json, which says how pictures are "
                    "prepared; push it there with "
                    f"image_processor.push_to_hub('{self.name}')."
                ) from error
            raise ModelNotFoundError(_missing_message(self.name)) from error

    def verify_download(self, **hub_arguments: Any) -> None:
        """Check weights that came from the Hub against the hash the Hub gave for them.

        The Hub's client checks only their length. The cache keeps each weight file under its hash.

        Raises:
            IntegrityError: A weight file has other bytes than the Hub's.
        """
        config = _cached_config(self.name, hub_arguments) if self.source == "hub" else None
        if config is None:
            return
        for weights in sorted(config.parent.rglob("*.safetensors")):
            expected = weights.resolve().name
            if len(expected) == 64 and file_sha256(weights.resolve()) != expected:
                raise IntegrityError(
                    f"{weights.name} of '{self.name}' is damaged: its sha256 is not the Hub's "
                    f"{expected[:12]}...; download it again with force_download=True."
                )


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
    """
    name = canonical_name(name)
    if os.path.isdir(name):
        return Resolved(name, name, name, "folder")
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


def hub_keywords(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that say where on the Hub a model is."""
    return {key: settings[key] for key in HUB_KEYWORDS if key in settings}


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
    try:
        return _load_by_name(cls, read, name, *arguments, **keywords)
    except TypeError as error:
        # What is no field of the configuration ends in the constructor of the network.
        unknown = _UNEXPECTED.search(str(error))
        if unknown is None or unknown[1] not in keywords:
            raise
        config_class = getattr(cls, "config_class", None)
        known = {field.name for field in fields(config_class)} if config_class else set()
        raise UnknownSettingError(cls.__name__, unknown[1], known) from error


def _load_by_name(
    cls: Any, read: Callable, name: str | os.PathLike | None, *arguments: Any, **keywords: Any
) -> Any:
    if name is None:
        return read(None, *arguments, **keywords)
    resolved = resolve(name, **keywords)
    is_model = hasattr(cls, "from_config") or hasattr(cls, "_from_config")
    if not resolved.is_bundled:
        with resolved.explain_missing(**keywords):
            try:
                return read(resolved.name, *arguments, **keywords)
            finally:
                if is_model:
                    resolved.verify_download(**keywords)
    own = {key: value for key, value in keywords.items() if key not in HUB_KEYWORDS}
    if is_model and own.get("config") is None:
        own["config"] = _take_config(cls, resolved.config_folder, own)
    folder = resolved.weights_folder if is_model else resolved.config_folder
    with without_progress_bar():
        loaded = read(folder, *arguments, **own)
    result = loaded[0] if isinstance(loaded, tuple) else loaded
    # A path inside the installation must not show up in cards and messages.
    for part in (result, getattr(result, "config", None)):
        if hasattr(part, "name_or_path"):
            part.name_or_path = resolved.name
    return loaded


def _take_config(cls: Any, folder: str, settings: dict[str, Any]) -> Any:
    """Read a configuration that may lie in another folder than the weights; takes its fields."""
    from transformers import AutoConfig

    config = (getattr(cls, "config_class", None) or AutoConfig).from_pretrained(folder)
    # transformers itself applies `dtype` to the weights as well as to the configuration.
    own = {field.name for field in fields(config)} - {"dtype"}
    taken = {key: settings.pop(key) for key in own & settings.keys()}
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
    with resolved.explain_missing():
        return PreTrainedConfig.get_config_dict(resolved.config_folder, **where)[0]


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


def list_models() -> "ModelTable":
    """List the models shipped with salhub.

    Returns:
        A list of `BundledModel` that prints as a table: name, task, size, training data, source.

    Example:
        >>> "salhub/normgrad-efficientnet-lite0" in str(list_models())
        True
    """
    return ModelTable(read_manifest().values())


class ModelTable(list[BundledModel]):
    """A list of models that prints as an aligned table."""

    _HEADER = ("name", "task", "MB", "trained on", "source")

    def __repr__(self) -> str:
        rows = [self._HEADER] + [
            (m.full_name, m.task, f"{m.bytes / 1e6:.1f}", m.trained_on, m.source) for m in self
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self._HEADER))]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return "\n".join(lines)


def seed_cache(
    names: list[str] | None = None, cache_dir: str | os.PathLike | None = None
) -> list[Path]:
    """Copy shipped models into the Hugging Face cache, so that plain transformers finds them.

    Args:
        names: Models to copy; all of them by default.
        cache_dir: The cache; by default the one huggingface_hub uses.

    Returns:
        The snapshot folders, one a model. A snapshot that is already there is left alone.

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
        logger.info("%s: not to be had from the Hub (%s)", name, type(error).__name__)
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


def _lacks_image_processor(error: BaseException | None) -> bool:
    return error is not None and str(error).startswith("Can't load image processor")


def _is_missing_repository(error: BaseException | None) -> bool:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if _lacks_image_processor(error):
        # Raised without a cause when transformers found no file at all.
        return error.__cause__ is None and error.__context__ is None
    missing = (RepositoryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled)
    while error is not None:
        if isinstance(error, missing) and not isinstance(error, GatedRepoError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _missing_message(name: str) -> str:
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE

    short = name.removeprefix(NAMESPACE)
    shipped = read_manifest().get(short) if name.startswith(NAMESPACE) else None
    if shipped is not None:
        return (
            f"'{name}' was asked for from the Hub by revision, subfolder or force_download, and is "
            f"neither in the cache {HF_HUB_CACHE} nor to be had from {ENDPOINT} (missing, private "
            f"or unreachable); leave these out to load it as it is shipped with salhub, revision "
            f"{shipped.revision}."
        )
    return (
        f"No model '{name}' was found: it is no folder, not shipped with salhub, not in the cache "
        f"{HF_HUB_CACHE}, and not to be had from {ENDPOINT} (missing, private or unreachable)."
        f"{did_you_mean(short, read_manifest())} `salhub list` shows the shipped models."
    )


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
            put_in_place(complete, snapshot)
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
