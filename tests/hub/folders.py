"""Small model folders to push, made by the client process itself."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from huggingface_hub import HfApi

WEIGHTS = random.Random(0).randbytes(200_000)
WEIGHTS_SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
CARD = """---
license: mit
tags: [saliency]
library_name: salhub
---
# A model
"""


def make_folder(folder: Path) -> Path:
    """A folder with weights, a configuration, a card and a nested file."""
    (folder / "nested" / "deep").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "nested" / "deep" / "notes.txt").write_text("notes")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "README.md").write_text(CARD)
    return folder


def push_first() -> str:
    """Create `salhub/first` and push such a folder to it; returns the commit."""
    folder = make_folder(Path("folder"))
    HfApi().create_repo("salhub/first")
    commit = HfApi().upload_folder(
        repo_id="salhub/first", folder_path=folder, commit_message="weights"
    )
    return commit.oid
