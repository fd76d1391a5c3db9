"""`salhub run` and `compare` with real networks and real photos."""

import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import salhub
from salhub.data.samples import sample_path


def test_an_explained_sample_is_on_disk_and_its_place_is_said(call, tmp_path):
    result = call("run", "normgrad-efficientnet-lite0", "sample:cat")
    path = tmp_path / "cat-normgrad-efficientnet-lite0.png"
    with Image.open(path) as picture:
        assert picture.width > 600
    assert result.stdout.splitlines()[0] == f"Wrote {path}"
    assert "Most important area" in result.stdout


def test_settings_and_class_reach_the_model(call, call_json):
    words = ["--method", "linear_approx", "layers=[blocks.10]", "--format", "npy"]
    [lynx] = call_json("run", "normgrad", "sample:cat", "--class", "lynx", *words)
    assert (lynx["label"], lynx["class_label"]) == ("lynx", 287)
    [by_index] = call_json(
        "run", "normgrad", "sample:cat", "--class", "287", *words, "-o", "other.npy"
    )
    saved = np.load(lynx["output"])
    assert saved.shape == (lynx["height"], lynx["width"]) and saved.min() < 0
    np.testing.assert_array_equal(saved, np.load(by_index["output"]))
    error = call("run", "normgrad", "sample:cat", "--class", "lynks", code=1).stderr
    assert "Did you mean 'lynx'" in error


def test_the_users_own_network(call_json, own_network):
    words = ["--classifier", own_network, "--method", "grad_cam", "--class", "pear"]
    [record] = call_json("run", "normgrad", "sample:coffee", *words)
    assert record["label"] == "pear"
    assert (record["model"], record["classifier"]) == ("normgrad", str(own_network))
    assert record["output"] == "coffee-normgrad-my-network.png"
    assert Path(record["output"]).stat().st_size > 1000


def test_the_figure_names_the_users_own_network(own_network):
    result = salhub.pipeline("normgrad", classifier=own_network)("sample:coffee")
    assert result.model_name == "my-network"


def test_a_folder_in_batches_equals_one_by_one(call_json, call, own_network, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cat", "coffee", "rocket"):
        (folder / f"{name}.jpg").write_bytes(sample_path(name).read_bytes())
    (folder / "broken.jpg").write_bytes(b"no picture")
    words = ["--classifier", own_network, "--format", "npy"]
    records = call_json("run", "normgrad", "photos", *words, "--batch-size", "2", code=1)
    assert len(records) == 4 and sum("error" in record for record in records) == 1
    for record in records:
        if "error" not in record:
            one = Path(record["input"]).stem
            call("run", "normgrad", f"sample:{one}", *words, "-o", f"{one}.npy")
            np.testing.assert_allclose(
                np.load(record["output"]), np.load(f"{one}.npy"), rtol=1e-4, atol=1e-6
            )


def test_standard_input_to_standard_output(call, own_network, tmp_path):
    content = sample_path("rocket").read_bytes()
    words = ["--classifier", own_network, "-o", "-", "--view", "overlay"]
    result = call("run", "normgrad", "-", *words, stdin=content)
    (tmp_path / "overlay.png").write_bytes(result.stdout_bytes)
    with (
        Image.open(tmp_path / "overlay.png") as picture,
        Image.open(sample_path("rocket")) as photo,
    ):
        assert picture.size == photo.size


@pytest.fixture
def address():
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=sample_path("cat").parent
    )
    handler.log_message = None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url(call, call_json, own_network, address):
    [record] = call_json("run", "normgrad", f"{address}/coffee.jpg", "--classifier", own_network)
    assert record["output"] == "coffee-normgrad-my-network.png"
    error = call("run", "normgrad", f"{address}/tea.jpg", code=1).stderr
    assert "tea.jpg" in error and "404" in error


def test_comparing_methods_of_one_model(call_json, own_network):
    words = ["--methods", "norm_grad,grad_cam,gradient", "--classifier", own_network]
    [record] = call_json("compare", "sample:cat", "normgrad", *words, "--class", "plum")
    assert [one["title"] for one in record["results"]] == ["norm_grad", "grad_cam", "gradient"]
    assert {one["label"] for one in record["results"]} == {"plum"}
    with Image.open(record["output"]) as picture:
        assert picture.width > 3 * 240


def test_comparing_two_models(call, tmp_path):
    models = "normgrad-efficientnet-lite0,gradcam-efficientnet-lite0"
    output = call("compare", "sample:cat", models, "-o", "both.png").stdout
    assert (tmp_path / "both.png").stat().st_size > 10000
    assert output.count("'tiger cat'") == 2
