"""What the unmodified client does when the Hub is busy, broken, empty or closed to it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download

from salhub.hub_faults import damaged_files, remove_damaged

from .client import HubClient, refusal
from .folders import WEIGHTS_SHA256, push_first
from .server import GUEST_TOKEN, OWNER_TOKEN, HubServer

NAME = "salhub/first"
CHUNK = 10 * 2**20  # the client writes downloads in pieces of 10 MiB
BIG = 2 * CHUNK + 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A Hub with one public model."""
    with HubServer() as server:
        HubClient(server, tmp_path_factory.mktemp("author")).call(push_first)
        yield server


@pytest.fixture
def client(server: HubServer, tmp_path: Path) -> HubClient:
    """A new machine; the Hub works again and has forgotten what it was asked."""
    server.forget()
    return HubClient(server, tmp_path)


def fetch(name: str = "model.safetensors") -> str:
    path = hf_hub_download(NAME, name, force_download=True)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def push_and_fetch_a_big_file() -> str:
    content = random.Random(1).randbytes(BIG)
    HfApi().upload_file(path_or_fileobj=content, path_in_repo="big.bin", repo_id=NAME)
    return fetch("big.bin")


def test_an_interrupted_download_goes_on_where_it_stopped(server, client):
    server.cut("big.bin", after=CHUNK + 5)
    server.cut("big.bin", after=CHUNK + 5)
    sha256 = client.call(push_and_fetch_a_big_file)
    parts = [(r.status, r.range, r.sent) for r in server.matching("GET", "/big.bin")]
    assert sha256 == hashlib.sha256(random.Random(1).randbytes(BIG)).hexdigest()
    assert parts == [
        (200, None, CHUNK + 5),
        (206, f"bytes={CHUNK}-", CHUNK + 5),
        (206, f"bytes={2 * CHUNK}-", 1000),
    ]


def test_a_busy_hub_is_asked_again(server, client):
    server.fail("model.safetensors", status=503, times=2, method="HEAD")
    path = client.call(hf_hub_download, NAME, "model.safetensors")
    assert Path(path).stat().st_size == 200_000
    assert [request.status for request in server.matching("HEAD")] == [503, 503, 200]


def fetch_short_broken_damaged_and_good() -> list[Any]:
    return [refusal(fetch), refusal(fetch), fetch(), fetch()]


def test_bodies_of_the_wrong_length_are_refused_but_bytes_are_not_compared(server, client):
    server.shorten("model.safetensors", to=150_000)
    server.fail("model.safetensors", status=500)
    server.corrupt("model.safetensors")
    short, broken, damaged, good = client.call(fetch_short_broken_damaged_and_good)
    assert short[0] == "OSError" and "Consistency check failed" in short[1]
    assert broken[0] == "HfHubHTTPError" and "500" in broken[1]
    assert good == WEIGHTS_SHA256
    # Whoever needs the exact bytes has to compare hashes: the client compares lengths only.
    assert damaged != good


def push_another_file() -> list[str] | None:
    addition = [CommitOperationAdd("other.safetensors", bytes(1000))]
    return refusal(HfApi().create_commit, NAME, addition, commit_message="other")


def test_an_upload_damaged_on_the_way_is_refused_by_its_hash(server, client):
    before = server.repository(NAME).resolve("main").oid
    server.corrupt("/lfs-upload/", method="PUT")
    kind, message = client.call(push_another_file)
    assert kind == "RuntimeError" and "other.safetensors" in message
    assert [request.status for request in server.matching("PUT")] == [400]
    assert server.count("POST", "/commit/") == 0
    assert server.repository(NAME).resolve("main").oid == before


def look_for_what_is_missing() -> dict[str, Any]:
    return {
        "repository": refusal(hf_hub_download, "salhub/absent", "config.json"),
        "bare name": refusal(hf_hub_download, "absent", "config.json"),
        "revision": refusal(hf_hub_download, NAME, "config.json", revision="v9"),
        "entry": refusal(hf_hub_download, NAME, "absent.json"),
        "snapshot": refusal(snapshot_download, NAME, revision="v9"),
        "tree": refusal(lambda: list(HfApi().list_repo_tree(NAME, "absent"))),
        "main": refusal(HfApi().delete_branch, NAME, branch="main"),
    }


def test_every_kind_of_missing_has_its_own_error(client):
    kinds = {what: error[0] for what, error in client.call(look_for_what_is_missing).items()}
    assert kinds == {
        "repository": "RepositoryNotFoundError",
        "bare name": "RepositoryNotFoundError",
        "revision": "RevisionNotFoundError",
        "entry": "RemoteEntryNotFoundError",
        "snapshot": "RevisionNotFoundError",
        "tree": "RemoteEntryNotFoundError",
        "main": "HfHubHTTPError",
    }
    # Without the commit in the refusal the client could not remember that the file is absent.
    remembered = client.cache / "models--salhub--first" / ".no_exist"
    assert [path.name for path in remembered.rglob("absent.json")] == ["absent.json"]


def push_a_broken_card() -> list[str] | None:
    card = b"---\nlicense: [mit\n---\n"
    return refusal(
        HfApi().upload_file, path_or_fileobj=card, path_in_repo="README.md", repo_id=NAME
    )


def test_a_card_with_broken_metadata_is_refused_before_any_upload(server, client):
    kind, message = client.call(push_a_broken_card)
    assert kind == "ValueError" and "Invalid metadata" in message
    assert server.count("POST", "/commit/") == 0


def prepare_private_and_gated() -> None:
    api = HfApi()
    for name, private in (("salhub/private", True), ("salhub/gated", False)):
        api.create_repo(name, private=private)
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=name)
    api.update_repo_settings("salhub/gated", gated="manual")


@pytest.fixture(scope="module")
def rules(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Beside the public model, a private and a gated one."""
    HubClient(server, tmp_path_factory.mktemp("rules")).call(prepare_private_and_gated)


def try_every_door() -> dict[str, Any]:
    api, upload = HfApi(), {"path_or_fileobj": b"", "path_in_repo": "x", "repo_id": NAME}
    answers = {
        "whoami": refusal(api.whoami),
        "private": refusal(hf_hub_download, "salhub/private", "config.json"),
        "gated": refusal(hf_hub_download, "salhub/gated", "config.json"),
        "gated information": refusal(api.model_info, "salhub/gated"),
        "push": refusal(api.upload_file, **upload),
        "create": refusal(api.create_repo, "salhub/new-one"),
    }
    if answers["create"] is None:
        api.delete_repo("salhub/new-one")
    kinds = {door: answer[0] if answer else "open" for door, answer in answers.items()}
    return kinds | {"listed": [model.id for model in api.list_models(author="salhub")]}


def statuses(server: HubServer) -> dict[str, int]:
    return {request.path: request.status for request in server.requests}


def test_the_owner_passes_every_door(rules, client):
    doors = client.call(try_every_door)
    assert "salhub/private" in doors.pop("listed")
    assert set(doors.values()) == {"open"}


def test_a_stranger_is_refused_with_401(rules, server, client):
    doors = client.call(try_every_door, token=None)
    assert doors == {
        "whoami": "LocalTokenNotFoundError",
        "private": "RepositoryNotFoundError",
        "gated": "GatedRepoError",
        "gated information": "open",
        "push": "HfHubHTTPError",
        "create": "HfHubHTTPError",
        "listed": [NAME, "salhub/gated"],
    }
    refused = statuses(server)
    assert refused["/salhub/private/resolve/main/config.json"] == 401
    assert refused["/salhub/gated/resolve/main/config.json"] == 401
    assert refused["/api/repos/create"] == 401


def test_another_user_is_refused_with_403_until_let_in(rules, server, client):
    doors = client.call(try_every_door, token=GUEST_TOKEN)
    assert doors["private"] == "RepositoryNotFoundError" and doors["gated"] == "GatedRepoError"
    assert doors["whoami"] == "open" and doors["push"] == "HfHubHTTPError"
    refused = statuses(server)
    assert refused["/salhub/private/resolve/main/config.json"] == 404
    assert refused["/salhub/gated/resolve/main/config.json"] == 403
    assert refused["/api/models/salhub/first/preupload/main"] == 403
    server.repository("salhub/gated").readers.add("guest")
    assert client.call(try_every_door, token=GUEST_TOKEN)["gated"] == "open"
    server.repository("salhub/gated").readers.clear()


def use_a_wrong_token() -> list[Any]:
    return [refusal(HfApi().whoami), refusal(hf_hub_download, NAME, "config.json")]


def test_a_wrong_token_is_refused_even_for_public_models(client):
    whoami, public = client.call(use_a_wrong_token, token=OWNER_TOKEN[:-1])
    assert "Invalid user token" in whoami[1]
    assert "401" in public[1]


def test_a_file_that_another_process_heals_meanwhile_stays(tmp_path: Path, monkeypatch):
    content = b"whole"
    header = f"blob {len(content)}\0".encode()
    names = [hashlib.sha256(content).hexdigest(), hashlib.sha1(header + content).hexdigest()]
    blobs = [tmp_path / "blobs" / name for name in names]
    links = [tmp_path / "snapshots" / "1" / name for name in ("model.safetensors", "config.json")]
    for blob, link in zip(blobs, links, strict=True):
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"other")
        link.symlink_to(blob)
    assert damaged_files(links[0].parent, with_weights=True) == sorted(links)
    blobs[0].write_bytes(content)
    remove_damaged(links)
    assert links[0].read_bytes() == content and not blobs[1].exists() and not links[1].is_symlink()
    resolve = Path.resolve

    def then_removed(path: Path) -> Path:
        resolved = resolve(path)
        blobs[0].unlink(missing_ok=True)
        return resolved

    monkeypatch.setattr(Path, "resolve", then_removed)
    assert damaged_files(links[0].parent, with_weights=True) == []
