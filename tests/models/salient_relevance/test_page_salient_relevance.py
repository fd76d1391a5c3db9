"""The page of salient relevance: both stages with their numbers."""

from dataclasses import replace

import numpy as np
import pytest

from salhub.data.samples import sample_path
from salhub.entries import MODELS
from salhub.models.salient_relevance import page_salient_relevance
from salhub.ui.controls import UploadedPicture
from salhub.ui.picture_page import Query


@pytest.fixture(scope="module")
def relevance_page():
    name = "salhub/salient-relevance-efficientnet-lite0"
    return page_salient_relevance.Page(name, MODELS["salient_relevance"])


@pytest.fixture
def query():
    picture = UploadedPicture.of_sample(sample_path("cat"))
    return Query.of_upload(picture, 281, {"opacity": 0.6, "colors": ""})


def test_the_stages_have_their_numbers(relevance_page, query):
    contents = page_salient_relevance.StagesTab(relevance_page).contents(query)
    outputs = relevance_page.run(query)
    lost = abs(outputs.relevance_sum - outputs.start_relevance) / abs(outputs.start_relevance)
    assert f"<strong>{100 * float(lost):.2f} %</strong>" in contents["facts"]["value"]
    sizes = {contents[name]["value"].size for name in ("photo", "relevance", "context", "overlay")}
    assert len(sizes) == 1


def test_areas_are_counted_with_corners():
    mask = np.zeros((5, 5), dtype=bool)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = True
    assert page_salient_relevance.count_areas(mask) == 2
    values = np.arange(9.0).reshape(3, 3)
    assert page_salient_relevance.largest(values, 2).sum() == 2
    assert page_salient_relevance.largest(values, 2)[2, 1:].all()
    assert not page_salient_relevance.largest(values, 0).any()


def test_another_preset_takes_the_same_network(relevance_page, query):
    asked = replace(query, settings={**query.settings, "preset": "epsilon_plus"})
    model = relevance_page.model_for(asked)
    assert model.backbone is relevance_page.pipeline.model.backbone
    assert model.config.preset == "epsilon_plus"
    assert relevance_page.pipeline.model.config.preset != "epsilon_plus"
