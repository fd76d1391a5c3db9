"""The table of everything the loopback Hub serves."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from . import reading, writing
from .protocol import Hub, Request, Response
from .repository import HubError

# A model has no prefix in web addresses; datasets and Spaces have theirs.
_PIECES = {
    "{api}": "/api/(?P<kind>models|datasets|spaces)",
    "{web}": "/(?:(?P<kind>datasets|spaces)/)?",
    "{name}": "(?P<name>[^/]+(?:/[^/]+)?)",
    "{revision}": "(?P<revision>[^/]+)",
    "{oid}": "(?P<oid>[0-9a-f]+)",
    "{path}": "(?P<path>.*)",
}
_TABLE: list[tuple[str, str, Callable[[Hub, Request], Response]]] = [
    ("GET", "/api/whoami-v2", reading.whoami),
    ("POST", "/api/repos/create", writing.create),
    ("DELETE", "/api/repos/delete", writing.delete),
    ("POST", "/api/validate-yaml", writing.validate_yaml),
    ("GET", "{api}", reading.list_repositories),
    ("GET", "{api}/{name}/revision/{revision}", reading.information),
    ("GET", "{api}/{name}/tree/{revision}{path}", reading.tree),
    ("POST", "{api}/{name}/paths-info/{revision}", reading.paths_info),
    ("GET", "{api}/{name}/refs", reading.references),
    ("GET", "{api}/{name}/commits/{revision}", reading.history),
    ("PUT", "{api}/{name}/settings", writing.settings),
    ("POST", "{api}/{name}/preupload/{revision}", writing.preupload),
    ("POST", "{api}/{name}/commit/{revision}", writing.commit),
    ("POST", "{api}/{name}/tag/{revision}", writing.create_tag),
    ("DELETE", "{api}/{name}/tag/{revision}", writing.delete_tag),
    ("POST", "{api}/{name}/branch/{revision}", writing.create_branch),
    ("DELETE", "{api}/{name}/branch/{revision}", writing.delete_branch),
    ("GET", "{api}/{name}", reading.information),
    ("POST", "{web}{name}.git/info/lfs/objects/batch", writing.lfs_batch),
    ("PUT", "/lfs-upload/{oid}", writing.lfs_upload),
    ("POST", "/lfs-verify/{oid}", writing.lfs_verify),
    ("GET", "{web}{name}/resolve/{revision}/{path}", reading.download),
]


def _pattern(route: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\})", route)
    return re.compile("".join(_PIECES.get(part) or re.escape(part) for part in parts))


_ROUTES = [(method, _pattern(route), endpoint) for method, route, endpoint in _TABLE]


def answer(hub: Hub, request: Request) -> Response:
    """Find the endpoint of a request and ask it; raises HubError for every refusal."""
    if request.user is None and "authorization" in request.headers:
        raise HubError(401, "Invalid credentials in Authorization header")
    for method, pattern, endpoint in _ROUTES:
        match = pattern.fullmatch(request.path)
        if match and method == ("GET" if request.method == "HEAD" else request.method):
            parts = match.groupdict(default="")
            request.parts = {name: unquote(value) for name, value in parts.items()}
            return endpoint(hub, request)
    raise HubError(404, f"Nothing is served at {request.method} {request.path}.")
