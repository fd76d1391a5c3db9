"""Put a model on the Hugging Face Hub: weights, settings, card and licence in one commit."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from salhub.entries import Model, entry_of
from salhub.errors import UnknownNameError, did_you_mean
from salhub.files import to_bytes
from salhub.hub import bundled_model, canonical_name
from salhub.hub_commit import Content, check_login, check_repository, commit_files
from salhub.manifest import NAMESPACE, read_manifest
from salhub.model_card import Facts, card_text
from salhub.results import Results
from salhub.runner.run_folder import OPTIONS_NAME, exported_files, is_of_a_run

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

logger = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
# File -> what writes it; everything else is of the model.
_WRITERS = {"preprocessor_config.json": "image_processor", "tokenizer_config.json": "tokenizer"}
_CARD = "README.md"
# The field by which a model that adds to another one names it, as in peft.
_BASE = "base_model_name_or_path"
_RESULTS = "results.json"
# What a model folder is made of; optimizer states, pickles and logs stay at home.
_PUSHED_SUFFIXES = (".json", ".safetensors", ".md", ".txt", ".model", ".jinja")
_PUSHED_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".svg")
_PUSHED_NAMES = ("LICENSE", "NOTICE")


def push(
    name_or_folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    card: str | os.PathLike | None = None,
) -> "CommitInfo":
    """Put a model on the Hub in one commit; pushing the same again changes nothing.

    Args:
        name_or_folder: A shipped model, or a folder that `save_pretrained` or a run wrote.
        repo_id: Where to: "owner/name". The repository is created when it is not there.
        private: Whether a repository created here is private.
        token: Access token; by default the saved login.
        revision: Branch to commit to, created when it is not there; "main" by default.
        commit_message: First line of the commit.
        create_pr: Open a pull request instead of committing.
        card: A Markdown file to use as the card. By default a folder's own README.md, else the
            card that salhub generates.

    Returns:
        The address of the commit, a string with further attributes such as `oid` and `pr_url`.

    Raises:
        UnknownNameError: Neither a shipped model nor a folder.
        ValueError: The folder holds no complete salhub model, or `repo_id` is malformed.
        IntegrityError: A shipped file is damaged.
        PushError: The Hub did not take it.

    Example:
        >>> push("salhub/normgrad-efficientnet-lite0", "me/my-normgrad")  # doctest: +SKIP
    """
    _check_target(repo_id, revision, create_pr)
    files = files_to_push(name_or_folder, repo_id, card=card)
    check_login(token)
    return commit_files(
        repo_id,
        files,
        commit_message or f"Upload {Path(name_or_folder).name} with salhub",
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )


def files_to_push(
    name_or_folder: str | os.PathLike, repo_id: str, *, card: str | os.PathLike | None = None
) -> dict[str, Content]:
    """Return what `push` would upload: files or bytes by their name in the repository.

    Args:
        name_or_folder: A shipped model, or a folder that `save_pretrained` or a run wrote.
        repo_id: The repository, for the code on a card that salhub writes.
        card: As in `push`.

    Raises:
        UnknownNameError: Neither a shipped model nor a folder.
        ValueError: The folder holds no complete salhub model.
        IntegrityError: A shipped file is damaged.
    """
    name = canonical_name(name_or_folder)
    if os.path.isdir(name):
        files, entry = _saved_model(Path(name))
        files |= _card_of_snapshot(Path(name), files, repo_id)
        generated = (
            {}
            if entry is None
            else {_CARD: to_bytes(_plain_card(entry, repo_id.split("/")[1], repo_id))}
        )
    else:
        files = _shipped_model(name)
        generated = _generated_card(name) if card is None else {}
    if card is not None:
        files[_CARD] = _existing_card(card)
    return generated | files


def _check_target(repo_id: str, revision: str | None, create_pr: bool) -> None:
    check_repository(repo_id)
    if create_pr and revision not in (None, "main"):
        raise ValueError(
            f"create_pr opens a pull request against 'main'; leave out revision='{revision}'."
        )


# --- what is pushed ---------------------------------------------------------------------------


def _shipped_model(name: str) -> dict[str, Content]:
    model = bundled_model(name)
    if model is None:
        raise UnknownNameError(
            f"'{name}' cannot be pushed: it is not a folder and not shipped with "
            f"salhub.{did_you_mean(name.removeprefix(NAMESPACE), read_manifest())} `salhub "
            "list` shows the shipped models."
        )
    model.verify()
    return {file.name: file.path for file in model.files}


def _generated_card(name: str) -> dict[str, Content]:
    # Numbers and pictures are read only when a card is wanted.
    from salhub.cards import card_files

    return dict(card_files(name))


def _saved_model(folder: Path) -> tuple[dict[str, Content], Model | None]:
    _refuse_links(folder)
    config = _read_config(folder)
    # A run has made sure that its model is complete, whoever's it is, and has written a card.
    entry = None if _is_of_a_run(folder) else _entry_of(config, folder)
    _check_complete(folder, config, entry)
    # A run knows what it has made, snapshots in folders among it; notes beside it stay at home.
    exported = {name for name in exported_files(folder) if (folder / name).is_file()}
    files: dict[str, Content] = {
        path.name: path
        for path in sorted(folder.iterdir())
        if _belongs_to_model(path)
        and (not exported or path.name in exported or path.name.startswith(_PUSHED_NAMES))
    }
    files |= {name: folder / name for name in sorted(exported)}
    files |= _base_beside(folder, config)
    skipped = sorted({path.name for path in folder.iterdir()} - files.keys())
    if skipped:
        logger.info("%s: not pushed: %s", folder, ", ".join(skipped))
    return files, entry


def _base_beside(folder: Path, config: Mapping) -> dict[str, Content]:
    """Files of the model that another one adds to, where its configuration says it lies beside.

    Raises:
        ValueError: It is not there, or is named by a folder that nobody else has.
    """
    base = config.get(_BASE)
    if not isinstance(base, str):
        return {}
    if not base.startswith("./"):
        if Path(base).is_dir():
            raise ValueError(
                f"{folder} refers to its base model in a local folder, '{base}', which "
                "others do not have; save both with save_pretrained(folder, "
                "save_base=True), or use a base from the Hub."
            )
        return {}
    inner = folder / base
    if not (inner / "config.json").is_file():
        raise ValueError(f"{folder} is incomplete: its base model is not in {inner}.")
    _refuse_links(inner)
    found = [path for path in sorted(inner.iterdir()) if _belongs_to_model(path)]
    return {f"{inner.relative_to(folder).as_posix()}/{path.name}": path for path in found}


def _refuse_links(folder: Path) -> None:
    """Refuse links that lead out of a folder: what they lead to was not meant to be published."""
    homes = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        homes.append(homes[0].parents[1] / "blobs")  # the cache of the Hub keeps its files there
    for path in folder.iterdir():
        if not _belongs_to_model(path):
            continue
        target = path.resolve()
        if not any(target.is_relative_to(home) for home in homes):
            raise ValueError(
                f"Nothing was pushed, because {path} is a link to a file outside the folder, "
                f"{target}; replace it with the file itself, or remove it."
            )


def _is_of_a_run(folder: Path) -> bool:
    path = folder / _RESULTS
    if not path.is_file() or not (folder / _CARD).is_file():
        return False
    try:
        Results.load(path)
    except ValueError:
        return False
    return True


def _read_config(folder: Path) -> Mapping:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a saved model: it has no config.json; save the model with "
            "model.save_pretrained(folder)."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); save the model again.") from error
    return config if isinstance(config, dict) else {}


def _entry_of(config: Mapping, folder: Path) -> Model:
    try:
        return entry_of(config)
    except UnknownNameError as error:
        if (folder / OPTIONS_NAME).is_file():
            raise ValueError(
                f"The run in {folder} has not been measured yet and has no card; run its "
                "command again with resume_from_checkpoint=latest."
            ) from error
        raise ValueError(
            f"{folder} has a model of type '{config.get('model_type')}', which does not "
            "belong to salhub or to a run of salhub; push it with its own push_to_hub."
        ) from error


def _check_complete(folder: Path, config: Mapping, entry: Model | None) -> None:
    missing = _missing_weights(folder, config)
    if entry is not None and not missing:
        missing = [name for name in entry.required_files if not (folder / name).is_file()]
    if missing:
        how = _WRITERS.get(missing[0], "model")
        raise ValueError(
            f"{folder} is incomplete: it has no {' and no '.join(missing)}; write it with "
            f"{how}.save_pretrained(folder)."
        )


def _missing_weights(folder: Path, config: Mapping) -> list[str]:
    if (folder / _WEIGHTS).is_file():
        return []
    index = folder / _WEIGHTS_INDEX
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(shard for shard in shards if not (folder / shard).is_file())
    # Saved with save_backbone=False: the classifier is only named.
    is_reference = config.get("backbone") and not config.get("backbone_config")
    return [] if is_reference else [_WEIGHTS]


def _belongs_to_model(path: Path) -> bool:
    if not path.is_file() or path.name.startswith("."):
        return False
    if is_of_a_run(path.name) and path.name not in (_CARD, _RESULTS):
        return False
    is_known = path.name.startswith(_PUSHED_NAMES)
    return is_known or path.suffix.lower() in (*_PUSHED_SUFFIXES, *_PUSHED_PICTURES)


def _card_of_snapshot(folder: Path, files: Mapping[str, Content], repo_id: str) -> dict:
    """The card of a snapshot of a run, which is loaded from `repo_id` without a subfolder now."""
    card = folder / _CARD
    if card not in files.values() or not _is_of_a_run(folder):
        return {}
    # A run writes so when the snapshot is to lie in the repository of the whole run.
    place = rf'"[^"\n]*", subfolder="{re.escape(folder.resolve().name)}"'
    text = card.read_text(encoding="utf-8")
    changed = re.sub(place, f'"{repo_id}"', text)
    return {_CARD: changed.encode()} if changed != text else {}


def _existing_card(card: str | os.PathLike) -> Path:
    path = Path(card)
    if not path.is_file():
        raise ValueError(f"The card {path} does not exist; give the path of a Markdown file.")
    return path


def card_of_folder(folder: Path) -> str:
    """Build the card of a model that `save_pretrained` wrote, as `push` puts it beside the model.

    Args:
        folder: Where it is.

    Raises:
        ValueError: It holds no complete model, or one of a run, which has written its card.
    """
    _, entry = _saved_model(folder)
    if entry is None:
        raise ValueError(
            f"{folder / _CARD} is the card already; the run that made the model wrote it."
        )
    return _plain_card(entry, folder.resolve().name, str(folder))


def _plain_card(entry: Model, title: str, place: str) -> str:
    loader = "salhub.AutoModelForSaliency" if entry.method else f"salhub.{entry.model}"
    return card_text(
        title,
        Facts(summary=f"A model of class `{entry.model}`, saved with salhub."),
        library="salhub",
        tags=["saliency", entry.name] + ([entry.paper.lower()] if entry.paper else []),
        code=f'import salhub\n\nmodel = {loader}.from_pretrained("{place}")',
    )
