"""The loop: the same numbers however the rows are shared, interrupted or cut into passes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedType
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from salhub.results import Results
from salhub.runner.batches import epoch_order, generator_of, mixed_seed
from salhub.runner.processes import EXPECTED_PROCESSES
from salhub.runner.run import run
from tests.runner.toy_recipe import ROWS, ToyArguments, ToyRecipe

ROOT = Path(__file__).parents[2]


def run_toy(folder, **settings):
    return run(ToyRecipe(ToyArguments(output_dir=folder, cpu=True, **settings)))


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def start(*words: str, processes: int = 1, **environment: str) -> subprocess.CompletedProcess:
    """The toy recipe in processes of its own."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    variables = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, str(ROOT / "tests/runner/run_toy.py"), *words],
        env={**os.environ, **variables, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_equal_to_a_loop_written_out(tmp_path):
    run_toy(tmp_path, seed=3, max_grad_norm=0.5, lr_scheduler="linear")
    recipe = ToyRecipe(ToyArguments(output_dir=tmp_path))
    torch.manual_seed(mixed_seed(3))
    model = recipe.build_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step, total = 0, 2 * 5
    for epoch in range(2):
        for rows in epoch_order(ROWS, 3, epoch, 0).split(12):
            noise = torch.randn(len(rows), 8, generator=generator_of(3, step, 0))
            logits = model(recipe.inputs[rows] + 0.1 * noise)
            F.cross_entropy(logits, recipe.labels[rows]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / total)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    for name, found in weights(tmp_path).items():
        torch.testing.assert_close(found, model.state_dict()[name], rtol=0, atol=1e-6)


def test_every_row_is_seen_once_an_epoch_in_an_order_of_its_own():
    orders = [epoch_order(ROWS, 0, epoch, stage) for epoch in range(3) for stage in range(2)]
    assert all(sorted(order.tolist()) == list(range(ROWS)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


def test_passes_of_few_rows_add_up_to_the_step(tmp_path):
    run_toy(tmp_path / "whole")
    run_toy(tmp_path / "parts", per_device_batch_size=5)
    for name, found in weights(tmp_path / "parts").items():
        torch.testing.assert_close(found, weights(tmp_path / "whole")[name], rtol=0, atol=1e-5)
    for part, whole in zip(lines(tmp_path / "parts"), lines(tmp_path / "whole"), strict=True):
        assert part == pytest.approx(whole, abs=1e-5)


def test_log_holds_means_of_the_rows_since_the_last_line(tmp_path):
    run_toy(tmp_path, learning_rate=1e-12, noise=0.0, use_two_stages=True)
    found = lines(tmp_path)
    # 2 + 5 steps an epoch: every third one, and the ends of stages.
    assert [line["step"] for line in found] == [2, 3, 6, 7, 9, 12, 14]
    assert [line["stage"] for line in found[:4]] == ["first", "second", "second", "second"]
    recipe = ToyRecipe(ToyArguments(output_dir=tmp_path))
    torch.manual_seed(mixed_seed(0))
    model = recipe.build_model()
    rows = epoch_order(ROWS, 0, 0, 1)[12:48]  # steps 4 to 6
    expected = F.cross_entropy(model(recipe.inputs[rows]), recipe.labels[rows])
    assert found[2]["loss"] == pytest.approx(float(expected.detach()), abs=1e-6)


def test_a_killed_run_goes_on_to_the_same_weights_and_log_bit_by_bit(tmp_path):
    options = ["checkpointing_steps=2", "dropout=0.3", "max_grad_norm=1", "lr_scheduler=cosine"]
    options += ["use_two_stages=true", "num_train_epochs=3", "checkpoints_total_limit=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(f"output_dir={whole}", *options).returncode == 0
    words = [f"output_dir={killed}", *options, "resume_from_checkpoint=latest"]
    for step in ("1", "5", "12"):  # before the first checkpoint, and between two lines of the log
        found = start(*words, KILL_AFTER=step)
        assert found.returncode == -signal.SIGKILL, found.stderr
        assert not (killed / "results.json").exists()
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == [
        "checkpoint-10", "checkpoint-8",
    ]  # fmt: skip
    # A kill while a checkpoint or a line is being written leaves half of it.
    (killed / ".checkpoint-12").mkdir()
    with (killed / "log.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    assert start(*words).returncode == 0
    assert (killed / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not list(killed.glob(".*"))


def test_two_processes_learn_what_one_learns(tmp_path):
    # 50 rows in steps of 12 leave 2 for the last step: one for each.
    options = ["per_device_batch_size=4", "use_two_stages=true"]
    found = start(
        f"output_dir={tmp_path / 'two'}", *options, processes=2, **{EXPECTED_PROCESSES: "2"}
    )
    assert found.returncode == 0, found.stderr
    assert start(f"output_dir={tmp_path / 'one'}", *options).returncode == 0
    assert Results.load(tmp_path / "two" / "results.json").data["processes"] == 2
    for name, values in weights(tmp_path / "two").items():
        torch.testing.assert_close(values, weights(tmp_path / "one")[name], rtol=0, atol=1e-5)
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, abs=1e-5)


def test_a_process_without_rows_counts_for_nothing(tmp_path):
    # The last step of an epoch has one row, and a line of the log of its own.
    options = ["batch_size=7", "max_train_steps=8", "logging_steps=1"]
    assert start(f"output_dir={tmp_path / 'two'}", *options, processes=2).returncode == 0
    assert start(f"output_dir={tmp_path / 'one'}", *options).returncode == 0
    for name, values in weights(tmp_path / "two").items():
        torch.testing.assert_close(values, weights(tmp_path / "one")[name], rtol=0, atol=1e-5)
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, abs=1e-5)


def test_processes_that_do_not_know_of_each_other_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv(EXPECTED_PROCESSES, "2")
    with pytest.raises(RuntimeError, match="2 processes were asked for and 1 work together"):
        run_toy(tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_results_say_how_they_came_about(tmp_path):
    returned = run_toy(tmp_path, seed=7)
    found = Results.load(tmp_path / "results.json")
    assert (found.model, found.seed) == ("toy", 7)
    assert found.metric("accuracy").value == returned.metric("accuracy").value
    assert found.wall_seconds > 0 and found.machine["peak_memory_mib"] > 0
    assert found.versions["torch"]


def test_dry_run_shows_what_would_happen_and_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "out"
    assert run_toy(folder, dry_run=True, per_device_batch_size=5, use_two_stages=True) is None
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps"], plan["passes_of_a_step"], plan["rows_of_a_pass"]) == (14, 3, 5)
    assert plan["stages"] == {"first": 20, "second": 50}
    parameters = 8 * 16 + 16 + 16 + 16 + 16 * 8 + 8
    assert plan["trainable_parameters"] == parameters
    assert plan["memory_mib"]["optimizer"] == pytest.approx(8 * parameters / 2**20, abs=0.05)
    assert not folder.exists()


def test_a_finished_run_is_not_lost(tmp_path):
    run_toy(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already"):
        run_toy(tmp_path, seed=1)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    run_toy(tmp_path, seed=1, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() != before


def test_a_run_goes_on_only_with_its_own_options(tmp_path):
    run_toy(tmp_path, checkpointing_steps=2)
    with pytest.raises(ValueError, match=r"has batch_size=12 and cannot go on with 13"):
        run_toy(tmp_path, checkpointing_steps=2, batch_size=13, resume_from_checkpoint="latest")
    with pytest.raises(FileNotFoundError, match="it has those of steps 2, 4, 6, 8"):
        run_toy(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"the loss is .* at step .*smaller learning_rate"):
        run_toy(tmp_path, learning_rate=1e30)


def test_weights_in_pieces_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(RuntimeError, match=r"configured for FSDP.*recipes need them whole"):
        run_toy(tmp_path)


def test_tensorboard_gets_the_same_numbers_as_the_log(tmp_path):
    run_toy(tmp_path, report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "salhub"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx({line["step"]: line["loss"] for line in lines(tmp_path)})
