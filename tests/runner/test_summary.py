"""A run ends with sentences, not with keys."""

from salhub.entries import recipes_to
from salhub.results import Results
from salhub.runner.summary import summary
from tests.runner.toy_recipe import ToyRecipe


def found(**data) -> Results:
    results = Results("toy", "", 0, data={"processes": 1, **data})
    results.add_metric("seconds/preparation", 0.2, unit="s")
    results.add_metric("seconds/steps", 200.4, n=1200, unit="s")
    results.add_metric("accuracy/train", 0.991, n=1000, unit="fraction")
    results.add_metric("accuracy/test", 667 / 800, n=800, unit="fraction")
    results.add_metric("noise_error/other texts", 0.01234, n=3, unit="mean square")
    return results


def test_what_was_done_measured_and_can_be_done():
    lines = summary(ToyRecipe, found(epochs=12.0), "out/my run", "salhub run {folder} photo.jpg")
    assert lines == [
        "Trained 12 epochs in 3 min 20 s.",
        "Held-out accuracy 83.4 % (667 of 800).",
        "Training accuracy 99.1 % (991 of 1,000).",
        "Noise error (other texts) 0.01234 mean square.",
        "Saved in out/my run/: the model, its card, log.jsonl and results.json.",
        "Try: salhub run 'out/my run' photo.jpg",
    ]


def test_a_run_that_took_longer_than_its_steps_says_so():
    results = found(epochs=12.0)
    results.wall_seconds = 260.0
    assert summary(ToyRecipe, results, "out")[0] == (
        "Trained 12 epochs in 3 min 20 s; the whole run took 4 min 20 s."
    )
    results.wall_seconds = 201.0
    assert summary(ToyRecipe, results, "out")[0] == "Trained 12 epochs in 3 min 20 s."


def test_the_kept_step_other_verbs_and_words_of_the_recipe():
    class Forgetting(ToyRecipe):
        verb = "unlearn"
        metric_words = {"UA": "{} of it is gone"}

    results = Results("toy", "", 0, data={"best_step": 1200}, wall_seconds=0.3)
    results.add_metric("UA", 97.25, unit="percent")
    results.add_metric("MIA/entropy", float("nan"), unit="percent")
    results.add_metric("latency_ratio/predicted", 1.0, unit="ratio")
    results.add_metric("parameters", 108_634.0, unit="weights")
    results.add_metric("macs", 8_208_768.0, unit="multiply-adds")
    results.add_metric("perplexity", 31_415.9265)
    results.add_metric("error", 0.0012345, unit="mean square")
    assert summary(Forgetting, results, "out")[:-1] == [
        "Unlearned in under 1 s.",
        "The model is from step 1,200, the best on held-out data; numbers on the same data are too "
        "optimistic.",
        "97.2 % of it is gone.",
        "MIA (entropy) not a number.",
        "Latency ratio (predicted) 1.",
        "Parameters 108,634 weights.",
        "Macs 8,208,768 multiply-adds.",
        "Perplexity 31,416.",
        "Error 0.001234 mean square.",
    ]
    results.add_metric("seconds/steps", 5, n=1, unit="s")
    assert summary(Forgetting, results, "out")[0] == "Unlearned 1 step in 5 s."


def test_one_sentence_for_many_metrics_and_none_for_others():
    class Tasks(ToyRecipe):
        metric_words = {"*/miou": "{1} overlaps by {0}", "*/loss": ""}

    results = Results("toy", "", 0)
    for name in ("seg/miou", "seg/loss", "accuracy/train", "accuracy/test/prompts"):
        results.add_metric(name, 0.5)
    assert summary(Tasks, results, "out")[1:-1] == [
        "Accuracy (test, prompts) 0.5.",
        "Seg overlaps by 0.5.",
        "Training accuracy 0.5.",
    ]


def test_no_words_of_a_recipe_end_with_a_full_stop_of_their_own():
    for verb in ("train", "unlearn", "compress"):
        for name, entry in recipes_to(verb).items():
            for words in entry.recipe_class.metric_words.values():
                assert not words.endswith("."), (name, words)
