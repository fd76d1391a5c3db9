"""One server and one browser for all tests of the pages."""

import os
import shutil
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio", reason="the pages need the extra 'demo'")

SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Address of a server with the pages of the methods, of any method and of a language model."""
    from salhub.entries import MODELS
    from salhub.ui import build_gallery, build_page, launch
    from salhub.ui.image_saliency import ImageSaliencyPage
    from tests import small_llama

    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    any_method = ImageSaliencyPage("salhub/gradcam-efficientnet-lite0", MODELS["normgrad"])
    gallery = build_gallery(
        {
            "normgrad": build_page("normgrad"),
            "salient_relevance": build_page("salient-relevance"),
            "any_method": any_method.build(),
            "salun": build_page("salun"),
            "lexrank": build_page("lexrank"),
            "verbalizer": build_page("verbalizer"),
            "sdl_seg": build_page("sdl-seg"),
            "active_contour": build_page("active-contour"),
            "rep_mtl": build_page("rep-mtl"),
            "editiq": build_page("editiq"),
            "nvit": build_page("nvit"),
            "disa": build_page("disa"),
            "writer": build_page(small_llama.save(tmp_path_factory.mktemp("models") / "writer")),
        }
    )
    _, address, _ = launch(gallery, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield address
    gallery.close(verbose=False)
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]
    else:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture(scope="session")
def client(server):
    """A program that talks to the server."""
    from gradio_client import Client

    return Client(server, verbose=False)


def _missing(reason: str) -> None:
    # A machine that is meant to test the pages must not pass by not testing them.
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI is set")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        _missing(f"there is no Chromium on the PATH ({', '.join(NAMES)})")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(SWITCHES))
        yield running
        running.close()


@pytest.fixture
def bad_uploads(tmp_path: Path, sample: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no pictures, and a word of the sentence each must get."""
    from PIL import Image

    text = tmp_path / "notes.jpg"
    text.write_text("a shopping list")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(sample.read_bytes()[:4000])
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    return {
        "text": (text, "it is text"),
        "cut": (cut, "cut short"),
        "empty": (empty, "empty"),
        "huge": (huge, "too large"),
    }


@pytest.fixture
def sample() -> Path:
    """A photo that comes with salhub."""
    from salhub.data.samples import sample_path

    return sample_path("cat")
