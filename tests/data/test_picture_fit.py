"""How pictures of all shapes are brought to a network, and that nothing of them is lost."""

import numpy as np
import pytest
import torch
from PIL import Image

from salhub.backbones.efficientnet_lite.image_processing_efficientnet_lite import (
    EfficientNetLiteImageProcessor,
)
from salhub.data.picture_fit import MOST_PIXELS, FittedPicture, PictureFitter

SIZES = [(451, 300), (300, 451), (256, 256), (8, 8), (1000, 100), (30, 900), (3, 2000)]


def convnext(edge=32):
    from transformers.models.convnext.image_processing_pil_convnext import (
        ConvNextImageProcessorPil,
    )

    return ConvNextImageProcessorPil(size={"shortest_edge": edge}, crop_pct=0.875)


def centre_crop(edge=40, side=32):
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

    return DeiTImageProcessorPil(
        size={"shortest_edge": edge}, crop_size={"height": side, "width": side}
    )


def squeezing(side=32, **settings):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": side, "width": side}, **settings)


PROCESSORS = {
    "ours": EfficientNetLiteImageProcessor,
    "convnext": convnext,
    "centre_crop": centre_crop,
    "squeezing": squeezing,
}


def gradient(width, height):
    """A picture whose red says how far right, and whose green how far down a pixel is."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([red, green, 0 * red], axis=-1).round().astype(np.uint8))


def shares(fitted, processor):
    """Where the network's pixels are from, as shares of the picture, and where there are bars."""
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (processor.image_mean, processor.image_std)
    )
    colors = fitted.pixel_values[0] * std + mean
    return colors[0], colors[2] > 0.1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("takes_any_size", [True, False])
def test_all_of_a_picture_is_seen_where_the_box_says(kind, size, takes_any_size):
    processor = PROCESSORS[kind]()
    picture = gradient(*size)
    fitter = PictureFitter(processor)
    fitted = fitter.whole(picture, lambda crop: takes_any_size)
    left, top, right, bottom = fitted.box
    assert left <= 0.5 and top <= 0.5
    assert right >= picture.width - 0.5 and bottom >= picture.height - 0.5
    usual = fitter.crop(picture).size
    assert fitted.size[0] * fitted.size[1] <= MOST_PIXELS * usual[0] * usual[1]
    if min(picture.size) / max(picture.size) * max(fitted.size) < 3 or min(picture.size) < 30:
        return  # too few pixels to tell where one is from
    across, bars = shares(fitted, processor)
    expected = left + (np.arange(fitted.size[1]) + 0.5) * (right - left) / fitted.size[1]
    inside = (~bars).any(dim=0).numpy() & (expected > 0) & (expected < picture.width)
    row = int((~bars).any(dim=1).float().argmax()) + int((~bars).any(dim=1).sum()) // 2
    error = np.abs(across[row].numpy() * picture.width - expected)[inside]
    assert error.max() <= 0.03 * picture.width + 2 * (right - left) / fitted.size[1]


def test_the_shorter_side_of_a_whole_picture_is_that_of_a_crop():
    fitter = PictureFitter(EfficientNetLiteImageProcessor())
    sizes = {(451, 300): (224, 352), (300, 451): (352, 224), (9, 9): (224, 224)}
    for size, expected in sizes.items():
        fitted = fitter.whole(gradient(*size), lambda crop: True)
        assert (fitted.fit, fitted.size) == ("whole", expected)


def test_sides_are_what_strides_and_patches_divide():
    ours = PictureFitter(EfficientNetLiteImageProcessor())
    assert ours.stride((224, 224)) == 32 and ours.stride((260, 260)) == 4
    assert PictureFitter(None, patch_size=14).stride((224, 224)) == 14
    assert PictureFitter(None, patch_size=16).stride((224, 224)) == 32


def test_what_the_processor_does_already_stays():
    squeezed = PictureFitter(squeezing()).whole(gradient(80, 40), lambda crop: True)
    assert squeezed.fit == "squeeze" and squeezed.box == (0, 0, 80, 40)
    square = PictureFitter(squeezing()).whole(gradient(40, 40), lambda crop: True)
    assert square.fit == "whole"
    crop = PictureFitter(centre_crop()).crop(gradient(80, 40))
    assert crop.fit == "crop" and crop.size == (32, 32)


def test_bars_have_the_mean_colour_inside_the_bounds():
    processor = centre_crop()
    fitted = PictureFitter(processor).whole(Image.new("RGB", (90, 30), "white"), lambda crop: False)
    assert fitted.fit == "letterbox" and fitted.size == (32, 32)
    top_row = fitted.pixel_values[0, :, 0, 0]
    # Bytes round by up to half of 1 / 255, which normalisation divides by the deviation.
    assert top_row.abs().max() < 0.5 / 255 / min(processor.image_std) + 1e-3


def test_a_processor_without_the_settings_is_given_bars():
    class Stubborn(type(centre_crop())):
        def __call__(self, images, return_tensors=None):
            return super().__call__(images, return_tensors=return_tensors)

    processor = Stubborn(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    assert PictureFitter(processor).whole(gradient(90, 45), lambda crop: True).fit == "letterbox"


def test_a_panorama_takes_no_canvas_of_its_own_length():
    picture = Image.new("RGB", (24_000, 2_400), "blue")
    fitted = PictureFitter(centre_crop()).whole(picture, lambda crop: False)
    assert fitted.fit == "letterbox"
    left, top, right, bottom = fitted.box
    assert right - left >= 24_000 and bottom - top >= 24_000 * 0.98


def test_a_grey_network_is_given_grey_pictures():
    colours = Image.merge("RGB", [Image.new("L", (40, 40), value) for value in (255, 0, 0)])
    alike = PictureFitter(squeezing(), num_channels=1).crop(colours)
    assert alike.pixel_values.shape == (1, 1, 32, 32)
    single = PictureFitter(squeezing(image_mean=[0.5], image_std=[0.5]), num_channels=1)
    assert torch.allclose(single.crop(colours).pixel_values, alike.pixel_values, atol=1e-5)
    # Red is 76 of 255 in grey.
    assert float(alike.pixel_values.mean()) == pytest.approx(76 / 255 * 2 - 1, abs=1e-3)
    with pytest.raises(
        ValueError, match="The network needs grey pictures of 1 channel, but its image"
    ):
        colourful = squeezing(image_mean=[0.48, 0.45, 0.41], image_std=[0.2, 0.2, 0.2])
        PictureFitter(colourful, num_channels=1).crop(colours)


def test_enlargement_is_pixels_of_the_network_for_one_of_the_picture():
    fitted = FittedPicture(torch.zeros(1, 3, 10, 40), (0.0, 0.0, 20.0, 20.0), "squeeze")
    assert fitted.enlargement == (0.5, 2.0)
