"""The pipeline of the active contour: what goes in, what comes out, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import salhub
from salhub.cli import app
from salhub.models.active_contour.sample_cells import draw_cells
from salhub.processing import load_image
from tests.models.active_contour.rasterising import from_run_lengths, pixels_inside

SIZE = (40, 50)


@pytest.fixture(scope="module")
def segment():
    return salhub.pipeline("active-contour-saliency", device="cpu")


@pytest.fixture
def square() -> np.ndarray:
    picture = np.full((*SIZE, 3), 60, np.uint8)
    picture[10:30, 12:35] = (180, 140, 90)
    return picture


@pytest.fixture(scope="module")
def cells(segment):
    return segment("sample:cells", min_area=50)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_the_cells_are_found(cells):
    _, truth = draw_cells()
    assert overlap(cells.mask, truth) > 0.97
    assert len(cells.regions) == 4 and cells.mask.shape == truth.shape
    assert cells.image_name == "" and cells.model_name == "salhub/active-contour-saliency"


@pytest.mark.parametrize(
    "start",
    [
        {"box": (60, 40, 200, 180)},
        {"points": [(105, 110), (168, 210)], "radius": 12},
        {"points": (105, 110)},
        {"mask": np.pad(np.ones((100, 100), bool), ((50, 170), (60, 260)))},
        {"init": "checkerboard"},
    ],
    ids=["box", "points", "point", "mask", "checkerboard"],
)
def test_it_does_not_matter_where_it_starts(segment, cells, start):
    result = segment("sample:cells", min_area=50, **start)
    assert overlap(result.mask, cells.mask) > 0.99
    assert result.start != cells.start
    assert result.film.iterations[0] == 0


def test_a_start_is_where_it_was_drawn(segment):
    result = segment("sample:cells", box=(60, 40, 200, 180))
    [line] = result.film.lines(0, (420, 320))
    assert np.abs(line.min(0) - (60, 40)).max() < 2 and np.abs(line.max(0) - (200, 180)).max() < 2
    result = segment("sample:cells", points=[(105, 110)], radius=20)
    [line] = result.film.lines(0, (420, 320))
    assert np.abs(line.mean(0) - (105, 110)).max() < 1.5
    assert np.ptp(line[:, 0]) == pytest.approx(40, abs=4)


def test_files_of_every_kind_hold_the_same_mask(segment, tmp_path):
    cells = segment(draw_cells()[0].crop((0, 0, 180, 180)))
    cells.save(tmp_path / "all")
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert names == {
        *(f"{view}.png" for view in cells.views),
        *(f"result{one}" for one in (".json", ".coco.json", ".geojson", ".gif", ".npz")),
    }
    folder = tmp_path / "all"
    assert (np.asarray(Image.open(folder / "mask.png")) == 255 * cells.mask).all()
    # What a person sees who asks for a picture and nothing more.
    plot = cells.save(tmp_path / "outline.png").read_bytes()
    assert plot == (folder / "plot.png").read_bytes()
    labels = Image.open(folder / "labels.png")
    assert labels.mode == "P" and (np.asarray(labels) == cells.labels).all()
    arrays = np.load(folder / "result.npz")
    assert (arrays["mask"] == cells.mask).all() and (arrays["labels"] == cells.labels).all()
    assert arrays["energy"].shape[1] == 2 and ((arrays["level_set"] < 0) == cells.mask).all()
    features = json.loads((folder / "result.geojson").read_text())["features"]
    rings = [np.array(ring) for one in features for ring in one["geometry"]["coordinates"]]
    assert (pixels_inside(rings, cells.mask.shape) == cells.mask).all()
    coco = json.loads((folder / "result.coco.json").read_text())
    found = np.zeros(cells.mask.shape, bool)
    for one in coco["annotations"]:
        parts = one["segmentation"]
        if isinstance(parts, dict):
            found |= from_run_lengths(parts)
        else:
            rings = [np.array(part).reshape(-1, 2) for part in parts]
            found |= pixels_inside([[*ring, ring[0]] for ring in rings], found.shape)
    assert (found == cells.mask).all()
    said = json.loads((folder / "result.json").read_text())
    assert said["iterations"] == cells.iterations and said["stopped_because"] == cells.reason
    assert [one["area"] for one in said["regions"]] == [one.area for one in cells.regions]


def test_what_is_to_be_read_first_comes_first(segment, square):
    alpha = np.dstack([square, np.full(SIZE, 128, np.uint8)])
    result = segment(alpha)
    assert "The alpha channel was ignored" in result.notes[0]
    assert result.summary().startswith(result.notes[0])
    assert list(result.to_dict())[:2] == ["model", "notes"]


def test_16_bits_are_scaled_and_it_is_said(segment, square):
    grey = square[..., 0]
    result = segment(grey.astype(np.uint16) * 200)
    assert "were scaled to 0 to 255" in result.notes[0]
    assert overlap(result.mask, segment(grey).mask) > 0.99


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1.02, 1.5, 8.0, 300.0])
def test_floats_of_any_range_give_the_same_mask(segment, square, scale):
    dark = 1.0 - square[..., 0] / 255
    result = segment(dark * (scale / dark.max()))
    assert overlap(result.mask, square[..., 0] > 100) > 0.97
    assert scale == 1 or "were scaled to 0 to 255" in result.notes[0]
    far = segment(dark / dark.max() * 3 + 1e9)
    assert overlap(far.mask, square[..., 0] > 100) > 0.97


def test_a_small_object_of_16_bits_is_not_clipped_and_a_hot_pixel_squeezes_nothing(segment):
    wanted = np.zeros((128, 128), bool)
    wanted[40:48, 30:38] = True
    noise = np.random.default_rng(0).normal(0, 30, wanted.shape)
    values = (1000 + noise + 2000 * wanted).astype(np.uint16)
    assert overlap(segment(values).mask, wanted) > 0.7
    values[80, 80] = 65535
    assert overlap(segment(values).mask, wanted) > 0.7


def test_a_picture_of_labels_is_stretched_alone_and_in_a_batch(segment, square):
    labels = (square[..., 0] > 100).astype(np.uint8)
    alone, together, array = (
        segment(Image.fromarray(labels)),
        segment([square, Image.fromarray(labels)], batch_size=2)[1],
        segment(labels),
    )
    assert overlap(alone.mask, labels > 0) > 0.97 and "from 0 to 1 were scaled" in alone.notes[0]
    assert (alone.mask == together.mask).all() and (alone.mask == array.mask).all()


def test_a_batch_gives_what_its_pictures_give_one_by_one(segment, square):
    pictures = [square, square[:, ::-1].copy(), square[:30], square]
    masks = [None, None, None, square[..., 0] > 100]
    together = segment(pictures, batch_size=4, mask=masks)
    for picture, mask, result in zip(pictures, masks, together, strict=True):
        alone = segment(picture, mask=mask)
        assert (alone.mask == result.mask).all() and alone.start == result.start
        assert np.allclose(alone.level_set, result.level_set, atol=1e-5)
        assert alone.iterations == result.iterations and alone.energy == result.energy


def test_what_is_done_to_the_mask_is_done_to_its_polygons(segment):
    picture = load_image("sample:coffee").resize((128, 85))
    plain = segment(picture, saliency="ft")
    done = segment(picture, saliency="ft", keep="largest", fill_holes=True)
    assert len(plain.regions) > 1 and len(done.regions) == 1 and done.regions[0].holes == 0
    assert (pixels_inside(done.regions[0].polygon, done.mask.shape) == done.mask).all()


def test_a_map_of_ones_own_drives_it(segment, square, tmp_path):
    wanted = np.zeros(SIZE, np.float32)
    wanted[10:30, 12:35] = 1
    result = segment(square, saliency_map=wanted)
    assert overlap(result.mask, wanted > 0) > 0.97
    # Its weight counts, also at 0.
    elsewhere = np.roll(wanted, 4, 1)
    masks = [segment(square, saliency_map=elsewhere, alpha=one).mask for one in (0, 0.5)]
    assert overlap(masks[1], elsewhere > 0) > overlap(masks[0], elsewhere > 0) + 0.05
    np.save(tmp_path / "map.npy", wanted)
    Image.fromarray((255 * wanted).astype(np.uint8)).save(tmp_path / "map.png")
    for name in ("map.npy", "map.png"):
        assert (segment(square, saliency_map=tmp_path / name).mask == result.mask).all()


def test_a_model_of_the_hub_drives_it(segment):
    name = "salhub/gradcam-efficientnet-lite0"
    result = segment("sample:cat", saliency=name)
    explained = salhub.pipeline(name, device="cpu")("sample:cat")
    inside = result.saliency[result.mask].mean()
    assert inside > 1.3 * result.saliency[~result.mask].mean()
    assert np.corrcoef(result.saliency.ravel(), explained.saliency.ravel())[0, 1] > 0.9


def test_presets_are_the_models_it_is_built_on(segment, square):
    mine = segment(square, preset="chan_vese", max_iterations=20)
    assert mine.iterations <= 20 and mine.start == "a box in the middle"
    assert segment.model.config.local_energy == "lif"


def test_the_energy_is_that_of_steps_that_were_made(segment, square):
    result = segment(square, max_iterations=3)
    assert [step for step, _ in result.energy] == [3]
    assert (
        "The edges were not used, because saliency_steps=" in result.summary()
        and "still moving" in result.summary()
    )


def test_a_flat_picture_has_no_foreground_and_says_so(segment):
    result = segment(np.full((*SIZE, 3), 7, np.uint8))
    assert not result.mask.any() and result.regions == [] and not result.converged
    assert "flat" in result.summary()
    assert result.to_geojson()["features"] == [] and result.plot().size[0] > 300


NAN = np.full(SIZE, np.nan)
BAD = {
    "NaN": (NAN, {}, "NaN or infinite"),
    "infinite": (np.full(SIZE, np.inf), {}, "NaN or infinite"),
    "too small": (np.zeros((5, 5)), {}, "8 x 8 pixels or more"),
    "below the window": (
        np.eye(12),
        {"preset": "lif"},
        "pixels is 13 x 13, larger than the picture as processed, 12 x",
    ),
    "complex": (np.zeros(SIZE, complex), {}, "complex128"),
    "bool": (np.zeros(SIZE, bool), {}, "bool values"),
    "five channels": (torch.zeros(5, *SIZE), {}, "1, 3 or 4 channels"),
    "a batch": (torch.zeros(2, 3, *SIZE), {}, r"got \(2, 3, 40, 50\)"),
    "an empty batch": (torch.zeros(0, 3, *SIZE), {}, "got"),
    "no picture": (None, {}, "NoneType"),
    "no such file": ("nofile.png", {}, "There is no file"),
    "another map": (None, {"saliency_map": np.zeros((3, 3))}, r"\(3, 3\), but the picture is 40"),
    "a map above 1": (None, {"saliency_map": np.full(SIZE, 2.0)}, r"in \[0, 1\], got 2 to 2"),
    "a map of NaN": (None, {"saliency_map": NAN}, r"in \[0, 1\], got nan"),
    "no map": (None, {"saliency": "tensor"}, "saliency_map="),
    "all inside": (
        None,
        {"mask": np.ones(SIZE)},
        "no pixels inside or none outside",
    ),
    "nothing inside": (
        None,
        {"mask": np.zeros(SIZE)},
        "no pixels inside or none outside",
    ),
    "another mask": (None, {"mask": np.ones((4, 5))}, "mask has shape"),
    "too large a step": (None, {"mu": 1.0, "time_step": 0.3}, "below 0.25"),
    "no window": (None, {"sigma": 0}, "sigma must be above 0"),
    "nothing moves": (None, {"alpha": 0, "beta": 0}, "alpha and beta are both 0"),
    "box outside": (
        None,
        {"box": (100, 100, 200, 200)},
        "no pixels inside or none outside",
    ),
    "box turned": (None, {"box": (30, 3, 4, 5)}, "left below right"),
    "box of three": (None, {"box": (1, 2, 3)}, "4 numbers"),
    "box of words": (None, {"box": ["a", 2, 3, 4]}, "must be a number"),
    "half a point": (None, {"points": [(1,)]}, r"\(x, y\)"),
    "two starts": (None, {"box": (1, 2, 30, 30), "points": [(3, 4)]}, "give one of them"),
    "radius": (None, {"points": [(20, 20)], "radius": -1}, "radius must be above 0"),
    "radius of nothing": (None, {"radius": 5}, "give points="),
    "two starts, one by name": (None, {"box": (1, 2, 30, 30), "init": "disk"}, "init and box"),
    "a strip": (np.eye(2000, 20), {}, r"is processed at 3 x 256, which is too narrow for a"),
    "a narrow picture": (
        np.eye(1000, 40),
        {},
        "the picture as processed, 256 x 10; lower sigma, or give a",
    ),
    "unused weight": (None, {"nu": 1.0}, "regulariser='variational'"),
    "unused border": (None, {"border": "matlab"}, "regulariser='variational'"),
    "unused lambda": (None, {"lambda1": 2.0}, "local_energy='rsf'"),
    "area": (None, {"min_area": -1}, "min_area must be at least 0"),
    "keep": (None, {"keep": "most"}, "keep must be one of all, largest"),
    "holes": (None, {"fill_holes": "yes"}, "True or False"),
    "preset": (None, {"preset": "lif2"}, "Did you mean 'lif'"),
    "unknown": (None, {"alhpa": 1.0}, "Did you mean 'alpha'"),
    "map kind": (None, {"saliency": "bordr"}, "Did you mean 'border'"),
    "a model of texts": (None, {"saliency": "salhub/lexrank-news-en"}, "image-saliency"),
    "a network without maps": (
        None,
        {"saliency": "salhub/efficientnet-lite0"},
        "' is a network, not a method; give the name of a method and",
    ),
}


@pytest.mark.parametrize(("picture", "settings", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_sentence(segment, square, picture, settings, sentence):
    picture = square if picture is None and settings else picture
    with pytest.raises((ValueError, TypeError, OSError), match=sentence) as caught:
        segment(picture, **settings)
    assert "\n" not in str(caught.value)


COMMANDS = {
    "sigma": (["sigma=0"], "sigma must be above 0"),
    "weights": (["alpha=0", "beta=0"], "alpha and beta are both 0"),
    "step": (["mu=1", "time_step=0.3"], "below 0.25"),
    "box": (["--box", "[1, 2, 3]"], "4 numbers"),
    "all inside": (
        ["--mask", "white.png"],
        "no pixels inside or none outside",
    ),
    "another map": (["--saliency-map", "small.npy"], "(3, 3), but the picture is 40"),
    "ending": (["-o", "mask.bmp"], ".geojson"),
    "kind": (["saliency=bordr"], "Did you mean 'border'"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch, square):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(square).save("photo.png")
    Image.new("L", SIZE[::-1], 255).save("white.png")
    np.save("small.npy", np.zeros((3, 3)))
    return tmp_path


@pytest.mark.parametrize(("words", "sentence"), COMMANDS.values(), ids=COMMANDS)
def test_the_command_line_says_it_too(folder, words, sentence):
    called = CliRunner().invoke(app, ["run", "active-contour-saliency", "photo.png", *words])
    assert called.exit_code != 0 and "Traceback" not in called.output
    said = re.sub(r"[\s│]+", " ", called.output)  # a usage error is wrapped in a frame
    assert sentence in said
    assert not list(folder.glob("photo-*"))


def test_the_command_line_writes_what_is_asked_for(folder):
    run = ["run", "active-contour-saliency", "photo.png", "--box", "[5, 5, 20, 20]"]
    called = CliRunner().invoke(app, [*run, "-o", "mask.png", "--view", "mask"])
    assert called.exit_code == 0, called.output
    assert "The contour started at a box" in called.output
    assert set(np.unique(Image.open("mask.png"))) == {0, 255}
    called = CliRunner().invoke(app, [*run, "-o", "piece.coco.json", "--json"])
    [said] = [json.loads(line) for line in called.stdout.splitlines()]
    coco = json.loads((folder / "piece.coco.json").read_text())
    assert [one["area"] for one in said["regions"]] == [one["area"] for one in coco["annotations"]]
    assert coco["images"][0]["file_name"] == "photo.png"
    called = CliRunner().invoke(app, ["run", "active-contour-saliency", ".", "-o", "out"])
    assert called.exit_code == 0, called.output
    assert len(list((folder / "out").glob("*-active-contour-saliency.png"))) == 3


def test_a_start_beside_a_picture_is_taken_and_said(folder, square):
    Image.fromarray(255 * (square[..., 0] > 100).astype(np.uint8)).save("photo.start.png")
    called = CliRunner().invoke(app, ["run", "active-contour-saliency", "photo.png"])
    assert "Using photo.start.png as mask" in called.output and "a mask" in called.output
    called = CliRunner().invoke(app, ["run", "active-contour-saliency", ".", "--json"])
    said = [json.loads(line) for line in called.stdout.splitlines()]
    starts = {Path(one["input"]).name: one["start"] for one in said}
    assert starts["photo.png"] == "a mask" and "photo.start.png" not in starts


def test_other_starts_are_compared_in_one_call(segment, square):
    result = segment(square, compare_starts=True)
    assert result.start_overlap > 0.97 and "From other starts" in result.summary()
    assert (result.agreement[result.mask] > 0).all()
    # Without saliency it matters where a contour starts.
    unlike = segment(square, preset="lif", max_iterations=10, compare_starts=True)
    assert unlike.start_overlap < 0.5
    shares = np.unique((6 * unlike.agreement).round(4))
    assert set(shares) <= set(range(7)) and len(shares) > 3


def test_two_level_sets_have_four_phases(segment, square, tmp_path):
    picture = draw_cells()[0].crop((0, 0, 120, 120))
    result = segment(picture, preset="four_regions", max_iterations=12)
    assert set(np.unique(result.phases)) <= {0, 1, 2, 3} and result.phases.shape == (120, 120)
    means = [result.saliency[result.phases == one].mean() for one in np.unique(result.phases)]
    assert means == sorted(means)
    assert (np.asarray(result.label_picture()) == result.phases).all()
    result.save(tmp_path / "film.gif")
    assert Image.open(tmp_path / "film.gif").n_frames > 1
    assert "phases" in result.summary()
    for start in ({"box": (5, 5, 30, 30)}, {"points": (20, 20)}, {"compare_starts": True}):
        assert segment(square, preset="four_regions", max_iterations=2, **start).mask.any()
    result.save(tmp_path / "all.npz")
    assert (np.load(tmp_path / "all.npz")["phases"] == result.phases).all()


def test_polarity_makes_objects_of_the_other_kind_ground(segment):
    rows, columns = np.mgrid[:100, :130]
    dark, bright = (np.hypot(rows - 50, columns - middle) < 12 for middle in (40, 90))
    noise = np.random.default_rng(0).normal(0, 3, dark.shape)
    picture = (130 + noise - 40 * dark + 60 * bright).astype(np.uint8)
    assert overlap(segment(picture, polarity="dark").mask, dark) > 0.95
    assert overlap(segment(picture, polarity="bright").mask, bright) > 0.95


def test_a_mask_of_labels_starts_at_all_of_them_however_it_is_saved(segment, square, tmp_path):
    labels = np.zeros(SIZE, np.uint8)
    for label, column in enumerate((5, 20, 35), start=1):
        labels[10:20, column : column + 8] = label
    paletted = Image.fromarray(labels).convert("P")
    paletted.putpalette(bytes([0, 0, 0, 230, 159, 0, 0, 0, 90, 0, 158, 115]))
    paletted.save(tmp_path / "labels.png")
    ways = (labels, labels.astype(float), Image.fromarray(labels), tmp_path / "labels.png")
    for mask in ways:
        result = segment(square, mask=mask, max_iterations=1)
        assert ((result.film.fields[0] < 0) == (labels > 0)).all()
        assert "labels up to 3" in result.notes[0]
    jpeg = tmp_path / "mask.jpg"
    Image.fromarray(255 * (labels > 0).astype(np.uint8)).save(jpeg, quality=80)
    result = segment(square, mask=jpeg, max_iterations=1)
    assert overlap(result.film.fields[0] < 0, labels > 0) > 0.97 and "tones" in result.notes[0]
    clear = Image.fromarray(np.dstack([square, 255 * (labels > 0).astype(np.uint8)]))
    with pytest.raises(ValueError, match="mask is partly transparent"):
        segment(square, mask=clear)


def test_a_map_of_16_bits_keeps_its_range(segment, square, tmp_path):
    wanted = np.linspace(0, 1, SIZE[0] * SIZE[1]).reshape(SIZE)
    Image.fromarray((65535 * wanted / 4).astype(np.uint16)).save(tmp_path / "map.png")
    result = segment(square, saliency_map=tmp_path / "map.png", max_iterations=1)
    assert np.abs(result.saliency - wanted / 4).max() < 1e-4


def test_what_had_no_part_is_said_and_nothing_else(segment, square):
    own = np.zeros(SIZE, np.float32)
    own[10:30, 12:35] = 1
    assert segment(square, saliency_map=own).notes == []
    assert "saliency='ft' was not used" in segment(square, saliency_map=own, saliency="ft").notes[0]
    assert "polarity='dark' was not used" in segment(square, polarity="dark").notes[0]
    halves = np.full((60, 60), 100, np.uint8)
    halves[10:20, 10:20], halves[40:50, 40:50] = 150, 50
    unsure = "equally likely"
    assert unsure in segment(halves).summary()
    wanted = (halves > 100).astype(np.float32)
    assert unsure not in segment(halves, saliency_map=wanted).summary()


def test_things_of_the_other_kind_that_were_left_out_are_said(segment):
    picture = np.full((60, 80), 130, np.uint8)
    picture[10:25, 10:25] = picture[30:50, 30:50] = 90
    assert segment(picture).notes == []
    picture[10:20, 55:65] = 170
    result = segment(picture)
    assert "Objects brighter than the background were" in result.notes[0]
    assert overlap(result.mask, picture == 90) > 0.95
    assert overlap(segment(picture, polarity="both").mask, picture != 130) > 0.95


def test_a_grey_picture_beside_a_coloured_one_is_what_it_is_alone(segment, square):
    grey = np.full(SIZE, 130, np.uint8)
    grey[10:25, 10:25], grey[8:14, 35:41] = 90, 150
    alone = segment.model(segment.image_processor(grey)["pixel_values"]).masks[0]
    beside = segment.model(segment.image_processor([square, grey])["pixel_values"]).masks[1]
    assert torch.equal(alone, beside)
