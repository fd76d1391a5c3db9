"""The sheet of generated pictures: where they lie, and how they are drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from salhub.backbones.conditional_unet.sampling import (
    as_bytes,
    draw_sample_sheet,
    sample,
    save_sample_sheet,
    sheet_of,
)
from tests.backbones.test_conditional_unet import network


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-1.5, -1.0, 0.0, 0.004, 1.0, 3.0])
    assert as_bytes(values).tolist() == [0, 0, 128, 128, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_bytes(every.float() / 127.5 - 1), every)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 3])
def test_pictures_lie_row_by_row_on_white(channels, scale):
    bytes_of = torch.randint(256, (5, channels, 4, 4), dtype=torch.uint8)
    image = sheet_of(bytes_of.float() / 127.5 - 1, columns=3, scale=scale)
    assert image.mode == ("L" if channels == 1 else "RGB")
    assert image.size == (scale * 16, scale * 10)
    array = np.asarray(image).reshape(10 * scale, 16 * scale, channels)[::scale, ::scale]
    is_picture = np.zeros((10, 16), dtype=bool)
    for index, picture in enumerate(bytes_of.numpy()):
        top, left = 6 * (index // 3), 6 * (index % 3)
        found = array[top : top + 4, left : left + 4]
        assert np.array_equal(found, picture.transpose(1, 2, 0))
        is_picture[top : top + 4, left : left + 4] = True
    assert (array[~is_picture] == 255).all()


def test_a_column_begins_with_the_same_noise(tmp_path):
    model = network()
    save_sample_sheet(model, tmp_path / "a.png", columns=2, num_steps=2, seed=5, scale=1)
    array = np.asarray(Image.open(tmp_path / "a.png"))
    for label in range(3):
        generator = torch.Generator().manual_seed(5)
        pictures = sample(model, torch.full((2,), label), 2, 2.0, generator=generator)
        for column, picture in enumerate(as_bytes(pictures)):
            top, left = 10 * label, 10 * column
            found = array[top : top + 8, left : left + 8]
            assert np.array_equal(found, picture[0].numpy())


def test_models_of_few_classes_asked_for_or_few_steps():
    model = network(num_train_timesteps=3)  # fewer than a sheet takes otherwise
    assert draw_sample_sheet(model, rows=1, columns=2).size == (2 * 18, 2 * 8)
