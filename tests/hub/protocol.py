"""Requests, responses, accounts, and who may see or change which repository."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from .repository import ContentStore, HubError, Repository


@dataclass(frozen=True)
class User:
    """An account: it may write under its own name and under its organisations.

    Args:
        name: its name.
        organisations: those that it belongs to.
        role: what its access token says that it may do, "write" or "read".
    """

    name: str
    organisations: tuple[str, ...] = ()
    role: str = "write"

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.name, *self.organisations)


@dataclass
class Request:
    """What a client asked for; `parts` are the named pieces of the path."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    user: User | None
    parts: dict[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def first(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]


@dataclass
class Response:
    """What goes back."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, data: Any, status: int = 200, **headers: str) -> Response:
        headers = {"Content-Type": "application/json", **headers}
        return cls(status, json.dumps(data).encode(), headers)

    @classmethod
    def refusal(cls, error: HubError) -> Response:
        headers = {"X-Error-Message": error.message.replace("\n", " ")}
        if error.code:
            headers["X-Error-Code"] = error.code
        if error.commit:
            headers["X-Repo-Commit"] = error.commit
        body = {"error": error.message, "errors": [{"message": error.message}]}
        return cls.json(body, error.status, **headers)


@dataclass
class Hub:
    """Everything the Hub knows.

    Args:
        store: where the bytes of every file go.
        users: accounts by access token.
        page_size: entries on one page of a listing; further pages hang on a `Link` header.
        url: where the Hub is reached.
    """

    store: ContentStore
    users: dict[str, User]
    page_size: int
    url: str
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)

    def readable(self, request: Request) -> Repository:
        """The repository of a request, if whoever asks may know that it exists."""
        kind = (request.parts.get("kind") or "models").rstrip("s")
        repository = self.repositories.get((kind, request.parts["name"]))
        if repository is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        if repository.private and not may_read(request.user, repository):
            status = 401 if request.user is None else 404
            raise HubError(status, "Repository not found", "RepoNotFound")
        return repository

    def downloadable(self, request: Request) -> Repository:
        """The repository of a request, if its gate lets whoever asks pass."""
        repository = self.readable(request)
        if repository.gated and not may_read(request.user, repository):
            status = 401 if request.user is None else 403
            message = f"Access to {repository.kind} {repository.name} is restricted."
            raise HubError(status, message, "GatedRepo")
        return repository

    def writable(self, request: Request) -> Repository:
        """The repository of a request, if whoever asks may change it."""
        require_writer(request.user, request.parts["name"])
        return self.readable(request)

    def web_address(self, kind: str, name: str) -> str:
        return f"{self.url}/{'' if kind == 'model' else f'{kind}s/'}{name}"

    def page(self, request: Request, items: list[Any]) -> Response:
        """One page of a listing, with a link to the next."""
        start = int(request.first("cursor", "0"))
        end = start + min(self.page_size, int(request.first("limit", str(self.page_size))))
        headers = {}
        if end < len(items):
            query = urlencode({**request.query, "cursor": [end]}, doseq=True)
            headers["Link"] = f'<{self.url}{request.path}?{query}>; rel="next"'
        return Response.json(items[start:end], **headers)


def may_read(user: User | None, repository: Repository) -> bool:
    """Whether a private or gated repository is open to a user."""
    if user is None:
        return False
    return repository.owner in user.namespaces or user.name in repository.readers


def require_writer(user: User | None, name: str) -> None:
    """Refuse whoever is not logged in, or is a stranger to the namespace."""
    if user is None:
        raise HubError(401, "Invalid username or password.")
    if name.split("/")[0] not in user.namespaces:
        raise HubError(403, f"{user.name} has no right to write to {name}")
