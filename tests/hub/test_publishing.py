"""Push models, look at what arrived, and load them back from the Hub by every road."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from .client import HubClient, mark, refusal
from .installation import CLASSIFIER, EXPLAINER, LICENCE, tiny_classifier
from .server import GUEST_TOKEN, HubServer

MINE = "owner/mine"
SAVED = "owner/saved"
REFERENCE = "owner/reference"


def push(*arguments: Any, **keywords: Any) -> Any:
    from salhub.publishing import push

    return push(*arguments, **keywords)


def tiny_explainer(shift: float = 0.0) -> Any:
    from salhub import NormGradForImageSaliency

    classifier = tiny_classifier()
    classifier.classifier.bias.data += shift
    return NormGradForImageSaliency.from_classifier(classifier, layers=["blocks.10"])


def save(folder: str, shift: float) -> str:
    from salhub.entries import MODELS

    tiny_explainer(shift).save_pretrained(folder)
    MODELS["efficientnet_lite"].image_processor_class.for_image_size(32).save_pretrained(folder)
    return folder


def save_reference(folder: str) -> str:
    """An explainer that only names its classifier, one that is shipped."""
    from salhub import NormGradForImageSaliency
    from salhub.entries import MODELS

    model = NormGradForImageSaliency.from_classifier(CLASSIFIER, method="grad_cam")
    model.save_pretrained(folder, save_backbone=False)
    MODELS["efficientnet_lite"].image_processor_class.for_image_size(32).save_pretrained(folder)
    return folder


def shift_of(model: Any) -> float:
    own = model.backbone.classifier.bias
    return round((own - tiny_classifier().classifier.bias).mean().item(), 5)


# --- what arrives -----------------------------------------------------------------------------


def push_every_way() -> dict[str, Any]:
    from huggingface_hub import HfApi
    from typer.testing import CliRunner

    from salhub.cli import app

    mark("shipped")
    first = push("normgrad-tiny-lite", MINE)
    mark("again")
    again = push(EXPLAINER, MINE)
    mark("folder")
    folder = push(save("saved", 1), SAVED, commit_message="Shifted by one", private=True)
    Path("saved", "optimizer.pt").write_bytes(b"state")
    Path("saved", "README.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    by_hand = push("saved", SAVED)
    Path("card.md").write_text("---\nlicense: mit\n---\n# Given\n")
    branch = push(save("saved", 2), SAVED, revision="trial", card="card.md")
    proposal = push(CLASSIFIER, MINE, create_pr=True, card="card.md")
    push(EXPLAINER, EXPLAINER)
    push(save_reference("reference"), REFERENCE, revision="trial")
    said = CliRunner().invoke(app, ["push", EXPLAINER, MINE, "--json"]).stdout
    titles = [commit.title for commit in HfApi().list_repo_commits(MINE)]
    return {
        "first": [first, first.oid],
        "said": json.loads(said),
        "again": again.oid,
        "folder": folder.oid,
        "by hand": by_hand.oid,
        "branch": branch.oid,
        "proposal": [proposal.pr_url, proposal.pr_revision],
        "titles": titles,
    }


@pytest.fixture(scope="module")
def author(
    server: HubServer, site: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[HubClient, dict[str, Any]]:
    client = HubClient(server, tmp_path_factory.mktemp("author"), [site])
    return client, client.call(push_every_way)


def titles(server: HubServer, name: str, revision: str = "main") -> list[str]:
    return [commit.title for commit in server.repository(name).history(revision)]


def test_a_shipped_model_arrives_complete_in_one_commit(server, author, site):
    _, facts = author
    address, oid = facts["first"]
    assert address == f"{server.url}/{MINE}/commit/{oid}"
    assert facts["titles"] == ["Upload normgrad-tiny-lite with salhub", "initial commit"]
    posts = [r for r in server.phase("shipped") if r.path.endswith("/commit/main")]
    assert len(posts) == 1
    files = server.repository(MINE).resolve("main").files
    shipped = ["LICENSE", "README.md", "config.json", "model.safetensors"]
    shipped += ["normgrad-tiny-lite.png", "preprocessor_config.json"]
    assert sorted(files) == [".gitattributes", *shipped]
    weights = site / "salhub" / "weights" / "tiny-lite" / "model.safetensors"
    assert server.read(MINE, "model.safetensors") == weights.read_bytes()
    assert server.read(MINE, "LICENSE").decode() == LICENCE
    card = server.read(MINE, "README.md").decode()
    assert "library_name: salhub" in card and "![" in card


def test_pushing_the_same_again_makes_no_commit(server, author):
    _, facts = author
    assert facts["again"] == facts["first"][1]
    said = facts["said"]
    assert (said["url"], said["revision"], said["pull_request"]) == (*facts["first"], None)
    requests = server.phase("again")
    assert not [r for r in requests if "/commit/" in r.path or r.method == "PUT"]


def test_a_saved_folder_gets_a_card_and_leaves_training_files_at_home(server, author):
    _, facts = author
    first = server.repository(SAVED).resolve(facts["folder"])
    assert first.title == "Shifted by one" and server.repository(SAVED).private
    card = server.read(SAVED, "README.md", facts["folder"]).decode()
    assert f'salhub.AutoModelForSaliency.from_pretrained("{SAVED}")' in card
    assert "arxiv:2004.02866" in card
    by_hand = server.repository(SAVED).resolve(facts["by hand"])
    assert sorted(by_hand.files) == sorted(first.files)
    assert "optimizer.pt" not in by_hand.files
    assert "# By hand" in server.read(SAVED, "README.md", facts["by hand"]).decode()


def test_a_branch_and_a_pull_request_leave_main_alone(server, author):
    _, facts = author
    assert server.repository(SAVED).branches["trial"] == facts["branch"]
    assert server.repository(SAVED).branches["main"] == facts["by hand"]
    assert titles(server, SAVED, "trial")[1:] == titles(server, SAVED)
    assert facts["proposal"] == [f"{server.url}/{MINE}/discussions/1", "refs/pr/1"]
    assert "# Given" in server.read(MINE, "README.md", "refs/pr/1").decode()
    assert len(titles(server, MINE)) == 2


# --- loading back -----------------------------------------------------------------------------


def load_back(first: str, folder: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModel

    import salhub

    load = salhub.NormGradForImageSaliency.from_pretrained
    model, info = load(MINE, output_loading_info=True)
    pixel_values = torch.randn(2, 3, 32, 32)
    maps = [m(pixel_values).saliency for m in (model, tiny_explainer(), load(EXPLAINER))]
    mark("pinned")
    pinned = load(MINE, revision=first)
    mark("preferred")
    os.environ["SALHUB_PREFER_HUB"] = "1"
    preferred = load(EXPLAINER)
    mark("end")
    del os.environ["SALHUB_PREFER_HUB"]
    reference = load(REFERENCE, revision="trial", normalize="minmax")
    result = salhub.pipeline(MINE)("sample:cat")
    return {
        "loading": {key: sorted(map(str, found)) for key, found in info.items()},
        "equal": [torch.equal(maps[0], other) for other in maps[1:]],
        "name": [model.name_or_path, model.config.name_or_path],
        "pinned": shift_of(pinned),
        "preferred": [shift_of(preferred), preferred.name_or_path],
        "auto": type(salhub.AutoModelForSaliency.from_pretrained(MINE)).__name__,
        "plain": type(AutoModel.from_pretrained(MINE)).__name__,
        "versions": [
            shift_of(load(SAVED, revision=revision)) for revision in ("main", "trial", folder)
        ],
        "reference": [reference.config.method, reference.config.normalize, shift_of(reference)],
        "pipeline": [result.model_name, list(result.saliency.shape), list(result.image.size)],
    }


def load_offline() -> dict[str, Any]:
    import salhub

    os.environ["SALHUB_PREFER_HUB"] = "1"
    load = salhub.NormGradForImageSaliency.from_pretrained
    return {
        "mine": shift_of(load(MINE)),
        "trial": shift_of(load(SAVED, revision="trial")),
        "preferred": shift_of(load(EXPLAINER)),
        "never loaded": refusal(load, MINE, revision="refs/pr/1"),
    }


def test_what_was_pushed_loads_back_and_explains_the_same(server, author):
    client, facts = author
    loaded = client.call(load_back, facts["first"][1], facts["folder"])
    assert not any(loaded["loading"].values())
    assert loaded["equal"] == [True, True]
    assert loaded["name"] == [MINE, MINE]
    assert loaded["pinned"] == 0 and server.phase("pinned") == []
    assert loaded["preferred"] == [0, EXPLAINER]
    assert any(f"{EXPLAINER}/resolve" in r.path for r in server.phase("preferred"))
    assert loaded["auto"] == loaded["plain"] == "NormGradForImageSaliency"
    assert loaded["versions"] == [1, 2, 1]
    assert loaded["reference"] == ["grad_cam", "minmax", 0]
    name, shape, size = loaded["pipeline"]
    assert name == MINE and shape == size[::-1]
    server.forget()
    offline = client.call(load_offline, offline=True)
    assert (offline["mine"], offline["trial"], offline["preferred"]) == (0, 2, 0)
    assert offline["never loaded"][0] in ("OSError", "ModelNotFoundError")
    assert server.requests == []


# --- refusals ---------------------------------------------------------------------------------


def push_what_cannot_be_pushed() -> dict[str, Any]:
    save("whole", 0)
    folders = {
        "no processor": ["preprocessor_config.json"],
        "no weights": ["model.safetensors"],
        "nothing": ["config.json"],
    }
    for folder, absent in folders.items():
        save(folder, 0)
        for name in absent:
            Path(folder, name).unlink()
    save("broken", 0)
    Path("broken", "config.json").write_text("{")
    Path("foreign").mkdir()
    Path("foreign", "config.json").write_text(json.dumps({"model_type": "resnet"}))
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    save("sharded", 0)
    Path("sharded", "model.safetensors").rename("sharded/model-1.safetensors")
    Path("sharded", "model.safetensors.index.json").write_text(json.dumps(shards))
    cases = {name: (name,) for name in [*folders, "broken", "foreign", "sharded"]}
    answers = {case: refusal(push, *names, "owner/x") for case, names in cases.items()}
    return answers | {
        "unknown": refusal(push, "salhub/normgrad-tiny-light", "owner/x"),
        "bare repository": refusal(push, "whole", "x"),
        "bad repository": refusal(push, "whole", "owner/x/y"),
        "pull request to a branch": refusal(
            push, "whole", "owner/x", create_pr=True, revision="trial"
        ),
        "no card": refusal(push, "whole", "owner/x", card="absent.md"),
    }


LOCAL_REFUSALS = {
    "no processor": ("ValueError", "no preprocessor_config.json"),
    "no weights": ("ValueError", "no model.safetensors"),
    "nothing": ("ValueError", "no config.json"),
    "broken": ("ValueError", "save the model again"),
    "foreign": ("ValueError", "'resnet'"),
    "sharded": ("ValueError", "no model-2.safetensors"),
    "unknown": ("UnknownNameError", "Did you mean 'normgrad-tiny-lite'"),
    "bare repository": ("ValueError", "'owner/name'"),
    "bad repository": ("ValueError", "'owner/name'"),
    "pull request to a branch": ("ValueError", "revision='trial'"),
    "no card": ("ValueError", "absent.md"),
}


def test_what_is_wrong_here_is_refused_before_the_hub_is_asked(server, site, tmp_path):
    server.forget()
    answers = HubClient(server, tmp_path, [site]).call(push_what_cannot_be_pushed)
    assert answers.keys() == LOCAL_REFUSALS.keys()
    for case, (kind, words) in LOCAL_REFUSALS.items():
        assert answers[case][0] == kind, (case, answers[case])
        assert words in answers[case][1] and "\n" not in answers[case][1]
    assert server.requests == []


def push_where_it_is_refused() -> dict[str, Any]:
    Path("card.md").write_text("---\nlicense: mit\n---\n# Given\n")

    def try_to_push(repo_id: str = MINE, **keywords: Any) -> list[str] | None:
        return refusal(push, EXPLAINER, repo_id, card="card.md", **keywords)

    return {
        "wrong token": try_to_push(token="hf_wrong"),
        "damaged": try_to_push(),
        "busy": try_to_push(),
        "open": try_to_push(),
        "another's": try_to_push(token=GUEST_TOKEN),
        "nobody's": try_to_push("someone/else"),
    }


def push_here() -> list[str] | None:
    Path("card.md").write_text("# Given")
    return refusal(push, EXPLAINER, "owner/x", card="card.md")


def test_what_the_hub_refuses_is_said_in_one_sentence(hub_server, site, tmp_path):
    hub_server.corrupt("/lfs-upload/", method="PUT")
    hub_server.fail("/commit/", status=503, method="POST")
    answers = HubClient(hub_server, tmp_path, [site]).call(push_where_it_is_refused)
    expected = {
        "wrong token": "hf auth login",
        "damaged": "model.safetensors",
        "busy": "503",
        "another's": "has no write access to 'owner'; choose another owner",
        "nobody's": "has no write access to 'someone'; choose another owner",
    }
    assert answers.pop("open") is None
    for case, words in expected.items():
        kind, message = answers[case]
        assert kind == "PushError" and words in message and "\n" not in message, message
    # Only the push to a Hub that works left something.
    assert len(titles(hub_server, MINE)) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"offline": True}, "HF_HUB_OFFLINE"), ({"token": None}, "hf auth login"), ({}, "reached")],
    ids=["offline", "no login", "no network"],
)
def test_pushing_from_nowhere_says_what_is_missing(site, tmp_path, settings, words):
    kind, message = HubClient(None, tmp_path, [site]).call(push_here, **settings)
    assert kind == "PushError" and words in message and "\n" not in message


def test_a_verbalizer_is_not_pushed_without_its_tokenizer(tmp_path):
    from salhub.publishing import files_to_push

    former = Path(__file__).parents[1] / "former" / "verbalizer"
    ignore = shutil.ignore_patterns("tokenizer*")
    folder = shutil.copytree(former, tmp_path / "verbalizer", ignore=ignore)
    with pytest.raises(
        ValueError, match=r"it has no tokenizer_config.json; write it with tokenizer"
    ):
        files_to_push(folder, "me/verbalizer")
    assert "tokenizer_config.json" in files_to_push(former, "me/verbalizer")


def test_of_a_run_what_it_has_exported_is_pushed_and_nothing_else(tmp_path):
    from salhub.publishing import files_to_push
    from tests.runner.test_loop import run_toy

    run_toy(tmp_path, snapshot_step=3, max_train_steps=4, checkpointing_steps=2)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "foreign"}))
    (tmp_path / "notes.md").touch()
    (tmp_path / "LICENSE").touch()
    (tmp_path / "precious.txt").touch()
    listed = json.loads((tmp_path / "exported.json").read_text())
    secret = tmp_path.parent / f"{tmp_path.name}.txt"
    secret.touch()
    named = [*listed, f"../{secret.name}", str(secret)]
    (tmp_path / "exported.json").write_text(json.dumps(named))
    files = files_to_push(tmp_path, "me/toy")
    assert set(files) == {*listed, "LICENSE"}
    assert {"model.safetensors", "README.md", "results.json", "early/README.md"} <= set(files)
    # A run of a former version has no list.
    (tmp_path / "exported.json").unlink()
    (tmp_path / "block-0003.safetensors").touch()
    files = files_to_push(tmp_path, "me/toy")
    assert not {"block-0003.safetensors", "options.json", "log.jsonl"} & set(files)
    (tmp_path / "results.json").unlink()
    with pytest.raises(
        ValueError, match=r"has not been measured yet and has no card; run its command"
    ):
        files_to_push(tmp_path, "me/toy")
