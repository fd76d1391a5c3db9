"""A toy task that shares nothing with pictures, and a way to call the command line."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from typer.testing import CliRunner, Result

from salhub.cli import app
from salhub.configuration import SaliencyConfig, strict
from salhub.entries import MODELS
from salhub.hub import HUB_KEYWORDS
from salhub.pipelines.result import PipelineResult
from salhub.results import Results, Table


@strict
class LettersConfig(SaliencyConfig):
    """Settings of the toy.

    Args:
        keep: Which letters are kept, over
            two lines.
        steps: Sizes of its steps.
    """

    model_type = "salhub_letters"

    keep: str = "vowels"
    steps: list[float | int] | None = None

    def validate_keep(self) -> None:
        """Only two kinds of letters."""
        if self.keep not in ("vowels", "all"):
            raise ValueError(f"keep must be vowels or all, got '{self.keep}'.")


@dataclass
class LettersResult(PipelineResult):
    """What the toy returns."""

    writers = {".out": "write_letters", ".json": "write_letters"}
    views = {"plain": "plot", "upper": "plot"}

    text: str
    settings: dict[str, Any]

    def write_letters(self, path: Path, view: str) -> None:
        if self.text == "unwritable":
            path.write_text("half")
            raise KeyboardInterrupt
        path.write_text(self.text.upper() if view == "upper" else self.text)

    def plot(self) -> Any:
        raise NotImplementedError

    @classmethod
    def compare(cls, results: dict[str, Self]) -> Any:
        text = "|".join(f"{title}={result.text}" for title, result in results.items())
        return SimpleNamespace(save=lambda path: Path(path).write_text(text))

    def summary(self) -> str:
        return f"{len(self.text)} letters are kept."

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, **self.settings}


class LettersPipeline:
    """A pipeline without a network: texts in, letters out."""

    input_type = "text"
    input_suffixes = (".txt", ".text")
    output_suffix = ".out"
    result_class = LettersResult
    folder_is_one_input = False
    companions = {}
    comparison_suffixes = (".out", ".json")
    call_settings = ("budget",)
    takes_literals = False
    writes_by_default = True
    fixed_settings = {}
    sample = "sample:abc"

    def __init__(self, config: LettersConfig, loading: dict[str, Any]) -> None:
        self.config = config
        self.loading = loading
        self.model = self
        self.calls: list[int] = []
        LettersPipeline.made.append(self)

    made: list["LettersPipeline"] = []

    @classmethod
    def from_name(
        cls, name: str | None, method: Any, *, device=None, batch_size: int = 1, **settings: Any
    ) -> "LettersPipeline":
        loading = {"name": name, "device": device, "batch_size": batch_size}
        own = {key: value for key, value in settings.items() if key not in HUB_KEYWORDS}
        return cls(LettersConfig(**own), loading)

    @staticmethod
    def read(source: str | bytes | Path) -> str:
        if isinstance(source, bytes):
            text = source.decode()
        elif str(source).startswith("sample:"):
            text = str(source).removeprefix("sample:")
        elif LettersPipeline.takes_literals and isinstance(source, str):
            text = source
        else:
            text = Path(source).read_text(encoding="utf-8")
        if "\0" in text:
            raise ValueError(f"{source} is no text.")
        return text

    compare = LettersResult.compare

    def choices(self) -> dict[str, list[str]]:
        return {"keep": ["vowels", "all"]}

    def __call__(
        self, texts: str | list[str], budget: str | int | None = None, together: bool = False
    ) -> Any:
        if budget == "none":
            raise ValueError("The budget must be a number.")
        if together:
            return self.keep("|".join(texts), budget)
        if isinstance(texts, list):
            self.calls.append(len(texts))
            return [self.keep(text, budget) for text in texts]
        return self.keep(texts, budget)

    def keep(self, text: str, budget: Any) -> LettersResult:
        if text == "poison":
            raise ValueError("This text cannot be worked on.")
        wanted = "aeiou" if self.config.keep == "vowels" else text
        kept = text if text == "unwritable" else "".join(c for c in text if c in wanted)
        return LettersResult(kept, {"budget": budget, "steps": self.config.steps})


def evaluate_letters(model, data_path, *, seed: int = 0, share: float = 0.5, progress: bool = True):
    results = Results(model="letters", command="overwritten", seed=seed)
    results.add_metric("share", share, n=len(list(data_path.iterdir())))
    keep = model.config.keep
    results.tables.append(Table("This model", "Toy.", ["what", "value"], [[keep, share]]))
    return results


LETTERS = SimpleNamespace(
    name="letters",
    method="letters",
    model_type="salhub_letters",
    quant_method=None,
    is_ours=True,
    pipeline_class=LettersPipeline,
    task="letter-keeping",
    paper="arXiv:0000.00000",
    default_model="toys/letters-en",
    config_class=LettersConfig,
    module=lambda kind: SimpleNamespace(evaluate=evaluate_letters),
)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> type[LettersPipeline]:
    """Add a method of another task; returns its pipeline class."""
    monkeypatch.setitem(MODELS, "letters", LETTERS)
    monkeypatch.setattr(LettersPipeline, "made", [])
    return LettersPipeline


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command in an empty folder; `code` is the exit code wanted."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words], input=stdin)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def call_json(call):
    """Run a command with --json and return its documents."""

    def run(*words: str, **keywords: Any) -> list[Any]:
        result = call(*words, "--json", **keywords)
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of inputs of the toy task, one of them no text, and a file of another kind."""
    folder = tmp_path / "texts"
    (folder / "deeper").mkdir(parents=True)
    for name, content in (
        ("one.txt", "one"),
        ("two.TXT", "two"),
        ("three.text", "three"),
        ("three.txt", "another three"),
        ("broken.txt", "\0"),
        ("picture.png", "no text"),
        (".hidden.txt", "hidden"),
        ("deeper/four.txt", "four"),
    ):
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="session")
def own_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a small classifier of somebody's own."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("own") / "my-network"
    torch.manual_seed(0)
    labels = dict(enumerate(("apple", "pear", "plum")))
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", id2label=labels
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
