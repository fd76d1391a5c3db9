"""Evaluation of an unlearned diffusion model beside the original, the retrained and others."""

import os
from pathlib import Path
from typing import Any

import torch

from salhub.backbones.conditional_unet.recipe_conditional_unet import as_signal
from salhub.data.labelled_split import spread_places
from salhub.models.salun.evaluation_salun import add_mask, describe_forgotten, start
from salhub.models.salun.forget_set import check_reference_split
from salhub.models.salun.judge import GenerationReport, Judge, judge_model
from salhub.models.salun.masked_optimizer import closed_weights_digest
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion
from salhub.results import Results, Table, measured

_REAL_PICTURES = 5000
TABLE = "How the judge classifies the pictures"


def evaluate(
    model: SalUnForConditionalDiffusion,
    data_path: str | os.PathLike[str],
    *,
    judge: str = "salhub/mnist-resnet8",
    original: str | None = None,
    retrained: str | None = None,
    num_judged: int = 500,
    num_judged_others: int = 100,
    sampling_steps: int = 50,
    guidance_scale: float = 2.0,
    seed: int = 0,
    progress: bool = True,
) -> Results:
    """Let a model generate, and let a classifier that never met it say what it sees.

    Args:
        model: The diffusion model, with the `split.json` of its training beside it.
        data_path: The pictures that it was trained on, see `read_labelled_pictures`.
        judge: The classifier: a folder, a shipped name or a Hub repository.
        original: The model before unlearning, for the table; None to leave it out.
        retrained: The model that never saw the forgotten class; None to leave it out.
        num_judged: Pictures of the forgotten class; of every class, for a model that forgot none.
        num_judged_others: Pictures of each other class.
        sampling_steps, guidance_scale: As of `generate`.
        seed: Of the noise.
        progress: Whether to show bars.

    Returns:
        `Results` with the tables of the card.

    Raises:
        FileNotFoundError: There are no such data.
        ValueError: It is not known what the model was trained on, or it was other data.

    Source: Fan et al. 2024 (arXiv 2310.12508), section 5.2, for the measures.
    """
    archive, split, results = start(model, data_path, seed)
    results.data["judge"] = Path(judge).name
    forgotten = split.forgotten
    # A model that forgot nothing is measured as if its first class were the one to be forgotten.
    number = int(archive.labels[forgotten[0]]) if len(forgotten) else 0
    kept = split.train[archive.labels[split.train] != number]
    kept = kept[spread_places(len(kept), _REAL_PICTURES)]
    size = model.config.backbone_config.image_size
    real = as_signal(archive.images(kept, size))
    # What cannot be loaded is said before any work.
    eye = Judge.from_pretrained(judge)
    beside = {}
    if original is not None:
        beside["original"] = SalUnForConditionalDiffusion.from_pretrained(original)
    if retrained is not None:
        check_reference_split(retrained, split, model.config.forget or "its forget set")
        beside["retrained"] = SalUnForConditionalDiffusion.from_pretrained(retrained)
    sizes = {
        "num_judged": num_judged if len(forgotten) else num_judged_others,
        "num_judged_others": num_judged_others,
        "sampling_steps": sampling_steps,
        "guidance_scale": guidance_scale,
    }

    def judged(one: Any) -> GenerationReport:
        return judge_model(
            eye, one.to(model.device), number, real, seed=seed, progress=progress, **sizes
        )

    with measured(results):
        reports = {name: judged(one) for name, one in {**beside, "this model": model}.items()}
        if len(forgotten):
            results.data |= describe_forgotten(model, split)
        for label, report in reports.items():
            report.add_to(results, "" if label == "this model" else f"{label}/")
        results.tables.append(_table(reports, number, bool(len(forgotten)), sizes))
        results.tables.append(_verdicts_table(reports["this model"], model.config.id2label))
        if original is not None and len(forgotten):
            _add_certificate(results, model, beside["original"])
    return results


def _table(
    reports: dict[str, GenerationReport], number: int, has_forgotten: bool, sizes: dict[str, Any]
) -> Table:
    rows = [
        [
            label,
            report.unlearning_accuracy if has_forgotten else None,
            report.retain_accuracy,
            report.leaked,
            report.forgotten_probability if has_forgotten else None,
            report.distance,
        ]
        for label, report in reports.items()
    ]
    note = (
        f"{sizes['num_judged']} pictures generated for class {number} and "
        f"{sizes['num_judged_others']} for each other class, {sizes['sampling_steps']} steps of "
        f"DDIM, guidance {sizes['guidance_scale']:g}; one run each. UA: percent of the first "
        "that the judge does not assign to the class. RA: percent of the others that it assigns "
        "to the requested class. Leaked: percent of the others that it assigns to the forgotten "
        "class. Distance: Fréchet distance between the judge's features of the generated "
        "pictures and of real pictures of the other classes; it is not an FID."
    )
    columns = ["", "UA", "RA", "leaked", "probability of the class", "distance"]
    return Table(TABLE, note, columns, rows)


def _verdicts_table(report: GenerationReport, names: dict[int, str]) -> Table:
    titles = [names[index] for index in range(len(report.verdicts))]
    rows = [[title, *row] for title, row in zip(titles, report.verdicts, strict=True)]
    note = "Generated pictures by requested class (rows) and by the judge's answer (columns)."
    return Table("Verdicts", note, ["asked", *titles], rows)


@torch.no_grad()
def _add_certificate(
    results: Results, model: SalUnForConditionalDiffusion, original: SalUnForConditionalDiffusion
) -> None:
    mask = add_mask(results, model, original)
    if mask is None:
        return
    same = results.metric("mask/closed_weights_equal").value
    rows = [
        ["weights that could move", mask.num_open],
        ["weights that could not", mask.num_weights - mask.num_open],
        ["ranked by", mask.saliency],
        ["the others are those of the original, bit by bit", "yes" if same else "no"],
        ["sha256 of their bits", closed_weights_digest(model, mask)[:16]],
    ]
    results.tables.append(Table("The mask", "", ["", "value"], rows))
