import pytest
import torch
from scipy.ndimage import distance_transform_edt

from salhub.models.salient_relevance.distance_transform import distance_to_mask


@pytest.mark.parametrize("density", [0.002, 0.05, 0.6])
@pytest.mark.parametrize("shape", [(2, 3, 40, 31), (17, 1), (1, 23)])
def test_equals_scipy(density, shape):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(shape, generator=generator) < density
    mask[..., shape[-2] // 2, 0] = True
    found = distance_to_mask(mask)
    for index, plane in enumerate(mask.reshape(-1, *shape[-2:])):
        expected = torch.from_numpy(distance_transform_edt(~plane.numpy())).float()
        torch.testing.assert_close(found.reshape(-1, *shape[-2:])[index], expected)


def test_empty_mask_is_infinitely_far_and_other_types_are_refused():
    assert distance_to_mask(torch.zeros(2, 3, dtype=torch.bool)).isinf().all()
    with pytest.raises(TypeError, match="float32"):
        distance_to_mask(torch.zeros(2, 3))
