"""Plain transformers against the loopback Hub: push, load by tag, count requests, go offline."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import HfApi

from .client import HubClient, mark, refusal

NAME = "owner/tiny-resnet"


def tiny_resnet() -> Any:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_labels": 3}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic"))


def push() -> dict[str, Any]:
    from transformers import ViTImageProcessor

    model = tiny_resnet()
    model.push_to_hub(NAME)
    ViTImageProcessor(size={"height": 32, "width": 32}).push_to_hub(NAME)
    HfApi().create_tag(NAME, tag="v1")
    model.classifier[1].bias.data += 1
    model.push_to_hub(NAME, commit_message="larger biases")
    return {
        "tagged": HfApi().model_info(NAME, revision="v1").sha,
        "titles": [commit.title for commit in HfApi().list_repo_commits(NAME)],
    }


def load(revision: str, **keywords: Any) -> Any:
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification.from_pretrained(NAME, revision=revision, **keywords)


def equal(model: Any, expected: Any) -> bool:
    import torch

    pairs = zip(model.state_dict().values(), expected.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def load_by_tag(tagged: str) -> dict[str, Any]:
    from transformers import AutoImageProcessor

    mark("first")
    model = load("v1")
    mark("second")
    again = load("v1")
    mark("by-hash")
    by_hash = load(tagged)
    mark("main")
    newer = load("main")
    mark("processor")
    processor = AutoImageProcessor.from_pretrained(NAME, revision="v1")
    expected = tiny_resnet()
    return {
        "equal": [equal(model, expected), equal(again, expected), equal(by_hash, expected)],
        "newer": (newer.classifier[1].bias - expected.classifier[1].bias).mean().item(),
        "size": dict(processor.size),
    }


def meet_trouble() -> dict[str, Any]:
    return {
        "short": refusal(load, "v1", cache_dir="cache-short"),
        "again": refusal(load, "v1", cache_dir="cache-short"),
        "tag": refusal(load, "v9", cache_dir="cache-tag"),
    }


def load_offline() -> dict[str, Any]:
    return {"v1": equal(load("v1"), tiny_resnet()), "absent": refusal(load, "v9")}


@pytest.fixture(scope="module")
def pushed(client: HubClient) -> dict[str, Any]:
    return client.call(push)


@pytest.fixture(scope="module")
def loaded(client: HubClient, pushed: dict[str, Any]) -> dict[str, Any]:
    return client.call(load_by_tag, pushed["tagged"], token=None)


def test_model_and_processor_push_a_commit_each(pushed):
    assert len(pushed["titles"]) == 4 and pushed["titles"][0] == "larger biases"


def test_a_tag_gives_the_tagged_weights_and_main_the_newer_ones(loaded):
    assert loaded["equal"] == [True, True, True]
    assert loaded["newer"] == pytest.approx(1)
    assert loaded["size"] == {"height": 32, "width": 32}


def test_the_second_load_makes_exactly_one_request(server, loaded):
    second = [(request.method, request.path) for request in server.phase("second")]
    assert second == [("GET", f"/api/models/{NAME}/revision/v1")]
    assert len(server.phase("first")) > 1


def test_a_hash_needs_no_request_at_all(server, loaded):
    assert server.phase("by-hash") == []


def test_a_short_body_is_refused_and_the_next_try_succeeds(server, client, pushed):
    server.forget()
    server.shorten("model.safetensors", to=1000)
    trouble = client.call(meet_trouble, token=None)
    assert trouble["short"][0] == "OSError" and trouble["again"] is None
    assert trouble["tag"][0] == "OSError" and "v9" in trouble["tag"][1]
    snapshots = client.home / "cache-tag"
    assert not [path for path in snapshots.rglob("*") if path.is_file()]


def test_what_was_loaded_once_loads_offline(server, client, loaded):
    server.forget()
    offline = client.call(load_offline, offline=True)
    assert offline["v1"] is True
    assert offline["absent"][0] == "OSError"
    assert server.requests == []
