"""Fixtures for every test."""

import os
from pathlib import Path

# Read by the libraries when they are imported, so set before anything else.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests are many small calls; threads that wait for each other make them several times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

import salhub
from tests.budget import (  # noqa: F401
    pytest_addoption,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
)

ROOT = Path(__file__).parent.parent
# Pictures for evaluation lie beside the checkout; nobody needs them to use salhub.
DATA = Path(os.environ.get("SALHUB_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def imagenet_sample() -> Path:
    """Folder with one picture of each ImageNet class."""
    folder = DATA / "imagenet_sample"
    if not (folder / "index.json").is_file():
        pytest.skip(f"the ImageNet sample is not in {folder}; set SALHUB_DATA to its parent")
    return folder


@pytest.fixture(scope="session")
def salhub_root() -> Path:
    """Folder of the package under test."""
    return Path(salhub.__file__).parent
