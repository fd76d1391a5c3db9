"""Where `from_pretrained` finds a model: every line of the order, in a copy with its own bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .client import HubClient, mark, refusal
from .installation import CLASSIFIER, install, tiny_classifier
from .server import HubServer

ABSENT = "salhub/tiny-litte"


def load(name: str = CLASSIFIER, **keywords: Any) -> Any:
    from salhub import EfficientNetLiteForImageClassification

    return EfficientNetLiteForImageClassification.from_pretrained(name, **keywords)


def load_processor(name: str = CLASSIFIER, **keywords: Any) -> Any:
    from salhub.auto import BACKBONES

    return BACKBONES[0].image_processor_class.from_pretrained(name, **keywords)


def shift(model: Any) -> float:
    """How far the last bias is from the shipped one; pushed models are shifted on purpose."""
    return (model.classifier.bias - tiny_classifier().classifier.bias).mean().item()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("wheel") / "site")


@pytest.fixture(scope="module")
def server(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A Hub whose models of the same names have other weights, so that the source shows."""
    with HubServer() as server:
        HubClient(server, tmp_path_factory.mktemp("author"), [site]).call(push_shifted)
        yield server


@pytest.fixture
def person(server: HubServer, site: Path, tmp_path: Path) -> HubClient:
    server.forget()
    return HubClient(server, tmp_path, [site])


@pytest.fixture
def hermit(site: Path, tmp_path: Path) -> HubClient:
    """A person without any network and with an empty cache."""
    return HubClient(None, tmp_path, [site])


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
    push("salhub/private", 3, private=True)
    tiny_classifier().save_pretrained("nested")
    HfApi().create_repo("salhub/nested")
    HfApi().upload_folder(repo_id="salhub/nested", folder_path="nested", path_in_repo="inner")


# --- the bundle -----------------------------------------------------------------------------------


def use_the_bundle() -> dict[str, Any]:
    import logging

    logging.basicConfig(level=logging.INFO, filename="log.txt")
    import salhub
    from salhub.hub import bundled_model

    revision = bundled_model(CLASSIFIER).revision
    model = load()
    return {
        "from": salhub.__file__,
        "shift": shift(model),
        "names": [model.name_or_path, model.config.name_or_path],
        "by revision": shift(load(revision=revision)),
        "config": type(model.config).from_pretrained(CLASSIFIER).num_labels,
        "processor": dict(load_processor().size),
        "log": Path("log.txt").read_text(),
        "sha256": [file.sha256 for file in bundled_model(CLASSIFIER).files],
        "listed": repr(salhub.list_models()),
    }


def test_a_shipped_model_loads_without_network_or_cache(hermit, site):
    facts = hermit.call(use_the_bundle)
    assert facts["from"].startswith(str(site))
    assert facts["shift"] == facts["by revision"] == 0
    assert facts["config"] == 3 and facts["processor"] == {"height": 32, "width": 32}
    assert not hermit.cache.exists()
    # A path of the installation would end up in cards and in messages.
    assert facts["names"] == [CLASSIFIER, CLASSIFIER]
    lines = [line for line in facts["log"].splitlines() if "salhub.hub" in line]
    assert lines and all(CLASSIFIER in line and "shipped" in line for line in lines)
    assert any(sha256[:12] in lines[0] for sha256 in facts["sha256"])
    assert CLASSIFIER in facts["listed"] and "random numbers" in facts["listed"]


def use_a_folder() -> list[float]:
    model = tiny_classifier()
    model.classifier.bias.data += 5
    model.save_pretrained(CLASSIFIER)
    return [shift(load()), shift(load(Path(CLASSIFIER)))]


def test_an_existing_folder_comes_before_everything(hermit):
    assert hermit.call(use_a_folder) == [5, 5]


# --- the Hub --------------------------------------------------------------------------------------


def use_the_hub() -> dict[str, Any]:
    mark("forced")
    forced = shift(load(force_download=True))
    mark("tag")
    return {
        "forced": forced,
        "v1": shift(load(revision="v1")),
        "main": shift(load(revision="main")),
        "processor": dict(load_processor(revision="main").size),
        "cache_dir": shift(load(revision="main", cache_dir="other")),
        "only local": shift(load(revision="v1", local_files_only=True)),
        "only local elsewhere": refusal(
            load, revision="v1", local_files_only=True, cache_dir="empty"
        ),
        "revision": refusal(load, revision="v9"),
        "subfolder": shift(load("salhub/nested", subfolder="inner")),
    }


def test_force_download_and_other_revisions_go_to_the_hub_with_every_keyword(person, server):
    facts = person.call(use_the_hub, token=None)
    assert (facts["forced"], facts["v1"], facts["main"]) == pytest.approx((2, 1, 2))
    assert facts["cache_dir"] == pytest.approx(2) and facts["only local"] == pytest.approx(1)
    assert (person.home / "other" / "models--salhub--tiny-lite").is_dir()
    assert facts["subfolder"] == 0
    assert facts["processor"] == {"height": 32, "width": 32}
    assert facts["only local elsewhere"][0] == "ModelNotFoundError"
    assert facts["revision"][0] == "OSError" and "v9" in facts["revision"][1]
    assert any(request.sent > 1000 for request in server.phase("forced"))


def use_a_private_model(token: str) -> dict[str, Any]:
    return {"with": shift(load("salhub/private", token=token)), "who": os.environ.get("HF_TOKEN")}


def use_a_private_model_without_token() -> list[str] | None:
    return refusal(load, "salhub/private")


def test_the_token_is_passed_through(person):
    from .server import OWNER_TOKEN

    kind, message = person.call(use_a_private_model_without_token, token=None)
    assert kind == "ModelNotFoundError" and "private" in message
    facts = person.call(use_a_private_model, OWNER_TOKEN, token=None)
    assert facts == {"with": pytest.approx(3), "who": None}


def load_shift() -> float:
    return shift(load())


def test_preferring_the_hub_swaps_the_order_and_falls_back_to_the_bundle(person, server):
    assert person.call(load_shift, SALHUB_PREFER_HUB="1") == pytest.approx(2)
    assert person.call(load_shift, SALHUB_PREFER_HUB="0") == 0
    # Cached by now, so it stays the Hub's model without a network.
    assert person.call(load_shift, SALHUB_PREFER_HUB="1", offline=True) == pytest.approx(2)


def test_preferring_a_hub_that_cannot_answer_gives_the_bundle(hermit, person, server):
    assert hermit.call(load_shift, SALHUB_PREFER_HUB="1") == 0
    assert hermit.call(load_shift, SALHUB_PREFER_HUB="1", offline=True) == 0
    server.fail("config.json", status=503, times=20, method="HEAD")
    assert person.call(load_shift, SALHUB_PREFER_HUB="1", HF_HUB_ETAG_TIMEOUT="1") == 0


# --- names nobody knows ---------------------------------------------------------------------------


def look_for_the_absent() -> dict[str, Any]:
    import salhub

    answers = {
        "model": refusal(load, ABSENT),
        "processor": refusal(load_processor, ABSENT),
        "saliency": refusal(salhub.AutoModelForSaliency.from_pretrained, ABSENT),
        "pipeline": refusal(salhub.pipeline, ABSENT),
        "elsewhere": refusal(load, "owner/absent"),
    }
    return {what: answer or ["loaded", ""] for what, answer in answers.items()}


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_a_missing_name_lists_the_nearest_and_what_was_tried(person, offline):
    answers = person.call(look_for_the_absent, offline=offline)
    assert {kind for kind, _ in answers.values()} == {"ModelNotFoundError"}
    for what, (_, message) in answers.items():
        assert all(word in message for word in ("folder", "shipped", "cache", "Hub")) or (
            str(person.cache) in message and person.server.url in message
        ), message
        assert "\n" not in message
        assert ("tiny-lite" in message.replace(ABSENT, "")) == (what != "elsewhere"), message


def force_offline() -> list[str] | None:
    return refusal(load, force_download=True)


def test_force_download_without_a_network_says_so(person):
    kind, message = person.call(force_offline, offline=True)
    assert kind in ("ModelNotFoundError", "ValueError", "OSError")
    assert "force_download" in message or "unreachable" in message


# --- damaged files --------------------------------------------------------------------------------


@pytest.fixture
def damaged(site: Path, tmp_path: Path) -> tuple[HubClient, Path]:
    """A person whose installation may be damaged, and its weight file."""
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    home = tmp_path / "home"
    home.mkdir()
    weights = copy / "salhub" / "weights" / "tiny-lite" / "model.safetensors"
    return HubClient(None, home, [copy]), weights


def load_everything() -> list[Any]:
    from salhub.hub import seed_cache

    return [refusal(load), refusal(load_processor), refusal(seed_cache)]


@pytest.mark.parametrize("damage", ["flipped", "shortened", "removed"])
def test_a_damaged_file_is_refused_by_name(damaged, damage):
    client, weights = damaged
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    if damage != "removed":
        weights.write_bytes(content if damage == "flipped" else content[:-10])
    for kind, message in client.call(load_everything, offline=True):
        assert kind == "IntegrityError"
        assert str(weights) in message and "reinstall" in message
    assert not client.cache.exists() or not any(client.cache.rglob("*.safetensors"))


# --- the seeded cache -----------------------------------------------------------------------------


def seed() -> dict[str, Any]:
    from salhub.hub import bundled_model, seed_cache

    paths = [str(path) for path in seed_cache()]
    again = [str(path) for path in seed_cache(["tiny-lite"])]
    return {
        "paths": paths,
        "again": again,
        "revision": bundled_model(CLASSIFIER).revision,
        "unknown": refusal(seed_cache, ["tiny-litte"]),
    }


def use_plain_transformers(revision: str) -> dict[str, Any]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel
    from transformers import AutoModelForImageClassification as AutoClassifier

    import salhub  # noqa: F401

    return {
        "model": shift(AutoModel.from_pretrained(CLASSIFIER)),
        "classifier": shift(AutoClassifier.from_pretrained(CLASSIFIER)),
        "by revision": shift(AutoClassifier.from_pretrained(CLASSIFIER, revision=revision)),
        "config": AutoConfig.from_pretrained(CLASSIFIER).num_labels,
        "processor": dict(AutoImageProcessor.from_pretrained(CLASSIFIER).size),
    }


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_a_seeded_cache_serves_plain_transformers_from_a_read_only_folder(hermit):
    facts = hermit.call(seed)
    snapshot = hermit.cache / "models--salhub--tiny-lite" / "snapshots" / facts["revision"]
    assert len(facts["revision"]) == 40
    assert facts["paths"] == facts["again"] == [str(snapshot)]
    assert facts["unknown"][0] == "UnknownNameError" and "'tiny-lite'" in facts["unknown"][1]
    assert not any(path.is_symlink() for path in hermit.cache.rglob("*"))
    for path in [*hermit.cache.rglob("*"), hermit.cache]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(hermit.cache)
    used = hermit.call(use_plain_transformers, facts["revision"], offline=True)
    # Permissions do not stop an administrator, so what is there is compared as well.
    assert contents(hermit.cache) == before
    assert used == {
        "model": 0,
        "classifier": 0,
        "by revision": 0,
        "config": 3,
        "processor": {"height": 32, "width": 32},
    }
    for path in [hermit.cache, *hermit.cache.rglob("*")]:
        path.chmod(0o755)


def load_plain() -> list[float]:
    from transformers import AutoModelForImageClassification

    import salhub  # noqa: F401

    return [shift(AutoModelForImageClassification.from_pretrained(CLASSIFIER))]


def test_seeding_leaves_a_download_of_the_same_name_alone(person):
    assert person.call(load_plain) == [pytest.approx(2)]
    person.call(seed)
    assert person.call(load_plain, offline=True) == [pytest.approx(2)]
