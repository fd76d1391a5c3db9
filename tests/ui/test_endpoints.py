"""What a program gets from the pages, through gradio's own client."""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import salhub
from salhub.ui import build_page
from salhub.ui.controls import PictureInput

# gradio asks pandas for what pandas is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:::gradio.queueing")

ENDPOINTS = ("/normgrad", "/salient_relevance", "/any_method")


@pytest.mark.parametrize(
    ("endpoint", "model"),
    [
        ("/normgrad", "normgrad-efficientnet-lite0"),
        ("/salient_relevance", "salient-relevance-efficientnet-lite0"),
        ("/any_method", "gradcam-efficientnet-lite0"),
    ],
)
def test_an_endpoint_gives_what_the_pipeline_gives(client, sample, endpoint, model):
    overlay, saliency, facts = client.predict(
        handle_file(sample), class_label="tabby", api_name=endpoint
    )
    expected = salhub.pipeline(model)(sample, class_labels="tabby")
    assert np.allclose(np.load(saliency), expected.saliency, atol=1e-5)
    assert Image.open(overlay).size == expected.image.size
    assert facts["label"] == "tabby"
    assert facts["model"] == f"salhub/{model}"
    assert facts["predictions"][0]["label"] == expected.predictions[0][0]


def test_the_settings_of_normgrad_reach_the_model(client, sample):
    _, saliency, _ = client.predict(
        handle_file(sample),
        class_label="281",
        method="linear_approx",
        layer="blocks.10",
        meta_step=0.002,
        api_name="/normgrad",
    )
    expected = salhub.pipeline(
        "normgrad-efficientnet-lite0",
        method="linear_approx",
        layers=["blocks.10"],
        meta_step=0.002,
    )(sample, class_labels=281)
    assert np.allclose(np.load(saliency), expected.saliency, atol=1e-5)


def test_the_settings_of_salient_relevance_reach_the_model(client, sample):
    _, saliency, _ = client.predict(
        handle_file(sample), preset="epsilon_plus", contrast=True, api_name="/salient_relevance"
    )
    expected = salhub.pipeline(
        "salient-relevance-efficientnet-lite0", preset="epsilon_plus", contrast="others"
    )(sample)
    assert np.allclose(np.load(saliency), expected.saliency, atol=1e-5)


@pytest.mark.parametrize("kind", ["text", "cut", "empty", "huge"])
def test_a_bad_upload_gets_one_sentence_that_names_the_file(client, bad_uploads, kind):
    path, words = bad_uploads[kind]
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(path), api_name="/normgrad")
    sentence = str(caught.value)
    assert words in sentence
    assert f"'{path.name}'" in sentence
    assert "Traceback" not in sentence and "/" not in sentence.replace(str(path), "")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_picture_gets_one_sentence(client, endpoint):
    with pytest.raises(AppError, match="There is no picture yet"):
        client.predict(None, api_name=endpoint)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"class_label": "tabbi"}, "Did you mean 'tabby'"),
        ({"class_label": "1000"}, "1000"),
        ({"method": "grad_camm"}, "Did you mean 'grad_cam'"),
        ({"layer": "blocks.99"}, "the closest are"),
        ({"meta_step": -1.0}, "meta_step must be"),
    ],
)
def test_a_bad_setting_gets_one_sentence(client, sample, settings, words):
    with pytest.raises(AppError, match=words):
        client.predict(handle_file(sample), api_name="/normgrad", **settings)


def _post(server: str, endpoint: str, data: list) -> str:
    """Ask as any program can, without gradio's client, and return what the server answers."""
    address = f"{server.rstrip('/')}/gradio_api/call{endpoint}"
    begun = httpx.post(address, json={"data": data}, timeout=60)
    if begun.status_code != 200:
        return begun.text
    return httpx.get(f"{address}/{begun.json()['event_id']}", timeout=60).text


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("exists", [True, False])
def test_no_other_file_of_the_server_is_read(server, sample, tmp_path, capfd, endpoint, exists):
    path = tmp_path / "private.jpg"
    if exists:
        path.write_bytes(sample.read_bytes())
    rest = {
        "/normgrad": ["", "norm_grad", "", 0, "whole"],
        "/salient_relevance": ["", "", False, "whole"],
    }
    answer = _post(server, endpoint, [{"path": str(path)}, *rest.get(endpoint, ["", "whole"])])
    assert "event: error" in answer
    assert "Send the picture as an upload." in answer
    assert "private" not in answer
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["", ["norm_grad"], "", 0, "whole"], "method must be one of"),
        (["", 7, "", 0, "whole"], "method must be one of"),
        (["", "", "", 1e300, "whole"], "meta_step must be at least 0 and at most 1,000"),
        (["²", "", "", 0, "whole"], "no class"),
        (
            ["9" * 5000, "", "", 0, "whole"],
            "No class name has 5000 letters; give a name or an index",
        ),
        (["", "", "", 0, "cropp"], "Did you mean 'crop'"),
    ],
)
def test_a_value_of_another_kind_gets_one_sentence(client, sample, server, capfd, values, words):
    files = {"files": ("cat.jpg", sample.read_bytes())}
    [path] = httpx.post(f"{server.rstrip('/')}/gradio_api/upload", files=files).json()
    given = {"path": path, "meta": {"_type": "gradio.FileData"}}
    answer = json.loads(_post(server, "/normgrad", [given, *values]).partition("data: ")[2])
    assert words in answer["error"]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("endpoint", "values", "words"),
    [
        ("/summarise", ["A text.", None, "", 0, 0.85, True], "num_sentences must be a number"),
        ("/summarise", ["A text.", 1, "", None, 0.85, True], "threshold must be a number"),
        ("/summarise", ["A text.", 1, "", 0, None, True], "damping must be a number"),
        ("/verbalize", ["A text.", "", "", None, "en"], "max_words must be a number"),
        ("/draw", [None], "seed must be a number"),
        ("/draw", [2.5], "seed must be a whole number"),
        ("/draw", [10_000], "seed must be at least 0 and below 10000"),
    ],
)
def test_a_number_that_is_none_gets_one_sentence(server, endpoint, values, words):
    answer = json.loads(_post(server, endpoint, values).partition("data: ")[2])
    assert words in answer["error"]


def test_every_file_that_a_page_takes_is_checked():
    pages = [build_page(name) for name in ("normgrad", "salient-relevance")]
    taken = [one for page in pages for fn in page.fns.values() for one in fn.inputs]
    with_files = [one for one in taken if getattr(one, "data_model", None) is not None]
    assert len(with_files) > 2
    assert all(isinstance(one, PictureInput) for one in with_files)


def test_a_large_picture_is_explained_at_a_size_that_a_page_can_show(client, tmp_path):
    path = tmp_path / "phone.jpg"
    photo = Image.effect_noise((4000, 3000), 60).convert("RGB")
    photo.getexif()[274] = 6
    photo.save(path, exif=photo.getexif())
    _, saliency, facts = client.predict(handle_file(path), api_name="/normgrad")
    assert (facts["width"], facts["height"]) == (768, 1024)
    assert np.load(saliency).shape == (1024, 768)


def test_the_endpoints_document_their_parameters(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    others = {
        "/classify", "/continue_text", "/contour", "/disa", "/draw", "/edit", "/forget", "/nvit",
        "/plan", "/see", "/segment", "/summarise", "/verbalize",
    }  # fmt: skip
    assert set(endpoints) == {*ENDPOINTS, *others}
    parameters = {one["parameter_name"] for one in endpoints["/normgrad"]["parameters"]}
    assert parameters == {"picture", "class_label", "method", "layer", "meta_step", "fit"}
    assert "which of its parts speak for a class" in endpoints["/normgrad"]["description"]


def test_files_are_named_after_what_is_in_them(client, sample):
    overlay, saliency, _ = client.predict(
        handle_file(sample), class_label="tabby", api_name="/normgrad"
    )
    assert Path(saliency).name == "cat-normgrad-tabby.npy"
    assert Path(overlay).suffix == ".png"
