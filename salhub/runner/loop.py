"""The descent of a `TrainingRecipe`: steps, checkpoints, validations and the log."""

import copy
import logging
import math
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm.auto import tqdm

from salhub.ops.normalization import single_values_normalized
from salhub.runner.batches import Batch, mixed_seed, step_batches
from salhub.runner.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from salhub.runner.plan import (
    Step,
    count_steps,
    share_of,
    steps_after,
    steps_of_epoch,
    to_device,
)
from salhub.runner.progress import Progress

if TYPE_CHECKING:
    from salhub.runner.recipe import TrainingRecipe
    from salhub.runner.run import Run

logger = logging.getLogger(__name__)


def descend(recipe: "TrainingRecipe", run: "Run") -> None:
    """Take the steps of a recipe, from the checkpoint of the run on where it has one.

    The last step has a checkpoint as well, until the run is finished: one that cannot be measured
    goes on from there.
    """
    descent = _Descent(recipe, run)
    descent.start()
    descent.take_steps()
    descent.end()


def pass_gradients(
    recipe: "TrainingRecipe",
    model: nn.Module,
    step: Step,
    batch: Batch,
    passes: int,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Add the gradients of one pass to those of its step.

    Args:
        recipe: Says what the loss is.
        model: In training mode, perhaps wrapped.
        step: Where the rows come from.
        batch: The rows.
        passes: How many a process makes in this step.
        accelerator: Averages the gradients of its processes.

    Returns:
        Numbers of the rows for the log, (b,) each.
    """
    inputs = to_device(step.stage.fetch(batch), accelerator)
    with accelerator.autocast():
        found = recipe.loss(model, inputs, batch)
    # Processes average their gradients; each row has to count once in the whole step.
    weight = 0.0 if batch.is_padding else accelerator.num_processes / batch.step_size
    loss = found.samples.sum() * weight
    if found.penalty is not None:
        loss = loss + found.penalty / passes
    accelerator.backward(loss)
    return {"loss": found.samples, **found.measures}


@contextmanager
def evaluation_mode(model: nn.Module) -> Generator[None]:
    """Put a model into evaluation mode, and every part of it back as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


class _Descent:
    def __init__(self, recipe: "TrainingRecipe", run: "Run") -> None:
        self.recipe, self.run, self.accelerator = recipe, run, run.accelerator
        self.arguments = recipe.arguments
        self.total = count_steps(recipe)
        self.progress = Progress()
        recipe.validations = self.progress.validations
        optimizer = recipe.build_optimizer(run.model)
        self.scheduler = _scheduler(recipe, optimizer, self.total)
        self.model, self.optimizer = self.accelerator.prepare(run.model, optimizer)
        changing = list(recipe.checkpointed())
        self.best = _Best([run.model, *changing], larger_is_better=recipe.larger_is_better)
        self.states = {
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "progress": self.progress,
            "best": self.best,
            **{f"recipe {index}": state for index, state in enumerate(changing)},
        }
        if self.accelerator.scaler is not None:
            self.states["scaler"] = self.accelerator.scaler
        self.began = time.perf_counter()

    def start(self) -> None:
        """Go on from the checkpoint, or from the beginning."""
        if self.run.checkpoint is not None:
            load_checkpoint(self.run.checkpoint, self.run.model, self.states)
            self.progress.share_out(self.accelerator)
            self.run.earlier_seconds = self.progress.seconds
        if self.accelerator.is_main_process:
            # Later ones are of steps that are taken anew.
            remove_checkpoints(self.run.folder, after=self.progress.step)
        self.run.log.begin_after(self.progress.step, self.progress.logged)

    def take_steps(self) -> None:
        """Take all steps that are left."""
        self.model.train()
        bar = tqdm(
            total=self.total,
            initial=self.progress.step,
            desc=f"{self.recipe.verb} {self.recipe.name}",
            unit="step",
            disable=not self.accelerator.is_local_main_process,
        )
        with bar, single_values_normalized(self.run.model):
            for step in steps_after(self.recipe, self.progress.step):
                if self.recipe.is_done():
                    break
                self._take(step)
                bar.update()
                if self._is_to_validate(step):
                    bar.set_postfix_str(_in_words(self._validate(step)))
                is_last = self.progress.step == self.total or self.recipe.is_done()
                self._record(step, is_last=is_last)
                every = self.arguments.checkpointing_steps
                if every is not None and self.progress.step % every == 0 and not is_last:
                    self._save(self.arguments.checkpoints_total_limit)

    def end(self) -> None:
        """Leave the model as it is to be finished."""
        path = self._save(is_needed=False)
        self.run.remove_when_finished(path)
        seconds, count = self.progress.seconds, self.progress.step
        self.run.results.add_metric("seconds/steps", seconds, n=count, unit="s")
        if self.arguments.keep_best:
            self.best.restore()
        self.run.course = self._course()

    def _course(self) -> dict[str, float]:
        """What the results say of the way that was taken."""
        arguments = self.arguments
        sizes = {steps_of_epoch(self.recipe, n) for n in range(arguments.num_train_epochs)}
        course: dict[str, float] = {"steps": self.progress.step}
        if len(sizes) == 1 and (per_epoch := sizes.pop()):
            course["epochs"] = round(self.progress.step / per_epoch, 3)
        if arguments.keep_best and self.best.step is not None:
            course["best_step"] = self.best.step
        return course

    def _take(self, step: Step) -> None:
        seed, index = self.arguments.seed, self.accelerator.process_index
        # What a pass draws depends on the step alone, so no generator has to be kept.
        torch.manual_seed(mixed_seed(seed, step.number, index))
        batches = list(
            step_batches(
                step.rows,
                seed=seed,
                step=step.number,
                epoch=step.epoch,
                share=share_of(self.accelerator),
                largest=self.arguments.per_device_batch_size,
            )
        )
        for batch in batches:
            is_last = batch is batches[-1]
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                self._pass(step, batch, len(batches))
        self.recipe.after_backward(self.run.model)
        if self.arguments.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm)
        self.optimizer.step()
        self.recipe.after_step(self.run.model, self.optimizer, step.number)
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.progress.step = step.number + 1

    def _pass(self, step: Step, batch: Batch, passes: int) -> None:
        found = pass_gradients(self.recipe, self.model, step, batch, passes, self.accelerator)
        # Padding counts for nothing, but the sums of all processes need the same names.
        count = 0 if batch.is_padding else len(batch)
        for name, values in found.items():
            self.progress.add(name, torch.zeros_like(values) if count == 0 else values, count)

    def _is_to_validate(self, step: Step) -> bool:
        every = self.arguments.validation_steps
        if every == 0 or not self.recipe.can_validate():
            return False
        is_due = step.ends_epoch if every is None else self.progress.step % every == 0
        return is_due or self.progress.step == self.total

    def _validate(self, step: Step) -> dict[str, float]:
        with evaluation_mode(self.run.model), torch.no_grad():
            measured = self.recipe.validate(self.run.model, self.accelerator)
        # Those of the main process: all have to decide alike.
        [numbers] = broadcast_object_list([{k: float(v) for k, v in measured.items()}])
        self._check_finite(numbers, step)
        self.progress.validations.append(numbers)
        self._log(step, {f"validation/{name}": value for name, value in numbers.items()})
        if self.arguments.keep_best:
            self.best.look_at(next(iter(numbers.values())), self.progress.step)
        return numbers

    def _record(self, step: Step, *, is_last: bool) -> None:
        is_due = self.progress.step % self.arguments.logging_steps == 0
        if not (is_due or step.ends_stage or is_last):
            return
        # Those of the main process: all have to end alike where they are no numbers.
        [means] = broadcast_object_list([self.progress.take_means(self.accelerator)])
        self._check_finite({"loss": means.get("loss", 0.0)}, step)
        self._log(step, {**means, "learning_rate": self.scheduler.get_last_lr()[0]})

    def _log(self, step: Step, values: dict[str, float]) -> None:
        line = {"epoch": step.epoch, "stage": step.stage.name, **values}
        self.accelerator.log(line, step=self.progress.step)
        self.progress.logged += 1

    def _check_finite(self, values: dict[str, float], step: Step) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                self.run.fail(
                    f"the {name} is {value} at step {self.progress.step} (stage "
                    f"'{step.stage.name}'); use a smaller learning_rate, or set max_grad_norm."
                )

    def _save(self, limit: int | None = None, *, is_needed: bool = True) -> Path:
        now = time.perf_counter()
        self.progress.seconds += now - self.began
        self.began = now
        self.progress.gather(self.accelerator)
        path = checkpoint_path(self.run.folder, self.progress.step)
        if self.accelerator.is_main_process:
            try:
                save_checkpoint(path, self.run.model, self.states, limit)
            except (OSError, SafetensorError) as error:
                if is_needed:
                    raise
                # The disk may be full for it, and not for the finished model.
                logger.warning("The last checkpoint could not be saved (%s).", error)
        self.accelerator.wait_for_everyone()
        return path


class _Best:
    """The model of the best validation, and what the recipe keeps beside it."""

    def __init__(self, states: list[Any], *, larger_is_better: bool) -> None:
        self._states, self._sign = states, 1 if larger_is_better else -1
        self._value: float | None = None
        self._kept: Any = None
        self.step: int | None = None

    def look_at(self, value: float, step: int) -> None:
        """Keep everything as it is, where no validation had such a good value."""
        if self._value is None or self._sign * value > self._sign * self._value:
            self._value, self.step = value, step
            self._kept = _on_cpu([state.state_dict() for state in self._states])

    def restore(self) -> None:
        """Put back what was kept, where there was any validation."""
        for state, kept in zip(self._states, self._kept or (), strict=self._kept is not None):
            state.load_state_dict(kept)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"value": self._value, "kept": self._kept, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._value, self._kept = state["value"], state["kept"]
        self.step = state.get("step")  # which a former version did not keep


def _in_words(numbers: dict[str, float]) -> str:
    return ", ".join(f"held-out {name} {value:.4g}" for name, value in numbers.items())


def _on_cpu(value: Any) -> Any:
    """A copy of a state, wherever its tensors are."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(entry) for entry in value]
    return copy.deepcopy(value)


def _scheduler(recipe: "TrainingRecipe", optimizer: torch.optim.Optimizer, total: int) -> Any:
    from transformers import get_scheduler

    # Not prepared: Accelerate would step it once a process, and we count in whole steps.
    return get_scheduler(
        recipe.arguments.lr_scheduler,
        optimizer,
        num_warmup_steps=recipe.warmup_steps(total),
        num_training_steps=total,
    )
