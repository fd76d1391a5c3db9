"""Writes the gallery and the tables of README.md anew: `python -m docs.readme`.

Sentences come from card.yaml, numbers from the results files, pictures from the cards; what stands
between `<!-- gallery -->` and `<!-- gallery end -->`, and likewise of `methods`, `models` and
`times`, is replaced.
"""

import re
from collections.abc import Callable
from pathlib import Path

from salhub.entries import METHODS
from salhub.files import write_text
from salhub.listing import list_models
from salhub.manifest import BundledModel, read_manifest
from salhub.model_facts import key_number, method_in_short
from salhub.results import Results
from salhub.results_markdown import plain_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks" / "results"
_COLUMNS = 3
# Numbers that are named so are our speed divided by theirs; all others are our time by theirs.
_FASTER = "required/times as fast as "
# Method -> rows of what is timed, what it is compared with, and the file and name of the number.
TIMES: dict[str, list[tuple[str, str, str, str]]] = {
    "normgrad": [
        ("a map at the last block", "Captum, LayerGradCam", "normgrad",
         "beside/salhub norm_grad/Captum LayerGradCam"),
        ("Grad-CAM", "torchcam", "normgrad", "beside/salhub grad_cam/torchcam GradCAM"),
        ("Grad-CAM", "pytorch-grad-cam", "normgrad", "beside/salhub grad_cam/grad-cam GradCAM"),
    ],
    "salient_relevance": [
        ("relevance, epsilon-plus", "zennit", "salient_relevance",
         "beside/salhub epsilon_plus/zennit epsilon_plus"),
        ("relevance, epsilon", "Captum", "salient_relevance", "beside/salhub epsilon/Captum LRP"),
        ("relevance, epsilon, of a ViT", "lxt", "salient_relevance",
         "beside/salhub epsilon/lxt epsilon"),
    ],
    "active_contour": [
        (f"a picture of {size} x {size}", "scikit-image, Chan-Vese", "active_contour_speed",
         f"beside/salhub, tuned, {size} px/scikit-image chan_vese, {size} px")
        for size in (128, 512)
    ],
    "salun": [
        ("mask of 11 million weights", "erasus", "salun",
         "beside/salhub make_mask/erasus top-k mask"),
    ],
    "nvit": [
        ("scores of all units", "one forward and backward pass", "nvit",
         "required/time of batch by forward and backward"),
    ],
    "disa": [
        ("a picture recognized", "the same CLIP without prompts", "disa",
         "required/answer / plain CLIP"),
    ],
    "rep_mtl": [
        ("a training step", "equal weights", "rep_mtl", "A step of training/Rep-MTL/to EW"),
        ("a training step", "torchjd, PCGrad", "rep_mtl", "beside/Rep-MTL/PCGrad"),
    ],
    "lexrank": [
        ("scores of sentences", "lexrank", "lexrank",
         "beside/salhub, continuous/lexrank, threshold 0.1"),
        ("scores of sentences", "sumy", "lexrank", "beside/salhub, continuous/sumy"),
    ],
    "verbalizer": [
        (f"integrated gradients, {words}", "Captum", "verbalizer",
         f"beside/salhub, BERT of 4 layers, {words}/captum, BERT of 4 layers, {words}")
        for words in ("1 text", "32 texts")
    ],
    "slim_llm": [
        ("a block of SmolLM2-135M, our settings", "the published order of work", "slim_llm",
         "required/seconds of a block, SliM-LLM / published order of work"),
        ("the same, settings of the paper", "the published order of work", "slim_llm",
         "required/seconds of a block, SliM-LLM, as published / published order of work"),
    ],
    "sdl_seg": [
        ("Dice and distances of a scan", "MONAI", "segmentation_metrics",
         f"{_FASTER}MONAI, scan 24 x 96 x 96"),
    ],
    "editiq": [
        ("camera paths of ten shots", "Clarabel", "editiq_speed",
         "required/time to Clarabel's: weights 500 and 500"),
    ],
}  # fmt: skip
_HEADER = ["model", "size", "what was measured", "result", "compared with"]


def build_readme(text: str) -> str:
    """Return a README with its generated parts made anew.

    Args:
        text: The README.

    Raises:
        ValueError: It lacks a marker.
    """
    for name, build in _PARTS.items():
        start, end = f"<!-- {name} -->", f"<!-- {name} end -->"
        pattern = re.compile(f"{start}.*?{end}", re.DOTALL)
        if pattern.search(text) is None:
            raise ValueError(f"README.md needs a part from {start} to {end}.")
        made = f"{start}\n\n{build()}\n\n{end}"
        text = pattern.sub(lambda found, made=made: made, text)
    return text


def gallery() -> str:
    """A picture and a sentence of every method, three in a row."""
    cells = [_cell(name) for name in METHODS]
    cells += [""] * (-len(cells) % _COLUMNS)
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    return plain_table([" "] * _COLUMNS, rows)


def methods_table() -> str:
    """Every method with the model that stands for it."""
    shipped = read_manifest()
    rows = []
    for name, method in METHODS.items():
        model = shipped[method.default or ""]
        rows.append([_link(name), model.task, *_numbers(model)])
    return plain_table(["method", "task", *_HEADER], rows)


def models_table() -> str:
    """The models that do not stand for a method."""
    defaults = {method.default for method in METHODS.values()}
    others = [model for model in list_models() if model.name not in defaults]
    rows = [[*_numbers(model)[:1], model.task, *_numbers(model)[1:]] for model in others]
    return plain_table(["model", "task", *_HEADER[1:]], rows)


def times_table() -> str:
    """How many times as fast each method is as other packages, from the files of benchmarks."""
    rows = []
    for method in (name for name in METHODS if name in TIMES):
        for what, than, file, name in TIMES[method]:
            metric = Results.load(BENCHMARKS / f"{file}.json").metric(name)
            found = [metric.value, *(metric.interval or ())]
            if not name.startswith(_FASTER):
                found = [1 / found[0], *(1 / one for one in reversed(found[1:]))]
            value, *spread = (f"{one:.3g}" for one in found)
            rows.append([_link(method), what, than, f"**{value}** {_spread(spread)}".strip()])
    return plain_table(["method", "what is timed", "compared with", "times as fast"], rows)


def _spread(ends: list[str]) -> str:
    return f"[{', '.join(ends)}]" if ends else ""


_PARTS: dict[str, Callable[[], str]] = {
    "gallery": gallery,
    "methods": methods_table,
    "models": models_table,
    "times": times_table,
}


def _cell(method: str) -> str:
    picture = f"model_cards/{METHODS[method].default}.png"
    text = method_in_short(method)
    page = f"docs/methods/{method}.md"
    return f"[![{text}]({picture})]({page})<br>**{_title(method)}.** {text}"


def _numbers(model: BundledModel) -> list[str]:
    name = f"[`{model.name}`](model_cards/{model.name}.md)"
    number = key_number(model.name)
    if number is None:
        return [name, _size(model), "not measured yet", "", ""]
    beside = "" if number.beside is None else f"{number.beside_value}, {number.beside}"
    return [name, _size(model), number.what, f"**{number.value}**", beside]


def _size(model: BundledModel) -> str:
    return f"{model.bytes / 1e6:.2f} MB" if model.bytes >= 1e5 else f"{model.bytes / 1e3:.0f} kB"


def _link(method: str) -> str:
    return f"[{_title(method)}](docs/methods/{method}.md)"


def _title(method: str) -> str:
    """What its page is called."""
    page = ROOT / "docs" / "methods" / f"{method}.md"
    return page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").strip()


if __name__ == "__main__":
    write_text(README, build_readme(README.read_text(encoding="utf-8")))
