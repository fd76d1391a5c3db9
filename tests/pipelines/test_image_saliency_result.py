"""What a person gets for one explained picture."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.viz.text import percentage

compare_results = ImageSaliencyResult.compare

HEIGHT, WIDTH = 60, 100


def blob(x=70, y=20, radius=6.0):
    rows, columns = np.indices((HEIGHT, WIDTH)) + 0.5
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2)).astype(np.float32)


def result(saliency=None, **fields):
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    defaults = {
        "image": Image.fromarray(photo),
        "saliency": blob() if saliency is None else saliency,
        "label": "tiger cat",
        "class_label": 282,
        "probability": 0.624,
        "predictions": [("tiger cat", 282, 0.624), ("tabby", 281, 0.3)],
        "model_name": "salhub/normgrad-efficientnet-lite0",
    }
    return ImageSaliencyResult(**{**defaults, **fields})


def test_the_most_salient_region_is_where_the_map_is_high():
    found = result()
    assert found.peak() == (69, 19) or found.peak() == (70, 20)
    left, top, right, bottom = found.most_salient_box()
    assert left < 70 < right and top < 20 < bottom
    # 5 % of 6000 pixels is a disc of 300 pixels, 19.5 across.
    assert abs(right - left - 19.5) <= 2 and abs(bottom - top - 19.5) <= 2


def test_the_region_is_one_place_even_if_others_matter():
    two = blob(70, 20, 5) + 0.9 * blob(20, 45, 4)
    left, _, right, _ = result(two).most_salient_box()
    assert left > 50 and right > 70


def test_speckled_maps_have_a_region_too():
    speckles = np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.4
    left, top, right, bottom = result(blob(30, 40, 8) * speckles).most_salient_box()
    assert left < 30 < right and top < 40 < bottom and right - left > 8


def test_of_a_signed_map_the_evidence_for_counts():
    signed = blob(20, 40) - 3 * blob(80, 15)
    found = result(signed)
    assert found.signed and not result().signed
    assert abs(found.peak()[0] - 20) <= 1
    left, _, right, _ = found.most_salient_box()
    assert left < 20 < right < 60
    against = result(-blob(80, 15))
    assert abs(against.peak()[0] - 80) <= 1


def test_only_what_was_seen_counts_for_the_area():
    seen = blob(50, 30, 20)
    whole = result(seen).most_salient_box()
    part = result(seen, viewed_box=(35, 15, 65, 45)).most_salient_box()
    assert part[2] - part[0] < whole[2] - whole[0]


def test_the_dictionary_is_json_and_complete():
    data = result(viewed_box=(20.0, 0.0, 80.0, 60.0)).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["label"] == "tiger cat" and data["class_label"] == 282
    assert data["predictions"][1] == {"label": "tabby", "class_label": 281, "probability": 0.3}
    assert data["viewed_box"] == [20, 0, 80, 60] and (data["width"], data["height"]) == (100, 60)
    assert data["peak"]["x"] in (69, 70) and data["smallest"] < data["largest"] <= 1
    assert data["most_salient_box"] == result(viewed_box=(20, 0, 80, 60)).most_salient_box()
    assert not data["degenerate"] and not data["signed"]
    numpy_numbers = result(
        class_label=np.int64(3),
        probability=np.float32(0.5),
        predictions=[("a", np.int64(3), np.float32(np.nan))],
        degenerate=np.bool_(False),
    )
    assert json.loads(json.dumps(numpy_numbers.to_dict(), allow_nan=False))["class_label"] == 3


def test_the_summary_says_what_was_explained_and_where():
    text = result().summary()
    assert text.startswith("tiger cat, 62 %. Most important area: middle right (x ")
    assert text.count(". ") == 1 and text.endswith(").")
    assert "Orange areas speak for this answer" in result(blob() - 0.5).summary()
    middle = result(blob(50, 30)).summary()
    assert ": centre (" in middle


def test_a_constant_map_says_so_everywhere():
    constant = result(np.ones((HEIGHT, WIDTH)), degenerate=True)
    assert "The map is constant" in constant.summary()
    data = constant.to_dict()
    assert data["degenerate"] and data["peak"] is None and data["most_salient_box"] is None
    # No colour anywhere: neither a map nor a colour bar is drawn.
    figure = np.asarray(constant.plot()).astype(int)
    colored = np.ptp(figure, axis=-1).max(axis=0) > 12
    assert not colored[figure.shape[1] // 2 :].any()
    assert np.ptp(np.asarray(constant.overlay()).astype(int), axis=-1).max() == 0
    message = np.asarray(constant.map_picture().convert("L")).astype(int)
    assert message.max() == 226 and message.min() < 150
    zeros = result(np.zeros((HEIGHT, WIDTH)))
    assert "The map is constant" in zeros.summary()


def test_the_figure_shows_photo_map_and_overlay():
    figure = result().plot()
    assert figure.mode == "RGB" and figure.width > 3 * 360
    taller = result(viewed_box=(20, 0, 80, 60), class_label=281, label="tabby").plot()
    # The cropped border and the classifier's own answer need more lines or words.
    assert np.asarray(taller).shape != np.asarray(figure).shape or not np.array_equal(
        np.asarray(taller), np.asarray(figure)
    )
    signed = np.asarray(result(blob(20, 40) - blob(80, 15)).plot()).astype(int)
    assert (signed[..., 2] - signed[..., 0] > 100).any()


def test_overlays_and_maps_have_the_size_of_the_photo():
    assert result().overlay().size == (WIDTH, HEIGHT)
    assert result().map_picture().size == (WIDTH, HEIGHT)
    assert not np.array_equal(np.asarray(result().overlay(0.2)), np.asarray(result().overlay(0.9)))


def test_figures_of_huge_pictures_are_made_of_smaller_ones():
    image = Image.new("RGB", (3000, 1500), "#808080")
    saliency = np.zeros((1500, 3000), np.float32)
    saliency[:, 1500:] = 1
    huge = result(saliency, image=image, viewed_box=(750, 0, 2250, 1500))
    figure = np.asarray(huge.plot()).astype(int)
    assert figure.shape[1] < 1400
    row = figure[figure.shape[0] // 2 - 20]
    # The map panel is the second one: grey, low, high, grey quarters of 360 pixels.
    panel = row[24 + 360 + 16 :][:360]
    assert np.ptp(panel[45]) == 0 and np.ptp(panel[315]) == 0
    assert panel[135, 1] < 30 and panel[225, 1] > 200


def test_saving_follows_the_ending(tmp_path):
    found = result()
    assert found.save(tmp_path / "a.png") == tmp_path / "a.png"
    assert Image.open(tmp_path / "a.png").size == found.plot().size
    found.save(str(tmp_path / "b.JPG"), view="overlay")
    photo = Image.open(tmp_path / "b.JPG")
    assert photo.format == "JPEG" and photo.size == (WIDTH, HEIGHT)
    found.save(tmp_path / "map.png", view="map")
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "map.png")), np.asarray(found.map_picture())
    )
    found.save(tmp_path / "c.npy")
    raw = np.load(tmp_path / "c.npy", allow_pickle=False)
    assert raw.dtype == np.float32 and np.array_equal(raw, found.saliency)
    found.save(tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text(encoding="utf-8")) == found.to_dict()
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    ("name", "view", "error", "sentence"),
    [
        ("a.pgn", "plot", ValueError, "Did you mean '.png'"),
        ("a.gif", "plot", ValueError, "' has an unknown ending; use one of"),
        ("a.png", "overlya", ValueError, "Did you mean 'overlay'"),
        ("nowhere/a.png", "plot", FileNotFoundError, "' does not exist; create it first"),
    ],
)
def test_bad_targets_are_refused_before_work(tmp_path, monkeypatch, name, view, error, sentence):
    monkeypatch.setattr(ImageSaliencyResult, "plot", lambda _: pytest.fail("work was done"))
    with pytest.raises(error) as raised:
        result().save(tmp_path / name, view=view)
    assert sentence in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="no space"):
            result().save(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_notebooks_show_the_figure():
    picture = Image.open(io.BytesIO(result()._repr_png_()))
    assert np.array_equal(np.asarray(picture), np.asarray(result().plot()))
    assert repr(result()) == (
        "ImageSaliencyResult('tiger cat', probability 62 %, 100 x 60 pixels, "
        "model 'salhub/normgrad-efficientnet-lite0')"
    )


def test_results_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="60 pixels high and 100 wide"):
        result(blob().T)
    with pytest.raises(ValueError, match="NaN or infinite"):
        result(np.full((HEIGHT, WIDTH), np.nan))
    assert result(blob().astype(np.float64)).saliency.dtype == np.float32
    assert result().viewed_box == (0, 0, WIDTH, HEIGHT)


def test_probabilities_are_never_rounded_to_certainty():
    shown = [percentage(value) for value in (0, 0.004, 0.01, 0.624, 0.99, 0.996, 1)]
    assert shown == ["0 %", "under 1 %", "1 %", "62 %", "99 %", "over 99 %", "100 %"]


def test_comparisons_show_every_result_once():
    results = {
        "norm_grad": result(),
        "grad_cam": result(blob() - 0.5),
        "broken": result(np.ones((HEIGHT, WIDTH)), degenerate=True),
    }
    figure = compare_results(results)
    assert figure.width > 4 * 240
    alone = compare_results({"norm_grad": result()})
    # With maps of one kind there is a colour bar: colours at the right of the last picture.
    right = np.asarray(alone).astype(int)[:, -130:-90]
    assert np.ptp(right, axis=-1).max() > 100
    other = compare_results({"a": result(), "b": result(label="tabby", probability=0.3)})
    assert other.size != alone.size


def test_comparisons_of_nothing_or_of_two_pictures_are_refused():
    with pytest.raises(ValueError, match="no result"):
        compare_results({})
    small = result(blob()[:30], image=Image.new("RGB", (WIDTH, 30)))
    with pytest.raises(ValueError, match="different sizes"):
        compare_results({"a": result(), "b": small})


FILES = ["map.png", "overlay.png", "plot.png", "result.json", "result.npy"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_gets_every_kind_of_file_once(tmp_path):
    found = result()
    assert found.save(tmp_path / "explained") == tmp_path / "explained"
    assert names_in(tmp_path / "explained") == FILES
    assert json.loads((tmp_path / "explained" / "result.json").read_text()) == found.to_dict()
    assert np.array_equal(np.load(tmp_path / "explained" / "result.npy"), found.saliency)
    with pytest.raises(ValueError, match="' has an unknown ending; use one of"):
        found.save(tmp_path / "model-v1.5")


def test_a_folder_that_is_there_keeps_what_else_is_in_it(tmp_path):
    folder = tmp_path / "model-v1.5"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "map.png").write_text("old")
    result().save(folder, view="map")
    assert names_in(folder) == ["map.png", "notes.txt", "result.json", "result.npy"]
    assert Image.open(folder / "map.png").size == (WIDTH, HEIGHT)
    (tmp_path / "a").write_text("a file")
    with pytest.raises(FileExistsError, match="is a file"):
        result().save(tmp_path / "a")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch, is_there):
    folder = tmp_path / "explained"
    if is_there:
        folder.mkdir()

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(ImageSaliencyResult, "write_json", full_disk)
    with pytest.raises(OSError, match="no space"):
        result().save(folder)
    assert list(tmp_path.rglob("*")) == ([folder] if is_there else [])


def test_a_folder_of_the_users_is_not_replaced_by_a_file(tmp_path):
    theirs = tmp_path / "result.json"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"result\.json' is a folder"):
        result().save(tmp_path)
    assert names_in(tmp_path) == ["result.json"]
    assert names_in(theirs) == ["notes.txt"]


@pytest.mark.parametrize("name", [".", ".."])
def test_a_folder_without_a_name_is_written_into(tmp_path, monkeypatch, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    result().save(name, view="map")
    assert {"map.png", "result.json", "result.npy"} <= {*names_in(tmp_path / "inner" / name)}


def test_an_ending_alone_is_no_name(tmp_path):
    with pytest.raises(ValueError, match=r"'\.PNG' is only a file ending"):
        result().save(tmp_path / ".PNG")
    assert names_in(tmp_path) == []
