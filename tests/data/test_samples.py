"""The photos that come with the package."""

import pytest

from salhub.data.samples import PHOTOS, sample_names, sample_path
from salhub.errors import UnknownNameError
from salhub.processing import load_image


def test_every_photo_is_small_loads_and_is_named_in_the_notice():
    notice = (PHOTOS / "NOTICE.md").read_text(encoding="utf-8")
    assert set(sample_names()) == {"astronaut", "cat", "cells", "coffee", "rocket"}
    for name in sample_names():
        path = sample_path(name)
        assert path.stat().st_size <= 60_000
        image = load_image(f"sample:{name}")
        assert max(image.size) <= 512
        assert f"`{path.name}`" in notice and f"{image.width} x {image.height}" in notice


def test_nothing_but_photos_and_their_notice_is_shipped():
    expected = {"NOTICE.md", *(f"{name}.jpg" for name in sample_names())}
    assert {path.name for path in PHOTOS.iterdir()} == expected


def test_an_unknown_name_gets_the_list_and_a_hint():
    with pytest.raises(UnknownNameError) as raised:
        sample_path("astronut")
    assert "astronaut, cat, cells, coffee, rocket" in str(raised.value)
    assert "Did you mean 'astronaut'?" in str(raised.value)
