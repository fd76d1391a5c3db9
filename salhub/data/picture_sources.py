"""Where a picture's bytes come from: a file, an address, a data URI, an open file, memory."""

import base64
import binascii
import http.client
import itertools
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from salhub.data.samples import PREFIX, sample_path
from salhub.errors import did_you_mean

MAX_FILE_BYTES = 512 * 2**20
MAX_DOWNLOAD_BYTES = 64 * 2**20
CONNECTION_SECONDS = 15.0
DOWNLOAD_SECONDS = 60.0

_CHUNK_BYTES = 2**16
_NEAR_FILES = 2000


def read_source(source: Any) -> tuple[bytes, str]:
    """Return the bytes of an encoded picture, and what to call it in messages.

    Args:
        source: A path, an http or https address, a data URI, "sample:NAME", bytes, or an object
            with a `read` method.

    Raises:
        FileNotFoundError: There is no such file.
        ConnectionError: The address did not answer with a picture.
        ValueError: A folder, too many bytes, an address of another kind, a broken data URI.
        TypeError: Not something a picture can be read from.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), f"The {type(source).__name__} object"
    if isinstance(source, str):
        return _read_text(source)
    if isinstance(source, os.PathLike):
        return _read_file(os.fsdecode(source))
    if callable(getattr(source, "read", None)):
        return _read_open_file(source)
    raise TypeError(
        f"A picture cannot be read from an object of type {type(source).__name__}; give a path, "
        "an address, bytes, an open file, a PIL picture, or an array."
    )


def _read_text(source: str) -> tuple[bytes, str]:
    start = source[:16].lower()
    if start.startswith(PREFIX):
        path = sample_path(source[len(PREFIX) :])
        return path.read_bytes(), f"The sample photo '{path.stem}'"
    if start.startswith("data:"):
        return _read_data_uri(source), "The data URI"
    if start.startswith(("http://", "https://")):
        return _download(source), _shown(source)
    if "://" in source[:64]:
        scheme = source.partition("://")[0]
        raise ValueError(
            f"Addresses that start with '{scheme}://' are not supported; use http:// or "
            "https://, or give the path of a local file."
        )
    return _read_file(source)


def _read_file(source: str) -> tuple[bytes, str]:
    name = f"'{_shorten(source)}'"
    if not source or "\0" in source:
        raise ValueError(f"{name} is not a path; give the path of a picture.")
    # Unlike Path.expanduser, it leaves the home of an unknown user as written.
    path = Path(os.path.expanduser(source))  # noqa: PTH111
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"There is no file {name}.{_near_files(path)}") from None
    except OSError as error:
        # A whole picture in base64 without its prefix ends here: the name is too long for a path.
        raise ValueError(
            f"{name} is not a path ({error.strerror}); if it is a base64 picture, put "
            "'data:image/png;base64,' in front of it."
        ) from None
    if path.is_dir():
        raise ValueError(f"{name} is a folder; give one picture, such as a file in it.")
    if not path.is_file():
        raise ValueError(f"{name} is not a regular file; give the path of a picture.")
    _check_bytes(size, MAX_FILE_BYTES, name)
    try:
        return path.read_bytes(), name
    except OSError as error:
        raise type(error)(f"{name} cannot be read ({error.strerror}).") from None


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder '{_shorten(str(path.parent))}' does not exist either."
    try:
        entries = itertools.islice(os.scandir(path.parent), _NEAR_FILES)
        return did_you_mean(path.name, [entry.name for entry in entries])
    except OSError:
        return ""


def _read_open_file(source: Any) -> tuple[bytes, str]:
    name = f"The open file '{source.name}'" if hasattr(source, "name") else "The file object"
    data = source.read(MAX_FILE_BYTES + 1)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(
            f"{name} returned {type(data).__name__} instead of bytes; open it in binary mode "
            "('rb')."
        )
    _check_bytes(len(data), MAX_FILE_BYTES, name)
    if not data:
        raise ValueError(
            f"{name} returned no bytes; it is empty or already at its end: call seek(0) first."
        )
    return bytes(data), name


def _read_data_uri(source: str) -> bytes:
    header, comma, payload = source.partition(",")
    if not comma:
        raise ValueError(
            f"The data URI '{_shorten(source)}' has no comma; it must look like "
            "'data:image/png;base64,iVBORw0...'."
        )
    payload = urllib.parse.unquote_to_bytes(payload)
    if not header.lower().rstrip().endswith(";base64"):
        return payload
    try:
        return base64.b64decode(b"".join(payload.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"The data URI is not valid base64 ({error}); encode it again.") from None


def _download(url: str) -> bytes:
    name = _shown(url)
    # People paste addresses with spaces and umlauts; what is quoted already stays as it is.
    quoted = urllib.parse.quote(url, safe="%/:?#[]@!$&'()*+,;=~")
    request = urllib.request.Request(quoted, headers={"User-Agent": "salhub", "Accept": "image/*"})
    try:
        with _web_opener().open(request, timeout=CONNECTION_SECONDS) as response:
            data, expected = _read_response(response, name)
    except urllib.error.HTTPError as error:
        error.close()
        # The reason of a redirect loop has several lines.
        reason = " ".join(str(error.reason).split())
        raise ConnectionError(
            f"{name} answered {error.code} {reason}; check the address in a browser."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"{name} could not be fetched ({getattr(error, 'reason', None) or error}); "
            "try again, or download the picture yourself."
        ) from None
    if expected is not None and len(data) < expected:
        raise ConnectionError(f"{name} stopped after {len(data)} of {expected} bytes; try again.")
    return data


def _web_opener() -> urllib.request.OpenerDirector:
    # No file:// and ftp:// handlers, so that a redirect cannot lead to them either.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _read_response(response: http.client.HTTPResponse, name: str) -> tuple[bytes, int | None]:
    declared = response.headers.get("Content-Length", "")
    expected = int(declared) if declared.isdigit() else None
    _check_bytes(expected or 0, MAX_DOWNLOAD_BYTES, name)
    # The connection's own limit restarts with every byte, which a slow server can exploit.
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    data = bytearray()
    while chunk := response.read1(_CHUNK_BYTES):
        data += chunk
        _check_bytes(len(data), MAX_DOWNLOAD_BYTES, name)
        if time.monotonic() > deadline:
            raise TimeoutError(f"not finished after {DOWNLOAD_SECONDS:g} s")
    return bytes(data), expected


def _check_bytes(count: int, limit: int, name: str) -> None:
    if count > limit:
        raise ValueError(
            f"{name} has more than the {limit // 2**20} MiB allowed for one picture; "
            "save a smaller version of it."
        )


def _shown(url: str) -> str:
    # Passwords and signed queries do not belong in messages and logs.
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"'{_shorten(url)}' is not a web address; write https://host/picture.jpg.")
    return _shorten(f"{parts.scheme}://{host}{parts.path}")


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
