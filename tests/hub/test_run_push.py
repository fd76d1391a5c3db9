"""A run that puts what it made on the Hub when it is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .client import refusal
from .server import GUEST_TOKEN

TARGET = "owner/pushed"


def carry_out(folder: str, **options: Any) -> None:
    from salhub.runner.loop import run
    from tests.runner.toy_recipe import ToyArguments, ToyRecipe

    run(ToyRecipe(ToyArguments(output_dir=folder, cpu=True, push_to_hub=True, **options)))


def carry_out_and_push() -> None:
    carry_out("out", hub_model_id=TARGET, hub_private_repo=True, checkpointing_steps=4)


def carry_out_without_login() -> Any:
    refused = refusal(carry_out, "none", hub_model_id=TARGET)
    return [refused, Path("none").exists()]


def carry_out_for_somebody_else() -> Any:
    return refusal(carry_out, "other", hub_model_id=TARGET)


def test_model_card_and_results_arrive_in_one_commit_and_nothing_else(server, client):
    client.call(carry_out_and_push)
    repository = server.repository(TARGET)
    files = repository.resolve("main").files
    assert sorted(files) == [".gitattributes", "README.md", "model.safetensors", "results.json"]
    titles = [commit.title for commit in repository.history("main")]
    assert titles == ["Upload out with salhub", "initial commit"]
    assert repository.private
    for name in ("README.md", "model.safetensors", "results.json"):
        assert server.read(TARGET, name) == (client.home / "out" / name).read_bytes()
    assert b"# pushed" in server.read(TARGET, "README.md")


def test_without_a_login_the_run_does_not_begin(client):
    (kind, text), began = client.call(carry_out_without_login, token=None)
    assert kind == "PushError" and "access token" in text and not began


def test_a_run_that_the_hub_refuses_is_not_lost(client):
    kind, text = client.call(carry_out_for_somebody_else, token=GUEST_TOKEN)
    assert kind == "PushError" and text.endswith("The finished run is in other.")
    assert (client.home / "other" / "model.safetensors").is_file()
