"""Carrying out a recipe: its folder and log, its model and card, and what is measured of it."""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from salhub.errors import SalhubError
from salhub.files import write_text
from salhub.hub_commit import PushError, check_writer, commit_files
from salhub.results import Results, measured
from salhub.runner.arguments import LATEST, RunArguments, TrainingArguments
from salhub.runner.batches import mixed_seed
from salhub.runner.blocks import remove_blocks
from salhub.runner.checkout import checkout_version
from salhub.runner.claim import claimed
from salhub.runner.curves import curves_of
from salhub.runner.disk import full_disk_said
from salhub.runner.loop import evaluation_mode
from salhub.runner.processes import (
    check_precision,
    check_processes,
    check_settled,
    check_whole_weights,
    copy_from_main,
)
from salhub.runner.recipe import Recipe
from salhub.runner.run_card import run_card
from salhub.runner.run_folder import (
    CARD_NAME,
    CURVES_NAME,
    LOG_NAME,
    RESULTS_NAME,
    check_output,
    exported_files,
    fill_from,
    is_finished,
    is_of_a_run,
    is_taken,
    open_folder,
    record_exported,
    record_failure,
    remove_drafts,
    start_folder,
)
from salhub.runner.settings_file import SETTINGS_NAME, settings_text
from salhub.runner.sources import check_models
from salhub.runner.trackers import JsonLinesTracker, check_trackers, plain_values

logger = logging.getLogger(__name__)

_SNAPSHOT = re.compile(r"[A-Za-z0-9][\w.-]*")
# Folders of trackers such as TensorBoard.
_TRACKED = "salhub"
# A model, its settings and its card have files with these endings.
_OF_FILES = (".json", ".jsonl", ".md", ".safetensors", ".txt")


class DivergedError(SalhubError, ValueError):
    """What the work leads to is no number any more, however often the run is repeated."""


def run(recipe: Recipe, command: str = "") -> Results | None:
    """Carry out a recipe.

    `output_dir` ends up with the model, its card, log.jsonl and results.json; checkpoints lie
    beside them. The model is saved before it is measured. With `push_to_hub` all but the log goes
    to the Hub in one commit. A run that was killed goes on with `resume_from_checkpoint="latest"`,
    and ends with the weights and the log, bit by bit, that it would have had; one that was finished
    is not run again.

    Args:
        recipe: What to do, with its options.
        command: Command that repeats it, for the results file.

    Returns:
        The results, or None after a dry run.

    Raises:
        DivergedError: The loss is no number any more.
        DiskFullError: There is no room left; what was saved is whole.
        FileExistsError: `output_dir` holds a run or a model already.
        FolderInUseError: Another run is writing to `output_dir`.
        PushError: There is no login that may push there, or the Hub did not take the finished
            model.
        RuntimeError: Another number of processes than was asked for, or split weights (FSDP).
        ValueError: Whatever the recipe refuses, a precision that the device does not have, or
            options that are not those of the checkpoint.
    """
    arguments, folder = recipe.arguments, Path(recipe.arguments.output_dir)
    check_trackers(arguments.report_to)
    check_whole_weights()
    check_output(arguments, recipe.sources)
    with full_disk_said(folder), _settled(arguments) as tools:
        return _carry_out(recipe, command, folder, *tools)


def _carry_out(
    recipe: Recipe, command: str, folder: Path, log: JsonLinesTracker, accelerator: Accelerator
) -> Results | None:
    arguments = recipe.arguments
    options, defaults = recipe.recorded_options(), recipe.default_options()
    resume = arguments.resume_from_checkpoint
    # One that is only read is not claimed.
    if resume == LATEST and not arguments.dry_run and is_finished(folder, options, defaults):
        return _results_of(folder, arguments, accelerator)
    is_ours = accelerator.is_main_process and not arguments.dry_run
    with claimed(folder) if is_ours else nullcontext():
        goes_on, checkpoint = open_folder(
            folder,
            options,
            resume=resume,
            overwrite=arguments.overwrite or arguments.dry_run,
            defaults=defaults,
        )
        if goes_on and not arguments.dry_run and is_finished(folder, options, defaults):
            return _results_of(folder, arguments, accelerator)
        if arguments.push_to_hub:
            check_writer(str(arguments.hub_model_id))
        results = Results(model=recipe.name, command=command, seed=arguments.seed)
        with measured(results):
            torch.manual_seed(mixed_seed(arguments.seed))
            check_models(arguments, recipe.sources)
            model = recipe.build_model()
            recipe.check_built()
            if recipe.is_moved:
                model.to(accelerator.device)
            if arguments.dry_run:
                _show_plan(recipe.plan(model, accelerator), accelerator)
                return None
            # All have looked at the folder before it is written to.
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                _begin(recipe, folder, options, goes_on=goes_on)
            accelerator.wait_for_everyone()
            accelerator.init_trackers(_TRACKED, config=plain_values(options))
            this = recipe.run = Run(recipe, model, accelerator, log, results, checkpoint)
            began = time.perf_counter()
            recipe.prepare(model, accelerator)
            results.add_metric("seconds/preparation", time.perf_counter() - began, unit="s")
            recipe.work(this)
            # As of one that did all its work at once, whatever was drawn before.
            torch.manual_seed(mixed_seed(arguments.seed, 0, 2))
            finished = recipe.finish(model).eval()
            this.keep(finished, results)
        results.wall_seconds = round(results.wall_seconds + this.earlier_seconds, 2)
        this.report(results)
    if accelerator.is_main_process and arguments.push_to_hub:
        _push(folder, arguments)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return results


@contextmanager
def _settled(arguments: RunArguments) -> Generator[tuple[JsonLinesTracker, Accelerator]]:
    """The log and the processes of a run; what they set for this process is put back at the end.

    Raises:
        RuntimeError: Another number of processes than was asked for, or split weights (FSDP).
        ValueError: A precision that the device does not have.
    """
    folder = Path(arguments.output_dir)
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    is_first = not AcceleratorState._shared_state and not PartialState._shared_state
    # Compression has no loop of Accelerate, and sets the precision of its passes by itself.
    precision = arguments.mixed_precision if isinstance(arguments, TrainingArguments) else "no"
    check_settled(precision)
    log = JsonLinesTracker(folder / LOG_NAME)
    accelerator = Accelerator(
        cpu=arguments.cpu,
        mixed_precision=precision,
        log_with=[log, *arguments.report_to],
        project_dir=str(folder),
    )
    try:
        check_processes(accelerator)
        check_precision(precision, accelerator)
        if arguments.deterministic:
            # Asked for by cuBLAS, which looks at it when it is first used.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield log, accelerator
    finally:
        torch.use_deterministic_algorithms(was_deterministic, warn_only=only_warns)
        if is_first and accelerator.num_processes == 1:
            # Or the next run of this process could have no other device and precision.
            AcceleratorState._reset_state(reset_partial_state=True)


def _begin(recipe: Recipe, folder: Path, options: dict[str, Any], *, goes_on: bool) -> None:
    settings = settings_text(recipe)
    if not goes_on:
        start_folder(folder, options, settings)
        return
    remove_drafts(folder)
    if not (folder / SETTINGS_NAME).exists():  # as a former version has begun it
        write_text(folder / SETTINGS_NAME, settings)


class Run:
    """A run under way, as the work of a recipe sees it.

    Args:
        recipe: What is carried out.
        model: What it works on, not wrapped.
        accelerator: Its processes and devices.
        log: log.jsonl; `accelerator.log` writes to it, and to the other trackers.
        results: What is measured.
        checkpoint: The checkpoint to go on from, or None.

    Attributes:
        folder: Where everything is written.
        earlier_seconds: Time that the work took before this process went on with it.
        course: What the results say of the way that was taken, such as its epochs.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        accelerator: Accelerator,
        log: JsonLinesTracker,
        results: Results,
        checkpoint: Path | None = None,
    ) -> None:
        self.recipe, self.model, self.accelerator = recipe, model, accelerator
        self.log, self.results, self.checkpoint = log, results, checkpoint
        self.folder = Path(recipe.arguments.output_dir)
        self.earlier_seconds = 0.0
        self.course: dict[str, float] = {}
        self._leftovers: list[Path] = []

    def snapshot(self, name: str, model: nn.Module) -> Results:
        """Save and measure a further model of this run; on every process.

        It is written as the finished model is, with a card of its own, into the folder `name` of
        `output_dir`, and pushed with it.

        Args:
            name: Of the folder.
            model: As `finish` would give it; only its way of working (training or evaluation) may
                change meanwhile.

        Returns:
            What was measured.

        Raises:
            ValueError: `name` is no name of a folder, or is taken by something of the run.
        """
        if (
            _SNAPSHOT.fullmatch(name) is None
            or name.endswith(_OF_FILES)
            or name == _TRACKED
            or is_of_a_run(name)
            or is_taken(self.folder, self.folder / name)
        ):
            raise ValueError(f"A snapshot needs the name of a new folder, got {name!r}.")
        self.accelerator.wait_for_everyone()  # before there is such a folder
        results = Results(self.results.model, self.results.command, self.results.seed)
        with measured(results), evaluation_mode(model):
            self.keep(model, results, name)
        self.report(results, name)
        return results

    def keep(self, model: nn.Module, results: Results, snapshot: str = "") -> None:
        """Save a finished model, and then measure it."""
        folder = self.folder / snapshot
        copy_from_main(model, self.accelerator)
        if self.accelerator.is_main_process:
            if snapshot:  # a run that is killed meanwhile has to know the folder as its own
                record_exported(self.folder, [folder / RESULTS_NAME])
            folder.mkdir(exist_ok=True)
            # A card of an earlier model would tell of another one.
            stale = (CARD_NAME, CURVES_NAME, RESULTS_NAME, *self.recipe.optional_files)
            self._export(folder, lambda scratch: self.recipe.export(model, scratch), stale)
        self.accelerator.wait_for_everyone()
        torch.manual_seed(mixed_seed(self.recipe.arguments.seed, 0, 3))
        try:
            self.recipe.evaluate(model, self.accelerator, results)
        except Exception:
            if self.accelerator.is_main_process:
                logger.warning(
                    "The model is saved in %s, but could not be measured; to try again, "
                    "resume with resume_from_checkpoint=latest.",
                    folder,
                )
            raise

    def report(self, results: Results, snapshot: str = "") -> None:
        """Write what was measured of a model, and its card."""
        folder = self.folder / snapshot
        results.data |= {} if snapshot else self.course
        results.data.setdefault("processes", self.accelerator.num_processes)
        results.versions |= checkout_version()
        if not self.accelerator.is_main_process:
            return
        self._export(folder, self.recipe.export_report if snapshot else self._export_report)
        write_text(folder / CARD_NAME, run_card(self.recipe, results, folder, snapshot))
        # They come last: they say that a run is finished.
        results.save(folder / RESULTS_NAME)
        record_exported(self.folder, [folder / CARD_NAME, folder / RESULTS_NAME])
        if not snapshot:
            for path in self._leftovers:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _export_report(self, scratch: Path) -> None:
        self.recipe.export_report(scratch)
        picture = curves_of(self.folder / LOG_NAME, self.course)
        if picture is not None:
            picture.save(scratch / CURVES_NAME)

    def _export(self, folder: Path, export: Any, stale: tuple[str, ...] = ()) -> None:
        fill_from(folder, export, stale, of_run=self.folder)

    def remove_when_finished(self, path: Path) -> None:
        """Remember a file or folder that is only there to go on from."""
        self._leftovers.append(path)

    def fail(self, sentence: str) -> NoReturn:
        """End a run that leads nowhere, and write down why.

        Raises:
            DivergedError: With the sentence.
        """
        if self.accelerator.is_main_process:
            record_failure(self.folder, sentence)
        raise DivergedError(sentence)


def _push(folder: Path, arguments: RunArguments) -> None:
    """Put the files of a finished run on the Hub; where that fails, none is lost."""
    files = {name: folder / name for name in exported_files(folder)}
    try:
        commit = commit_files(
            str(arguments.hub_model_id),
            {name: path for name, path in files.items() if path.is_file()},
            f"Upload {folder.name} with salhub",
            private=arguments.hub_private_repo,
        )
    except PushError as error:
        raise PushError(f"{error} The finished run is in {arguments.output_dir}.") from error
    logger.info("Pushed to %s", commit)


def _results_of(folder: Path, arguments: RunArguments, accelerator: Accelerator) -> Results:
    """What a finished run has measured."""
    if arguments.push_to_hub:
        raise ValueError(
            f"the run in {arguments.output_dir} is finished; push it to the Hub with: salhub "
            f"push {arguments.output_dir} {arguments.hub_model_id}"
        )
    if accelerator.is_main_process:
        logger.warning("The run in %s is already finished; these are its results.", folder)
        remove_blocks(folder)  # where it was killed between its results and this
    accelerator.end_training()
    return Results.load(folder / RESULTS_NAME)


def _show_plan(plan: dict[str, Any], accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        print(json.dumps(plan, indent=2))  # noqa: T201 - what a dry run is asked for
