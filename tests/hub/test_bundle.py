"""Shipped files: refused when damaged, and copied to the cache for plain transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .client import HubClient, refusal
from .installation import CLASSIFIER, EXPLAINER, tiny_classifier
from .server import HubServer


def load() -> Any:
    from salhub import EfficientNetLiteForImageClassification

    return EfficientNetLiteForImageClassification.from_pretrained(CLASSIFIER)


def load_explainer() -> Any:
    from salhub import NormGradForImageSaliency

    return NormGradForImageSaliency.from_pretrained(EXPLAINER)


def shift(model: Any) -> float:
    return round((model.classifier.bias - tiny_classifier().classifier.bias).mean().item(), 5)


def damage_and_load(file_name: str) -> dict[str, Any]:
    from salhub.entries import MODELS
    from salhub.hub import bundled_model, seed_cache

    path = bundled_model(CLASSIFIER).folder_of(file_name) / file_name
    whole = path.read_bytes()
    last = bytes([whole[-1] ^ 1])
    answers: dict[str, Any] = {"path": str(path)}
    for damage, content in {"flipped": whole[:-1] + last, "short": whole[:-9], "gone": b""}.items():
        path.write_bytes(content) if content else path.unlink()
        answers[damage] = {
            "model": refusal(load),
            "explainer": refusal(load_explainer),
            "processor": refusal(
                MODELS["efficientnet_lite"].image_processor_class.from_pretrained, CLASSIFIER
            ),
            "seed": refusal(seed_cache),
        }
    path.write_bytes(whole)
    return answers | {"whole": [refusal(load), refusal(load_explainer), refusal(seed_cache)]}


def test_a_damaged_weight_file_is_refused_by_name_whoever_shares_it(site, tmp_path):
    copy, home = tmp_path / "site", tmp_path / "home"
    shutil.copytree(site, copy)
    home.mkdir()
    client = HubClient(None, home, [copy])
    answers = client.call(damage_and_load, "model.safetensors", offline=True)
    path, whole = answers.pop("path"), answers.pop("whole")
    assert answers.keys() == {"flipped", "short", "gone"}
    for by_reader in answers.values():
        for kind, message in by_reader.values():
            assert kind == "IntegrityError" and path in message and "\n" not in message
            assert "reinstall" in message
    assert whole == [None, None, None]


def seed() -> dict[str, Any]:
    from salhub.hub import bundled_model, seed_cache

    return {
        "paths": [str(path) for path in seed_cache()],
        "again": [str(path) for path in seed_cache(["tiny-lite"])],
        "revisions": [bundled_model(name).revision for name in (EXPLAINER, CLASSIFIER)],
        "unknown": refusal(seed_cache, ["tiny-litte"]),
    }


def use_plain_transformers(revision: str) -> dict[str, Any]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel
    from transformers import AutoModelForImageClassification as AutoClassifier

    import salhub  # noqa: F401

    return {
        "shifts": [
            shift(AutoModel.from_pretrained(CLASSIFIER)),
            shift(AutoClassifier.from_pretrained(CLASSIFIER)),
            shift(AutoClassifier.from_pretrained(CLASSIFIER, revision=revision)),
            shift(AutoModel.from_pretrained(EXPLAINER).backbone),
        ],
        "config": AutoConfig.from_pretrained(CLASSIFIER).num_labels,
        "sizes": [
            dict(AutoImageProcessor.from_pretrained(name).size) for name in (CLASSIFIER, EXPLAINER)
        ],
    }


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_a_seeded_cache_serves_plain_transformers_from_a_read_only_folder(site, tmp_path):
    hermit = HubClient(None, tmp_path, [site])
    facts = hermit.call(seed)
    names = ["normgrad-tiny-lite", "tiny-lite"]
    expected = [
        str(hermit.cache / f"models--salhub--{name}" / "snapshots" / revision)
        for name, revision in zip(names, facts["revisions"], strict=True)
    ]
    assert sorted(facts["paths"]) == expected and facts["again"] == expected[1:]
    assert all(len(revision) == 40 for revision in facts["revisions"])
    assert facts["unknown"][0] == "UnknownNameError" and "'tiny-lite'" in facts["unknown"][1]
    assert not any(path.is_symlink() for path in hermit.cache.rglob("*"))
    everything = [*hermit.cache.rglob("*"), hermit.cache]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(hermit.cache)
    used = hermit.call(use_plain_transformers, facts["revisions"][1], offline=True)
    # Permissions do not stop an administrator, so what is there is compared as well.
    assert contents(hermit.cache) == before
    for path in everything:
        path.chmod(0o755)
    assert used["shifts"] == [0, 0, 0, 0]
    assert used["config"] == 3
    assert used["sizes"] == [{"height": 32, "width": 32}] * 2


def download_then_seed() -> list[float]:
    from transformers import AutoModelForImageClassification as AutoClassifier

    import salhub

    other = tiny_classifier()
    other.classifier.bias.data += 2
    other.push_to_hub(CLASSIFIER)
    before = shift(AutoClassifier.from_pretrained(CLASSIFIER))
    salhub.seed_cache()
    return [before, shift(AutoClassifier.from_pretrained(CLASSIFIER, local_files_only=True))]


def test_seeding_leaves_a_download_of_the_same_name_alone(
    hub_server: HubServer, site: Path, tmp_path: Path
):
    assert HubClient(hub_server, tmp_path, [site]).call(download_then_seed) == [2, 2]
