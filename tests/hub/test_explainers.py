"""Explainers of a classifier on the Hub: pictures are prepared as the pinned classifier wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .client import HubClient
from .test_transformers import tiny_resnet

CLASSIFIER, EXPLAINER, NESTED = "owner/classifier", "owner/explainer", "owner/nested"
FORMER = Path(__file__).parents[1] / "former"


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
    push_folders()
    sources = {"object": model, "reference": "reference", "whole": "whole", "hub": EXPLAINER}
    sizes = {
        name: salhub.pipeline(source).image_processor.size["height"]
        for name, source in sources.items()
    }
    return {"sizes": sizes, "subfolders": use_subfolders(), "bare": load_what_has_no_processor()}


def push_folders() -> None:
    """Several models in one repository, as the version before this one saved them."""
    from huggingface_hub import HfApi

    HfApi().create_repo(NESTED)
    for name in ("normgrad", "verbalizer", "cifar-resnet"):
        HfApi().upload_folder(repo_id=NESTED, folder_path=FORMER / name, path_in_repo=f"a/{name}")


def use_subfolders() -> dict[str, Any]:
    import salhub

    def saliency(pipeline: Any) -> list[float]:
        return pipeline(str(FORMER / "picture.png")).saliency.ravel().tolist()

    wrapped = salhub.pipeline("normgrad", classifier=NESTED, subfolder="a/cifar-resnet")
    wrapped.model.save_pretrained("nested-reference", save_backbone=False)
    text = "A wonderful film, and a dull ending."
    verbalizers = (
        salhub.pipeline(str(FORMER / "verbalizer")),
        salhub.pipeline(NESTED, subfolder="a/verbalizer"),
    )
    return {
        "explainer": saliency(salhub.pipeline(NESTED, subfolder="a/normgrad")),
        "folder of it": saliency(salhub.pipeline(str(FORMER / "normgrad"))),
        "parts of a folder": saliency(salhub.pipeline(str(FORMER), subfolder="normgrad")),
        "classifier": saliency(wrapped),
        "reference": saliency(salhub.pipeline("nested-reference")),
        "folder of the classifier": saliency(
            salhub.pipeline("normgrad", classifier=str(FORMER / "cifar-resnet"))
        ),
        "texts": [pipeline(text).summary() for pipeline in verbalizers],
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
def found(client: HubClient) -> dict[str, Any]:
    return client.call(prepare_and_explain)


@pytest.mark.parametrize("source", ["object", "reference", "whole", "hub"])
def test_pictures_are_prepared_as_for_the_pinned_classifier(found, source):
    assert found["sizes"][source] == 32


def test_a_repository_without_a_processor_says_so(found):
    assert "'owner/bare' has no preprocessor_config.json" in found["bare"]


def test_a_subfolder_holds_the_model_its_processor_and_its_tokenizer(found):
    nested = found["subfolders"]
    assert nested["explainer"] == nested["folder of it"] == nested["parts of a folder"]
    assert nested["texts"][0] == nested["texts"][1]


def test_an_explainer_that_names_a_classifier_in_a_subfolder_finds_it_again(found):
    nested = found["subfolders"]
    assert nested["classifier"] == nested["reference"] == nested["folder of the classifier"]
