"""Carrying out a recipe: its folder and log, its model and card, and what is measured of it."""

import json
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import nn

from salhub.errors import SalhubError
from salhub.files import write_text
from salhub.hub_commit import PushError, check_writer, commit_files
from salhub.results import Results, measured
from salhub.runner.arguments import RunArguments
from salhub.runner.batches import mixed_seed
from salhub.runner.blocks import remove_blocks
from salhub.runner.checkout import checkout_version
from salhub.runner.loop import evaluation_mode
from salhub.runner.processes import check_processes, check_whole_weights, copy_from_main
from salhub.runner.recipe import Recipe
from salhub.runner.run_card import run_card
from salhub.runner.run_folder import (
    CARD_NAME,
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
    options, defaults = recipe.recorded_options(), recipe.default_options()
    goes_on, checkpoint = open_folder(
        folder,
        options,
        resume=arguments.resume_from_checkpoint,
        overwrite=arguments.overwrite or arguments.dry_run,
        defaults=defaults,
    )
    is_done = goes_on and not arguments.dry_run and is_finished(folder, options, defaults)
    if arguments.push_to_hub:
        _check_push(arguments, is_done=is_done)
    log = JsonLinesTracker(folder / LOG_NAME)
    accelerator = Accelerator(
        cpu=arguments.cpu,
        mixed_precision=getattr(arguments, "mixed_precision", "no"),
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
        model = recipe.build_model()
        if recipe.is_moved:
            model.to(accelerator.device)
        if arguments.dry_run:
            _show_plan(recipe.plan(model, accelerator), accelerator)
            return None
        if accelerator.is_main_process:
            remove_drafts(folder) if goes_on else start_folder(folder, options)
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
            raise ValueError(f"A snapshot is called by the name of a new folder, got {name!r}.")
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
            stale = (CARD_NAME, RESULTS_NAME, *self.recipe.optional_files)
            self._export(folder, lambda scratch: self.recipe.export(model, scratch), stale)
        self.accelerator.wait_for_everyone()
        torch.manual_seed(mixed_seed(self.recipe.arguments.seed, 0, 3))
        try:
            self.recipe.evaluate(model, self.accelerator, results)
        except Exception:
            if self.accelerator.is_main_process:
                logger.warning(
                    "The model is saved in %s, but could not be measured; go on from there with "
                    "resume_from_checkpoint=latest.",
                    folder,
                )
            raise

    def report(self, results: Results, snapshot: str = "") -> None:
        """Write what was measured of a model, and its card."""
        folder = self.folder / snapshot
        results.data.setdefault("processes", self.accelerator.num_processes)
        results.versions |= checkout_version()
        if not self.accelerator.is_main_process:
            return
        self._export(folder, self.recipe.export_report)
        write_text(folder / CARD_NAME, run_card(self.recipe, results, folder, snapshot))
        # They come last: they say that a run is finished.
        results.save(folder / RESULTS_NAME)
        record_exported(self.folder, [folder / CARD_NAME, folder / RESULTS_NAME])
        if not snapshot:
            for path in self._leftovers:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

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
        remove_blocks(folder)  # where it was killed between its results and this
    accelerator.end_training()
    return Results.load(folder / RESULTS_NAME)


def _show_plan(plan: dict[str, Any], accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        print(json.dumps(plan, indent=2))  # noqa: T201 - what a dry run is asked for
