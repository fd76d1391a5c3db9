"""Where `from_pretrained` finds a model: every line of the order, in a copy with its own bundle."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .client import HubClient, mark, refusal
from .installation import CLASSIFIER, tiny_classifier
from .server import OWNER_TOKEN, HubServer

PRIVATE = "salhub/private"
ABSENT = "salhub/tiny-litte"


def load(name: str = CLASSIFIER, **keywords: Any) -> Any:
    from salhub import EfficientNetLiteForImageClassification

    return EfficientNetLiteForImageClassification.from_pretrained(name, **keywords)


def load_config(name: str = CLASSIFIER, **keywords: Any) -> Any:
    from salhub import EfficientNetLiteConfig

    return EfficientNetLiteConfig.from_pretrained(name, **keywords)


def load_processor(name: str = CLASSIFIER, **keywords: Any) -> Any:
    from salhub.entries import MODELS

    return MODELS["efficientnet_lite"].image_processor_class.from_pretrained(name, **keywords)


def shift(model: Any) -> float:
    """How far the last bias is from the shipped one; pushed models are shifted on purpose."""
    return round((model.classifier.bias - tiny_classifier().classifier.bias).mean().item(), 5)


def push_shifted() -> None:
    from huggingface_hub import HfApi

    def push(name: str, by: float, **keywords: Any) -> None:
        model = tiny_classifier()
        model.classifier.bias.data += by
        model.push_to_hub(name, **keywords)

    push(CLASSIFIER, 1)
    HfApi().create_tag(CLASSIFIER, tag="v1")
    push(CLASSIFIER, 2)
    load_processor().push_to_hub(CLASSIFIER)
    push(PRIVATE, 3, private=True)
    tiny_classifier().save_pretrained("nested")
    HfApi().create_repo("salhub/nested")
    HfApi().upload_folder(repo_id="salhub/nested", folder_path="nested", path_in_repo="inner")


@pytest.fixture(scope="module")
def server(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A Hub whose models of the same names have other weights, so that the source shows."""
    with HubServer() as server:
        HubClient(server, tmp_path_factory.mktemp("author"), [site]).call(push_shifted)
        yield server


# --- the bundle, and folders ------------------------------------------------------------------


def use_the_bundle() -> dict[str, Any]:
    logging.basicConfig(level=logging.INFO, filename="log.txt")
    import salhub
    from salhub.hub import bundled_model

    shipped = bundled_model(CLASSIFIER)
    model, config = load(), load_config()
    facts = {
        "installed": salhub.__file__,
        "shifts": [shift(model), shift(load(revision=shipped.revision))],
        "names": [model.name_or_path, model.config.name_or_path, config.name_or_path],
        "config": config.num_labels,
        "processor": dict(load_processor().size),
        "log": Path("log.txt").read_text(),
        "sha256": next(f.sha256 for f in shipped.files if f.name == "model.safetensors"),
        "listed": repr(salhub.list_models()),
        "sources": {model.full_name: model.source for model in salhub.list_models()},
    }
    model.classifier.bias.data += 5
    model.save_pretrained(CLASSIFIER)
    return facts | {"folders": [shift(load()), shift(load(Path(CLASSIFIER)))]}


def test_a_folder_then_the_bundle_without_network_or_cache(site, tmp_path):
    # The Hub's address leads nowhere and nothing says so: whoever asks it, waits or fails.
    hermit = HubClient(None, tmp_path, [site])
    facts = hermit.call(use_the_bundle)
    assert facts["installed"].startswith(str(site))
    assert facts["shifts"] == [0, 0]
    assert facts["config"] == 3 and facts["processor"] == {"height": 32, "width": 32}
    assert not hermit.cache.exists()
    # A path of the installation would end up in cards and in messages.
    assert facts["names"] == [CLASSIFIER] * 3
    line = next(line for line in facts["log"].splitlines() if "salhub.hub" in line)
    assert CLASSIFIER in line and "shipped" in line and facts["sha256"][:12] in line
    assert re.search(rf"^{CLASSIFIER} +- +image-classification +0\.\d\d$", facts["listed"], re.M)
    assert facts["sources"][CLASSIFIER] == "random numbers"
    assert facts["folders"] == [5, 5]


# --- the Hub ----------------------------------------------------------------------------------


def use_the_hub(token: str) -> dict[str, Any]:
    mark("forced")
    forced = load(force_download=True)
    mark("tag")
    facts = {
        "forced": [shift(forced), forced.name_or_path],
        "v1": shift(load(revision="v1")),
        "main": shift(load(revision="main")),
        "config": load_config(revision="main").num_labels,
        "processor": dict(load_processor(revision="main").size),
        "cache_dir": shift(load(revision="main", cache_dir="other")),
        "local": shift(load(revision="v1", local_files_only=True)),
        "local elsewhere": refusal(load, revision="v1", local_files_only=True, cache_dir="none"),
        "revision": refusal(load, revision="v9"),
        "subfolder": shift(load("salhub/nested", subfolder="inner")),
        "no token": refusal(load, PRIVATE),
        "token": shift(load(PRIVATE, token=token)),
        "absent": look_for_the_absent(),
    }
    os.environ["SALHUB_PREFER_HUB"] = "1"
    facts["preferred"] = shift(load())
    mark("preferred-elsewhere")
    facts["preferred elsewhere"] = shift(load(cache_dir="third"))
    os.environ["SALHUB_PREFER_HUB"] = "0"
    return facts | {"not preferred": shift(load())}


def look_for_the_absent() -> dict[str, Any]:
    import salhub

    return {
        "model": refusal(load, ABSENT),
        "config": refusal(load_config, ABSENT),
        "processor": refusal(load_processor, ABSENT),
        "saliency": refusal(salhub.AutoModelForSaliency.from_pretrained, ABSENT),
        "pipeline": refusal(salhub.pipeline, ABSENT),
        "elsewhere": refusal(load, "owner/absent"),
    }


@pytest.fixture(scope="module")
def person(
    server: HubServer, site: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[HubClient, dict[str, Any]]:
    """Somebody without a saved login, and what they got from the Hub."""
    client = HubClient(server, tmp_path_factory.mktemp("person"), [site])
    return client, client.call(use_the_hub, OWNER_TOKEN, token=None)


def test_force_download_and_other_revisions_go_to_the_hub(server, person):
    _, facts = person
    assert facts["forced"] == [2, CLASSIFIER]
    assert (facts["v1"], facts["main"]) == (1, 2)
    assert facts["config"] == 3 and facts["processor"] == {"height": 32, "width": 32}
    assert any(request.sent > 1000 for request in server.phase("forced"))
    kind, message = facts["revision"]
    assert kind == "ModelNotFoundError" and "has no revision 'v9'" in message


def test_every_keyword_of_the_hub_is_passed_through(person):
    client, facts = person
    assert facts["cache_dir"] == 2
    assert (client.home / "other" / "models--salhub--tiny-lite").is_dir()
    assert facts["local"] == 1 and facts["local elsewhere"][0] == "ModelNotFoundError"
    assert facts["subfolder"] == 0
    kind, message = facts["no token"]
    assert kind == "ModelNotFoundError" and "private" in message
    assert facts["token"] == 3


def check_absent(client: HubClient, answers: dict[str, list[str]]) -> None:
    for what, (kind, message) in answers.items():
        assert kind == "ModelNotFoundError", (what, message)
        for tried in ("folder", "shipped", str(client.cache), client.server.url):
            assert tried in message
        assert "\n" not in message
        assert ("'tiny-lite'" in message) == (what != "elsewhere")


def test_a_missing_name_lists_the_nearest_and_what_was_tried(person):
    client, facts = person
    check_absent(client, facts["absent"])


def test_preferring_the_hub_swaps_the_order(server, person):
    _, facts = person
    assert (facts["preferred"], facts["preferred elsewhere"]) == (2, 2)
    assert server.phase("preferred-elsewhere")
    assert facts["not preferred"] == 0


def use_the_cache_offline() -> dict[str, Any]:
    facts = {
        "shipped": shift(load()),
        "v1": shift(load(revision="v1")),
        "forced": refusal(load, force_download=True),
        "absent": look_for_the_absent(),
    }
    os.environ["SALHUB_PREFER_HUB"] = "1"
    return facts | {"preferred": shift(load()), "nowhere": shift(load(cache_dir="empty"))}


def test_offline_the_cache_stands_for_the_hub_and_the_bundle_for_the_rest(server, person):
    client, _ = person
    server.forget()
    facts = client.call(use_the_cache_offline, offline=True)
    assert (facts["shipped"], facts["v1"], facts["preferred"], facts["nowhere"]) == (0, 1, 2, 0)
    assert "force_download" in facts["forced"][1]
    check_absent(client, facts["absent"])
    assert server.requests == []


def prefer_a_silent_hub() -> list[float]:
    return [shift(load())]


def test_preferring_a_hub_that_does_not_answer_gives_the_bundle_at_once(server, site, tmp_path):
    server.forget()
    server.fail("/tiny-lite/", status=503, times=100, method="HEAD")
    client = HubClient(server, tmp_path, [site])
    assert client.call(prefer_a_silent_hub, SALHUB_PREFER_HUB="1") == [0]
    # More than one question would mean waiting between them.
    assert server.count("HEAD") == 1


def load_damaged() -> dict[str, Any]:
    damaged = refusal(load, revision="v1")
    return {"damaged": damaged, "again": shift(load(revision="v1", force_download=True))}


def test_a_download_with_wrong_bytes_is_refused_by_its_hash(server, site, tmp_path):
    server.forget()
    server.corrupt("model.safetensors", times=4)
    facts = HubClient(server, tmp_path, [site]).call(load_damaged)
    kind, message = facts["damaged"]
    assert kind == "IntegrityError" and "model.safetensors" in message
    assert "force_download" in message
    assert facts["again"] == 1
