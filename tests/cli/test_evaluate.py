"""`salhub evaluate` hands the model and the data to the method's own protocol."""

import inspect
import shlex

from salhub.auto import METHODS
from salhub.results import Results


def test_the_results_say_how_to_repeat_them(call, letters, texts):
    words = ["--data", texts, "--keep", "all", "share=0.25", "seed=3"]
    output = call("evaluate", "letters", *words).stdout
    results = Results.load(texts.parent / "letters-en.results.json")
    assert (results.seed, results.metric("share").value) == (3, 0.25)
    assert results.tables[0].rows == [["all", 0.25]]
    assert shlex.split(results.command) == [
        "salhub", "evaluate", "letters", "--data", "texts", "share=0.25", "seed=3", "keep=all",
    ]  # fmt: skip
    assert str(texts.parent) not in results.command
    assert "all  0.25" in output


def test_mistakes_are_named_before_anything_is_loaded(call, letters, texts):
    error = call("evaluate", "letters", "--data", "texts", "--sead", "3", code=2).stderr
    assert "Did you mean 'seed'" in error
    assert "There is no data at nowhere" in (
        call("evaluate", "letters", "--data", "nowhere", code=1).stderr
    )
    (texts.parent / "letters-en.results.json").write_text("{}")
    assert "exists" in call("evaluate", "letters", "--data", "texts", code=1).stderr
    assert letters.made == []


def test_every_method_measures_parts_of_its_pipeline_on_a_path():
    from salhub.pipelines import pipeline_class

    for method in METHODS.values():
        signature = inspect.signature(method.module("evaluation").evaluate)
        inputs = {
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        }
        assert "data_path" in inputs, method.name
        pipeline = inspect.signature(pipeline_class(method.task).__init__).parameters
        assert inputs - {"data_path"} <= pipeline.keys() | {"model", "image_processor"}
