"""The one loop that trains, unlearns and compresses, on one process or many."""

import json
import logging
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from salhub.errors import SalhubError
from salhub.hub_commit import PushError, check_writer, commit_files
from salhub.results import Results, measured
from salhub.runner.arguments import RunArguments
from salhub.runner.batches import Batch, mixed_seed, step_batches
from salhub.runner.checkout import checkout_version
from salhub.runner.checkpoint import save_checkpoint
from salhub.runner.plan import Step, count_steps, describe_plan, share_of, steps_after, to_device
from salhub.runner.processes import check_processes, check_whole_weights, copy_from_main
from salhub.runner.progress import Progress
from salhub.runner.recipe import Recipe
from salhub.runner.run_card import save_card
from salhub.runner.run_folder import (
    LOG_NAME,
    RESULTS_NAME,
    fill_from,
    is_finished,
    open_folder,
    record_failure,
    start_folder,
)
from salhub.runner.sources import check_output
from salhub.runner.trackers import JsonLinesTracker, check_trackers, plain_values

logger = logging.getLogger(__name__)


class DivergedError(SalhubError, ValueError):
    """The loss is no number any more, and will be none however often the run is repeated."""


def run(recipe: Recipe, command: str = "") -> Results | None:
    """Carry out a recipe.

    `output_dir` ends up with the model, its card, log.jsonl and results.json; checkpoints lie
    beside them. With `push_to_hub` all but the log goes to the Hub in one commit. A run that was
    killed goes on with `resume_from_checkpoint="latest"`, and ends with the weights and the log,
    bit by bit, that it would have had; one that was finished is not run again.

    Args:
        recipe: What to do, with its options.
        command: Command that repeats it, for the results file.

    Returns:
        The results, or None after a dry run.

    Raises:
        DivergedError: The loss is no number any more.
        FileExistsError: `output_dir` holds a run or a model already.
        PushError: There is no login that may push there, or the Hub did not take the finished
            model.
        RuntimeError: Another number of processes than was asked for, or split weights (FSDP).
        ValueError: Whatever the recipe refuses, or options that are not those of the checkpoint.
    """
    arguments, folder = recipe.arguments, Path(recipe.arguments.output_dir)
    check_trackers(arguments.report_to)
    check_whole_weights()
    check_output(arguments, recipe.sources)
    options = recipe.recorded_options()
    checkpoint = open_folder(
        folder,
        options,
        resume=arguments.resume_from_checkpoint,
        overwrite=arguments.overwrite or arguments.dry_run,
    )
    is_resumed = arguments.resume_from_checkpoint is not None and not arguments.dry_run
    is_done = is_resumed and is_finished(folder, options)
    if arguments.push_to_hub:
        _check_push(arguments, is_done=is_done)
    log = JsonLinesTracker(folder / LOG_NAME)
    accelerator = Accelerator(
        cpu=arguments.cpu,
        mixed_precision=arguments.mixed_precision,
        log_with=[log, *arguments.report_to],
        project_dir=str(folder),
    )
    check_processes(accelerator)
    if is_done:
        return _results_of(folder, accelerator)
    if arguments.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    results = Results(model=recipe.name, command=command, seed=arguments.seed)
    with measured(results):
        torch.manual_seed(mixed_seed(arguments.seed))
        model = recipe.build_model().to(accelerator.device)
        if arguments.dry_run:
            _show_plan(describe_plan(recipe, model, accelerator), accelerator)
            return None
        if accelerator.is_main_process and checkpoint is None:
            start_folder(folder, options)
        accelerator.wait_for_everyone()
        accelerator.init_trackers("salhub", config=plain_values(options))
        began = time.perf_counter()
        recipe.prepare(model, accelerator)
        results.add_metric("seconds/preparation", time.perf_counter() - began, unit="s")
        loop = _Loop(recipe, accelerator, model, log)
        loop.start(checkpoint)
        loop.train()
        finished = recipe.finish(accelerator.unwrap_model(loop.model)).eval()
        copy_from_main(finished, accelerator)
        loop.add_time(results)
        recipe.evaluate(finished, accelerator, results)
    results.wall_seconds = round(results.wall_seconds + loop.progress.seconds, 2)
    results.data.setdefault("processes", accelerator.num_processes)
    results.versions |= checkout_version()
    if accelerator.is_main_process:
        written = _write_folder(recipe, finished, results)
        if arguments.push_to_hub:
            _push(written, arguments)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return results


class _Loop:
    """Steps, checkpoints and the log of one run."""

    def __init__(
        self, recipe: Recipe, accelerator: Accelerator, model: nn.Module, log: JsonLinesTracker
    ) -> None:
        self.recipe, self.accelerator, self.log = recipe, accelerator, log
        self.arguments = recipe.arguments
        self.total = count_steps(recipe)
        self.progress = Progress()
        optimizer = recipe.build_optimizer(model)
        # Not prepared: Accelerate would step it once a process, and we count in whole steps.
        self.scheduler = get_scheduler(
            self.arguments.lr_scheduler,
            optimizer,
            num_warmup_steps=self.arguments.lr_warmup_steps,
            num_training_steps=self.total,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        accelerator.register_for_checkpointing(
            self.scheduler, self.progress, *recipe.checkpointed()
        )
        self.began = time.perf_counter()

    def start(self, checkpoint: Path | None) -> None:
        """Go on from a checkpoint, or from the beginning."""
        if checkpoint is not None:
            self.accelerator.load_state(str(checkpoint))
            self.progress.share_out(self.accelerator)
        self.log.begin_after(self.progress.step)

    def train(self) -> None:
        """Take all steps that are left."""
        self.model.train()
        with tqdm(
            total=self.total,
            initial=self.progress.step,
            desc=f"{self.recipe.verb} {self.recipe.name}",
            unit="step",
            disable=not self.accelerator.is_local_main_process,
        ) as bar:
            for step in steps_after(self.recipe, self.progress.step):
                self._take(step)
                bar.update()
                self._record(step)
                self._save(step)

    def add_time(self, results: Results) -> None:
        """How long the steps took, over all processes that the run was interrupted between."""
        seconds = self.progress.seconds + time.perf_counter() - self.began
        results.add_metric("seconds/steps", seconds, n=self.total, unit="s")

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
        self.recipe.after_backward(self.accelerator.unwrap_model(self.model))
        if self.arguments.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm)
        self.optimizer.step()
        unwrapped = self.accelerator.unwrap_model(self.model)
        self.recipe.after_step(unwrapped, self.optimizer, step.number)
        self.scheduler.step()
        self.optimizer.zero_grad()

    def _pass(self, step: Step, batch: Batch, passes: int) -> None:
        inputs = to_device(step.stage.fetch(batch), self.accelerator)
        with self.accelerator.autocast():
            found = self.recipe.loss(self.model, inputs, batch)
        # Processes average their gradients; each row has to count once in the whole step.
        weight = 0.0 if batch.is_padding else self.accelerator.num_processes / batch.step_size
        loss = found.samples.sum() * weight
        if found.penalty is not None:
            loss = loss + found.penalty / passes
        self.accelerator.backward(loss)
        # Padding counts for nothing, but the sums of all processes need the same names.
        count = 0 if batch.is_padding else len(batch)
        for name, values in {"loss": found.samples, **found.measures}.items():
            self.progress.add(name, torch.zeros_like(values) if count == 0 else values, count)

    def _record(self, step: Step) -> None:
        self.progress.step = step.number + 1
        is_due = self.progress.step % self.arguments.logging_steps == 0
        if not (is_due or step.ends_stage or self.progress.step == self.total):
            return
        means = self.progress.take_means(self.accelerator)
        if not math.isfinite(means.get("loss", 0.0)):
            self._fail(
                f"the loss is {means['loss']} at step {self.progress.step} (stage "
                f"'{step.stage.name}'); use a smaller learning_rate, or set max_grad_norm."
            )
        values: dict[str, Any] = {"epoch": step.epoch, "stage": step.stage.name, **means}
        values["learning_rate"] = self.scheduler.get_last_lr()[0]
        self.accelerator.log(values, step=self.progress.step)

    def _fail(self, sentence: str) -> NoReturn:
        # Only the main process has means, so it is the only one that writes.
        record_failure(Path(self.arguments.output_dir), sentence)
        raise DivergedError(sentence)

    def _save(self, step: Step) -> None:
        every = self.arguments.checkpointing_steps
        if every is None or self.progress.step % every or self.progress.step == self.total:
            return
        now = time.perf_counter()
        self.progress.seconds += now - self.began
        self.began = now
        self.progress.gather(self.accelerator)
        save_checkpoint(
            self.accelerator,
            Path(self.arguments.output_dir),
            self.progress.step,
            self.arguments.checkpoints_total_limit,
        )


def _write_folder(recipe: Recipe, model: nn.Module, results: Results) -> list[Path]:
    """The model, the card and the results; returns what was written."""
    folder = Path(recipe.arguments.output_dir)

    def export(scratch: Path) -> None:
        recipe.export(model, scratch)
        save_card(recipe, results, scratch)

    written = fill_from(folder, export, recipe.optional_files)
    return [*written, results.save(folder / RESULTS_NAME)]


def _push(files: list[Path], arguments: RunArguments) -> None:
    """Put the files of a finished run on the Hub; where that fails, none is lost."""
    message = f"Upload {Path(arguments.output_dir).name} with salhub"
    try:
        commit = commit_files(
            str(arguments.hub_model_id),
            {path.name: path for path in files if path.is_file()},
            message,
            private=arguments.hub_private_repo,
        )
    except PushError as error:
        raise PushError(f"{error} The finished run is in {arguments.output_dir}.") from error
    logger.info("Pushed to %s", commit)


def _check_push(arguments: RunArguments, *, is_done: bool) -> None:
    if is_done:
        raise ValueError(
            f"the run in {arguments.output_dir} is finished; put it on the Hub with: salhub push "
            f"{arguments.output_dir} {arguments.hub_model_id}"
        )
    check_writer(str(arguments.hub_model_id))


def _results_of(folder: Path, accelerator: Accelerator) -> Results:
    """What a finished run has measured."""
    if accelerator.is_main_process:
        logger.warning("The run in %s is finished already; its results are those given.", folder)
    accelerator.end_training()
    return Results.load(folder / RESULTS_NAME)


def _show_plan(plan: dict[str, Any], accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        print(json.dumps(plan, indent=2))  # noqa: T201 - what a dry run is asked for
