"""Cells of the study of DiSa: a method, a domain and a seed, each trained and measured once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.disa_tasks import SHOTS, Tasks
from benchmarks.experiments import run_once
from salhub.data.labelled_pictures import read_labelled_pictures
from salhub.data.picture_preparation import PicturePreparation
from salhub.models.disa.evaluation_disa import harmonic_mean
from salhub.models.disa.few_shots import base_classes, draw_shots
from salhub.models.disa.modeling_disa import DiSaForImageClassification
from salhub.models.disa.recipe_disa import DiSaRecipe
from salhub.runner.batches import generator_of

# Of every training, the same for all methods; nothing was tuned for any of them.
EPOCHS, BATCH, RATE = 10, 32, 0.02
_LORA_RATE, _LORA_RANK = 1e-3, 4
_PROMPTS = {
    "CoOp": {"preset": "coop"},
    "IVLP": {"preset": "ivlp"},
    "PromptSRC": {"preset": "promptsrc"},
    "DiSa": {},
    "DiSa, no SR": {"sr_weight": 0.0},
    "DiSa, no CIR": {"cir_weight": 0.0},
    "DiSa, no DiR": {"lambda_dir": 0.0},
    "DiSa, L1 for DiR": {"direction": "l1"},
    "DiSa, centered DiR": {"direction": "centered"},
    "DiSa, no mask": {"mask_schedule": "none"},
    "DiSa, random mask": {"saliency": "random"},
    "DiSa, inverse mask": {"saliency": "inverse"},
    "DiSa, CLS mask": {"saliency": "cls"},
}
LORA, PROBE, FROZEN = "LoRA (peft)", "linear probe", "frozen CLIP"
MAIN = ("DiSa", "IVLP", "CoOp", "PromptSRC", LORA, PROBE)
METHODS = (*MAIN, *(name for name in _PROMPTS if name not in MAIN))
MEASURES = ("base", "novel", "harmonic_mean")
Measure = Callable[["Cell", "Source"], dict[str, float]]


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        domain: Where the shots are from; on "clean" other domains and data are measured as well.
        method: One of `METHODS`.
        seed: Of the shots, the batches and the prompts.
    """

    domain: str
    method: str
    seed: int

    def metric(self, measure: str) -> str:
        """Name of one of its numbers."""
        return f"cell/{self.domain}/{self.method}/{self.seed}/{measure}"


@dataclass(frozen=True)
class Source:
    """What cells are made of.

    Args:
        base: The CLIP.
        tasks: The pictures.
        runs: Folder of the trainings.
    """

    base: str
    tasks: Tasks
    runs: Path


def cells(domains: tuple[str, ...], seeds: int, only: tuple[str, ...] = ()) -> list[Cell]:
    """All cells in the order in which they are worth most."""
    groups = (MAIN, tuple(name for name in METHODS if name not in MAIN))
    return [
        Cell(domain, method, seed)
        for domain in domains
        for group in groups
        for seed in range(seeds)
        for method in group
        if not only or method in only
    ]


def measure(cell: Cell, source: Source) -> dict[str, float]:
    """Train one cell and measure it; numbers are shares of 1 and seconds."""
    began = time.process_time()
    if cell.method == LORA:
        found = _lora(cell, source)
    elif cell.method == PROBE:
        found = _probe(cell, source)
    else:
        found = _prompts(cell, source)
    return {**found, "cpu_seconds": time.process_time() - began}


def _prompts(cell: Cell, source: Source) -> dict[str, float]:
    folder = source.runs / f"{cell.domain}-{cell.method}-{cell.seed}".replace(" ", "-")
    transfer = _transfer(cell, source)
    layers = DiSaForImageClassification.from_base(source.base).config
    options = {
        "base": source.base,
        "data": source.tasks.domains[cell.domain],
        "protocol": "base_to_novel",
        "shots": SHOTS,
        "transfer": list(transfer.values()),
        "seed": cell.seed,
        "augment": False,
        "num_train_epochs": EPOCHS,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "cpu": True,
        "prompt_depth_text": layers.prompt_depth_text,
        "prompt_depth_vision": layers.prompt_depth_vision,
        **_PROMPTS[cell.method],
    }
    if cell.method == "CoOp":
        del options["prompt_depth_text"], options["prompt_depth_vision"]
    results = run_once(DiSaRecipe, folder, options, f"disa {cell.method}")
    values = {metric.name: metric.value for metric in results.metrics}
    found = {}
    for kind, start in (("prompts", ""), ("frozen", "frozen_")):
        found[f"{start}base"] = values[f"accuracy/base/{kind}"]
        found[f"{start}novel"] = values[f"accuracy/novel/{kind}"]
        found[f"{start}harmonic_mean"] = values[f"harmonic_mean/{kind}"]
        for title, path in transfer.items():
            found[f"{start}{title}"] = values[f"accuracy/transfer/{Path(path).stem}/{kind}"]
    found["calibration_error"] = values["calibration_error/novel/prompts"]
    found["agreement"] = values["agreement/novel"]
    return found


def _transfer(cell: Cell, source: Source) -> dict[str, str]:
    """What is measured beside both halves of the classes: measure -> archive."""
    if cell.domain != "clean":
        return {}
    domains = {f"to {name}": path for name, path in source.tasks.base.items() if name != "clean"}
    return {**{f"on {name}": path for name, path in source.tasks.others.items()}, **domains}


# --- the peers ------------------------------------------------------------------------------------


@dataclass
class _Shots:
    """Pictures of a cell as CLIP takes them, with the names of the classes."""

    pixels: Tensor
    labels: Tensor
    names: list[str]
    half: int
    test: Tensor
    test_labels: Tensor


def _shots(cell: Cell, source: Source, preparation: PicturePreparation) -> _Shots:
    data = read_labelled_pictures(source.tasks.domains[cell.domain])
    split = draw_shots(data, SHOTS, only_base=True, seed=cell.seed).split
    return _Shots(
        preparation(data.images(split.train)),
        data.labels[split.train],
        list(data.class_names),
        base_classes(len(data.class_names)),
        preparation(data.images(split.test)),
        data.labels[split.test],
    )


def _parts(model: nn.Module, pixels: Tensor) -> Tensor:
    """Features of length 1 of many pictures."""
    clip: Any = model
    with torch.no_grad():
        parts = [clip.get_image_features(one).pooler_output for one in pixels.split(512)]
    return F.normalize(torch.cat(parts), dim=-1)


def _probe(cell: Cell, source: Source) -> dict[str, float]:
    """Logistic regression on frozen features; it has no answer for classes it has not learned."""
    from sklearn.linear_model import LogisticRegression

    model = DiSaForImageClassification.from_base(source.base)
    shots = _shots(cell, source, PicturePreparation.of_model(source.base))
    features, test = (_parts(model.clip, one) for one in (shots.pixels, shots.test))
    probe = LogisticRegression(C=10.0, max_iter=1000)
    probe.fit(features.numpy(), shots.labels.numpy())
    is_base = shots.test_labels < shots.half
    score = probe.score(test[is_base].numpy(), shots.test_labels[is_base].numpy())
    return {"base": float(score)}


def _lora(cell: Cell, source: Source) -> dict[str, float]:
    """Low-rank changes of queries and values in both encoders, by cross-entropy alone."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(cell.seed)
    plain = DiSaForImageClassification.from_base(source.base, "zero_shot")
    shots = _shots(cell, source, PicturePreparation.of_model(source.base))
    config = LoraConfig(r=_LORA_RANK, lora_alpha=_LORA_RANK, target_modules=["q_proj", "v_proj"])
    model: Any = get_peft_model(plain.clip, config)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=_LORA_RATE, weight_decay=0.0
    )

    def tokens(names: list[str]) -> dict[str, Tensor]:
        texts = [f"a photo of a {name}." for name in names]
        return plain.tokenizer(texts, padding=True, return_tensors="pt")

    def texts_of(names: list[str]) -> Tensor:
        ids = tokens(names)["input_ids"]
        return F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)

    scale = float(plain.clip.logit_scale.exp())
    steps = EPOCHS * -(-len(shots.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(shots.labels), generator=generator_of(cell.seed, epoch))
        for rows in order.split(BATCH):
            images = model.get_image_features(pixel_values=shots.pixels[rows]).pooler_output
            logits = scale * F.normalize(images, dim=-1) @ texts_of(shots.names[: shots.half]).T
            F.cross_entropy(logits, shots.labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
    found = {}
    with torch.no_grad():
        halves = {
            "base": (shots.test_labels < shots.half, shots.names[: shots.half], 0),
            "novel": (shots.test_labels >= shots.half, shots.names[shots.half :], shots.half),
        }
        for name, (rows, names, start) in halves.items():
            answer = (_parts(model, shots.test[rows]) @ texts_of(names).T).argmax(-1)
            found[name] = float((answer == shots.test_labels[rows] - start).double().mean())
        found["harmonic_mean"] = harmonic_mean(found["base"], found["novel"])
        preparation = PicturePreparation.of_model(source.base)
        for title, path in _transfer(cell, source).items():
            data = read_labelled_pictures(path, to_learn=False)
            places = data.test_places
            features = _parts(model, preparation(data.images(places)))
            answer = (features @ texts_of(list(data.class_names)).T).argmax(-1)
            found[title] = float((answer == data.labels[places]).double().mean())
    return found
