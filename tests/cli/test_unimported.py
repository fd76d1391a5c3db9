"""What is wrong with a command is said before torch is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import salhub
from salhub.cli.choice import Choice, check_quickly, written_pipeline, written_setting_names
from salhub.cli.sources import single_source
from salhub.entries import MODELS

REFUSED = {
    "missing file": (["normgrad", "missing.jpg"], 1, "There is no file missing.jpg"),
    "missing film": (["editiq", "missing.mp4"], 1, "There is no file missing.mp4"),
    "missing text": (["lexrank-news-en", "missing.txt"], 1, "There is no file missing.txt"),
    "unknown model": (["normgrad-eficientnet-lite0", "sample:cat"], 1, "There is no model, method"),
    "value for name": (["grad_cam", "sample:cat"], 1, "is also a setting: normgrad with method"),
    "unknown setting": (["salhub/gradcam-efficientnet-lite0", "sample:cat", "--metod", "x"], 2,
                        "gradcam-efficientnet-lite0 has no setting 'metod'. Did you mean 'method'"),
}  # fmt: skip
_TRY_ALL = """
import contextlib, io, json, sys
from salhub.cli import app

told = {}
for title, words in json.loads(sys.argv[1]).items():
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            app(["run", *words], prog_name="salhub")
        except SystemExit as end:
            code = end.code
    told[title] = [code, said.getvalue(), "torch" in sys.modules]
print(json.dumps(told))
"""


def test_bad_input_is_refused_before_torch_is_imported(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", _TRY_ALL, json.dumps({key: one[0] for key, one in REFUSED.items()})],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(salhub.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(finished.stdout)
    for title, (_, code, words) in REFUSED.items():
        assert told[title][0] == code and words in told[title][1], told[title]
        assert told[title][1].count("Error") == 1, told[title][1]
        assert not told[title][2], f"{title} imports torch"


@pytest.mark.parametrize("name", [name for name, one in MODELS.items() if one.is_run])
def test_what_the_code_says_is_what_the_class_says(name):
    entry = MODELS[name]
    loading, calling = Choice(None, entry).setting_names()
    nested = set(entry.config_class.sub_configs) if entry.is_ours else set()
    assert written_setting_names(entry) - nested == loading | calling
    written, kind = written_pipeline(entry), entry.pipeline_class
    for attribute in ("folder_is_one_input", "takes_literals"):
        assert getattr(written, attribute) == getattr(kind, attribute)
    assert written.input_suffixes in (kind.input_suffixes, (".*",))


@pytest.mark.parametrize("name", ["normgrad", "lexrank", "salun-diffusion", "sdl-seg"])
def test_what_is_right_passes(name, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    (tmp_path / "a.txt").write_text("A text.")
    kind = MODELS[name.replace("-", "_")].pipeline_class
    settings = dict.fromkeys(kind.call_settings, 1)
    for source in ("-", kind.sample, str(tmp_path), str(tmp_path / "a.txt"), "https://a.org/b.jpg"):
        check_quickly(name, settings, source)
    with pytest.raises(typer.BadParameter, match="has no setting 'nonsense'"):
        check_quickly(name, {"nonsense": 1}, "-")
    for text in ("missing.jpg", "3", "A text of its own."):
        wanted = said = None
        try:
            single_source(text, kind)
        except FileNotFoundError as error:
            wanted = str(error)
        try:
            check_quickly(name, {}, text)
        except FileNotFoundError as error:
            said = str(error)
        assert said == wanted
