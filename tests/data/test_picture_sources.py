"""Files, addresses and streams that are no picture, or too much of one, each with its sentence."""

import base64
import io
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from salhub.data import picture_decoding, picture_sources
from salhub.processing import load_image

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
_buffer = io.BytesIO()
Image.fromarray(PIXELS).save(_buffer, "PNG")
PNG = _buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.agents.append(self.headers["User-Agent"])
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.answer(302, b"", {"Location": self.server.targets[path]})
        elif path == "/missing.png":
            self.answer(404, b"gone")
        elif path == "/page":
            self.answer(200, b"<!DOCTYPE html><html></html>")
        elif path == "/cut.png":
            self.answer(200, PNG, {"Content-Length": str(len(PNG) + 9)})
        elif path == "/announced.png":
            self.answer(200, b"", {"Content-Length": str(10**9)})
        elif path == "/endless.png":
            self.drip(b"x" * 2**16, 0)
        elif path == "/slow.png":
            self.drip(b"x", 0.05)
        elif path == "/silent.png":
            time.sleep(1)
        else:
            self.answer(200, PNG)

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, piece, pause):
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(piece)
                time.sleep(pause)
        except ConnectionError:
            pass

    def log_message(self, *arguments):
        pass


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.agents = []
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.targets = {
        "/to/picture": "/picture.png",
        "/to/file": "file:///etc/hostname",
        "/to/ftp": "ftp://127.0.0.1/picture.png",
        "/to/itself": "/to/itself",
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_pictures_come_from_the_web(web):
    for path in ("/picture.png", "/a folder/füße.png?size=4#top", "/to/picture"):
        assert np.array_equal(np.asarray(load_image(web.address + path)), PIXELS)
    assert np.array_equal(
        np.asarray(load_image(web.address.replace("http", "HTTP") + "/x")), PIXELS
    )
    assert set(web.agents) == {"salhub"}


@pytest.mark.parametrize(
    ("path", "error", "sentence"),
    [
        ("/missing.png", ConnectionError, "answered 404 Not Found"),
        ("/page", ValueError, "it is a web page; give the address of the picture itself"),
        ("/cut.png", ConnectionError, f"stopped after {len(PNG)} of {len(PNG) + 9} bytes"),
        ("/announced.png", ValueError, "more than the 1 MiB"),
        ("/endless.png", ValueError, "more than the 1 MiB"),
        ("/slow.png", ConnectionError, "not finished after 0.2 s"),
        ("/silent.png", ConnectionError, "could not be fetched (timed out)"),
        ("/to/file", ConnectionError, "answered 302"),
        ("/to/ftp", ConnectionError, "unknown url type: ftp"),
        ("/to/itself", ConnectionError, "answered 302"),
    ],
)
def test_answers_that_are_no_picture(web, monkeypatch, path, error, sentence):
    monkeypatch.setattr(picture_sources, "MAX_DOWNLOAD_BYTES", 2**20)
    # Only where it is waited for: on a busy machine any answer may take as long.
    if path == "/slow.png":
        monkeypatch.setattr(picture_sources, "DOWNLOAD_SECONDS", 0.2)
    if path == "/silent.png":
        monkeypatch.setattr(picture_sources, "CONNECTION_SECONDS", 0.4)
    check_sentence(web.address + path, error, sentence)


def test_passwords_and_queries_stay_out_of_messages(web):
    address = web.address.replace("://", "://user:secret@") + "/missing.png?token=secret"
    with pytest.raises(ConnectionError) as raised:
        load_image(address)
    assert "secret" not in str(raised.value)


def check_sentence(source, error, sentence):
    with pytest.raises(error) as raised:
        load_image(source)
    message = str(raised.value)
    assert sentence in message
    assert "\n" not in message and message.endswith((".", "?"))


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        ("http://127.0.0.1:9/x.png", ConnectionError, "could not be fetched"),
        ("https:///x.png", ValueError, "is not a web address"),
        ("http://[::1/x.png", ValueError, "is not a web address"),
        ("http://host:port/x.png", ValueError, "is not a web address"),
        (
            "ftp://host/x.png",
            ValueError,
            "Addresses that start with 'ftp://' are not supported; use",
        ),
        (
            "file:///tmp/x.png",
            ValueError,
            "Addresses that start with 'file://' are not supported; use",
        ),
        ("sample:cta", ValueError, "Did you mean 'cat'?"),
        ("", ValueError, "'' is not a path"),
        ("a\0b", ValueError, "is not a path"),
        ("iVBORw0KGgo" * 500, ValueError, "'data:image/png;base64,' in front of it"),
        ("data:image/png;base64", ValueError, "has no comma"),
        ("data:image/png;base64,%%%", ValueError, "not valid base64"),
        ("data:,hello", ValueError, "it is text"),
        (b"", ValueError, "is empty (0 bytes)"),
        (io.BytesIO(), ValueError, "call seek(0) first"),
        (io.StringIO("text"), TypeError, "binary mode ('rb')"),
        (b"just words", ValueError, "it is text"),
        (b"caf\xc3\xa9 " * 300, ValueError, "it is text"),
        (b"\x00\x01\x02\x03\xff\xfe", ValueError, "starts with the bytes 00 01 02 03 ff fe"),
        (b"%PDF-1.7", ValueError, "it is a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", ValueError, "Script"),
        (b"PK\x03\x04....", ValueError, "it is a ZIP archive"),
        (b"\x1f\x8b....", ValueError, "gzip-compressed"),
        (b"<?xml version='1.0'?><svg/>", ValueError, "it is an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1", ValueError, "git lfs pull"),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            ValueError,
            "it is a HEIC photo from a phone; save it as JPEG, or",
        ),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", ValueError, "it is a video"),
        (PNG[:50], ValueError, "damaged or cut short"),
        (PNG[:30], ValueError, "it starts like a PNG file but is damaged or cut short"),
    ],
    # An object without a text of its own is named by its address, which differs from run to run.
    ids=lambda value: repr(value)[:40].partition(" object at ")[0],
)
def test_sources_that_are_no_picture(source, error, sentence):
    check_sentence(source, error, sentence)


def test_files_that_are_no_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(PNG)
    (tmp_path / "cut.png").write_bytes(PNG[:50])
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("hello")
    np.save(tmp_path / "array.npy", PIXELS)
    cases = [
        ("photo.pgn", FileNotFoundError, "There is no file 'photo.pgn'. Did you mean 'photo.png'"),
        ("nowhere/photo.png", FileNotFoundError, "'nowhere' does not exist either"),
        ("photo.png/x.png", FileNotFoundError, "There is no file"),
        (tmp_path, ValueError, "is a folder; give one picture"),
        ("empty.png", ValueError, "'empty.png' is empty (0 bytes)"),
        ("cut.png", ValueError, "'cut.png' is damaged or cut short"),
        ("notes.txt", ValueError, "txt' cannot be read as a picture: it is text"),
        ("array.npy", ValueError, "pass numpy.load(path)"),
        ("/dev/null", ValueError, "is not a regular file"),
    ]
    for source, error, sentence in cases:
        check_sentence(source, error, sentence)
    monkeypatch.setattr(picture_sources, "MAX_FILE_BYTES", 2**20)
    (tmp_path / "big.png").write_bytes(PNG + bytes(2**20))
    check_sentence("big.png", ValueError, "more than the 1 MiB")
    with (tmp_path / "big.png").open("rb") as file:
        check_sentence(file, ValueError, "more than the 1 MiB")


def png_header(width, height):
    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IHDR" + chunk
    checksum = struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(chunk)) + body + checksum + PNG[33:]


@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [(10_000, 10_000, "10000 x 10000 pixels"), (60_000, 60_000, "3600000000 pixels")],
)
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_size_bombs_are_refused_before_they_are_decoded(width, height, shown):
    check_sentence(
        png_header(width, height), ValueError, f"too large ({shown}); the limit is 89 million"
    )


def test_the_pixel_limit_holds_for_pictures_in_memory_too(monkeypatch):
    monkeypatch.setattr(picture_decoding, "MAX_PIXELS", 15)
    for source in (PNG, Image.fromarray(PIXELS), PIXELS):
        check_sentence(source, ValueError, "too large (4 x 4 pixels)")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("file_format", ["JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_cut_short(file_format):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, file_format)
    data = buffer.getvalue()
    assert load_image(data).size == (64, 64)
    check_sentence(data[: len(data) // 2], ValueError, "damaged")


# Pillow warns of damaged TIFF directories on its way to our sentence.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_damaged_bytes_never_escape_as_another_error():
    generator = np.random.default_rng(0)
    outcomes = set()
    for file_format in ("PNG", "JPEG", "GIF", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).save(buffer, file_format)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for place in generator.integers(0, len(data), 4):
                data[place] = generator.integers(0, 256)
            try:
                outcomes.add(load_image(bytes(data)).mode)
            except ValueError:
                outcomes.add("refused")
    assert outcomes == {"RGB", "refused"}


def test_data_uris_without_base64():
    quoted = "".join(f"%{byte:02x}" for byte in PNG)
    assert np.array_equal(np.asarray(load_image("data:image/png," + quoted)), PIXELS)
    spaced = base64.b64encode(PNG).decode()
    spaced = f"data:image/png;base64,{spaced[:20]}\n {spaced[20:]}"
    assert np.array_equal(np.asarray(load_image(spaced)), PIXELS)
