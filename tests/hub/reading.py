"""Endpoints that look: accounts, listings, information, trees, references, downloads."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import parse_qs

from .protocol import Hub, Request, Response, may_read
from .repository import Commit, HubError, Repository


def whoami(hub: Hub, request: Request) -> Response:
    if request.user is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    user = request.user
    organisations = [{"name": name, "roleInOrg": "write"} for name in user.organisations]
    access = {"type": "access_token", "accessToken": {"role": user.role}}
    answer = {"type": "user", "name": user.name, "orgs": organisations, "auth": access}
    return Response.json(answer)


def list_repositories(hub: Hub, request: Request) -> Response:
    """Repositories of a kind by author, part of the name, and tags."""
    kind, author = request.parts["kind"].rstrip("s"), request.first("author")
    search, wanted = request.first("search").lower(), set(request.query.get("filter", []))
    found = []
    for repository in hub.repositories.values():
        if repository.kind != kind or author not in ("", repository.owner):
            continue
        if repository.private and not may_read(request.user, repository):
            continue
        details = _describe(repository, repository.resolve("main"), with_blobs=False)
        if search in repository.name.lower() and wanted <= set(details["tags"]):
            found.append(details)
    return hub.page(request, found)


def information(hub: Hub, request: Request) -> Response:
    repository = hub.readable(request)
    commit = repository.resolve(request.parts.get("revision") or "main")
    return Response.json(_describe(repository, commit, request.first("blobs") != ""))


def _describe(repository: Repository, commit: Commit, with_blobs: bool) -> dict[str, Any]:
    card = repository.card_data(commit)
    library = card.get("library_name")
    siblings: list[dict[str, Any]] = []
    for path, blob in sorted(commit.files.items()):
        siblings.append({"rfilename": path})
        if with_blobs:
            siblings[-1] |= {"size": blob.size, "blobId": blob.git_oid}
        if with_blobs and blob.is_lfs:
            siblings[-1]["lfs"] = {"sha256": blob.sha256, **blob.sizes()}
    return {
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.owner,
        "sha": commit.oid,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "lastModified": commit.date,
        "createdAt": repository.history("main")[-1].date,
        "tags": [*card.get("tags", []), *([library] if library else [])],
        "pipeline_tag": card.get("pipeline_tag"),
        "library_name": library,
        "cardData": card,
        "siblings": siblings,
        "sdk": repository.sdk,
    }


def tree(hub: Hub, request: Request) -> Response:
    commit = hub.readable(request).resolve(request.parts["revision"])
    root = request.parts["path"].strip("/")
    prefix = f"{root}/" if root else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(commit.files.items()):
        if path.startswith(prefix):
            entries |= _folders_between(prefix, path)
            entries[path] = {**blob.listing(), "path": path}
    if root and not entries:
        raise HubError(404, f"{root} does not exist", "EntryNotFound", commit=commit.oid)
    if request.first("recursive").lower() != "true":
        entries = {path: e for path, e in entries.items() if "/" not in path[len(prefix) :]}
    return hub.page(request, list(entries.values()))


def _folders_between(prefix: str, path: str) -> dict[str, dict[str, Any]]:
    names = path[len(prefix) :].split("/")[:-1]
    folders = [prefix + "/".join(names[: depth + 1]) for depth in range(len(names))]
    entry = {"type": "directory", "size": 0}
    return {
        folder: {**entry, "oid": hashlib.sha1(folder.encode()).hexdigest(), "path": folder}
        for folder in folders
    }


def paths_info(hub: Hub, request: Request) -> Response:
    commit = hub.readable(request).resolve(request.parts["revision"])
    wanted = parse_qs(request.body.decode()).get("paths", [])
    found = [path for path in wanted if path in commit.files]
    return Response.json([{**commit.files[path].listing(), "path": path} for path in found])


def references(hub: Hub, request: Request) -> Response:
    repository = hub.readable(request)
    answer: dict[str, list[dict[str, str]]] = {"converts": []}
    for key, prefix, targets in (
        ("branches", "refs/heads/", repository.branches),
        ("tags", "refs/tags/", repository.tags),
        ("pullRequests", "", repository.pull_requests),
    ):
        answer[key] = [
            {"name": name, "ref": f"{prefix}{name}", "targetCommit": oid}
            for name, oid in targets.items()
        ]
    return Response.json(answer)


def history(hub: Hub, request: Request) -> Response:
    commits = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": commit.date,
        }
        for commit in hub.readable(request).history(request.parts["revision"])
    ]
    return hub.page(request, commits)


def download(hub: Hub, request: Request) -> Response:
    """A file, or the part of it that a `Range` header asks for."""
    repository = hub.downloadable(request)
    commit = repository.resolve(request.parts["revision"])
    blob = commit.blob(request.parts["path"])
    headers = {
        "ETag": f'"{blob.etag}"',
        "X-Repo-Commit": commit.oid,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    return _in_range(hub.store.get(blob.sha256), request.headers.get("range"), headers)


def _in_range(content: bytes, wanted: str | None, headers: dict[str, str]) -> Response:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
    if match is None:
        return Response(200, content, headers)
    first, last = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
    if first > last:
        return Response(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
    headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
    return Response(206, content[first : last + 1], headers)
