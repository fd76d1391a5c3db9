"""A Hub that nobody reaches is asked once, and then said to be so; what is in the cache loads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from .client import HubClient, refusal

FORMER = Path(__file__).parents[1] / "former"
TEXTS = "owner/texts"


@pytest.fixture
def hermit(tmp_path: Path) -> HubClient:
    """A machine with an empty cache, for which the Hub's address leads nowhere."""
    return HubClient(None, tmp_path)


def look_for_models() -> dict[str, Any]:
    from transformers import AutoConfig, AutoModelForImageClassification, AutoTokenizer

    import salhub
    from salhub.hub import load

    def explain() -> None:
        salhub.pipeline("normgrad", classifier="nothere")

    began = time.monotonic()
    refused = {
        "config": refusal(load, AutoConfig, "nothere"),
        "model": refusal(load, AutoModelForImageClassification, "some/nothere"),
        "forced": refusal(load, AutoConfig, "nothere", force_download=True),
        "tokenizer": refusal(load, AutoTokenizer, "nothere"),
        "classifier": refusal(explain),
    }
    return {"seconds": time.monotonic() - began, "refused": refused}


def printed(client: HubClient, function: str) -> tuple[dict[str, Any], str]:
    """What a function of this file returned, and what its process said beside."""
    code = f"""
        from pathlib import Path
        import json
        from {__name__} import {function}
        Path("answer.json").write_text(json.dumps({function}()))
    """
    finished = client.run(code)
    return json.loads((client.home / "answer.json").read_text()), finished.stderr


def test_a_model_that_is_nowhere_is_refused_at_once_in_one_sentence(hermit):
    answer, said = printed(hermit, "look_for_models")
    for kind, message in answer["refused"].values():
        assert kind == "ModelNotFoundError" and "nothere' was not found" in message
        assert "could not be reached; check the name with `salhub list`, the path" in message
    # The retries of the Hub's client alone are 23 seconds for each.
    assert answer["seconds"] < 15
    assert "Retrying" not in said and "thrown while" not in said


def look_for_data() -> dict[str, Any]:
    from salhub.data.labelled_pictures import read_labelled_pictures

    began = time.monotonic()
    refused = refusal(read_labelled_pictures, "nothere")
    return {"seconds": time.monotonic() - began, "refused": refused}


def test_data_that_are_nowhere_are_refused_at_once_in_one_sentence(hermit):
    pytest.importorskip("datasets")
    answer, said = printed(hermit, "look_for_data")
    kind, message = answer["refused"]
    assert kind == "FileNotFoundError" and "'nothere' is not a file or folder" in message
    assert message.endswith("could not be reached; check the path, the name, or the connection.")
    assert answer["seconds"] < 15
    assert "Retrying" not in said and "thrown while" not in said


def push_texts() -> None:
    from huggingface_hub import HfApi

    HfApi().create_repo(TEXTS)
    HfApi().upload_folder(repo_id=TEXTS, folder_path=FORMER / "verbalizer")


def say() -> list[Any]:
    import salhub

    began = time.monotonic()
    label = salhub.pipeline(TEXTS)("A grand plot.").label
    return [label, time.monotonic() - began]


def load_the_half_that_is_here() -> list[Any]:
    from transformers import PreTrainedTokenizerFast

    import salhub
    from salhub.hub import load

    began = time.monotonic()
    tokenizer = load(PreTrainedTokenizerFast, TEXTS)
    refused = refusal(salhub.AutoModelForSaliency.from_pretrained, TEXTS)
    return [len(tokenizer), refused, time.monotonic() - began]


def test_what_is_in_the_cache_loads_where_the_hub_is_not_reached(hub_client):
    hub_client.call(push_texts)
    expected, _ = hub_client.call(say)
    hermit = HubClient(None, hub_client.home)
    label, seconds = hermit.call(say)
    assert label == expected and seconds < 15
    # As of a download that was broken off: there are no weights, and no configuration.
    repository = hub_client.cache / "models--owner--texts"
    for name in ("model.safetensors", "config.json"):
        for path in repository.glob(f"snapshots/*/{name}"):
            path.unlink()
    size, (kind, message), seconds = hermit.call(load_the_half_that_is_here)
    assert size > 0 and seconds < 15
    assert kind == "ModelNotFoundError" and "could not be reached" in message
