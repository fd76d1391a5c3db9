"""Where a processor looks, checked with bright spots sent through the real thing."""

import numpy as np
import pytest
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import (
    EfficientNetImageProcessorPil,
)
from transformers.models.levit.image_processing_pil_levit import LevitImageProcessorPil
from transformers.models.mobilenet_v1.image_processing_pil_mobilenet_v1 import (
    MobileNetV1ImageProcessorPil,
)
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import (
    MobileNetV2ImageProcessorPil,
)
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.perceiver.image_processing_pil_perceiver import PerceiverImageProcessorPil
from transformers.models.poolformer.image_processing_pil_poolformer import (
    PoolFormerImageProcessorPil,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from salhub.backbones.efficientnet_lite.image_processing_efficientnet_lite import (
    EfficientNetLiteImageProcessor,
)
from salhub.processing import map_to_picture, viewed_box

# ResNet ships with ConvNeXT's processor, Swin with ViT's.
PROCESSORS = {
    "lite": EfficientNetLiteImageProcessor(),
    "lite_uncropped": EfficientNetLiteImageProcessor(do_center_crop=False),
    "vit_and_swin": ViTImageProcessorPil(),
    "deit": DeiTImageProcessorPil(),
    "convnext_and_resnet": ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875),
    "convnext_384": ConvNextImageProcessorPil(),
    "mobilenet_v1": MobileNetV1ImageProcessorPil(),
    "mobilenet_v2": MobileNetV2ImageProcessorPil(),
    "bit": BitImageProcessorPil(),
    "clip": CLIPImageProcessorPil(),
    "beit_cropped": BeitImageProcessorPil(size={"height": 256, "width": 288}, do_center_crop=True),
    "longest_edge": BitImageProcessorPil(
        size={"shortest_edge": 300, "longest_edge": 333}, do_center_crop=False
    ),
    "at_most": BitImageProcessorPil(
        size={"max_height": 200, "max_width": 210}, do_center_crop=False
    ),
    "efficientnet": EfficientNetImageProcessorPil(),
    "mobilevit_bgr_padded": MobileViTImageProcessorPil(),
    "levit_measured": LevitImageProcessorPil(),
    "poolformer_measured": PoolFormerImageProcessorPil(),
    "perceiver_measured": PerceiverImageProcessorPil(),
}
SIZES = [(300, 451), (640, 427), (90, 120)]


def spot(height, width, y, x, side):
    """Black picture with a bright square around the corner point (x, y)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y - side : y + side, x - side : x + side] = 255
    return Image.fromarray(pixels)


def seen(processor, picture):
    pixel_values = processor(images=picture, return_tensors="np")["pixel_values"]
    return np.asarray(pixel_values, np.float64)[0].mean(axis=0)


def centre_of_mass(values):
    weights = np.maximum(values, 0.2 * values.max())
    weights = weights - weights.min()
    rows, columns = np.indices(values.shape) + 0.5
    return (weights * rows).sum() / weights.sum(), (weights * columns).sum() / weights.sum()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_bright_spot_lands_where_the_box_says(name, size):
    processor = PROCESSORS[name]
    height, width = size
    left, top, right, bottom = viewed_box(processor, size)
    black = seen(processor, Image.new("RGB", (width, height)))
    # Shares of what is both in the picture and in the box.
    inner = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    for across, down in [(0.5, 0.5), (0.25, 0.7), (0.8, 0.2)]:
        x = round(inner[0] + across * (inner[2] - inner[0]))
        y = round(inner[1] + down * (inner[3] - inner[1]))
        shown = seen(processor, spot(height, width, y, x, max(2, min(size) // 30))) - black
        row, column = centre_of_mass(shown)
        found_x = left + column / shown.shape[1] * (right - left)
        found_y = top + row / shown.shape[0] * (bottom - top)
        # A quarter of a pixel of the coarser of the two grids.
        assert abs(found_x - x) < 0.25 * max(1, (right - left) / shown.shape[1])
        assert abs(found_y - y) < 0.25 * max(1, (bottom - top) / shown.shape[0])


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_edges_of_the_box_are_the_edges_of_the_view(name):
    """A picture that is bright only outside of the box is dark for the network."""
    processor = PROCESSORS[name]
    for height, width in SIZES:
        left, top, right, bottom = viewed_box(processor, (height, width))
        rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
        # Resizing reads a few pixels beyond the crop.
        reach = 2.5 * max(1, (right - left) / 224)
        inside = (rows > top - reach) & (rows < bottom + reach)
        inside = inside[:, None] & ((columns > left - reach) & (columns < right + reach))
        frame = Image.fromarray(np.where(inside, 0, 255).astype(np.uint8)).convert("RGB")
        black = Image.new("RGB", (width, height))
        assert np.abs(seen(processor, frame) - seen(processor, black)).max() < 0.05


@pytest.mark.parametrize("name", ["lite", "vit_and_swin", "convnext_and_resnet", "mobilenet_v2"])
def test_what_the_network_sees_comes_back_to_its_place(name):
    processor = PROCESSORS[name]
    for height, width in SIZES:
        left, top, right, bottom = viewed_box(processor, (height, width))
        x, y = round(0.3 * left + 0.7 * right), round(0.6 * top + 0.4 * bottom)
        picture = spot(height, width, y, x, max(2, min(height, width) // 30))
        shown = seen(processor, picture) - seen(processor, Image.new("RGB", (width, height)))
        [placed] = map_to_picture(shown[None], processor, [(height, width)])
        expected = np.asarray(picture)[..., 0] / 255
        assert np.corrcoef(placed.ravel(), expected.ravel())[0, 1] > 0.9
        rows, columns = np.indices((height, width)) + 0.5
        outside = (columns < left) | (columns > right) | (rows < top) | (rows > bottom)
        assert not placed[outside].any()


def test_measured_and_computed_boxes_agree():
    class Renamed(MobileNetV2ImageProcessorPil):
        """Unknown by name, so it is measured."""

    for size in [*SIZES, (1200, 1000)]:
        computed = viewed_box(PROCESSORS["mobilenet_v2"], size)
        measured = viewed_box(Renamed(), size)
        network_pixel = (computed[2] - computed[0]) / 224
        assert np.abs(np.subtract(computed, measured)).max() < 0.5 * max(0.5, network_pixel)


def test_padding_makes_the_box_larger_than_the_picture():
    left, top, right, bottom = viewed_box(PROCESSORS["mobilevit_bgr_padded"], (300, 451))
    assert top < 0 and bottom > 300
    assert left > 0 and right < 451

    class PaddedBelow(BitImageProcessorPil):
        def _preprocess(self, images, **kwargs):
            out = super()._preprocess(images, **{**kwargs, "return_tensors": "np"})["pixel_values"]
            return BatchFeature({"pixel_values": np.pad(out, [(0, 0), (0, 0), (0, 56), (0, 0)])})

    box = viewed_box(PaddedBelow(), (300, 300))
    assert np.abs(np.subtract(box, (0, 0, 300, 375))).max() < 1


def test_a_processor_that_cannot_be_undone_is_refused():
    class Turned(BitImageProcessorPil):
        def _preprocess(self, images, **kwargs):
            return super()._preprocess([image[:, ::-1] for image in images], **kwargs)

    class Tiles(BitImageProcessorPil):
        def _preprocess(self, images, **kwargs):
            return super()._preprocess([images[0], images[0]], **kwargs)

    class Twisted(BitImageProcessorPil):
        def _preprocess(self, images, **kwargs):
            turned = [np.ascontiguousarray(image.swapaxes(1, 2)) for image in images]
            return super()._preprocess(turned, **kwargs)

    for processor in (Turned(), Tiles(), Twisted()):
        with pytest.raises(ValueError) as raised:
            viewed_box(processor, (200, 200))
        assert type(processor).__name__ in str(raised.value)
        assert "viewed_box((height, width))" in str(raised.value)


def test_a_processor_inside_a_multimodal_one_is_found():
    class Multimodal:
        image_processor = PROCESSORS["clip"]

    assert viewed_box(Multimodal(), (300, 451)) == viewed_box(PROCESSORS["clip"], (300, 451))


def test_settings_that_change_the_view_are_followed():
    class Plain(PilBackend):
        size = {"height": 50, "width": 60}
        do_resize = True

    assert viewed_box(Plain(), (300, 451)) == (0, 0, 451, 300)
    cropped = Plain(do_resize=False, do_center_crop=True, crop_size={"height": 100, "width": 51})
    assert viewed_box(cropped, (300, 451)) == (200, 100, 251, 200)
    assert viewed_box(None, (300, 451)) == (0, 0, 451, 300)
