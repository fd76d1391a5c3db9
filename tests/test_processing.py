"""`load_image` on every kind of picture, and maps brought back to pictures."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from salhub.processing import load_image, map_to_picture

HEIGHT, WIDTH = 6, 5
# Every pixel is different in every channel, so that no transposition goes unnoticed.
PIXELS = (np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) * 2 + 10).astype(np.uint8)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels_of(source) -> np.ndarray:
    image = load_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


PNG = encoded(Image.fromarray(PIXELS), "PNG")


@pytest.fixture
def png_file(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    return path


def test_files_bytes_and_data_uris(png_file, monkeypatch):
    monkeypatch.setenv("HOME", str(png_file.parent))
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    sources = [
        str(png_file),
        png_file,
        "~/picture.png",
        PNG,
        bytearray(PNG),
        memoryview(PNG),
        io.BytesIO(PNG),
        uri,
        uri.replace("+", "%2B"),
        Image.fromarray(PIXELS),
    ]
    for source in sources:
        assert np.array_equal(pixels_of(source), PIXELS)
    with png_file.open("rb") as file:
        assert np.array_equal(pixels_of(file), PIXELS)


def test_sample_photos():
    assert load_image("sample:cat").size == (451, 300)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS.astype(np.int64),
        PIXELS.astype(np.uint16) * 257,
        PIXELS.astype(np.uint16),
        PIXELS / 255,
        PIXELS.astype(np.float16),
        PIXELS.astype(np.float64),
        np.asfortranarray(PIXELS),
        PIXELS[::-1][::-1],
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
        (torch.from_numpy(PIXELS) / 255).requires_grad_(),
        torch.from_numpy(PIXELS).double(),
        torch.from_numpy(PIXELS).bfloat16(),
    ],
    ids=lambda array: f"{type(array).__name__}-{array.dtype}-{tuple(array.shape)}",
)
def test_arrays_and_tensors(array):
    assert np.array_equal(pixels_of(array), PIXELS)


def test_ambiguous_layouts_follow_the_habit_of_the_library():
    cube = (np.arange(27).reshape(3, 3, 3) * 9).astype(np.uint8)
    assert np.array_equal(pixels_of(cube), cube)
    assert np.array_equal(pixels_of(torch.from_numpy(cube)), cube.transpose(1, 2, 0))


def test_grey_arrays():
    grey = PIXELS[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    for array in (grey, grey[..., None], grey[None], torch.from_numpy(grey), grey / 255.0):
        assert np.array_equal(pixels_of(array), expected)
    checks = np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2 == 0
    assert np.array_equal(pixels_of(checks)[..., 1], np.where(checks, 255, 0))


def test_objects_that_can_become_arrays():
    class Frame:
        def __array__(self, dtype=None, copy=None):
            return PIXELS

    assert np.array_equal(pixels_of(Frame()), PIXELS)


def test_transparency_is_composited_on_white():
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[0, 0], alpha[0, 1] = 0, 51
    rgba = np.dstack([PIXELS, alpha])
    expected = PIXELS.astype(float)
    expected[0, 0] = 255
    expected[0, 1] = 0.2 * PIXELS[0, 1] + 0.8 * 255
    image = Image.fromarray(rgba)
    for source in (image, encoded(image, "PNG"), rgba, rgba.transpose(2, 0, 1), rgba / 255.0):
        assert np.abs(pixels_of(source) - expected).max() <= 1
    grey_alpha = np.dstack([PIXELS[..., 0], alpha])
    assert np.abs(pixels_of(grey_alpha) - _grey(expected)).max() <= 1
    assert np.abs(pixels_of(Image.fromarray(grey_alpha)) - _grey(expected)).max() <= 1


def _grey(expected: np.ndarray) -> np.ndarray:
    return np.repeat(expected[..., :1], 3, axis=2)


def test_palette_pictures_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert pixels_of(image).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    transparent = encoded(image, "PNG", transparency=1)
    assert pixels_of(transparent).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    half = encoded(image, "PNG", transparency=bytes([255, 0]))
    assert pixels_of(half).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_one_bit_grey_and_printing_colours():
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert pixels_of(bits).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert pixels_of(Image.new("L", (1, 1), 77)).tolist() == [[[77, 77, 77]]]
    cyan = Image.new("CMYK", (1, 1), (255, 0, 0, 0))
    assert pixels_of(cyan).tolist() == [[[0, 255, 255]]]
    assert np.abs(pixels_of(encoded(cyan, "JPEG")).astype(int) - [0, 255, 255]).max() <= 2
    assert pixels_of(Image.new("HSV", (1, 1), (0, 255, 255))).tolist() == [[[255, 0, 0]]]
    grey = Image.new("YCbCr", (1, 1), (90, 128, 128))
    assert pixels_of(grey).tolist() == [[[90, 90, 90]]]
    # L* = 54.29, a* = 80.81, b* = 69.89 (D50) is pure red; a* and b* are stored from 128.
    red = Image.new("LAB", (1, 1), (138, 209, 198))
    for source in (red, encoded(red, "TIFF")):
        assert np.abs(pixels_of(source).astype(int) - [255, 0, 0]).max() <= 5


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_files(file_format):
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    expected = np.repeat(PIXELS[..., :1], 3, axis=2)
    assert np.array_equal(pixels_of(encoded(Image.fromarray(deep), file_format)), expected)
    assert np.array_equal(pixels_of(Image.fromarray(deep)), expected)


def test_sixteen_bit_pictures_are_so_whatever_their_largest_value(caplog):
    dark = Image.fromarray(np.array([[0, 128, 255]], np.uint16))
    assert dark.mode == "I;16"
    for source in (dark, encoded(dark, "PNG"), encoded(dark, "TIFF")):
        # 128 of 65535 is 0.498 of 255, and 255 of 65535 is 0.992.
        assert pixels_of(source)[0, :, 0].tolist() == [0, 0, 1]
        assert "values up to 255 of 65535" in caplog.text
        caplog.clear()
    # An array has no mode: its largest value decides, as documented.
    assert pixels_of(np.array([[0, 128, 255]], np.uint16))[0, :, 0].tolist() == [0, 128, 255]
    black = pixels_of(Image.fromarray(np.zeros((2, 2), np.uint16)))
    assert not black.any() and caplog.text == ""


def test_32_bit_and_float_modes():
    expected = np.repeat(PIXELS[..., :1], 3, axis=2)
    grey = PIXELS[..., 0]
    images = [
        Image.fromarray(grey.astype(np.int32)),
        Image.fromarray(grey.astype(np.int32) * 257),
        Image.fromarray(grey.astype(np.float32)),
        Image.fromarray(grey.astype(np.float32) / 255),
    ]
    assert [image.mode for image in images] == ["I", "I", "F", "F"]
    for image in images:
        assert np.array_equal(pixels_of(image), expected)
        assert np.array_equal(pixels_of(encoded(image, "TIFF")), expected)


def test_dark_sixteen_bit_pictures_are_reported(caplog):
    twelve_bit = np.array([[0, 4095]], np.uint16)
    assert pixels_of(twelve_bit)[0, 1, 0] == 16
    assert "multiply it by 16" in caplog.text
    caplog.clear()
    load_image(np.array([[0, 1]], np.uint8))
    assert "nearly black" in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    # Where the first row and the first column of the stored pixels belong (EXIF 2.3, 4.6.4).
    turn = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=exif)
    assert np.array_equal(pixels_of(data), turn(PIXELS))
    assert np.array_equal(pixels_of(Image.open(io.BytesIO(data))), turn(PIXELS))


def test_unreadable_exif_is_ignored_with_a_warning(caplog):
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=b"Exif\x00\x00this is no TIFF header")
    assert np.array_equal(pixels_of(data), PIXELS)
    assert "orientation is ignored" in caplog.text


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("#ff0000", "#00ff00")]
    for file_format in ("GIF", "PNG", "WEBP"):
        options = {"save_all": True, "append_images": frames[1:]}
        if file_format == "WEBP":
            options["lossless"] = True
        data = encoded(frames[0], file_format, **options)
        assert pixels_of(data)[0, 0].tolist() == [255, 0, 0]


def test_a_colour_profile_changes_nothing():
    data = encoded(Image.fromarray(PIXELS), "PNG", icc_profile=b"not a profile at all")
    assert np.array_equal(pixels_of(data), PIXELS)


def test_the_source_is_never_changed_or_shared():
    source = Image.fromarray(PIXELS.copy())
    loaded = load_image(source)
    loaded.putpixel((0, 0), (0, 0, 0))
    assert np.array_equal(np.asarray(source), PIXELS)
    animation = Image.open(
        io.BytesIO(
            encoded(source, "GIF", save_all=True, append_images=[Image.new("RGB", source.size)])
        )
    )
    animation.seek(1)
    load_image(animation)
    assert animation.tell() == 1


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        (np.zeros((2, 3, 8, 8)), ValueError, "shape (2, 3, 8, 8), which is a batch"),
        (torch.zeros(1, 3, 8, 8), ValueError, "which is a batch"),
        (np.zeros(4), ValueError, "(height, width)"),
        (np.zeros((0, 5)), ValueError, "shape (0, 5)"),
        (np.zeros((8, 8, 7)), ValueError, "neither its first nor its last axis"),
        (np.full((4, 4), np.nan), ValueError, "16 NaN or infinite"),
        (np.array([[1.0, np.inf]]), ValueError, "1 NaN or infinite"),
        (np.array([[-2.1, 2.6]]), ValueError, "from -2.1 to 2.6"),
        (np.array([[0.0, 700.0]]), ValueError, "in [0, 1] or [0, 255]"),
        (np.array([[-1, 3]]), ValueError, "from -1 to 3"),
        (np.array([[0, 70000]]), ValueError, "from 0 to 70000"),
        (np.array([["a"]]), TypeError, "<U1 values"),
        (np.ones((2, 2), complex), TypeError, "complex128 values"),
        (torch.zeros(3, 4, 4, device="meta"), ValueError, "meta device"),
        (Image.new("RGB", (0, 4)), ValueError, "no pixels (0 x 4)"),
        ([PIXELS, PIXELS], TypeError, "one picture, got a list of 2; pass one of"),
        (None, TypeError, "type NoneType"),
        (3, TypeError, "type int"),
    ],
    ids=lambda value: str(value).partition(" at 0x")[0][:60],
)
def test_what_is_no_picture_is_refused_in_one_sentence(source, error, sentence):
    with pytest.raises(error) as raised:
        load_image(source)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def slow_bilinear(saliency, box, height, width):
    """Each pixel looked up on its own, in float64."""
    left, top, right, bottom = box
    rows, columns = saliency.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            if not (left <= x + 0.5 < right and top <= y + 0.5 < bottom):
                continue
            u = (x + 0.5 - left) / (right - left) * columns - 0.5
            v = (y + 0.5 - top) / (bottom - top) * rows - 0.5
            u, v = min(max(u, 0), columns - 1), min(max(v, 0), rows - 1)
            i, j = min(int(v), rows - 2), min(int(u), columns - 2)
            a, b = v - i, u - j
            result[y, x] = (1 - a) * ((1 - b) * saliency[i, j] + b * saliency[i, j + 1]) + a * (
                (1 - b) * saliency[i + 1, j] + b * saliency[i + 1, j + 1]
            )
    return result


class BoxProcessor:
    """A processor that only says where it looks."""

    def __init__(self, *box):
        self.box = box

    def viewed_box(self, picture_size):
        return self.box


@pytest.mark.parametrize(
    "box",
    [(0, 0, 40, 30), (5.3, 2.6, 33.7, 29.9), (-4.5, -3, 44.25, 36), (12, 8, 26, 22)],
)
def test_maps_are_placed_bilinearly_and_zero_outside(box):
    saliency = np.random.default_rng(0).normal(size=(7, 9))
    [placed] = map_to_picture(saliency[None], BoxProcessor(*box), [(30, 40)])
    assert placed.dtype == np.float32
    assert np.abs(placed - slow_bilinear(saliency, box, 30, 40)).max() < 1e-5


def test_small_pictures_get_averages_of_the_map():
    stripes = np.tile([0.0, 1.0], 112)[None].repeat(224, axis=0)
    [placed] = map_to_picture(stripes[None], None, [(28, 28)])
    # Picking single cells would give all 0 or all 1.
    assert np.abs(placed[:, 2:-2] - 0.5).max() < 0.05


def test_a_batch_of_maps_for_several_classes_and_sizes():
    maps = torch.rand(2, 3, 7, 7)
    sizes = [(10, 20), (21, 14)]
    placed = map_to_picture(maps, None, sizes)
    assert [one.shape for one in placed] == [(3, 10, 20), (3, 21, 14)]
    for item, size in enumerate(sizes):
        for label in range(3):
            [single] = map_to_picture(maps[item, label][None], None, [size])
            assert np.array_equal(placed[item][label], single)


def test_half_precision_and_gradients_are_accepted():
    maps = torch.rand(1, 4, 4)
    [expected] = map_to_picture(maps.bfloat16().float(), None, [(8, 8)])
    [placed] = map_to_picture(maps.bfloat16().requires_grad_(), None, [(8, 8)])
    assert np.array_equal(placed, expected)


@pytest.mark.parametrize(
    ("maps", "sizes", "sentence"),
    [
        (torch.zeros(7, 7), [(8, 8)], "got (7, 7)"),
        (torch.zeros(1, 7, 7), [(8, 8), (8, 8)], "1 maps but 2 picture sizes"),
        (torch.full((1, 7, 7), torch.nan), [(8, 8)], "NaN"),
        (torch.zeros(1, 7, 7), [(0, 8)], "got (0, 8)"),
        (torch.zeros(1, 7, 7), [(8.5, 8)], "got (8.5, 8)"),
        (torch.zeros(1, 7, 7), [(8, 8, 3)], "got (8, 8, 3)"),
    ],
)
def test_maps_that_cannot_be_placed_are_refused(maps, sizes, sentence):
    with pytest.raises(ValueError) as raised:
        map_to_picture(maps, None, sizes)
    assert sentence in str(raised.value)
