"""Inputs of several files: a film with its transcript, and a folder that is one input."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import salhub
from salhub import configuration, modeling
from salhub.entries import MODELS
from salhub.pipelines.base import TaskPipeline
from salhub.pipelines.result import PICTURE_WRITERS, PipelineResult


@configuration.strict
class LinesConfig(configuration.SaliencyConfig):
    """Settings of the toy."""

    model_type = "salhub_lines"
    mark: str = ">"


class LinesModel(modeling.ParameterFreeModel):
    """Puts a mark before lines."""

    config: LinesConfig

    def __init__(self, config: LinesConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(self, lines: list[str]) -> list[str]:
        return [f"{self.config.mark} {line}" for line in lines]


@dataclass
class LinesResult(PipelineResult):
    """Marked lines."""

    writers = {".film.gz": "write_film", ".film": "write_film", **PICTURE_WRITERS}

    lines: list[str]

    def write_film(self, path: Path) -> None:
        if "unwritable" in self.lines[0]:
            path.write_text("half")
            raise OSError("The disk is full.")
        path.write_text("\n".join(self.lines))

    def plot(self) -> Image.Image:
        return Image.new("RGB", (8 * len(self.lines), 8))

    def to_dict(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def summary(self) -> str:
        return f"{len(self.lines)} lines."

    @classmethod
    def compare(cls, results: dict[str, "LinesResult"]) -> Image.Image:
        return Image.new("RGB", (8 * sum(len(one.lines) for one in results.values()), 8))


class FilmPipeline(TaskPipeline):
    """Films of text, each with a transcript, and maybe with titles."""

    input_type = "video"
    input_suffixes = (".film", ".film.gz")
    companions = {"transcript": (".srt", ".vtt"), "end_titles": (".titles",)}
    required_companions = ("transcript",)
    result_class = LinesResult
    output_suffix = ".film.gz"
    call_settings = ("times",)
    sample = "sample:film"
    read = staticmethod(Path)

    def _sanitize_parameters(self, times=1, **settings):
        self._refuse_unknown(settings)
        return {}, {"times": times}, {}

    def prepare(self, film, transcript=None, end_titles=None):
        parts = [Path(part).read_text() for part in (film, transcript, end_titles) if part]
        if "damaged" in parts[1]:
            raise ValueError(f"{transcript} is damaged.")
        return {"lines": [" ".join(parts)]}

    def _forward(self, model_inputs, times=1):
        lines = [model_inputs["lines"][0] if isinstance(model_inputs["lines"], list) else ""]
        lines = [line[0] if isinstance(line, list) else line for line in lines]
        return {"lines": self.model(lines=lines * times)}

    def postprocess(self, model_outputs):
        return LinesResult(model_outputs["lines"])


class SeriesPipeline(FilmPipeline):
    """Folders of slices, or files that hold all slices."""

    input_suffixes = (".nii", ".nii.gz")
    folder_is_one_input = True
    companions = {"markers": (".json",)}
    required_companions = ()

    def prepare(self, series, markers=None):
        path = Path(series)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        beside = [] if markers is None else [Path(markers)]
        return {"lines": [" ".join(file.read_text() for file in [*files, *beside])]}


@pytest.fixture
def kind(request):
    return FilmPipeline


@pytest.fixture
def model(kind, tmp_path, monkeypatch):
    """A saved toy model, and the pipeline of its task."""
    entry = SimpleNamespace(
        name="lines", method="lines", model_type="salhub_lines", quant_method=None, is_ours=True,
        task="line-marking", paper="", pipeline_class=kind, config_class=LinesConfig,
        model_class=LinesModel, home="lines",
    )  # fmt: skip
    monkeypatch.setitem(MODELS, "lines", entry)
    LinesModel(LinesConfig()).save_pretrained(tmp_path / "marker")
    return "marker/"


@pytest.fixture
def films(tmp_path):
    """A folder of films: one with a transcript, one with both kinds and titles, one with none."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name, content in {
        "a.film": "A", "a.SRT": "spoken", "b.film.gz": "B", "b.srt": "said", "b.vtt": "other",
        "b.titles": "end", "c.FILM": "C", "notes.txt": "nothing",
    }.items():  # fmt: skip
        (folder / name).write_text(content)
    return folder


def test_a_film_and_its_transcript_in_python(films, model, call):
    pipe = salhub.pipeline(model)
    film, transcript = films / "a.film", films / "a.SRT"
    assert pipe(film, transcript=transcript).lines == ["> A spoken"]
    both = pipe([film, films / "b.film.gz"], transcript=[transcript, films / "b.vtt"], times=2)
    assert [one.lines for one in both] == [["> A spoken"] * 2, ["> B other"] * 2]
    titled = pipe([film, film], transcript=[transcript] * 2, end_titles=[None, films / "b.titles"])
    assert [one.lines for one in titled] == [["> A spoken"], ["> A spoken end"]]
    assert pipe([]) == []


@pytest.mark.parametrize(
    ("films_given", "keywords", "message"),
    [
        ("a.film", {}, "Every input needs a transcript; give transcript="),
        (["a.film", "a.film"], {"transcript": ["a.srt", None]}, "Every input needs a transcript"),
        (["a.film", "b.film"], {"transcript": "a.srt"}, "Got 2 inputs, but not 2 values of"),
        (["a.film"], {"transcript": ["a.srt", "b.srt"]}, "Got 1 inputs, but not 1 values of"),
        ("a.film", {"transkript": "a.srt"}, "needs a transcript"),
    ],
)
def test_a_missing_transcript_is_one_sentence_before_any_work(
    model, call, films_given, keywords, message
):
    pipe = salhub.pipeline(model)
    with pytest.raises(ValueError, match=message):
        pipe(films_given, **keywords)


def test_a_film_on_the_command_line(films, model, call, call_json, tmp_path):
    (tmp_path / "talk.vtt").write_text("elsewhere")
    result = call("run", model, "films/a.film", "--transcript", "talk.vtt")
    written = tmp_path / "a-marker.film.gz"
    assert written.read_text() == "> A elsewhere"
    assert result.stdout == f"Using talk.vtt as transcript\nWrote {written}\n1 lines.\n"
    # One beside the film that is called like it is taken by itself, in any case of its ending.
    [record] = call_json("run", model, "films/a.film", "-o", "b.film", "times=2")
    assert record["lines"] == ["> A spoken"] * 2
    assert record["companions"] == {"transcript": "films/a.SRT"}
    call("run", model, "films/b.film.gz", "-o", "-", "--end-titles", "null", "--format", "film")
    (tmp_path / "films" / "a.SRT").rename(tmp_path / "films" / "a.Srt")
    [record] = call_json("run", model, "films/a.film", "-o", "c.film")
    assert record["companions"] == {"transcript": "films/a.Srt"}
    # A file called 007 is no number, and one called no is no switch.
    for name in ("007", "no"):
        (tmp_path / name).write_text(f"in {name}")
        [record] = call_json(
            "run", model, "films/a.film", "-o", f"d{name}.film", f"transcript={name}"
        )
        assert record["lines"] == [f"> A in {name}"]


def test_a_folder_of_films(films, model, call, call_json, tmp_path):
    records = call_json("run", model, "films", "-o", "out", "--batch-size", "3", code=1)
    by_name = {record["input"]: record for record in records}
    assert by_name["films/a.film"]["companions"] == {"transcript": "films/a.SRT"}
    both = {"transcript": "films/b.srt", "end_titles": "films/b.titles"}
    assert by_name["films/b.film.gz"]["companions"] == both
    assert by_name["films/b.film.gz"]["lines"] == ["> B said end"]
    assert "there is no c.srt or .vtt next to it" in by_name["films/c.FILM"]["error"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a-marker.film.gz", "b-marker.film.gz", "salhub-run.json",
    }  # fmt: skip


def test_transcripts_in_a_folder_of_their_own(films, model, call, call_json, tmp_path):
    (tmp_path / "spoken").mkdir()
    for name in "abc":
        (tmp_path / "spoken" / f"{name}.srt").write_text(f"words of {name}")
    words = ["--transcript", "spoken", "--end-titles", "null"]
    records = call_json("run", model, "films", "-o", "out", *words)
    assert [one["lines"] for one in records] == [[f"> {n.upper()} words of {n}"] for n in "abc"]
    error = call("run", model, "films", "--transcript", "spoken/a.srt", code=2).stderr
    assert "is a single file for all inputs" in " ".join(error.split())
    record = json.loads((tmp_path / "out" / "salhub-run.json").read_text())
    assert record["settings"] == {"transcript": "spoken", "end_titles": None}


def test_one_film_that_fails_does_not_cost_the_others(films, model, call_json):
    (films / "a.SRT").write_text("damaged")
    (films / "c.srt").write_text("heard")
    records = call_json("run", model, "films", "-o", "out", "--batch-size", "3", code=1)
    said = {record["input"]: record.get("error", record.get("lines")) for record in records}
    assert said == {
        "films/a.film": "films/a.SRT is damaged.",
        "films/b.film.gz": ["> B said end"],
        "films/c.FILM": ["> C heard"],
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["films/c.FILM"], 1, "films/c.FILM needs a transcript; there is no c.srt or .vtt next to"),
        (["films/a.film", "--transcript", "films/b.str"], 1, "Did you mean 'b.srt'"),
        (["films/a.film", "--transkript", "x"], 2, "no setting 'transkript'. Did you mean"),
        (["https://example.org/a.film"], 1, "needs a transcript; give one with --transcript"),
        (["films/a.film", "-o", "a.flim"], 2, "cannot be written as '.flim'"),
    ],
)
def test_what_is_missing_is_said_before_a_model_is_loaded(
    films, model, call, monkeypatch, words, code, message
):
    monkeypatch.setattr(FilmPipeline, "from_name", lambda *_, **__: pytest.fail("was loaded"))
    assert message in " ".join(call("run", model, *words, code=code).stderr.split())


def test_a_film_is_on_disk_as_a_whole_or_not_at_all(films, model, call, tmp_path):
    (films / "a.film").write_text("unwritable")
    before = sorted(tmp_path.iterdir())
    assert "The disk is full." in call("run", model, "films/a.film", code=1).stderr
    assert sorted(tmp_path.iterdir()) == before


def test_models_are_compared_on_a_film_with_its_transcript(films, model, call, call_json):
    [record] = call_json("compare", "films/a.film", model, "--vary", "mark=x,y")
    assert [one["lines"] for one in record["results"]] == [["x A spoken"], ["y A spoken"]]


def test_info_names_what_belongs_to_an_input(films, model, call_json, monkeypatch):
    monkeypatch.setattr(FilmPipeline, "choices", lambda self: {}, raising=False)
    [info] = call_json("info", model)
    assert info["call_settings"] == ["times", "transcript", "end_titles"]


# --- folders that are one input -------------------------------------------------------------------


@pytest.fixture
def patients(tmp_path):
    """Two series in folders, one of them with markers beside it, and two in files."""
    for name, content in {
        "ward/anna/1.dcm": "a1", "ward/anna/2": "a2", "ward/berta.2/1.dcm": "b1",
        "ward/berta.2.json": "marked", "ward/.hidden/1.dcm": "x", "ward/empty/deeper/1.dcm": "x",
        "scans/carl.nii.gz": "c", "scans/dora.nii": "d", "scans/dora.json": "marked",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("kind", [SeriesPipeline])
def test_a_folder_may_be_one_input(patients, model, call, call_json):
    assert salhub.pipeline(model)("ward/anna").lines == ["> a1 a2"]
    [record] = call_json("run", model, "ward/anna")
    assert (record["input"], record["lines"]) == ("ward/anna", ["> a1 a2"])
    assert (patients / "anna-marker.film.gz").is_file()
    [record] = call_json("run", model, "ward/berta.2/", "-o", "b.film")
    assert record["companions"] == {"markers": "ward/berta.2.json"}
    error = call("run", model, "ward/anna", "-o", "ward/anna", code=1).stderr
    assert "is in the input folder" in error


@pytest.mark.parametrize("kind", [SeriesPipeline])
def test_the_folder_one_is_in_is_an_input_with_what_lies_beside_it(
    patients, model, call_json, monkeypatch
):
    model = str(Path(model).resolve())
    monkeypatch.chdir(patients / "ward" / "berta.2")
    [record] = call_json("run", model, ".", "-o", "../../b.film")
    assert record["companions"] == {"markers": str(patients / "ward" / "berta.2.json")}
    assert record["lines"] == ["> b1 marked"]


@pytest.mark.parametrize("kind", [SeriesPipeline])
def test_a_folder_of_folders_is_several_inputs(patients, model, call_json):
    records = call_json("run", model, "ward", "-o", "out", "--batch-size", "2")
    assert [(one["input"], one["lines"]) for one in records] == [
        ("ward/anna", ["> a1 a2"]),
        ("ward/berta.2", ["> b1 marked"]),
    ]
    assert {path.name for path in (patients / "out").iterdir()} == {
        "anna-marker.film.gz", "berta.2-marker.film.gz", "salhub-run.json",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [SeriesPipeline])
def test_files_that_hold_a_series_are_inputs_too(patients, model, call_json):
    records = call_json("run", model, "scans", "-o", "out")
    assert [one["lines"] for one in records] == [["> c"], ["> d marked"]]
    assert [Path(one["output"]).name for one in records] == [
        "carl-marker.film.gz", "dora-marker.film.gz",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [SeriesPipeline])
def test_a_companion_of_the_kind_of_an_input_is_none_itself(
    patients, model, call_json, monkeypatch
):
    monkeypatch.setattr(SeriesPipeline, "companions", {"markers": ("-mask.nii.gz", ".json")})
    (patients / "scans" / "carl-mask.nii.gz").write_text("masked")
    (patients / "scans" / "eve-mask.nii.gz").write_text("of nothing")
    records = call_json("run", model, "scans", "-o", "out")
    assert [(Path(one["input"]).name, one["lines"]) for one in records] == [
        ("carl.nii.gz", ["> c masked"]),
        ("dora.nii", ["> d marked"]),
        ("eve-mask.nii.gz", ["> of nothing"]),
    ]


@pytest.mark.parametrize("kind", [SeriesPipeline])
def test_a_folder_that_may_be_one_input_or_several_is_asked_about(patients, model, call):
    (patients / "ward" / "DICOMDIR").write_text("index")
    error = call("run", model, "ward", "-o", "out", code=1).stderr
    assert "has DICOMDIR next to folders such as anna" in error
    (patients / "nothing").mkdir()
    error = call("run", model, "nothing", code=1).stderr
    assert "has no file ending in .nii, .nii.gz" in error


@pytest.mark.parametrize("kind", [SeriesPipeline])
def test_loose_files_beside_series_are_said(patients, model, call):
    (patients / "scans" / "eve").mkdir()
    for name in ("eve/1.dcm", "loose.dcm", "zoe.json", ".DS_Store"):
        (patients / "scans" / name).write_text("e")
    output = call("run", model, "scans", "-o", "out").stdout
    assert "Wrote 3 to" in output
    assert "Left out 2 files of another kind (loose.dcm, zoe.json)." in output


def test_a_transcript_of_no_film_is_said(films, model, call):
    (films / "cc.srt").write_text("of nothing")
    assert "(cc.srt, notes.txt)" in call("run", model, "films", "-o", "out", code=1).stdout
