"""Pictures and labels through one geometry: what is at a place stays at that place."""

import numpy as np
import pytest
import torch

from salhub.models.rep_mtl.configuration_rep_mtl import Task
from salhub.models.rep_mtl.image_processing_rep_mtl import RepMTLImageProcessor
from salhub.models.rep_mtl.joint_geometry import cropped, mirrored, resized
from salhub.models.rep_mtl.rooms import render_room

TASKS = [
    Task("parts", "segmentation", 6),
    Task("depth", "depth"),
    Task("normals", "normals"),
    Task("scene", "classification", 3),
]


def marked(rows=12, columns=16):
    """A picture whose red says its row, whose green says its column, and labels that do too."""
    y, x = np.mgrid[:rows, :columns]
    picture = np.stack([20 * y, 15 * x, 0 * x], -1).astype(np.uint8)
    labels = {
        "parts": ((y // 4) * 2 + x // 8).astype(np.uint8),
        "depth": (1 + y + x / 100).astype(np.float32),
        "normals": np.stack([x + 1, y + 1, 1 + 0 * x]).astype(np.float32),
        "scene": 2,
    }
    return picture, labels


def prepared(size, **options):
    picture, labels = marked()
    processor = RepMTLImageProcessor(
        size={"height": size[0], "width": size[1]}, image_mean=[0] * 3, image_std=[1] * 3
    )
    generator = torch.Generator().manual_seed(0)
    found = processor.with_labels(
        [picture], {name: [one] for name, one in labels.items()}, TASKS, generator=generator,
        **options,
    )  # fmt: skip
    pixels = (found["pixel_values"][0] * 255).round()
    return pixels, {name: one[0] for name, one in found["labels"].items()}


def test_at_its_own_size_everything_stays():
    picture, labels = marked()
    pixels, found = prepared((12, 16))
    np.testing.assert_array_equal(pixels.numpy(), picture.transpose(2, 0, 1))
    for name, one in labels.items():
        np.testing.assert_array_equal(found[name].numpy(), one)
    assert found["parts"].dtype == found["scene"].dtype == torch.int64


def test_mirrored_together():
    picture, labels = marked()
    pixels, found = prepared((12, 16), flip_probability=1.0)
    np.testing.assert_array_equal(pixels.numpy(), picture[:, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(found["parts"].numpy(), labels["parts"][:, ::-1])
    np.testing.assert_array_equal(found["depth"].numpy(), labels["depth"][:, ::-1])
    turned = labels["normals"][:, :, ::-1] * np.array([-1, 1, 1])[:, None, None]
    np.testing.assert_array_equal(found["normals"].numpy(), turned)
    assert int(found["scene"]) == 2


def test_a_mirrored_room_has_the_normals_of_a_mirrored_surface():
    """Normals from the neighbours' depths, before and after."""
    room = render_room(0, 3)
    images = torch.from_numpy(room.picture.copy()).permute(2, 0, 1)[None]
    labels = {"depth": torch.from_numpy(room.depth)[None],
              "normals": torch.from_numpy(room.normals)[None]}  # fmt: skip
    _, found = mirrored(images, labels, TASKS, torch.ones(1, dtype=torch.bool))

    def slopes(maps):
        return (maps["depth"][0, :, 2:] - maps["depth"][0, :, :-2])[
            maps["normals"][0, 1, :, 1:-1] > 0.9
        ]

    # On the floor depth falls towards where the normal points, whichever side that is.
    assert torch.allclose(slopes(found).sum(), -slopes(labels).sum(), rtol=1e-4)
    assert torch.equal(found["normals"][0, 0].flip(-1), -labels["normals"][0, 0])


@pytest.mark.parametrize("size", [(6, 8), (24, 32), (7, 9)])
def test_resized_together(size):
    pixels, found = prepared(size)
    rows = (torch.arange(size[0]) + 0.5) * 12 / size[0]
    columns = (torch.arange(size[1]) + 0.5) * 16 / size[1]
    expected = 1 + rows.floor()[:, None] + columns.floor()[None] / 100
    torch.testing.assert_close(found["depth"], expected)
    # Labels lie where the picture says, to within the pixels that were mixed.
    assert float((pixels[0, 1:-1] / 20 + 1 - found["depth"].floor()[1:-1]).abs().max()) <= 1.0
    assert set(found["parts"].flatten().tolist()) == set(range(6))


def test_cropped_together():
    pixels, found = prepared((12, 16), least_crop=0.5)
    rows = pixels[0] / 20
    zoom = float(found["depth"].max() - found["depth"].min()) / 11
    assert 0.4 < zoom < 1
    side = float((rows.max() - rows.min()) / 11)
    # Depths are those of a nearer camera, and lie where the picture says.
    depth = found["depth"] / (depth_scale := float(found["depth"][5, 5] / (1 + rows[5, 5])))
    assert depth_scale == pytest.approx(side, abs=0.15)
    assert float((depth[1:-1, 1:-1] - 1 - rows[1:-1, 1:-1]).abs().mean()) < 0.6
    boxes = torch.tensor([[0.25, 0.5, 0.5]])
    picture, labels = marked(8, 8)
    images = torch.from_numpy(picture).permute(2, 0, 1)[None]
    maps = {"parts": torch.from_numpy(labels["parts"]).long()[None]}
    _, cut = cropped(images, maps, TASKS, boxes)
    assert torch.equal(cut["parts"][0], resized(maps["parts"][:, 4:, 2:6], (8, 8))[0])


def test_classes_that_do_not_count_survive():
    labels = torch.full((1, 6, 6), 255)
    labels[:, :3] = 1
    _, cut = cropped(
        torch.zeros(1, 3, 6, 6), {"parts": labels}, TASKS, torch.tensor([[0.1, 0.1, 0.8]])
    )
    assert set(cut["parts"].flatten().tolist()) == {1, 255}


def test_it_is_saved_with_its_settings(tmp_path):
    RepMTLImageProcessor(size={"height": 20, "width": 30}).save_pretrained(tmp_path)
    loaded = RepMTLImageProcessor.from_pretrained(tmp_path)
    assert (loaded.size.height, loaded.size.width) == (20, 30)
    assert loaded("sample:cat", return_tensors="pt")["pixel_values"].shape == (1, 3, 20, 30)


def test_maps_come_back_to_the_picture():
    maps = torch.arange(4.0).view(1, 1, 2, 2).expand(1, 3, 2, 2)  # of three tasks
    [found] = RepMTLImageProcessor().post_process_saliency(maps, [(20, 40)])
    assert found.shape == (3, 20, 40)
    assert [float(found[1, y, x]) for y in (0, -1) for x in (0, -1)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "options", "sentence"),
    [
        ({"part": [np.zeros((12, 16))]}, {}, "no task 'part'"),
        ({"depth": []}, {}, "0 labels for 1 pictures"),
        ({"depth": [np.zeros((12, 15))]}, {}, "shape of its picture, .12, 16., got .12, 15."),
        ({"parts": [np.zeros((12, 16))]}, {}, "must hold whole numbers, got float64"),
        ({}, {"least_crop": 0}, "least_crop in .0, 1."),
    ],
)
def test_bad_labels_are_refused(labels, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        RepMTLImageProcessor().with_labels([marked()[0]], labels, TASKS, **options)
