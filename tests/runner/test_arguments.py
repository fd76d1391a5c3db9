"""Options: bad ones get one sentence before any work is done."""

import pytest

from salhub.entries import recipe_named
from salhub.errors import MissingExtraError
from salhub.models.apiq_saliency.arguments_apiq_saliency import ApiQSaliencyArguments
from salhub.models.slim_llm.arguments_slim_llm import SlimLLMArguments
from salhub.runner.arguments import TrainingArguments, read_settings_file
from salhub.runner.fine_tuning import FineTuningArguments
from salhub.runner.image_classification import ClassifierArguments
from salhub.runner.trackers import check_trackers


@pytest.mark.parametrize(
    ("verb", "recipe", "settings", "words"),
    [
        (
            "compress", "nvit", {"targets": "50%"},
            r"^targets must be a list of numbers such as \[0.75,0.5\], got '50%'. "
            "Write 50 % as 0.5.$",
        ),
        ("compress", "nvit", {"group_sizes": ["a"]}, "group_sizes must be a list of integers such"),
        ("train", "cifar-resnet", {"learning_rate": "5 %"}, "got '5 %'. Write 5 % as 0.05"),
        ("compress", "slim-llm", {"data": "book.txt"}, "'data'. Did you mean 'calibration'[?]$"),
        ("compress", "apiq-saliency", {"data": "a.txt"}, "'data'. Did you mean 'calibration'[?]$"),
        ("compress", "nvit", {"calibration": "a.npz"}, "'calibration'. Did you mean 'data'[?]$"),
    ],
)  # fmt: skip
def test_what_was_meant_is_said(verb, recipe, settings, words):
    kind = recipe_named(recipe, verb).recipe_class.arguments_class
    with pytest.raises(ValueError, match=words):
        kind.from_settings(settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_sise": 3}, "no option 'batch_sise'. Did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size must be an integer, 1 or more, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"num_train_epochs": True}, "num_train_epochs must be an integer"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": -1}, "learning_rate must be a finite number above 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be a finite number above 0"),
        ({"seed": -1}, "seed must be an integer, 0 or more"),
        ({"lr_scheduler": "cosin"}, "Did you mean 'cosine'"),
        ({"lr_warmup_steps": 5}, "'constant' has no warm-up"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of no, bf16, fp16"),
        ({"cpu": "yes"}, "cpu must be true or false, got 'yes'"),
        ({"push_to_hub": True}, "give push_to_hub=true and hub_model_id=owner/name"),
        ({"hub_model_id": "me/mine"}, "push_to_hub and hub_model_id go together"),
        ({"push_to_hub": True, "hub_model_id": "mine"}, "as 'owner/name', got 'mine'"),
        ({"lr_warmup_steps": "abc"}, "lr_warmup_steps must be an integer, got 'abc'"),
        ({"logging_steps": None}, "logging_steps must be an integer, got None"),
        ({"report_to": None}, "report_to must be a list, got None"),
        ({"hub_model_id": ["a"]}, "hub_model_id must be text, got "),
        ({"max_grad_norm": float("inf")}, "max_grad_norm must be a finite number"),
        ({"gradient_accumulation_steps": 2}, "batch_size counts all rows of a step; to accumulate"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(settings, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        TrainingArguments.from_settings({"output_dir": "out", **settings})


def test_a_missing_option_is_named():
    with pytest.raises(ValueError, match="The recipe needs 'output_dir'"):
        TrainingArguments.from_settings({}, owner="The recipe")


def test_numbers_written_as_yaml_does_not_read_them():
    arguments = TrainingArguments.from_settings({"output_dir": "out", "learning_rate": "1e-3"})
    assert arguments.learning_rate == 1e-3


def test_words_that_yaml_takes_for_numbers_or_booleans_are_text():
    settings = {"output_dir": 7, "mixed_precision": False, "report_to": "wandb", "cpu": True}
    arguments = TrainingArguments.from_settings(settings)
    assert (arguments.output_dir, arguments.mixed_precision) == ("7", "no")
    assert (arguments.report_to, arguments.cpu) == (["wandb"], True)
    # In Python as well, one value is a list of one, and entries are of their kind.
    for given in (2, [2], ("2",)):
        own = FineTuningArguments(output_dir="out", model="a", freeze=given, report_to="wandb")
        assert (own.freeze, own.report_to) == (["2"], ["wandb"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_weights_are_pulled_by_a_finite_number(value):
    with pytest.raises(ValueError, match=f"weight_decay must be 0 or more, got {value}"):
        ClassifierArguments(output_dir="out", data="x.npz", weight_decay=value)


def test_none_is_what_the_help_calls_nothing():
    settings = {"output_dir": "out", "model": "m", "calibration": "c"}
    given = {"num_test_tokens": "none", "test_data": "none", "lora_r": "none", "saliency": "none"}
    options = ApiQSaliencyArguments.from_settings({**settings, **given, "reg_lambda": 0})
    assert (options.num_test_tokens, options.test_data, options.lora_r) == (None, None, None)
    assert options.saliency == "none"
    assert SlimLLMArguments.from_settings({**settings, "search_weights": "none"}).search_weights


def test_one_value_is_a_list_of_one_and_integers_stay_integers():
    names = {"freeze": 1, "class_names": ["a", 3]}
    kind = recipe_named("text-classification", "train").recipe_class.arguments_class
    given = {"output_dir": "out", "data": "x.csv", "model": "m"}
    arguments = kind.from_settings({**given, **names, "lr_warmup_steps": 2})
    assert (arguments.freeze, arguments.class_names) == (["1"], ["a", "3"])
    assert (arguments.lr_warmup_steps, arguments.warmup_ratio) == (2, 0.0)
    kind = recipe_named("text-classifier", "train").recipe_class.arguments_class
    del given["model"]
    assert kind.from_settings({**given, "kernel_sizes": [2, 3]}).kernel_sizes == [2, 3]
    assert kind.from_settings({**given, "kernel_sizes": 2}).kernel_sizes == [2]


def test_a_file_of_options(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("learning-rate: 0.1\nreport_to: tensorboard\n")
    settings = read_settings_file(path)
    assert settings == {"learning_rate": 0.1, "report_to": "tensorboard"}
    assert TrainingArguments(output_dir="out", **settings).report_to == ["tensorboard"]
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="must hold one mapping"):
        read_settings_file(path)
    path.write_text("a: [1\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_settings_file(path)
    with pytest.raises(FileNotFoundError, match="no file of options"):
        read_settings_file(tmp_path / "none.yaml")


def test_trackers_that_are_unknown_or_not_installed_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])
    with pytest.raises(MissingExtraError, match="pip install aim"):
        check_trackers(["aim"])
