"""A Hugging Face Hub on loopback, for the unmodified `huggingface_hub` client.

    with HubServer() as server:
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": server.url, ...})
        server.fail("/resolve/", status=503, times=2)
        assert server.count("GET", "model.safetensors") == 1

Models, datasets and Spaces can be created, pushed to, listed, tagged, downloaded and deleted. Large
files go through LFS, so clients need `HF_HUB_DISABLE_XET=1`. Files live in a temporary folder under
the hash of their content, and vanish with the server.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from . import routes
from .protocol import Hub, Request, Response, User
from .repository import ContentStore, HubError, Repository

OWNER_TOKEN = "hf_ownerownerownerownerownerownerowner"
GUEST_TOKEN = "hf_guestguestguestguestguestguestguest"
READER_TOKEN = "hf_readerreaderreaderreaderreaderreader"
PORTAL = b"<html><body>Welcome to our network. Please log in.</body></html>"
USERS = {
    OWNER_TOKEN: User("owner", organisations=("salhub",)),
    GUEST_TOKEN: User("guest"),
    READER_TOKEN: User("owner", role="read"),
}


@dataclass(frozen=True)
class LoggedRequest:
    """One request as it was answered."""

    method: str
    path: str
    status: int
    range: str | None
    sent: int


@dataclass
class Fault:
    """Something that goes wrong on the next `times` requests whose path contains `fragment`."""

    fragment: str
    method: str
    times: int
    refusal: HubError | None = None
    cut_after: int | None = None
    shorten_to: int | None = None
    flip_byte: bool = False
    is_portal: bool = False
    is_renamed: bool = False

    def concerns(self, method: str, path: str) -> bool:
        return self.times > 0 and method == self.method and self.fragment in path


class HubServer:
    """The loopback Hub; use it as a context manager.

    Args:
        page_size: entries on one page of a listing.
    """

    def __init__(self, page_size: int = 1000) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hub-server-")
        self._http = _LoopbackServer(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._lock = threading.RLock()
        self.hub = Hub(ContentStore(Path(self._folder.name)), USERS, page_size, self.url)
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._folder.cleanup()

    # What tests look at

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.hub.repositories[kind, name]

    def read(self, name: str, path: str, revision: str = "main", kind: str = "model") -> bytes:
        """The bytes of one file, past every access rule."""
        blob = self.repository(name, kind).resolve(revision).blob(path)
        return self.hub.store.get(blob.sha256)

    def matching(self, method: str = "", fragment: str = "") -> list[LoggedRequest]:
        """The logged requests of a method (any by default) whose path contains a fragment."""
        with self._lock:
            return [r for r in self.requests if method in ("", r.method) and fragment in r.path]

    def count(self, method: str = "", fragment: str = "") -> int:
        return len(self.matching(method, fragment))

    def phase(self, name: str) -> list[LoggedRequest]:
        """The requests between the mark that a client left and its next one."""
        with self._lock:
            requests = list(self.requests)
        start = next(i for i, r in enumerate(requests) if r.path == f"/mark/{name}") + 1
        return list(takewhile(lambda r: not r.path.startswith("/mark/"), requests[start:]))

    def forget(self) -> None:
        """Empty the request log and take back the faults that are still pending."""
        with self._lock:
            self.requests.clear()
            self.faults.clear()

    # What tests may break

    def fail(
        self,
        fragment: str,
        *,
        status: int,
        times: int = 1,
        method: str = "GET",
        code: str | None = None,
    ) -> None:
        """Answer with an error status before anything else is looked at."""
        refusal = HubError(status, f"Injected error {status}", code)
        self.faults.append(Fault(fragment, method, times, refusal=refusal))

    def cut(self, fragment: str, *, after: int, times: int = 1) -> None:
        """Close the connection after some bytes of the body, as a broken network does."""
        self.faults.append(Fault(fragment, "GET", times, cut_after=after))

    def shorten(self, fragment: str, *, to: int, times: int = 1) -> None:
        """Send a complete but shorter body, as a broken proxy does."""
        self.faults.append(Fault(fragment, "GET", times, shorten_to=to))

    def corrupt(self, fragment: str, *, times: int = 1, method: str = "GET") -> None:
        """Change one byte of the body: of what is sent for GET, of what is received for PUT."""
        self.faults.append(Fault(fragment, method, times, flip_byte=True))

    def show_portal(self, fragment: str, *, times: int = 1, method: str = "GET") -> None:
        """Answer with the login page of a network, as if it was the file."""
        self.faults.append(Fault(fragment, method, times, is_portal=True))

    def rename(self, fragment: str, *, times: int = 1) -> None:
        """Give a file another hash than its own."""
        self.faults.append(Fault(fragment, "HEAD", times, is_renamed=True))

    # What the handler calls

    def answer(self, request: Request) -> tuple[Response, Fault | None]:
        with self._lock:
            fault = next((f for f in self.faults if f.concerns(request.method, request.path)), None)
            if fault is not None:
                fault.times -= 1
            try:
                return self._answer_through(fault, request), fault
            except HubError as error:
                return Response.refusal(error), None

    def _answer_through(self, fault: Fault | None, request: Request) -> Response:
        if fault is None:
            return routes.answer(self.hub, request)
        if fault.refusal is not None:
            raise fault.refusal
        if fault.flip_byte:
            request.body = _with_flipped_byte(request.body)
        if fault.is_portal:
            return Response(200, PORTAL, {"Content-Type": "text/html"})
        response = routes.answer(self.hub, request)
        if fault.is_renamed and "ETag" in response.headers:
            own = response.headers["ETag"].strip('"')
            response.headers["ETag"] = f'"{own[::-1]}"'
        if fault.shorten_to is not None:
            response.body = response.body[: fault.shorten_to]
        if fault.flip_byte:
            response.body = _with_flipped_byte(response.body)
        return response

    def log(self, request: Request, response: Response, sent: int) -> None:
        entry = (request.method, request.path, response.status, request.headers.get("range"), sent)
        with self._lock:
            self.requests.append(LoggedRequest(*entry))


def _with_flipped_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(255 - b for b in content[middle : middle + 1])
        + content[middle + 1 :]
    )


class _LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    owner: HubServer


class _Handler(BaseHTTPRequestHandler):
    """Bytes to requests and responses to bytes; knows nothing about repositories."""

    protocol_version = "HTTP/1.1"
    server: _LoopbackServer

    def _serve(self) -> None:
        request = self._read()
        response, fault = self.server.owner.answer(request)
        cut_after = fault.cut_after if fault is not None else None
        body = b"" if self.command == "HEAD" else response.body[:cut_after]
        # Logged before it is sent: a client may look at the log as soon as it has the answer.
        self.server.owner.log(request, response, len(body))
        self._write(response, body)
        if cut_after is not None:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read(self) -> Request:
        address = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        token = headers.get("authorization", "").removeprefix("Bearer ")
        return Request(
            method=self.command,
            path=address.path,
            query=parse_qs(address.query),
            headers=headers,
            body=self._read_body(headers),
            user=self.server.owner.hub.users.get(token),
        )

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", "0")))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _write(self, response: Response, body: bytes) -> None:
        # A client that hung up no longer wants the rest.
        with contextlib.suppress(ConnectionError):
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: tests read `HubServer.requests` instead."""
