"""A Hub that fails for a while is asked again; one that fails to the end is named, and heals."""

from __future__ import annotations

import hashlib
import re
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
        yield server


@pytest.fixture(scope="module")
def person(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> HubClient:
    """One machine for all tests, each of which has a cache of its own."""
    person = HubClient(server, tmp_path_factory.mktemp("person"))
    person.call(push)
    return person


@pytest.fixture
def client(server: HubServer, person: HubClient) -> HubClient:
    server.forget()
    return person


def digest(name: str, cache: str, **keywords: Any) -> str:
    """Of the weights that a model was loaded with."""
    import salhub

    hurry()
    model = salhub.AutoModelForSaliency.from_pretrained(name, cache_dir=cache, **keywords)
    total = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def hurry() -> None:
    from salhub import hub_faults

    hub_faults.WAITS = (0.01, 0.01, 0.01)


def digests(cache: str) -> list[str]:
    """From the Hub, from the cache that this left, and of the folder that was pushed."""
    local = digest(EXPLAINER, cache), digest(EXPLAINER, cache, local_files_only=True)
    return [*local, digest(str(FORMER / "normgrad"), cache)]


def load_by_pipeline(cache: str) -> list[Any]:
    import salhub

    hurry()
    explain = salhub.pipeline(TEXTS, cache_dir=cache)
    return [explain.tokenizer.model_max_length, explain("A grand plot.").label]


EVERY = ("config.json", "model.safetensors")


@pytest.mark.parametrize("fault", ["busy", "broken off", "portal", "damaged", "wrong name"])
def test_what_fails_once_is_asked_again(server, client, fault, tmp_path):
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
    found, cached, expected = client.call(digests, str(tmp_path))
    assert found == cached == expected
    assert all(fault.times == 0 for fault in server.faults)


def test_a_tokenizer_does_not_lose_its_settings_to_a_busy_hub(server, client, tmp_path):
    expected = client.call(load_by_pipeline, str(tmp_path / "calm"))
    server.fail("tokenizer_config.json", status=503)
    server.fail("tokenizer.json", status=503)
    assert client.call(load_by_pipeline, str(tmp_path / "busy")) == expected


def fail(cache: str) -> dict[str, Any]:
    from transformers import AutoImageProcessor

    import salhub
    from salhub.hub import load

    hurry()
    own = salhub.NormGradForImageSaliency.from_pretrained
    return {
        "model": refusal(own, EXPLAINER, cache_dir=cache),
        "processor": refusal(load, AutoImageProcessor, EXPLAINER, cache_dir=cache),
    }


def heal(cache: str) -> str:
    import salhub

    salhub.pipeline(EXPLAINER, cache_dir=cache, force_download=True)
    explain = salhub.pipeline(EXPLAINER, cache_dir=cache, local_files_only=True)
    return explain(FORMER / "picture.png").model_name


FAULTS = {
    "busy": "status 503",
    "portal": "the answer has the wrong length: it was cut off, or is a",
    "portal everywhere": "the answer did not come from a Hub, but for example from",
    "damaged": "is damaged",
    "wrong name": "is damaged",
}


@pytest.mark.parametrize(("fault", "words"), FAULTS.items(), ids=FAULTS)
def test_what_fails_to_the_end_is_named_and_the_advice_heals(
    server, client, fault, words, tmp_path
):
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
    for kind, message in client.call(fail, str(tmp_path)).values():
        assert kind in ("DownloadError", "IntegrityError"), message
        assert words in message and EXPLAINER in message and "\n" not in message
        assert "force_download=True" in message or "try later" in message
    server.forget()
    assert client.call(heal, str(tmp_path)) == EXPLAINER


REFUSALS = {
    (401, "GatedRepo"): "denies access to .*status 401.*gated; log in with `hf auth login`, accept",
    (403, "GatedRepo"): "denies access to .*status 403.*gated; log in with `hf auth login`, accept",
    (403, None): "status 403.*it is private, or your token cannot read it; log in",
    (404, "RevisionNotFound"): "has no revision 'main'.*give an existing one",
}


@pytest.mark.parametrize("answer", REFUSALS, ids=str)
def test_no_access_is_not_taken_for_a_missing_file(server, client, answer, tmp_path):
    status, code = answer
    for number, method in enumerate(("HEAD", "GET")):
        server.forget()
        for file in ("model.safetensors", "preprocessor_config.json"):
            server.fail(file, status=status, code=code, times=100, method=method)
        for kind, message in client.call(fail, str(tmp_path / str(number))).values():
            assert kind == "ModelNotFoundError" and re.search(REFUSALS[answer], message), message
            assert EXPLAINER in message and "\n" not in message


def load_damaged(cache: str) -> list[Any]:
    import salhub

    hurry()
    digest(EXPLAINER, cache)
    [weights] = Path(cache).rglob("model.safetensors")
    content = weights.read_bytes()
    weights.resolve().write_bytes(content[:-4] + b"abcd")
    load = salhub.NormGradForImageSaliency.from_pretrained
    local = refusal(load, EXPLAINER, cache_dir=cache, local_files_only=True)
    is_kept = weights.read_bytes() != content
    load(EXPLAINER, cache_dir=cache)
    return [local, is_kept, weights.read_bytes() == content]


def test_a_cache_that_was_damaged_is_named_offline_and_heals_online(client, tmp_path):
    (kind, message), is_kept, is_healed = client.call(load_damaged, str(tmp_path))
    assert kind == "IntegrityError" and "force_download=True" in message
    assert is_kept and is_healed
