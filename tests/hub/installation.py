"""A copy of salhub that ships small models of its own, as if installed from a wheel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from .client import REPOSITORY_ROOT, HubClient

CLASSIFIER = "salhub/tiny-lite"
EXPLAINER = "salhub/normgrad-tiny-lite"
LICENCE = "Apache License 2.0"
FACTS = {
    "summary": "A tiny model of random numbers.",
    "pipeline_tag": "image-classification",
    "example": 'import salhub\n\nname = "{model}"',
    "intended_use": ["tests"],
    "not_for": ["anything else"],
    "recipe": "none",
    "limits": ["knows nothing"],
    "trained_on": "nothing",
    "source": "random numbers",
    "license": "apache-2.0",
    "data_license": "none",
    "citation": "@misc{tiny}",
}


def install(site: Path) -> Path:
    """Copy the package without its weights, then let the copy ship small models."""
    ignore = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(REPOSITORY_ROOT / "salhub", site / "salhub", ignore=ignore)
    for folder in ("weights", "model_cards"):
        (site / "salhub" / folder).mkdir()
    (site / "salhub" / "weights" / "manifest.json").write_text("{}")
    home = site.parent / f"{site.name}-builder"
    home.mkdir()
    HubClient(None, home, packages=[site]).call(ship, offline=True)
    return site


def tiny_classifier() -> Any:
    """A random EfficientNet-Lite with few channels and three classes, always the same one."""
    import torch

    from salhub import EfficientNetLiteConfig, EfficientNetLiteForImageClassification

    torch.manual_seed(0)
    sizes = {"width_coefficient": 0.1, "stem_channels": 8, "head_channels": 16, "image_size": 32}
    return EfficientNetLiteForImageClassification(EfficientNetLiteConfig(**sizes, num_labels=3))


def ship() -> None:
    """A classifier, and an explainer that shares its weight file."""
    from salhub import NormGradConfig
    from salhub.manifest import WEIGHTS_ROOT, write_manifest

    classifier, explainer = (WEIGHTS_ROOT / name.split("/")[1] for name in (CLASSIFIER, EXPLAINER))
    model = tiny_classifier()
    model.save_pretrained(classifier)
    config = NormGradConfig(backbone_config=model.config, layers=["blocks.10"])
    config.architectures = ["NormGradForImageSaliency"]
    config.save_pretrained(explainer)
    _complete(classifier, {"task": "image-classification"})
    _complete(explainer, {"task": "image-saliency", "weights_from": classifier.name})
    write_manifest()


def _complete(folder: Path, facts: dict[str, str]) -> None:
    import salhub
    from salhub.entries import MODELS
    from salhub.results import Metric, Results

    MODELS["efficientnet_lite"].image_processor_class.for_image_size(32).save_pretrained(folder)
    (folder / "card.yaml").write_text(yaml.safe_dump(FACTS | facts))
    (folder / "LICENSE").write_text(LICENCE)
    cards = Path(salhub.__file__).parent / "model_cards"
    shutil.copy(Path(salhub.__file__).parent / "data/photos/cat.jpg", cards / f"{folder.name}.png")
    Results(
        model=f"salhub/{folder.name}",
        command="none",
        seed=0,
        data={},
        versions={},
        machine={},
        wall_seconds=0.0,
        metrics=[Metric("accuracy", 0.333, None, 3, "fraction")],
        tables=[],
    ).save(cards / f"{folder.name}.results.json")
