"""The preprocessing of EfficientNet-Lite against its recipe written out."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from salhub import EfficientNetLiteConfig
from salhub.backbones.efficientnet_lite.image_processing_efficientnet_lite import (
    EfficientNetLiteImageProcessor,
)
from salhub.outputs import ImageSaliencyOutput
from salhub.processing import map_to_picture


def plain_recipe(image, size=224):
    """Centre crop, bicubic, (value - 127) / 128; the published rounding."""
    side = int(size / (size + 32) * min(image.size))
    left, top = (image.width - side + 1) // 2, (image.height - side + 1) // 2
    crop = image.crop((left, top, left + side, top + side))
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC), np.float64)
    return ((pixels - 127) / 128).transpose(2, 0, 1)


def photo(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture
def processor():
    return EfficientNetLiteImageProcessor()


def pixel_values(processor, *arguments, **settings):
    return processor(*arguments, return_tensors="pt", **settings)["pixel_values"]


@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (256, 256), (33, 57)])
@pytest.mark.parametrize("size", [224, 240, 260])
def test_it_is_the_plain_recipe(shape, size):
    processor = EfficientNetLiteImageProcessor.for_image_size(size)
    image = photo(*shape)
    values = pixel_values(processor, image)
    assert values.dtype == torch.float32
    assert np.abs(values[0].double().numpy() - plain_recipe(image, size)).max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (225, 1)])
def test_even_a_row_of_pixels_has_a_centre(processor, shape):
    middle = tuple(side // 2 for side in shape)
    image = photo(*shape)
    values = pixel_values(processor, image)[0].double().numpy()
    expected = (np.asarray(image, np.float64)[middle] - 127) / 128
    assert np.abs(values - expected[:, None, None]).max() < 1e-6


def test_any_kind_of_one_picture_gives_the_same_values(processor):
    image = photo(60, 80)
    pixels = np.array(image)
    expected = pixel_values(processor, image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    rgba = image.copy()
    rgba.putalpha(255)
    sources = [
        buffer.getvalue(),
        rgba,
        pixels,
        pixels / 255,
        pixels.astype(np.float32),
        pixels.astype(np.uint16) * 257,
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(pixels).permute(2, 0, 1) / 255,
    ]
    for source in sources:
        assert torch.equal(pixel_values(processor, source), expected)


def test_grey_deep_and_turned_pictures(processor):
    grey = photo(60, 80).convert("L")
    expected = pixel_values(processor, grey.convert("RGB"))
    assert torch.equal(pixel_values(processor, grey), expected)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert torch.equal(pixel_values(processor, deep), expected)
    turned = photo(60, 80)
    turned.getexif()[0x0112] = 6
    upright = turned.transpose(Image.Transpose.ROTATE_270)
    expected = pixel_values(processor, Image.fromarray(np.asarray(upright)))
    assert torch.equal(pixel_values(processor, turned), expected)


def test_lists_and_batches_are_their_pictures_one_by_one(processor):
    images = [photo(60, 80, seed) for seed in range(3)]
    expected = torch.cat([pixel_values(processor, image) for image in images])
    pixels = np.stack([np.asarray(image) for image in images])
    batches = [
        images,
        tuple(images),
        [images[:2], images[2:]],
        pixels,
        pixels.transpose(0, 3, 1, 2),
        pixels / 255,
        torch.from_numpy(pixels).permute(0, 3, 1, 2),
        torch.from_numpy(pixels).permute(0, 3, 1, 2).bfloat16(),
    ]
    for batch in batches:
        assert torch.equal(pixel_values(processor, batch), expected)
    mixed = pixel_values(processor, ["sample:cat", photo(300, 200), np.zeros((40, 40))])
    assert mixed.shape == (3, 3, 224, 224)


def test_a_black_picture_does_not_change_how_its_batch_is_read(processor):
    batch = np.stack([np.full((40, 40, 3), 200.0), np.ones((40, 40, 3))])
    values = pixel_values(processor, batch)
    assert values[0].mean() == pytest.approx((200 - 127) / 128, abs=1e-6)
    assert values[1].mean() == pytest.approx((1 - 127) / 128, abs=1e-6)


def test_layouts_can_be_named(processor):
    cube = photo(3, 3)
    pixels = np.asarray(cube)
    expected = pixel_values(processor, cube)
    first = pixels.transpose(2, 0, 1)
    named = {"channels_first": first, "channels_last": pixels}
    for layout, array in named.items():
        for source in (array, torch.from_numpy(array.copy())):
            assert torch.equal(pixel_values(processor, source, input_data_format=layout), expected)


def test_the_view_can_be_looked_at(processor):
    image = photo(60, 80)
    view = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    restored = plain_recipe(image) * 128 + 127
    assert np.array_equal(view["pixel_values"][0], restored)


def test_saving_and_loading(tmp_path):
    processor = EfficientNetLiteImageProcessor(size=96, crop_fraction=0.5, resample=2)
    processor.save_pretrained(tmp_path)
    loaded = EfficientNetLiteImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    image = photo(60, 80)
    assert torch.equal(pixel_values(loaded, image), pixel_values(processor, image))
    EfficientNetLiteConfig().save_pretrained(tmp_path)
    automatic = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(automatic) is EfficientNetLiteImageProcessor
    assert automatic.to_dict() == processor.to_dict()
    changed = EfficientNetLiteImageProcessor.from_pretrained(tmp_path, crop_fraction=1)
    assert changed.viewed_box((60, 80)) == (10, 0, 70, 60)


def test_it_needs_no_torchvision(processor, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert processor.backend == "pil"
    assert pixel_values(processor, "sample:cat").shape == (1, 3, 224, 224)


def test_maps_come_back_to_pictures(processor):
    maps = torch.rand(2, 7, 7)
    sizes = [(300, 451), (50, 40)]
    expected = map_to_picture(maps, processor, sizes)
    for outputs in (maps, ImageSaliencyOutput(saliency=maps)):
        for target_sizes in (sizes, torch.tensor(sizes)):
            placed = processor.post_process_saliency(outputs, target_sizes)
            for one, other in zip(placed, expected, strict=True):
                assert one.dtype == torch.float32
                assert np.array_equal(one.numpy(), other)
    # 262 of 300 rows are seen, from row 19 on.
    assert not placed[0][:19].any() and placed[0][19, 95:357].all()
    unchanged = processor.post_process_saliency(maps)
    assert torch.equal(torch.stack(unchanged), maps)
    with pytest.raises(ValueError, match="2 maps but 1 picture sizes"):
        processor.post_process_saliency(maps, [(8, 8)])


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"crop_fraction": 0}, ValueError, r"crop_fraction must be in \(0, 1\], got 0"),
        ({"crop_fraction": 1.5}, ValueError, "got 1.5"),
        ({"size": {"shortest_edge": 224}}, ValueError, "'shortest_edge': 224"),
        ({"crop_fractoin": 0.5}, TypeError, "no setting 'crop_fractoin'. Did you mean 'crop_fr"),
    ],
)
def test_bad_settings_are_refused_early_and_late(processor, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        EfficientNetLiteImageProcessor(**settings)
    with pytest.raises(error, match=sentence):
        processor("sample:cat", **settings)


def test_bad_pictures_and_contradictions_are_refused(processor):
    with pytest.raises(ValueError, match="detects pictures in \\[0, 1\\]"):
        processor("sample:cat", do_rescale=False)
    with pytest.raises(
        ValueError, match="it looks normalized for a network: pass the original picture"
    ):
        processor(np.array([[-1.0, 1.0]]))
    with pytest.raises(TypeError, match="type int"):
        processor([[1, 2]])
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.jpg'"):
        processor("nowhere.jpg")


def test_the_crop_is_the_published_one_for_every_variant():
    for size, side in {224: 437, 240: 441, 260: 445}.items():
        box = EfficientNetLiteImageProcessor.for_image_size(size).viewed_box((500, 600))
        left, top = (600 - side + 1) // 2, (500 - side + 1) // 2
        assert box == (left, top, left + side, top + side)
