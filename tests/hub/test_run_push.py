"""A run that puts what it made on the Hub when it is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .client import HubClient, refusal
from .server import GUEST_TOKEN, READER_TOKEN

TARGET = "owner/pushed"


def carry_out(folder: str, **options: Any) -> None:
    from salhub.runner.run import run
    from tests.runner.toy_recipe import ToyArguments, ToyRecipe

    run(ToyRecipe(ToyArguments(output_dir=folder, cpu=True, push_to_hub=True, **options)))


def carry_out_and_push() -> None:
    options = {"checkpointing_steps": 4, "snapshot_step": 4}
    carry_out("out", hub_model_id=TARGET, hub_private_repo=True, **options)


def carry_out_where_nothing_can_be_pushed() -> Any:
    refused = refusal(carry_out, "none", hub_model_id=TARGET)
    return [refused, Path("none").exists()]


def carry_out_for_an_organisation() -> Any:
    return refusal(carry_out, "theirs", hub_model_id="salhub/pushed")


def carry_out_while_the_hub_fails() -> Any:
    return refusal(carry_out, "other", hub_model_id="owner/other")


def test_model_card_and_results_arrive_in_one_commit_and_nothing_else(server, client):
    client.call(carry_out_and_push)
    repository = server.repository(TARGET)
    files = repository.resolve("main").files
    of_a_model = ["README.md", "model.safetensors", "results.json"]
    snapshot = [f"early/{name}" for name in of_a_model]
    assert set(files) == {".gitattributes", "curves.png", *of_a_model, *snapshot}
    titles = [commit.title for commit in repository.history("main")]
    assert titles == ["Upload out with salhub", "initial commit"]
    assert repository.private
    for name in (*of_a_model, *snapshot):
        assert server.read(TARGET, name) == (client.home / "out" / name).read_bytes()
    assert b"# pushed" in server.read(TARGET, "README.md")
    assert b"# early" in server.read(TARGET, "early/README.md")


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "Pushing needs an access token"),
        ("hf_wrong", "does not accept the access token; log in with `hf auth login`"),
        (READER_TOKEN, "was not pushed: the access token is read-only"),
        (GUEST_TOKEN, "has no write access to 'owner'; choose another owner"),
    ],
)
def test_where_nothing_can_be_pushed_the_run_does_not_begin(client, token, words):
    (kind, text), began = client.call(carry_out_where_nothing_can_be_pushed, token=token)
    assert kind == "PushError" and words in text and "\n" not in text and not began


def test_without_a_network_the_run_does_not_begin(tmp_path):
    (kind, text), began = HubClient(None, tmp_path).call(carry_out_where_nothing_can_be_pushed)
    assert kind == "PushError" and "cannot be reached" in text and not began


def test_the_account_may_write_to_its_organisations(client):
    assert client.call(carry_out_for_an_organisation) is None


def test_a_run_that_the_hub_refuses_is_not_lost(server, client):
    server.fail("/commit/", status=503, method="POST")
    kind, text = client.call(carry_out_while_the_hub_fails)
    assert kind == "PushError" and text.endswith("The finished run is in other.")
    assert (client.home / "other" / "model.safetensors").is_file()


# --- afterwards -----------------------------------------------------------------------------------


def unlearn_a_transformer_and_push_it_afterwards() -> None:
    """With and without `push_to_hub`; that of the second run is made up for by hand."""
    import numpy as np
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil
    from typer.testing import CliRunner

    from salhub.cli import app
    from salhub.runner.run_folder import record_exported

    labels = dict(enumerate(("red", "green")))
    size = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 8}
    config = ViTConfig(**size, num_hidden_layers=1, num_attention_heads=2, id2label=labels)
    ViTForImageClassification(config).save_pretrained("vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained("vit")
    pictures = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    parts = {"train_images": pictures[:16], "test_images": pictures[16:]}
    parts |= {"train_labels": np.arange(16) % 2, "test_labels": np.arange(8) % 2}
    np.savez("pictures.npz", **parts, class_names=np.array(["red", "green"]))
    words = ["model=vit", "data=pictures.npz", "forget=class:red", "num_train_epochs=1", "cpu=true"]
    words += ["attack=none", "checkpointing_steps=1", "batch_size=4"]
    pushed = ["push_to_hub=true", "hub_model_id=owner/by-run"]
    for more in (["output_dir=by-run", *pushed], ["output_dir=by-hand"]):
        said = CliRunner().invoke(app, ["unlearn", "salun", *words, *more])
        assert said.exit_code == 0, said.output
    # As a recipe that exports a folder would have left it, beside one that nobody exported.
    for folder in ("adapter", "mine"):
        Path("by-hand", folder).mkdir()
        Path("by-hand", folder, "config.json").write_text("{}")
    record_exported(Path("by-hand"), [Path("by-hand", "adapter")])
    said = CliRunner().invoke(app, ["push", "by-hand", "owner/by-hand"])
    assert said.exit_code == 0, said.output


def test_the_folder_of_any_run_can_be_pushed_afterwards(server, client):
    client.call(unlearn_a_transformer_and_push_it_afterwards)
    files = [
        sorted(server.repository(f"owner/by-{w}").resolve("main").files) for w in ("run", "hand")
    ]
    assert [*files[0], "adapter/config.json"] == sorted(files[1], key=lambda name: "/" in name)
    assert {"unlearning.json", "results.json", "mask.safetensors", "README.md"} <= set(files[0])
    assert not {"options.json", "log.jsonl", "exported.json"} & set(files[0])
    folder = client.home / "by-hand"
    assert (folder / "options.json").is_file() and list(folder.glob("checkpoint-*"))
    assert json.loads(server.read("owner/by-hand", "config.json"))["model_type"] == "vit"
    assert server.read("owner/by-hand", "README.md") == (folder / "README.md").read_bytes()
