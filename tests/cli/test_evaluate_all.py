"""`salhub evaluate --all` repeats the evaluations of the cards and compares their numbers."""

from dataclasses import replace

import pytest

from salhub.cli import evaluate_all
from salhub.results import Metric, Results, read_results


def _card(*metrics: Metric) -> Results:
    return Results("salhub/toy", "salhub evaluate toy --data toys", seed=0, metrics=list(metrics))


def test_numbers_whose_intervals_do_not_meet_are_named():
    card = _card(
        Metric("same", 0.5, (0.4, 0.6)),
        Metric("near", 0.5, (0.4, 0.6)),
        Metric("far", 0.5, (0.4, 0.6)),
        Metric("exact", 0.5, (0.4, 0.6)),
        Metric("few", 0.5, (0.4, 0.6), n=100),
        Metric("few and far", 0.5, (0.4, 0.6), n=100),
        Metric("no interval", 0.5),
        Metric("slow", 2.0, (1.9, 2.1), unit="s"),
        Metric("only there", 0.5, (0.4, 0.6)),
        Metric("unknown", float("nan"), (0.4, 0.6)),
    )
    found = _card(
        Metric("same", 0.5, (0.4, 0.6)),
        Metric("near", 0.7, (0.55, 0.8)),
        Metric("far", 0.7, (0.61, 0.8)),
        Metric("exact", 0.39),
        # Of 4 examples in place of 100 the interval is 5 times as wide: 0.5 to each side.
        Metric("few", 1.0, (1.0, 1.0), n=4),
        Metric("few and far", 1.2, (1.2, 1.2), n=4),
        Metric("no interval", 0.9),
        Metric("slow", 9.0, (8.9, 9.1), unit="s"),
        Metric("unknown", 0.9),
    )
    assert evaluate_all.compare_with_card(found, card) == (6, ["far", "exact", "few and far"])


def test_data_that_is_missing_is_named_and_nothing_is_measured(call, call_json, tmp_path):
    (tmp_path / "data").mkdir()
    result = call("evaluate", "nvit", "--all", "--data", "data", code=1)
    assert "nvit-cifar10-050: skipped: the data folder does not contain cifar10_jpeg.npz" in (
        result.stdout + result.stderr
    )
    assert "3 models: 3 skipped." in result.stdout
    assert not list((tmp_path / "results").iterdir())
    [outcomes] = call_json("evaluate", "lexrank", "--all", "--data", "data", code=1)
    assert [one["state"] for one in outcomes] == ["skipped", "skipped"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--all", "--data", "nowhere"], "nowhere is not a folder"),
        (["nvitt", "--all", "--data", "."], "Did you mean 'nvit'"),
        (["nvit", "--data", ".", "--quick"], "need --all"),
        (["--data", "."], "Give a model"),
        (["nvit", "--all", "--data", ".", "seed=3"], "--all takes no settings"),
    ],
)
def test_what_does_not_go_together_is_refused(call, words, said):
    code = 1 if "nowhere" in words or "nvitt" in words else 2
    assert said in call("evaluate", *words, code=code).stderr


def test_a_quick_evaluation_takes_the_settings_of_the_card(tmp_path):
    places = {"imagenet_sample": tmp_path}
    full = evaluate_all.plan_of("gradcam-efficientnet-lite0", places, quick=False)
    quick = evaluate_all.plan_of("gradcam-efficientnet-lite0", places, quick=True)
    assert full.words == ["gradcam-efficientnet-lite0", "--data", str(tmp_path)]
    assert "num_mosaics=8" in quick.words and "num_mosaics=8" in quick.command
    assert str(tmp_path) not in quick.command


def test_a_model_is_measured_in_its_own_process_and_kept(call, monkeypatch, tmp_path):
    card = read_results("rep-mtl-rooms")
    command = "salhub evaluate rep-mtl-rooms --data rooms num_images=4"
    monkeypatch.setattr(evaluate_all, "read_results", lambda name: replace(card, command=command))
    words = ["evaluate", "rep_mtl", "--all", "--data", ".", "-o", "out"]
    assert "1 models: 1 measured." in call(*words).stdout
    written = tmp_path / "out" / "rep-mtl-rooms.results.json"
    found, before = Results.load(written), written.stat().st_mtime_ns
    assert found.command == command and found.metric("segmentation/miou").value > 0
    assert "1 models: 1 kept." in call(*words).stdout
    assert written.stat().st_mtime_ns == before


def test_an_evaluation_that_fails_says_why_and_the_others_go_on(call, monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho warning >&2\necho Error: It broke. >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(evaluate_all.sys, "executable", str(broken))
    said = call("evaluate", "sdl_seg", "--all", "--data", ".", code=1)
    text = said.stdout + said.stderr
    assert "sdl-seg-phantom: failed: It broke." in text
    assert "unet-phantom: failed: It broke." in text and "2 models: 2 failed." in text
