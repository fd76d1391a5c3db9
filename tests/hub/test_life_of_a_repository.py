"""Create, push, list, tag, change, download, delete: the unmodified client on the loopback Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_hub_download,
    snapshot_download,
)

from .client import HubClient, refusal
from .folders import WEIGHTS_SHA256, push_first
from .server import HubServer

NAME = "salhub/first"


def push_and_list() -> dict[str, Any]:
    api, pushed = HfApi(), push_first()
    again = api.upload_folder(repo_id=NAME, folder_path="folder")
    info = api.model_info(NAME, files_metadata=True)
    return {
        "user": api.whoami()["name"],
        "existing": api.create_repo(NAME, exist_ok=True),
        "twice": refusal(api.create_repo, NAME),
        "pushed": pushed,
        "again": again.oid,
        "sha": info.sha,
        "lfs": {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs},
        "library": info.library_name,
        "license": ModelCard.load(NAME).data.license,
        "files": api.list_repo_files(NAME),
        "top": [entry.path for entry in api.list_repo_tree(NAME)],
        "nested": [entry.path for entry in api.list_repo_tree(NAME, "nested", recursive=True)],
        "sizes": [file.size for file in api.get_paths_info(NAME, ["config.json", "absent"])],
    }


def tag_and_change(pushed: str) -> dict[str, Any]:
    api = HfApi()
    api.create_tag(NAME, tag="v1")
    change = [CommitOperationAdd("config.json", b"{}"), CommitOperationDelete("nested/")]
    api.create_commit(NAME, change, commit_message="smaller")
    api.create_branch(NAME, branch="trial", revision="v1")
    addition = [CommitOperationAdd("new.txt", b"new")]
    proposal = api.create_commit(NAME, addition, commit_message="proposal", create_pr=True)
    late = {"operations": [CommitOperationAdd("late.txt", b"late")], "parent_commit": pushed}
    refs = api.list_repo_refs(NAME, include_pull_requests=True)
    return {
        "titles": [commit.title for commit in api.list_repo_commits(NAME)],
        "authors": [commit.authors for commit in api.list_repo_commits(NAME)],
        "tags": {tag.name: tag.target_commit for tag in refs.tags},
        "branches": sorted(branch.name for branch in refs.branches),
        "proposal": proposal.pr_revision,
        "pull_requests": [pull_request.name for pull_request in refs.pull_requests],
        "proposed": [
            api.file_exists(NAME, "new.txt"),
            api.file_exists(NAME, "new.txt", revision="refs/pr/1"),
        ],
        "late": refusal(api.create_commit, NAME, **late, commit_message="late"),
    }


def download(pushed: str) -> dict[str, Any]:
    old = hf_hub_download(NAME, "config.json", revision="v1")
    new = hf_hub_download(NAME, "config.json")
    snapshot = Path(snapshot_download(NAME, revision="v1"))
    weights = (snapshot / "model.safetensors").read_bytes()
    return {
        "old": Path(old).read_text(),
        "new": Path(new).read_text(),
        "short": hf_hub_download(NAME, "config.json", revision=pushed[:8]),
        "snapshot": sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*.*")),
        "weights": hashlib.sha256(weights).hexdigest(),
    }


def other_kinds() -> dict[str, Any]:
    api = HfApi()
    for number in range(3):
        api.create_repo(f"owner/number-{number}")
    space, data = {"repo_id": "owner/app", "repo_type": "space"}, {"repo_id": "owner/data"}
    data["repo_type"] = "dataset"
    api.create_repo(**space, space_sdk="gradio")
    api.create_repo(**data)
    api.upload_file(path_or_fileobj=b"print()", path_in_repo="app.py", **space)
    api.upload_file(path_or_fileobj=b"a,b", path_in_repo="a b.csv", **data)
    return {
        "models": [model.id for model in api.list_models(author="owner")],
        "tagged": [model.id for model in api.list_models(filter="saliency")],
        "searched": [model.id for model in api.list_models(search="BER-2")],
        "spaces": [found.id for found in api.list_spaces()],
        "datasets": [found.id for found in api.list_datasets()],
        "sdk": api.space_info("owner/app").sdk,
        "app": Path(hf_hub_download(filename="app.py", **space)).read_text(),
        "data": Path(hf_hub_download(filename="a b.csv", **data)).read_text(),
    }


def delete() -> dict[str, Any]:
    api = HfApi()
    api.delete_tag(NAME, tag="v1")
    api.delete_branch(NAME, branch="trial")
    refs = api.list_repo_refs(NAME)
    api.delete_repo(NAME)
    api.delete_repo("owner/app", repo_type="space")
    return {
        "references_left": [reference.name for reference in refs.branches + refs.tags],
        "exists": [api.repo_exists(NAME), api.repo_exists("owner/app", repo_type="space")],
        "missing": refusal(api.delete_repo, NAME),
    }


def whole_life() -> dict[str, Any]:
    facts = push_and_list()
    facts |= tag_and_change(facts["pushed"]) | download(facts["pushed"])
    return facts | other_kinds() | delete()


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer(page_size=2) as server:
        yield server


@pytest.fixture(scope="module")
def facts(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return HubClient(server, tmp_path_factory.mktemp("life")).call(whole_life)


def test_a_folder_is_pushed_in_one_commit_and_large_files_through_lfs(server, facts):
    assert facts["titles"][1:] == ["weights", "initial commit"]
    assert facts["user"] == "owner" and facts["authors"][0] == ["owner"]
    assert facts["lfs"] == {"model.safetensors": WEIGHTS_SHA256}
    assert server.count("PUT", "/lfs-upload/") == 1


def test_an_unchanged_folder_makes_no_commit(facts):
    assert facts["again"] == facts["pushed"] == facts["sha"]


def test_creating_twice_is_refused_unless_allowed(server, facts):
    assert facts["existing"] == f"{server.url}/salhub/first"
    assert facts["twice"][0] == "HfHubHTTPError" and "409" in facts["twice"][1]


def test_listings_are_complete_over_several_pages(facts):
    top = [".gitattributes", "README.md", "config.json", "model.safetensors", "nested"]
    assert facts["top"] == top
    assert facts["files"] == [*top[:4], "nested/deep/notes.txt"]
    assert facts["nested"] == ["nested/deep", "nested/deep/notes.txt"]
    assert facts["models"] == ["owner/number-0", "owner/number-1", "owner/number-2"]
    assert facts["tagged"] == ["salhub/first"] and facts["searched"] == ["owner/number-2"]
    assert facts["sizes"] == [8]


def test_the_card_is_read_as_metadata(facts):
    assert (facts["library"], facts["license"]) == ("salhub", "mit")


def test_tags_and_hashes_keep_naming_the_old_files(facts):
    assert facts["tags"] == {"v1": facts["pushed"]}
    assert (facts["old"], facts["new"]) == ('{"a": 1}', "{}")
    assert facts["pushed"] in facts["short"]
    assert facts["branches"] == ["main", "trial"]


def test_a_pull_request_leaves_main_alone(facts):
    assert facts["proposal"] == "refs/pr/1" and facts["pull_requests"] == ["refs/pr/1"]
    assert facts["proposed"] == [False, True]
    assert facts["titles"][0] == "smaller"


def test_a_commit_on_an_old_parent_is_refused(facts):
    assert "412" in facts["late"][1]


def test_a_snapshot_is_the_tagged_state(facts):
    assert facts["snapshot"] == facts["files"]
    assert facts["weights"] == WEIGHTS_SHA256


def test_spaces_and_datasets_have_their_own_prefixes(server, facts):
    assert facts["sdk"] == "gradio"
    assert (facts["spaces"], facts["datasets"]) == (["owner/app"], ["owner/data"])
    assert (facts["app"], facts["data"]) == ("print()", "a,b")
    assert server.count("GET", "/datasets/owner/data/resolve/main/a%20b.csv") == 1


def test_deleting_removes_references_and_repositories(facts):
    assert facts["references_left"] == ["main"]
    assert facts["exists"] == [False, False]
    assert facts["missing"][0] == "RepositoryNotFoundError"


LEAVE = """
import os, urllib.request
print([name for name in os.environ if name in ("HF_TOKEN", "SALHUB_PREFER_HUB", "LEAKED")])
try:
    urllib.request.urlopen("http://192.0.2.1/", timeout=20)
except OSError as error:
    print(error)
"""


def test_a_client_sees_no_settings_of_the_machine_and_cannot_leave_it(run_client, monkeypatch):
    monkeypatch.setenv("LEAKED", "1")
    names, error = run_client(LEAVE, token=None).stdout.splitlines()
    assert names == "[]"
    assert "refused" in error
