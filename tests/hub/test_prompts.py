"""Prompts on the Hub: they find the CLIP that they name, or the one that lies beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .client import HubClient, refusal

ALONE, WITH_BASE, CLIP = "owner/prompts", "owner/prompts-and-clip", "owner/clip"
PUSHED = "owner/folder"


def push_and_load() -> dict[str, Any]:
    import numpy as np
    import torch
    from huggingface_hub import HfApi
    from PIL import Image

    import salhub
    from salhub.publishing import push
    from tests import small_clip

    small_clip.save(Path("clip"))
    HfApi().create_repo(CLIP)
    HfApi().upload_folder(repo_id=CLIP, folder_path="clip")
    model = salhub.DiSaForImageClassification.from_base(CLIP, class_names=["cat", "dog"])
    with torch.no_grad():
        model.vision_prompts += 0.5
    model.push_to_hub(ALONE)
    model.push_to_hub(WITH_BASE, save_base=True)
    picture = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    files = {name: sorted(HfApi().list_repo_files(name)) for name in (ALONE, WITH_BASE)}
    scores = {}
    for name in (ALONE, WITH_BASE):
        classify = salhub.pipeline(name)
        scores[name] = classify(picture, top_k=2).scores
        scores[f"{name} names"] = classify.model.config.base_model_name_or_path
    model.save_pretrained("both", save_base=True)
    small_clip.processor().image_processor.save_pretrained("both")
    push("both", PUSHED)
    scores[PUSHED] = salhub.pipeline(PUSHED)(picture, top_k=2).scores
    own = salhub.DiSaForImageClassification.from_base("clip", class_names=["cat", "dog"])
    own.save_pretrained("own")
    small_clip.processor().image_processor.save_pretrained("own")
    refused = [refusal(push, "own", "owner/own"), refusal(own.push_to_hub, "owner/own")]
    return {"files": files, "refused": refused, **scores}


@pytest.fixture(scope="module")
def found(client: HubClient) -> dict[str, Any]:
    return client.call(push_and_load)


def test_prompts_find_the_clip_that_they_name(found):
    assert found[f"{ALONE} names"] == CLIP
    assert "base/config.json" not in found["files"][ALONE]


def test_a_clip_beside_the_prompts_is_pushed_and_found_with_them(found):
    assert {"base/config.json", "base/model.safetensors"} <= set(found["files"][WITH_BASE])
    assert found[f"{WITH_BASE} names"] == "./base"
    assert found[WITH_BASE] == pytest.approx(found[ALONE], abs=1e-5)
    assert found[PUSHED] == pytest.approx(found[ALONE], abs=1e-5)


def test_a_clip_that_nobody_else_has_is_not_named(found):
    advices = (
        "save both with save_pretrained(folder, save_base=True), or use a base from the Hub.",
        "give save_base=True, or use a CLIP from the Hub.",
    )
    for (kind, sentence), advice in zip(found["refused"], advices, strict=True):
        assert kind == "ValueError" and sentence.endswith(advice)
        assert "in a local folder, '" in sentence
        assert "/clip', which others do not have; " in sentence
