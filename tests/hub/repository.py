"""What a Hub keeps: files addressed by their content, commits with a history, branches and tags."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

LARGE_FILE_BYTES = 10 * 2**20
GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class HubError(Exception):
    """A refusal that travels to the client as a status, a sentence and an `X-Error-Code`."""

    def __init__(
        self, status: int, message: str, code: str | None = None, commit: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


class ContentStore:
    """Bytes on disk under the name of their SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, sha256: str) -> bool:
        return (self.folder / sha256).is_file()

    def put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / sha256).write_bytes(content)
        return sha256

    def get(self, sha256: str) -> bytes:
        return (self.folder / sha256).read_bytes()


@dataclass(frozen=True)
class Blob:
    """One version of one file: where its bytes are, and the names that git and LFS give them."""

    sha256: str
    size: int
    is_lfs: bool
    git_oid: str

    @classmethod
    def regular(cls, store: ContentStore, content: bytes) -> Blob:
        return cls(store.put(content), len(content), False, git_blob_oid(content))

    @classmethod
    def large(cls, store: ContentStore, sha256: str) -> Blob:
        if sha256 not in store:
            raise HubError(
                400, f"LFS object {sha256} was never uploaded, so no file can point to it."
            )
        size = len(store.get(sha256))
        return cls(sha256, size, True, git_blob_oid(lfs_pointer(sha256, size)))

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid

    def listing(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": self.git_oid, "size": self.size}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, **self.sizes()}
        return entry

    def sizes(self) -> dict[str, int]:
        return {"size": self.size, "pointerSize": len(lfs_pointer(self.sha256, self.size))}


@dataclass(frozen=True)
class Commit:
    """A complete state of the files, and the commit it came from."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Blob]

    def blob(self, path: str) -> Blob:
        if path not in self.files:
            raise HubError(404, "Entry not found", "EntryNotFound", commit=self.oid)
        return self.files[path]


@dataclass
class Repository:
    """A model, dataset or Space with its commits, branches, tags and access rules."""

    kind: str
    name: str
    store: ContentStore
    private: bool = False
    gated: str | bool = False
    readers: set[str] = field(default_factory=set)
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        files = {".gitattributes": Blob.regular(self.store, GIT_ATTRIBUTES)}
        header = {"summary": "initial commit"}
        self.branches["main"] = self._record(None, header, self.owner, files).oid

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a pull request or a (shortened) hash names."""
        for references in (self.branches, self.tags, self.pull_requests):
            if revision in references:
                return self.commits[references[revision]]
        matches = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        if len(matches) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[matches[0]]

    def history(self, revision: str) -> list[Commit]:
        """The commits that led to a revision, newest first."""
        commit: Commit | None = self.resolve(revision)
        commits = []
        while commit is not None:
            commits.append(commit)
            commit = self.commits.get(commit.parent or "")
        return commits

    def apply(
        self, revision: str, lines: list[dict[str, Any]], author: str, create_pr: bool
    ) -> tuple[Commit, str]:
        """Record one commit from the lines of a commit request; returns it and the changed ref."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = self.resolve(revision)
        expected = header.get("parentCommit")
        if expected and not parent.oid.startswith(expected):
            raise HubError(412, f"The branch is at {parent.oid}, not at {expected} as expected.")
        files = dict(parent.files)
        for line in lines:
            self._change(files, line["key"], line["value"])
        commit = self._record(parent.oid, header, author, files)
        return commit, self._move_reference(revision, commit.oid, create_pr)

    def _move_reference(self, revision: str, oid: str, create_pr: bool) -> str:
        if create_pr:
            reference = f"refs/pr/{len(self.pull_requests) + 1}"
            self.pull_requests[reference] = oid
            return reference
        for references in (self.branches, self.pull_requests):
            if revision in references:
                references[revision] = oid
                return revision
        raise HubError(404, f"{revision} is not a branch.", "RevisionNotFound")

    def _change(self, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value.get("path", "")
        if key == "file":
            files[path] = Blob.regular(self.store, base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[path] = Blob.large(self.store, value["oid"])
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]
        elif key != "header":
            raise HubError(400, f"Unknown kind of change {key!r}.")

    def _record(
        self, parent: str | None, header: dict[str, str], author: str, files: dict[str, Blob]
    ) -> Commit:
        tree = sorted((path, blob.git_oid) for path, blob in files.items())
        title, message = header["summary"], header.get("description", "")
        identity = repr((self.kind, self.name, parent, len(self.commits), title, tree))
        oid = hashlib.sha1(identity.encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.commits[oid] = Commit(oid, parent, title, message, author, date, files)
        return self.commits[oid]

    def card_data(self, commit: Commit) -> dict[str, Any]:
        """The metadata at the head of the README, empty when there is none."""
        if "README.md" not in commit.files:
            return {}
        return front_matter(self.store.get(commit.files["README.md"].sha256).decode()) or {}


def front_matter(text: str) -> dict[str, Any] | None:
    """The YAML block that opens a README; None without one, HubError 400 when it is broken."""
    head, separator, _ = text.removeprefix("---\n").partition("\n---")
    if not text.startswith("---\n") or not separator:
        return None
    try:
        data = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise HubError(400, f"YAML Metadata Error: {error}") from error
    return data if isinstance(data, dict) else None


def needs_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether a file goes to large-file storage: weights, anything binary, anything big."""
    return path.endswith(".safetensors") or b"\0" in sample or size > LARGE_FILE_BYTES


def git_blob_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return text.encode()
