"""Several processes hold one model, and say how many they are."""

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from salhub.results import Results
from salhub.runner.launch import launch
from salhub.runner.processes import check_whole_weights
from tests.runner.test_loop import run_toy, start

CLASSES, NUM_TRAIN, NUM_TEST = 3, 40, 901


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[str, np.ndarray, np.ndarray]:
    """An archive of noise as bright as it comes, its test pictures and their classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(NUM_TRAIN + NUM_TEST) % CLASSES
    brightest = generator.integers(2, 256, (len(labels), 1, 1, 3))
    images = generator.integers(0, brightest, (len(labels), 8, 8, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(
        path, train_images=images[:NUM_TRAIN], train_labels=labels[:NUM_TRAIN],
        test_images=images[NUM_TRAIN:], test_labels=labels[NUM_TRAIN:],
    )  # fmt: skip
    return str(path), images[NUM_TRAIN:], labels[NUM_TRAIN:]


def test_what_two_processes_report_is_what_the_saved_model_does(tmp_path, pictures, capfd):
    data, images, labels = pictures
    words = [f"data={data}", f"output_dir={tmp_path}", "width=4", "stem_stride=1", "batch_size=2"]
    words += ["num_train_epochs=1", "learning_rate=1e-5", "lr_scheduler=constant"]
    assert launch(["train", "cifar-resnet", *words], 2, cpu=True) == 0
    assert capfd.readouterr().err.count("2 processes on cpu") == 1
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = model(processor(list(images), return_tensors="pt")["pixel_values"]).logits
    share = float((logits.argmax(-1).numpy() == labels).mean())
    assert Results.load(tmp_path / "results.json").metric("accuracy/test").value == share


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_an_environment_that_splits_weights_is_refused_on_a_cpu_too(tmp_path, monkeypatch, kind):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(RuntimeError, match=f"configured for {kind}.*recipes need them whole"):
        run_toy(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "false")
    check_whole_weights()


def test_a_process_that_dies_ends_the_others(tmp_path, monkeypatch, capfd):
    (tmp_path / "salhub_dies.py").write_text(
        "import os, time\nif os.environ['RANK'] == '1': os._exit(7)\ntime.sleep(60)\n"
    )
    monkeypatch.setattr("salhub.runner.launch._MODULE", "salhub_dies")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert launch([], 2, cpu=True) == 7
    assert capfd.readouterr().err == (
        "Error: a process of the run ended with code 7 and said nothing.\n"
    )


def test_a_command_of_no_process_is_refused():
    with pytest.raises(ValueError, match="nproc must be 1 or more, got 0"):
        launch(["train"], 0)


def test_one_process_says_nothing_of_processes(tmp_path):
    found = start(f"output_dir={tmp_path}", "max_train_steps=1")
    assert found.returncode == 0 and "process" not in found.stderr
