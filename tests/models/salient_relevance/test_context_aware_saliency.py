"""The saliency of patches against the plain formula, written out with scipy distances."""

import logging
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial.distance import cdist

from salhub.models.salient_relevance.context_aware_saliency import context_aware_saliency
from salhub.ops.lab_color import srgb_to_lab


def plain_patches(picture, scale, patch=7, stride=3):
    """Patch vectors and centres (in larger sides of the picture) of one scale."""
    _, height, width = picture.shape
    size = (round(height * scale), round(width * scale))
    scaled = F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0].numpy()
    vectors, centres = [], []
    for top in range(0, size[0] - patch + 1, stride):
        for left in range(0, size[1] - patch + 1, stride):
            vectors.append(scaled[:, top : top + patch, left : left + patch].ravel())
            y, x = (top + patch / 2) / size[0] * height, (left + patch / 2) / size[1] * width
            centres.append((y / max(height, width), x / max(height, width)))
    grid = ((size[0] - patch) // stride + 1, (size[1] - patch) // stride + 1)
    return np.array(vectors), np.array(centres), grid, size


def stretch(values):
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 1e-6 else np.zeros_like(values)


def plain_map(picture, scales=(1.0, 0.8, 0.5, 0.3), queries=(1.0, 0.5, 0.25), neighbors=64):
    """S-hat and S-bar of a (3, H, W) picture in L*a*b*, one patch at a time, in float64."""
    _, height, width = picture.shape
    contexts, focused = [], []
    for scale in scales:
        vectors, centres, grid, size = plain_patches(picture, scale)
        parts = [plain_patches(picture, scale * q) for q in queries if scale * q >= 0.2 - 1e-9]
        color = np.hstack([cdist(vectors, part[0]) for part in parts])
        position = np.hstack([cdist(centres, part[1]) for part in parts])
        distance = color / color.max() / (1 + 3 * position)
        saliency = np.empty(len(vectors))
        for i in range(len(vectors)):
            others = np.delete(distance[i], i)  # the patch itself is candidate i of the first scale
            saliency[i] = 1 - np.exp(-np.sort(others)[:neighbors].mean())
        rows = ((np.arange(height) + 0.5) / height * size[0] - 3.5) / 3
        cols = ((np.arange(width) + 0.5) / width * size[1] - 3.5) / 3
        where = np.meshgrid(rows, cols, indexing="ij")
        full = map_coordinates(stretch(saliency).reshape(grid), where, order=1, mode="nearest")
        foci = distance_transform_edt(~((full > 0.8) | (full == full.max())))
        contexts.append(full)
        focused.append(full * (1 - foci / max(foci.max(), 1)))
    return stretch(np.mean(focused, axis=0)), np.mean(contexts, axis=0)


def disc(height, width, centre_y, centre_x, radius=9, color=(0.9, 0.1, 0.1)):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2
    return torch.where(inside, torch.tensor(color)[:, None, None], torch.full((3, 1, 1), 0.5))


def textured(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 11, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 1)


@pytest.mark.parametrize("picture", [textured(60, 73), disc(64, 64, 40, 20), disc(96, 72, 20, 50)])
def test_equals_the_plain_formula(picture):
    found = context_aware_saliency(picture, max_side=None)
    saliency, context = plain_map(srgb_to_lab(picture.double()))
    np.testing.assert_allclose(found.saliency.numpy(), saliency, atol=1e-4)
    np.testing.assert_allclose(found.context_saliency.numpy(), context, atol=1e-4)
    np.testing.assert_array_equal(found.attended_mask.numpy(), found.saliency.numpy() > 0.8)


def test_a_heat_map_is_a_grey_picture_whatever_its_unit():
    heat = textured(56, 50)[0]
    stretched = (heat - heat.min()) / (heat.max() - heat.min())
    expected, _ = plain_map(srgb_to_lab(stretched.double().expand(3, -1, -1)))
    found = context_aware_saliency(heat * 1e-7 - 4e-8, max_side=None)
    np.testing.assert_allclose(found.saliency.numpy(), expected, atol=1e-4)


def test_photograph_equals_the_plain_formula(imagenet_sample):
    from PIL import Image

    photo = sorted(p for p in imagenet_sample.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    picture = np.asarray(Image.open(photo[0]).convert("RGB").resize((112, 112)))
    picture = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    saliency, context = plain_map(srgb_to_lab(picture.double() / 255))
    found = context_aware_saliency(picture, max_side=None)
    np.testing.assert_allclose(found.saliency.numpy(), saliency, atol=1e-4)
    np.testing.assert_allclose(found.context_saliency.numpy(), context, atol=1e-4)


@pytest.mark.parametrize("centre", [(112, 60), (60, 160)])
def test_one_disc_is_found_where_it_is(centre):
    saliency = context_aware_saliency(disc(224, 224, *centre, radius=20)).saliency
    y, x = divmod(int(saliency.argmax()), 224)
    assert (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= 20**2
    assert float(saliency[:20].mean()) < 0.5 * float(saliency.max())


def test_two_equal_discs_are_equally_salient():
    picture = torch.where(
        torch.arange(160) < 80, disc(160, 160, 80, 40, 14), disc(160, 160, 80, 119, 14)
    )
    saliency = context_aware_saliency(picture, max_side=None).saliency
    left, right = float(saliency[:, :80].max()), float(saliency[:, 80:].max())
    assert abs(left - right) <= 0.1 * max(left, right)


@pytest.mark.parametrize("picture", [torch.full((3, 50, 50), 0.3), torch.zeros(50, 50)])
def test_constant_picture_gives_zeros_and_says_so(picture):
    found = context_aware_saliency(picture)
    assert bool(found.degenerate)
    assert not bool(found.attended_mask.any())
    for part in (found.saliency, found.context_saliency):
        assert float(part.abs().max()) == 0.0


def test_batch_equals_singles_and_chunks_do_not_matter():
    pictures = torch.stack((disc(64, 60, 20, 20), textured(64, 60), torch.full((3, 64, 60), 0.5)))
    batch = context_aware_saliency(pictures, max_side=None)
    assert batch.degenerate.tolist() == [False, False, True]
    for index, picture in enumerate(pictures):
        single = context_aware_saliency(picture, max_side=None, chunk_size=31)
        for name in ("saliency", "context_saliency"):
            torch.testing.assert_close(
                getattr(batch, name)[index], getattr(single, name), atol=1e-5, rtol=0
            )


def test_result_has_the_size_of_the_picture_and_leaves_it_alone():
    picture = disc(150, 300, 75, 200, 25)
    before = picture.clone()
    with torch.inference_mode():
        found = context_aware_saliency(picture, max_side=112)
    assert found.saliency.shape == (150, 300)
    assert found.saliency.dtype == torch.float32
    assert float(found.saliency.max()) == 1.0
    assert float(found.saliency.min()) == 0.0
    assert int(found.saliency.argmax()) % 300 > 150
    torch.testing.assert_close(picture, before, atol=0, rtol=0)


def test_settings_change_what_they_name():
    picture = textured(64, 64)
    default = context_aware_saliency(picture, max_side=None)
    for changed in (
        {"center_prior": True},
        {"color_space": "raw"},
        {"color_normalizer": 700.0},
        {"foci_normalizer": "side"},
        {"neighbors": 8},
        {"position_weight": 0.0},
        {"scales": (1.0, 0.5)},
        {"query_scales": (1.0,)},
        {"stride": 2},
    ):
        other = context_aware_saliency(picture, max_side=None, **changed)
        assert not torch.allclose(other.saliency, default.saliency, atol=1e-4), changed


def test_small_picture_drops_the_scales_it_has_no_patches_for(caplog):
    picture = disc(20, 20, 9, 9, radius=3)
    with caplog.at_level(logging.WARNING, logger="salhub"):
        found = context_aware_saliency(picture, max_side=None)
    assert [record for record in caplog.records if "scale 0.3" in record.getMessage()]
    assert bool(found.saliency.isfinite().all())
    with pytest.raises(ValueError, match="too small for patches of 7"):
        context_aware_saliency(torch.rand(3, 6, 30), max_side=None)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(4, 32, 32), "alpha channel"),
        (torch.rand(2, 4, 32, 32), "alpha channel"),
        (torch.rand(32, 32, 3), "channels first"),
        (torch.rand(6, 32, 32), r"use \(B, 1, H, W\)"),
        (torch.rand(32), "shape"),
        (torch.rand(3, 32, 32) * 255, "divide by 255"),
        (torch.full((32, 32), torch.nan), "NaN"),
    ],
)
def test_pictures_that_cannot_be_used(image, message):
    with pytest.raises(ValueError, match=message):
        context_aware_saliency(image)


def test_an_array_is_refused():
    with pytest.raises(TypeError, match="ndarray"):
        context_aware_saliency(np.zeros((32, 32)))


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 0},
        {"neighbors": 0},
        {"max_side": 3},
        {"scales": ()},
        {"scales": (1.5,)},
        {"scales": (0.1,)},
        {"foci_threshold": 1.0},
        {"position_weight": -1.0},
        {"color_normalizer": 0.0},
        {"color_space": "hsv"},
        {"foci_normalizer": "mean"},
    ],
)
def test_settings_that_cannot_be_used_are_named(settings):
    (name,) = settings
    with pytest.raises(ValueError, match="scale" if name == "scales" else name):
        context_aware_saliency(torch.rand(3, 32, 32), **settings)


def test_a_224_pixel_photograph_takes_seconds_not_minutes():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        context_aware_saliency(textured(224, 224))
        # 0.7 s measured on one core, and 2 s on a slow one; pair by pair it takes minutes
        assert time.process_time() - start < 30
    finally:
        torch.set_num_threads(threads)
