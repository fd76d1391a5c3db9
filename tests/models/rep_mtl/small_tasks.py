"""Small networks of several tasks, and pictures with labels of all of them."""

import torch
from transformers import ResNetConfig

from salhub.models.rep_mtl.configuration_rep_mtl import RepMTLConfig

EVERY_KIND = [
    {"name": "parts", "type": "segmentation", "num_labels": 4},
    {"name": "depth", "type": "depth"},
    {"name": "normals", "type": "normals"},
    {"name": "scene", "type": "classification", "num_labels": 3},
    {"name": "edges", "type": "edge"},
    {"name": "ages", "type": "regression", "num_labels": 2},
    {"name": "heat", "type": "regression", "dense": True, "loss": "mse"},
]
SIZE = 16


def small_config(**settings):
    """A ResNet of 8 channels with a head for every kind of task, unless told otherwise."""
    encoder = ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic"
    )  # fmt: skip
    return RepMTLConfig(
        **{"backbone_config": encoder, "tasks": EVERY_KIND, "head_channels": 6, **settings}
    )


def labels_of_every_kind(batch=3, size=SIZE, seed=0):
    """Labels of `EVERY_KIND`, with some that do not count."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.rand(batch, *shape, generator=generator)

    parts = (4 * drawn(size, size)).long()
    parts[:, 0] = 255
    depth = 1 + drawn(size, size)
    depth[:, :, 0] = 0
    normals = drawn(3, size, size) - 0.5
    normals[:, :, 1] = 0
    return {
        "parts": parts,
        "depth": depth,
        "normals": normals,
        "scene": (3 * drawn()).long(),
        "edges": (drawn(size, size) > 0.8).long(),
        "ages": drawn(2),
        "heat": drawn(size, size),
    }


def pictures(batch=3, size=SIZE, seed=1):
    """Normalised pictures."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
