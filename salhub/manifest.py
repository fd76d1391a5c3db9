"""The list of what is shipped: every file of every bundled model with its size and hash.

Run `python -m salhub.manifest` after changing anything under `salhub/weights`.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from salhub.errors import IntegrityError
from salhub.files import write_text

WEIGHTS_ROOT = Path(__file__).parent / "weights"
NAMESPACE = "salhub/"
CARD_FILE = "card.yaml"
# Kept beside the weights for the card; the Hub repository gets the generated card instead.
_NOT_UPLOADED = frozenset({CARD_FILE})


@dataclass(frozen=True)
class BundledFile:
    """One shipped file.

    Args:
        name: Name inside the model's folder, such as "model.safetensors".
        folder: Shipped folder that holds the bytes; models may share a weight file.
        bytes: Size.
        sha256: Hash of the content, hexadecimal.
    """

    name: str
    folder: str
    bytes: int
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file lies in this installation."""
        return WEIGHTS_ROOT / self.folder / self.name


@dataclass(frozen=True)
class BundledModel:
    """One shipped model.

    Args:
        name: Name without the namespace.
        method: The method it is of, or None for a network by itself.
        model_type: The `model_type` of its configuration.
        task: What it does, such as "image-saliency".
        trained_on: Data its weights were learnt from.
        source: Where the weights come from.
        license: Licence of the weights (SPDX).
        files: Its files.
        quant_method: The `quant_method` of its configuration, or None where it is not quantized.
    """

    name: str
    method: str | None
    model_type: str
    task: str
    trained_on: str
    source: str
    license: str
    files: tuple[BundledFile, ...]
    quant_method: str | None = None

    @property
    def full_name(self) -> str:
        """Name with the namespace, as `from_pretrained` wants it."""
        return NAMESPACE + self.name

    @property
    def revision(self) -> str:
        """Forty hexadecimal digits that change whenever a file does, like a commit."""
        lines = "".join(f"{file.name} {file.sha256}\n" for file in self.files)
        return hashlib.sha1(lines.encode(), usedforsecurity=False).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def folder_of(self, file_name: str) -> Path:
        """Return the folder that holds a file; the model's own folder when it has no such file."""
        for file in self.files:
            if file.name == file_name:
                return file.path.parent
        return WEIGHTS_ROOT / self.name

    @property
    def weights_sha256(self) -> str:
        """Hash of the weight file, or "" for a model without one."""
        hashes = [file.sha256 for file in self.files if file.name == "model.safetensors"]
        return hashes[0] if hashes else ""

    def verify(self) -> None:
        """Check every file against its recorded size and hash.

        Raises:
            IntegrityError: A file is missing or damaged; the message names it.
        """
        for file in self.files:
            if not file.path.is_file():
                raise IntegrityError(
                    f"The shipped file {file.path} is missing; reinstall salhub to restore it."
                )
            if file_sha256(file.path) != file.sha256:
                raise IntegrityError(
                    f"The shipped file {file.path} is damaged: its sha256 differs from the "
                    "manifest; reinstall salhub to restore it."
                )


def file_sha256(path: Path) -> str:
    """Return the hash of a file's content, read once as long as the file does not change."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, modified: int) -> str:
    # Size and time are part of the cache key, so that a file changed in place is read again.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def read_manifest() -> dict[str, BundledModel]:
    """Return the shipped models by name, in the order of the manifest."""
    content = json.loads((WEIGHTS_ROOT / "manifest.json").read_text(encoding="utf-8"))
    return {
        name: BundledModel(
            name=name, **{**entry, "files": tuple(BundledFile(**file) for file in entry["files"])}
        )
        for name, entry in content.items()
    }


def build_manifest() -> dict[str, dict]:
    """Describe every folder of `salhub/weights`, reading each file once."""
    manifest = {}
    for folder in sorted(path for path in WEIGHTS_ROOT.iterdir() if path.is_dir()):
        card = yaml.safe_load((folder / CARD_FILE).read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        files = {path.name: path for path in folder.iterdir() if path.name not in _NOT_UPLOADED}
        if "weights_from" in card:
            files["model.safetensors"] = WEIGHTS_ROOT / card["weights_from"] / "model.safetensors"
        manifest[folder.name] = {
            "method": card.get("method"),
            "model_type": config["model_type"],
            **_quantization(config),
            **{key: card[key] for key in ("task", "trained_on", "source", "license")},
            "files": [_describe(name, files[name]) for name in sorted(files)],
        }
    return manifest


def _quantization(config: dict) -> dict[str, str]:
    found = config.get("quantization_config") or {}
    return {"quant_method": found["quant_method"]} if found else {}


def _describe(name: str, path: Path) -> dict:
    return {
        "name": name,
        "folder": path.parent.name,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }


def write_manifest() -> Path:
    """Write `salhub/weights/manifest.json` anew and return its path."""
    target = WEIGHTS_ROOT / "manifest.json"
    write_text(target, json.dumps(build_manifest(), indent=1) + "\n")
    read_manifest.cache_clear()
    return target


if __name__ == "__main__":
    write_manifest()
