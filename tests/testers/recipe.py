"""What every recipe keeps to: stopped anywhere it ends alike, and its model comes before numbers.

Everything is done in this process. That a real SIGKILL and real processes do the same is tested
once, on the toy recipes, in `tests/runner/test_processes.py`.
"""

import itertools
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from salhub.results import Results
from salhub.runner.batches import Share, mixed_seed, step_batches
from salhub.runner.loop import pass_gradients
from salhub.runner.plan import count_steps, steps_after
from salhub.runner.recipe import BlockRecipe, FitRecipe, Recipe, TrainingRecipe
from salhub.runner.run import run
from salhub.runner.run_folder import exported_files

# What a recipe does again and again, after which it can be stopped.
UNITS = {TrainingRecipe: "after_step", BlockRecipe: "compress_block", FitRecipe: "fit"}
# They tell of the time.
UNLIKE = {"README.md", "results.json"}


class Stopped(BaseException):
    """Ends a run as a kill would: nothing of ours catches it."""


def unit_of(recipe: Recipe) -> str:
    """The method that is one unit of its work."""
    return next(name for kind, name in UNITS.items() if isinstance(recipe, kind))


def counted(recipe: Recipe, stop_after: int | None = None) -> tuple[Recipe, list[Any]]:
    """The recipe, whose work is stopped after some units, and the arguments of those it did."""
    name, done = unit_of(recipe), []
    work = getattr(recipe, name)

    def once(*arguments: Any) -> Any:
        found = work(*arguments)
        done.append(arguments)
        if len(done) == stop_after:
            raise Stopped
        return found

    setattr(recipe, name, once)
    return recipe, done


def products(folder: Path) -> dict[str, bytes]:
    """Everything that two runs of one seed have in common: the log and what they export."""
    names = {name for name in exported_files(folder) if Path(name).name not in UNLIKE}
    assert names
    return {name: (folder / name).read_bytes() for name in (*sorted(names), "log.jsonl")}


class RecipeTester:
    """Give a fixture `make`, which takes a folder and further options, and makes the recipe."""

    # Of the three lives before the last one; a later one goes on where the last has left off.
    stops: tuple[int, ...] = (1,)
    options: dict[str, Any] = {}

    def test_stopped_anywhere_it_ends_with_the_bytes_of_a_run_that_nobody_stopped(
        self, make: Callable[..., Recipe], tmp_path: Path
    ) -> None:
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        run(make(whole, **self.options))
        again = {**self.options, "resume_from_checkpoint": "latest"}
        for stop in self.stops:
            recipe, _ = counted(make(stopped, **again), stop)
            with pytest.raises(Stopped):
                run(recipe)
            assert not (stopped / "results.json").exists()
        run(make(stopped, **again))
        assert products(stopped) == products(whole)
        # Nothing is left that was only there to go on from.
        assert {p.name for p in stopped.iterdir()} == {p.name for p in whole.iterdir()}

    def test_the_model_is_saved_before_it_is_measured(
        self, make: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run(make(tmp_path / "whole"))
        folder = tmp_path / "unmeasured"
        recipe = make(folder)

        def fail(*_: Any) -> None:
            raise RuntimeError("no memory")

        recipe.evaluate = fail  # ty: ignore[invalid-assignment]
        with pytest.raises(RuntimeError, match="no memory"):
            run(recipe)
        assert f"The model is saved in {folder}, but could not be measured" in caplog.text
        saved = (folder / "model.safetensors").read_bytes()
        assert saved == (tmp_path / "whole" / "model.safetensors").read_bytes()
        assert not (folder / "results.json").exists()
        recipe, done = counted(make(folder, resume_from_checkpoint="latest"))
        run(recipe)
        assert len(done) == isinstance(recipe, FitRecipe)  # which works in one go
        assert products(folder) == products(tmp_path / "whole")

    def test_a_run_writes_a_log_results_and_a_card(
        self, make: Callable[..., Recipe], tmp_path: Path
    ) -> None:
        recipe = make(tmp_path)
        found = run(recipe, command="again")
        assert found is not None
        results = Results.load(tmp_path / "results.json")
        assert (results.model, results.command, results.seed) == (recipe.name, "again", found.seed)
        assert [m.name for m in results.metrics] == [m.name for m in found.metrics]
        assert results.versions["torch"] and results.wall_seconds > 0
        steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()]
        assert steps == sorted(steps) and bool(steps) != isinstance(recipe, FitRecipe)
        card = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert all(metric.name in card for metric in results.metrics)
        assert str(tmp_path) not in card + (tmp_path / "options.json").read_text(encoding="utf-8")

    def test_a_dry_run_writes_nothing(
        self, make: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = make(tmp_path / "out", dry_run=True)
        assert run(recipe) is None
        plan = json.loads(capsys.readouterr().out)
        assert plan["recipe"] == f"{recipe.verb} {recipe.name}"
        assert plan["memory_mib"]["weights"] >= 0
        assert not (tmp_path / "out").exists()


class TrainingRecipeTester(RecipeTester):
    """The same of a recipe that takes four steps or more."""

    # Before the first checkpoint, in the middle, and after the last step.
    stops = (1, 3, -2)
    options = {"checkpointing_steps": 2, "logging_steps": 3}

    @pytest.fixture(autouse=True)
    def _last_stop(self, make: Callable[..., Recipe], tmp_path: Path) -> None:
        recipe: Any = make(tmp_path / "never")
        recipe.build_model()
        total = count_steps(recipe)
        assert total >= 4
        self.stops = (1, 3, total - 2)

    def test_two_shares_of_the_rows_have_the_gradients_of_one(
        self, make: Callable[..., Recipe], tmp_path: Path
    ) -> None:
        recipe: Any = make(tmp_path)
        torch.manual_seed(mixed_seed(recipe.arguments.seed))
        model = recipe.build_model()
        recipe.run = SimpleNamespace(folder=tmp_path, remove_when_finished=lambda path: None)
        recipe.prepare(model, Accelerator(cpu=True))
        recipe.build_optimizer(model)
        # Batch normalisation and dropout see the rows of each process.
        model.eval()
        by_stage = itertools.groupby(steps_after(recipe, 0), key=lambda step: step.stage.name)
        for step in (next(steps) for _, steps in itertools.islice(by_stage, 2)):
            one, two, three = (gradients(recipe, model, step, count) for count in (1, 2, 3))
            assert float(one.abs().max()) > 0
            tolerance = 1e-5 * float(one.abs().max())
            torch.testing.assert_close(two, one, rtol=1e-3, atol=tolerance)
            torch.testing.assert_close(three, one, rtol=1e-3, atol=tolerance)


def gradients(recipe: Any, model: torch.nn.Module, step: Any, processes: int) -> torch.Tensor:
    """The gradients of a step whose rows some processes share, (parameters,)."""
    accelerator: Any = SimpleNamespace(
        num_processes=processes,
        device=torch.device("cpu"),
        autocast=nullcontext,
        backward=torch.Tensor.backward,
    )
    model.zero_grad()
    for index in range(processes):
        shared = {"step": step.number, "epoch": step.epoch, "share": Share(index, processes)}
        batches = list(step_batches(step.rows, seed=recipe.arguments.seed, largest=3, **shared))
        for batch in batches:
            pass_gradients(recipe, model, step, batch, len(batches), accelerator)
    parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(parts) / processes
