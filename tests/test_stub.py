"""Editors and type checkers know what `salhub.pipeline` gives, by the name of the model."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from salhub.stub import STUB, build_stub

CODE = """
import salhub

explain = salhub.pipeline("normgrad-efficientnet-lite0", device="cpu")
reveal_type(explain)
reveal_type(explain("photo.jpg", class_labels="cat"))
reveal_type(explain(["a.jpg", "b.jpg"]))
reveal_type(salhub.pipeline("salhub/lexrank-minilm")("text").text)
reveal_type(salhub.pipeline("lexrank")(["a text", "another"], together=True))
reveal_type(salhub.pipeline("salun-diffusion"))
reveal_type(salhub.pipeline("my/folder"))
reveal_type(salhub.NormGradConfig().method)
reveal_type(salhub.list_models(task="image-saliency")[0].full_name)
salhub.pipelin("normgrad")
"""
REVEALED = [
    "_ImageSaliencyPipeline",
    "ImageSaliencyResult",
    "list[ImageSaliencyResult]",
    "str",
    "ExtractiveSummarizationResult",
    "_ImageGenerationPipeline",
    "TaskPipeline",
    "str",
    "str",
]


def test_the_stub_is_the_generated_one():
    wanted = "write it anew with: python -m salhub.stub"
    assert STUB.read_text(encoding="utf-8") == build_stub(), wanted


def test_a_type_checker_knows_the_result(tmp_path: Path):
    beside = Path(sys.executable).with_name("ty")
    checker = str(beside) if beside.exists() else shutil.which("ty")
    if checker is None:
        pytest.skip("ty is not installed")
    (tmp_path / "code.py").write_text(CODE)
    words = ["check", "code.py", "--output-format", "concise", "--python", sys.executable]
    root = STUB.parent.parent
    finished = subprocess.run(
        [checker, *words, "--extra-search-path", str(root)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in finished.stdout.splitlines() if "Revealed type" in line]
    revealed = [line.partition("Revealed type: ")[2].strip("`") for line in lines]
    assert revealed == REVEALED, finished.stdout
    assert "pipelin" in finished.stdout and finished.stdout.count("error[") == 1, finished.stdout
