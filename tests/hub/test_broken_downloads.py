"""A Hub that fails for a while is asked again; one that fails to the end is named, and heals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .client import HubClient, refusal
from .server import HubServer

EXPLAINER, TEXTS = "owner/explainer", "owner/texts"
FORMER = Path(__file__).parents[1] / "former"


def push() -> None:
    from huggingface_hub import HfApi

    for name, folder in ((EXPLAINER, "normgrad"), (TEXTS, "verbalizer")):
        HfApi().create_repo(name)
        HfApi().upload_folder(repo_id=name, folder_path=FORMER / folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer() as server:
        HubClient(server, tmp_path_factory.mktemp("author")).call(push)
        yield server


@pytest.fixture
def client(server: HubServer, tmp_path: Path) -> HubClient:
    server.forget()
    return HubClient(server, tmp_path)


def digest(name: str) -> str:
    """Of the weights that a model was loaded with."""
    import salhub
    from salhub import hub_faults

    hub_faults.WAITS = (0.01, 0.01, 0.01)
    model = salhub.AutoModelForSaliency.from_pretrained(name)
    total = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def load_by_pipeline() -> list[Any]:
    import salhub
    from salhub import hub_faults

    hub_faults.WAITS = (0.01, 0.01, 0.01)
    explain = salhub.pipeline(TEXTS)
    return [explain.tokenizer.model_max_length, explain("A grand plot.").label]


EVERY = ("config.json", "model.safetensors")


@pytest.mark.parametrize("fault", ["busy", "broken off", "portal", "damaged", "wrong name"])
def test_what_fails_once_is_asked_again(server, client, fault):
    for file in EVERY:
        if fault == "busy":
            server.fail(file, status=503)
        elif fault == "broken off":
            server.shorten(file, to=30)
        elif fault == "portal":
            server.show_portal(file)
        elif fault == "damaged":
            server.corrupt(file)
        else:
            server.rename(file)
    found = client.call(digest, EXPLAINER)
    server.forget()
    assert found == client.call(digest, str(FORMER / "normgrad"))
    # What the cache holds by now is whole.
    assert client.call(digest, EXPLAINER, offline=True) == found


def test_a_tokenizer_does_not_lose_its_settings_to_a_busy_hub(server, client):
    expected = client.call(load_by_pipeline)
    other = HubClient(server, client.home / "other")
    other.home.mkdir()
    server.fail("tokenizer_config.json", status=503)
    server.fail("tokenizer.json", status=503)
    assert other.call(load_by_pipeline) == expected


def fail_then_heal() -> dict[str, Any]:
    import salhub
    from salhub import hub_faults
    from salhub.hub import load as load_by_name

    hub_faults.WAITS = (0.01, 0.01, 0.01)
    from transformers import AutoImageProcessor

    load = salhub.NormGradForImageSaliency.from_pretrained
    return {
        "model": refusal(load, EXPLAINER),
        "processor": refusal(load_by_name, AutoImageProcessor, EXPLAINER),
    }


def heal() -> str:
    import salhub

    model = salhub.NormGradForImageSaliency.from_pretrained(EXPLAINER, force_download=True)
    assert salhub.pipeline(EXPLAINER)(FORMER / "picture.png").label
    return type(model).__name__


FAULTS = {
    "busy": "status 503",
    "portal": "not as long as announced",
    "portal everywhere": "something else than a Hub answered",
    "damaged": "is damaged",
    "wrong name": "is damaged",
}


@pytest.mark.parametrize(("fault", "words"), FAULTS.items(), ids=FAULTS)
def test_what_fails_to_the_end_is_named_and_the_advice_heals(server, client, fault, words):
    for file in (*EVERY, "preprocessor_config.json"):
        if fault == "busy":
            server.fail(file, status=503, times=100)
        elif fault == "portal":
            server.show_portal(file, times=100)
        elif fault == "portal everywhere":
            server.show_portal(file, times=100, method="HEAD")
        elif fault == "damaged":
            server.corrupt(file, times=100)
        else:
            server.rename(file, times=100)
    answers = client.call(fail_then_heal)
    for kind, message in answers.values():
        assert kind in ("DownloadError", "IntegrityError"), message
        assert words in message and EXPLAINER in message and "\n" not in message
        assert "force_download=True" in message or "try later" in message
    server.forget()
    assert client.call(heal) == "NormGradForImageSaliency"


def load_damaged_offline() -> list[str] | None:
    import salhub

    return refusal(salhub.NormGradForImageSaliency.from_pretrained, EXPLAINER)


def test_a_cache_that_was_damaged_is_healed_by_itself_or_offline_named(server, client):
    client.call(digest, EXPLAINER)
    [weights] = client.cache.rglob("model.safetensors")
    weights.resolve().write_bytes(weights.read_bytes()[:-4] + b"abcd")
    kind, message = client.call(load_damaged_offline, offline=True)
    assert kind == "IntegrityError" and "force_download=True" in message
    assert weights.resolve().read_bytes()[-4:] == b"abcd"
    assert client.call(digest, EXPLAINER) == client.call(digest, str(FORMER / "normgrad"))
