"""Endpoints that change something: repositories, settings, uploads, commits, references."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from .protocol import Hub, Request, Response, require_writer
from .repository import HubError, Repository, front_matter, needs_lfs


def create(hub: Hub, request: Request) -> Response:
    data, kind, name = _named_in_body(request)
    require_writer(request.user, name)
    url = hub.web_address(kind, name)
    if (kind, name) in hub.repositories:
        message = "You already created this repo"
        return Response.json({"error": message, "url": url}, 409, **{"X-Error-Message": message})
    private, sdk = data.get("visibility") == "private", data.get("sdk")
    hub.repositories[kind, name] = Repository(kind, name, hub.store, private=private, sdk=sdk)
    return Response.json({"url": url, "name": name})


def delete(hub: Hub, request: Request) -> Response:
    _, kind, name = _named_in_body(request)
    require_writer(request.user, name)
    if hub.repositories.pop((kind, name), None) is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return Response.json({})


def _named_in_body(request: Request) -> tuple[dict[str, Any], str, str]:
    data = request.json()
    owner = data.get("organization") or (request.user.name if request.user else "")
    return data, data.get("type", "model"), f"{owner}/{data['name']}"


def settings(hub: Hub, request: Request) -> Response:
    repository, data = hub.writable(request), request.json()
    repository.gated = data.get("gated", repository.gated)
    if "visibility" in data:
        repository.private = data["visibility"] == "private"
    return Response.json({"gated": repository.gated, "private": repository.private})


def validate_yaml(hub: Hub, request: Request) -> Response:
    found = front_matter(request.json()["content"])
    warning = {"message": "empty or missing yaml metadata in repo card"}
    return Response.json({"errors": [], "warnings": [] if found else [warning]})


def preupload(hub: Hub, request: Request) -> Response:
    """Say of each file how to send it, and what the branch has under its name already."""
    commit = hub.writable(request).resolve(request.parts["revision"])
    answer = []
    for file in request.json()["files"]:
        large = needs_lfs(file["path"], file["size"], base64.b64decode(file["sample"]))
        known = commit.files.get(file["path"])
        answer.append(
            {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": known.etag if known else None,
            }
        )
    return Response.json({"files": answer})


def lfs_batch(hub: Hub, request: Request) -> Response:
    """Addresses to upload large files to; none for those whose content is there already."""
    hub.writable(request)
    objects = []
    for item in request.json()["objects"]:
        answer = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in hub.store:
            upload = {"href": f"{hub.url}/lfs-upload/{item['oid']}"}
            verify = {"href": f"{hub.url}/lfs-verify/{item['oid']}"}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    return Response.json({"transfer": "basic", "objects": objects})


def lfs_upload(hub: Hub, request: Request) -> Response:
    received, expected = hashlib.sha256(request.body).hexdigest(), request.parts["oid"]
    if received != expected:
        raise HubError(400, f"Received content of SHA-256 {received}, expected {expected}")
    hub.store.put(request.body)
    return Response()


def lfs_verify(hub: Hub, request: Request) -> Response:
    if request.parts["oid"] not in hub.store:
        raise HubError(404, "This LFS object was never uploaded")
    return Response.json({})


def commit(hub: Hub, request: Request) -> Response:
    repository = hub.writable(request)
    lines = [json.loads(line) for line in request.body.splitlines()]
    as_pull_request = request.first("create_pr") == "1"
    author = request.user.name if request.user else ""
    made, reference = repository.apply(request.parts["revision"], lines, author, as_pull_request)
    url = hub.web_address(repository.kind, repository.name)
    answer = {"success": True, "commitOid": made.oid, "commitUrl": f"{url}/commit/{made.oid}"}
    if as_pull_request:
        answer["pullRequestUrl"] = f"{url}/discussions/{reference.rsplit('/', 1)[1]}"
    return Response.json(answer)


def create_tag(hub: Hub, request: Request) -> Response:
    repository, name = hub.writable(request), request.json()["tag"]
    return _create_reference(repository, repository.tags, name, request.parts["revision"])


def create_branch(hub: Hub, request: Request) -> Response:
    repository, name = hub.writable(request), request.parts["revision"]
    start = request.json().get("startingPoint") or "main"
    return _create_reference(repository, repository.branches, name, start)


def _create_reference(
    repository: Repository, references: dict[str, str], name: str, target: str
) -> Response:
    if name in references:
        raise HubError(409, f"{name} already exists")
    references[name] = repository.resolve(target).oid
    return Response.json({})


def delete_tag(hub: Hub, request: Request) -> Response:
    return _delete_reference(hub.writable(request).tags, request.parts["revision"])


def delete_branch(hub: Hub, request: Request) -> Response:
    if request.parts["revision"] == "main":
        raise HubError(403, "The main branch cannot be deleted")
    return _delete_reference(hub.writable(request).branches, request.parts["revision"])


def _delete_reference(references: dict[str, str], name: str) -> Response:
    if references.pop(name, None) is None:
        raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return Response.json({})
