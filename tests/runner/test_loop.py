"""The loop: the same numbers however the rows are shared, interrupted or cut into passes."""

import json

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from salhub.results import Results
from salhub.runner.batches import epoch_order, generator_of, mixed_seed
from salhub.runner.disk import DiskFullError
from salhub.runner.processes import EXPECTED_PROCESSES
from salhub.runner.recipe import TrainingRecipe
from salhub.runner.run import run
from tests.runner.toy_recipe import ROWS, ToyArguments, ToyRecipe
from tests.testers.recipe import Stopped, TrainingRecipeTester, counted, products


def recipe_of(folder, **settings):
    return ToyRecipe(ToyArguments(output_dir=str(folder), cpu=True, **settings))


def run_toy(folder, **settings):
    return run(recipe_of(folder, **settings))


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class TestToy(TrainingRecipeTester):
    @pytest.fixture
    def make(self):
        settings = {"use_two_stages": True, "dropout": 0.3, "max_grad_norm": 1.0}
        settings |= {"lr_scheduler": "cosine", "validation_steps": 3, "keep_best": True}
        return lambda folder, **options: recipe_of(folder, **{**settings, **options})


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
    run_toy(tmp_path, learning_rate=1e-12, noise=0.0, use_two_stages=True, validation_steps=0)
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


def test_checkpoints_are_the_last_ones_and_halves_are_removed(tmp_path):
    options = {"checkpointing_steps": 2, "checkpoints_total_limit": 2, "num_train_epochs": 3}
    run_toy(tmp_path / "whole", **options)
    recipe, _ = counted(recipe_of(tmp_path / "killed", **options), 12)
    with pytest.raises(Stopped):
        run(recipe)
    left = ["checkpoint-10", "checkpoint-8"]
    assert sorted(path.name for path in tmp_path.glob("killed/checkpoint-*")) == left
    # A kill while a checkpoint or a line is being written leaves half of it.
    (tmp_path / "killed" / ".checkpoint-12").mkdir()
    with (tmp_path / "killed" / "log.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    run_toy(tmp_path / "killed", resume_from_checkpoint="latest", **options)
    assert products(tmp_path / "killed") == products(tmp_path / "whole")
    assert not list(tmp_path.glob("killed/.*"))


@pytest.mark.parametrize("file", ["model.safetensors", "states.safetensors", "states.json", None])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, file):
    options = {"checkpointing_steps": 3, "noise": 0.5}
    run_toy(tmp_path / "whole", **options)
    recipe, _ = counted(recipe_of(tmp_path / "out", **options), 8)
    with pytest.raises(Stopped):
        run(recipe)
    last = tmp_path / "out" / "checkpoint-6"
    if file is None:
        (last / "checkpoint.json").unlink()  # what is written last
    else:
        content = bytearray((last / file).read_bytes())
        content[len(content) // 2] ^= 1
        (last / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint-6 is damaged; set"):
        run_toy(tmp_path / "out", resume_from_checkpoint=str(last), **options)
    recipe, done = counted(recipe_of(tmp_path / "out", resume_from_checkpoint="latest", **options))
    run(recipe)
    assert caplog.text.count("is damaged and was skipped") == 1 and str(last) in caplog.text
    assert len(done) == 10 - 3
    assert products(tmp_path / "out") == products(tmp_path / "whole")


@pytest.mark.parametrize("content", ["{}", "[]", "null"])
def test_a_checkpoint_that_does_not_say_what_is_in_it_is_damaged(tmp_path, caplog, content):
    run_toy(tmp_path, checkpointing_steps=3)
    (tmp_path / "results.json").unlink()
    (tmp_path / "checkpoint-9" / "checkpoint.json").write_text(content)
    options = {"checkpointing_steps": 3, "resume_from_checkpoint": "latest"}
    recipe, done = counted(recipe_of(tmp_path, **options))
    run(recipe)
    assert "checkpoint-9 is damaged and was skipped" in caplog.text and len(done) == 10 - 6


def test_checkpoints_behind_the_one_gone_on_from_are_of_another_life(tmp_path):
    options = {"checkpointing_steps": 2, "checkpoints_total_limit": 3}
    run_toy(tmp_path / "whole", **options)
    out = tmp_path / "out"
    recipe, _ = counted(recipe_of(out, **options), 9)
    with pytest.raises(Stopped):
        run(recipe)
    again = {**options, "resume_from_checkpoint": str(out / "checkpoint-4")}
    recipe, _ = counted(recipe_of(out, **again), 1)
    with pytest.raises(Stopped):
        run(recipe)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-4"]
    run_toy(out, **{**options, "resume_from_checkpoint": "latest"})
    assert products(out) == products(tmp_path / "whole")


def test_a_trained_model_is_saved_where_its_last_checkpoint_cannot_be(
    tmp_path, monkeypatch, caplog
):
    def fail(*_):
        raise OSError("No space left on device")

    run_toy(tmp_path / "whole")
    monkeypatch.setattr("salhub.runner.loop.save_checkpoint", fail)
    run_toy(tmp_path / "out")
    assert products(tmp_path / "out") == products(tmp_path / "whole")
    assert "The last checkpoint could not be saved (No space left on device)" in caplog.text
    with pytest.raises(DiskFullError, match="disk full"):  # one that was asked for
        run_toy(tmp_path / "other", checkpointing_steps=2)


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path):
    run_toy(tmp_path, checkpointing_steps=4)
    suffixes = {path.suffix for path in tmp_path.rglob("checkpoint-*/*")}
    assert suffixes == {".json", ".safetensors"}


# --- validation -----------------------------------------------------------------------------------


def test_the_model_of_the_best_validation_is_kept(tmp_path):
    # So fast that it gets worse.
    options = {"learning_rate": 0.3, "validation_steps": 2, "num_train_epochs": 3, "seed": 2}
    run_toy(tmp_path / "last", checkpointing_steps=2, **options)
    run_toy(tmp_path / "best", keep_best=True, **options)
    found = {line["step"]: line for line in lines(tmp_path / "best") if "validation/loss" in line}
    assert list(found) == [2, 4, 6, 8, 10, 12, 14, 15]
    best = min(found, key=lambda step: found[step]["validation/loss"])
    assert best < 14
    expected = weights(tmp_path / "last" / f"checkpoint-{best}")
    assert all(torch.equal(v, expected[n]) for n, v in weights(tmp_path / "best").items())
    assert lines(tmp_path / "best") == lines(tmp_path / "last")  # it changes no step
    recipe = recipe_of(tmp_path)
    model = recipe.build_model()
    model.load_state_dict(expected)
    with torch.no_grad():
        measured = recipe.validate(model.eval(), Accelerator(cpu=True))
    assert measured["loss"] == pytest.approx(found[best]["validation/loss"], abs=1e-6)


def test_a_run_may_end_before_its_last_step_wherever_it_was_stopped(tmp_path):
    options = {"validation_steps": 2, "num_train_epochs": 20, "checkpointing_steps": 3}
    options |= {"stop_below": 1.2, "logging_steps": 11}
    run_toy(tmp_path / "whole", **options)
    last = lines(tmp_path / "whole")[-1]
    assert 4 < last["step"] < 100 and "loss" in last and last["step"] % 11  # the rest of a line
    losses = [line["validation/loss"] for line in lines(tmp_path / "whole") if len(line) == 4]
    assert losses[-1] < 1.2 <= min(losses[:-1])
    recipe, _ = counted(recipe_of(tmp_path / "out", **options), last["step"])
    with pytest.raises(Stopped):
        run(recipe)
    run_toy(tmp_path / "out", resume_from_checkpoint="latest", **options)
    assert products(tmp_path / "out") == products(tmp_path / "whole")


def test_validation_needs_a_recipe_that_can_and_keep_best_needs_validation(tmp_path):
    with pytest.raises(ValueError, match="leave out validation_steps=0"):
        run_toy(tmp_path, keep_best=True, validation_steps=0)

    class Blind(ToyRecipe):
        validate = TrainingRecipe.validate

    for option in ({"validation_steps": 2}, {"keep_best": True}):
        with pytest.raises(ValueError, match="The recipe 'toy' does not measure anything"):
            Blind(ToyArguments(output_dir=str(tmp_path), **option))

    class Empty(ToyRecipe):
        def can_validate(self):
            return False

    out = tmp_path / "out"
    with pytest.raises(ValueError, match="these options, the recipe 'toy' has no held-out data to"):
        run(Empty(ToyArguments(output_dir=str(out), cpu=True, keep_best=True)))
    assert not out.exists()
    run(Empty(ToyArguments(output_dir=str(out), cpu=True)))
    assert not any("validation/loss" in line for line in lines(out))


def test_what_is_held_out_is_measured_once_an_epoch_unless_said_otherwise(tmp_path):
    def steps(folder, **options) -> list[int]:
        run_toy(folder, num_train_epochs=3, **options)
        return [line["step"] for line in lines(folder) if "validation/loss" in line]

    assert steps(tmp_path / "one", use_two_stages=True) == [7, 14, 21]
    assert steps(tmp_path / "two", max_train_steps=12) == [5, 10, 12]
    assert steps(tmp_path / "three", validation_steps=4) == [4, 8, 12, 15]
    assert steps(tmp_path / "none", validation_steps=0) == []
    # It changes no weight.
    assert all(
        torch.equal(value, weights(tmp_path / "none")[name])
        for name, value in weights(tmp_path / "three").items()
    )


def test_a_snapshot_is_a_model_of_its_own_and_changes_no_step(tmp_path):
    options = {"dropout": 0.3, "checkpointing_steps": 3, "learning_rate": 0.05}
    run_toy(tmp_path / "plain", **options)
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_toy(whole, snapshot_step=6, **options)
    expected = weights(tmp_path / "plain")
    assert all(torch.equal(v, expected[n]) for n, v in weights(whole).items())
    checkpoint = weights(whole / "checkpoint-6")
    assert all(torch.equal(v, checkpoint[n]) for n, v in weights(whole / "early").items())
    early = Results.load(whole / "early" / "results.json").metric("accuracy").value
    assert early != Results.load(whole / "results.json").metric("accuracy").value
    card = (whole / "early" / "README.md").read_text()
    assert "# early" in card
    assert f"| {early:.4g} |" in card
    # Stopped behind it and resumed there, it is still a part of the run.
    recipe, _ = counted(recipe_of(out, snapshot_step=6, **options), 8)
    with pytest.raises(Stopped):
        run(recipe)
    run_toy(out, snapshot_step=6, resume_from_checkpoint="latest", **options)
    assert products(out) == products(whole) and "early/model.safetensors" in products(out)
    run_toy(out, overwrite=True, snapshot_step=6, **options)
    assert products(out) == products(whole)
    run_toy(out, overwrite=True, **options)
    assert not (out / "early").exists() and "early/model.safetensors" not in products(out)


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_run_that_ends_while_a_snapshot_is_saved_goes_on(tmp_path, moment):
    class Killed(ToyRecipe):
        def export(self, model, folder):
            if moment == "before":
                raise Stopped
            super().export(model, folder)
            if moment == "within":
                (folder.parent / "left").touch()  # as a kill leaves what was being written
                raise Stopped

        def evaluate(self, *_):
            raise Stopped

    options = {"output_dir": str(tmp_path), "cpu": True, "snapshot_step": 6}
    with pytest.raises(Stopped):
        run(Killed(ToyArguments(**options, checkpointing_steps=3)))
    run(ToyRecipe(ToyArguments(**options, checkpointing_steps=3, resume_from_checkpoint="latest")))
    assert (tmp_path / "early" / "results.json").is_file()


def test_a_snapshot_takes_the_place_of_nothing(tmp_path):
    class Named(ToyRecipe):
        def after_step(self, model, optimizer, step):
            self.run.snapshot(self.place, model)

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    taken = (
        "salhub",
        "checkpoint-5",
        "results.json",
        "model.safetensors",
        "block-0001.safetensors",
    )
    for Named.place in ("mine", "../up", "options.json", "", *taken):
        with pytest.raises(ValueError, match="A snapshot needs the name of a new folder, got"):
            run(Named(ToyArguments(output_dir=str(tmp_path), cpu=True, overwrite=True)))


def test_processes_that_do_not_know_of_each_other_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv(EXPECTED_PROCESSES, "2")
    with pytest.raises(
        RuntimeError, match="2 processes were requested, but only 1 work together; start them"
    ):
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
    with pytest.raises(FileExistsError, match="already has a run; resume it with"):
        run_toy(tmp_path, seed=1)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    run_toy(tmp_path, seed=1, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() != before


def test_a_run_goes_on_only_with_its_own_options(tmp_path):
    run_toy(tmp_path, checkpointing_steps=2)
    with pytest.raises(
        ValueError, match=r"has batch_size=12 and cannot be resumed with 13; give the same"
    ):
        run_toy(tmp_path, checkpointing_steps=2, batch_size=13, resume_from_checkpoint="latest")
    with pytest.raises(FileNotFoundError, match="it has steps 2, 4, 6, 8"):
        run_toy(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"the loss is .* at step .*smaller learning_rate"):
        run_toy(tmp_path, learning_rate=1e30)


@pytest.fixture
def fresh_accelerate():
    """As in a process where nobody has made an `Accelerator`."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate")
def test_half_precision_on_a_cpu_is_refused_where_it_would_be_full_precision(tmp_path):
    with pytest.raises(ValueError, match=r"fp16 needs a GPU.*use mixed_precision=bf16, or leave"):
        run_toy(tmp_path / "out", mixed_precision="fp16")
    assert not (tmp_path / "out").exists()
    # The other precision works, also behind a run with another one.
    for name in ("no", "bf16"):
        run_toy(tmp_path / name, mixed_precision=name)
        assert f'"mixed_precision": "{name}"' in (tmp_path / name / "options.json").read_text()
    first, second = weights(tmp_path / "no"), weights(tmp_path / "bf16")
    assert all(torch.allclose(first[name], second[name], atol=0.1) for name in first)
    assert not all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_leaves_no_setting_behind(tmp_path):
    run_toy(tmp_path, deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not AcceleratorState._shared_state


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_precision_that_somebody_else_has_settled_is_refused(tmp_path):
    Accelerator(cpu=True)
    with pytest.raises(ValueError, match="is not possible here, because this"):
        run_toy(tmp_path / "out", mixed_precision="bf16")
    run_toy(tmp_path / "out")


def test_weights_in_pieces_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(
        RuntimeError, match=r"which splits the weights over processes, but recipes need"
    ):
        run_toy(tmp_path)


def test_tensorboard_gets_the_same_numbers_as_the_log(tmp_path):
    run_toy(tmp_path, report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "salhub"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    logged = lines(tmp_path)
    assert found == pytest.approx({line["step"]: line["loss"] for line in logged if "loss" in line})
    held_out = {event.step: event.value for event in events.Scalars("validation/loss")}
    assert held_out == pytest.approx(
        {line["step"]: line["validation/loss"] for line in logged if "validation/loss" in line}
    )
