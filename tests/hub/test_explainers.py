"""Explainers of a classifier on the Hub: pictures are prepared as the pinned classifier wants."""

from __future__ import annotations

from typing import Any

import pytest

from .client import HubClient
from .test_transformers import tiny_resnet

CLASSIFIER, EXPLAINER = "owner/classifier", "owner/explainer"


def prepare_and_explain() -> dict[str, Any]:
    from huggingface_hub import HfApi
    from transformers import ViTImageProcessor

    import salhub

    tiny_resnet().push_to_hub(CLASSIFIER)
    ViTImageProcessor(size={"height": 32, "width": 32}).push_to_hub(CLASSIFIER)
    HfApi().create_tag(CLASSIFIER, tag="v1")
    ViTImageProcessor(size={"height": 64, "width": 64}).push_to_hub(CLASSIFIER)
    model = salhub.NormGradForImageSaliency.from_classifier(CLASSIFIER, revision="v1")
    model.save_pretrained("reference", save_backbone=False)
    model.save_pretrained("whole")
    model.push_to_hub(EXPLAINER)
    sources = {"object": model, "reference": "reference", "whole": "whole", "hub": EXPLAINER}
    return {
        name: salhub.pipeline(source).image_processor.size["height"]
        for name, source in sources.items()
    }


def load_what_has_no_processor() -> str:
    import salhub

    tiny_resnet().push_to_hub("owner/bare")
    try:
        salhub.pipeline("normgrad", classifier="owner/bare")
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def sizes(client: HubClient) -> dict[str, Any]:
    return client.call(prepare_and_explain)


@pytest.mark.parametrize("source", ["object", "reference", "whole", "hub"])
def test_pictures_are_prepared_as_for_the_pinned_classifier(sizes, source):
    assert sizes[source] == 32


def test_a_repository_without_a_processor_says_so(client):
    found = client.call(load_what_has_no_processor)
    assert "'owner/bare' has no preprocessor_config.json" in found
