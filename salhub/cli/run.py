"""`salhub run`: a model on a file, a folder, an address, a sample or standard input."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from salhub.cli.choice import Choice, check_quickly, choose
from salhub.cli.completion import NameArgument
from salhub.cli.device import DeviceOption
from salhub.cli.failures import sentence_of
from salhub.cli.files import echo_bytes, echo_json
from salhub.cli.settings import as_written, parse_settings, typed_settings
from salhub.cli.shares import ShardOption, Share, refuse_single, sharing
from salhub.cli.sources import (
    STDIN,
    FolderSources,
    Source,
    accompanied,
    folder_sources,
    pile_source,
    single_source,
)
from salhub.cli.targets import (
    file_targets,
    folder_target,
    output_name,
    output_suffix,
    single_target,
    view_settings,
)
from salhub.data.folder_listing import describe_left_out
from salhub.files import remove_stale_drafts

# What one bad input can raise; anything else is a defect and stops the run.
_BAD_INPUT = (ValueError, TypeError, OSError)
_BAD_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


def run_command(
    name: NameArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A file, a folder, a URL, sample:cat, or - for standard input; for generative "
            "models, a class or all.",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="SETTING=VALUE", help="Settings of the model."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="File to write, a folder if the input is a folder, or - for stdout.",
        ),
    ] = None,
    device: DeviceOption = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of inputs, or of generated pictures, per batch."),
    ] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="Format of the output files, such as npy.")
    ] = None,
    view: Annotated[
        str | None, typer.Option(help="Which picture to write, such as overlay.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist.")
    ] = False,
    together: Annotated[
        bool, typer.Option("--together", help="Treat all files of a folder as one input.")
    ] = False,
    shard: ShardOption = None,
) -> None:
    """Run a model on one input, or on every file of a folder.

    Write settings of the model as --name value or name=value; `salhub info NAME` lists them.
    --classifier is your own network to explain, a folder or a Hub repository, and --class the class
    to explain, by name or index. Files that belong to an input, such as the --transcript of a film,
    are found next to it if their names match. A run on a folder can be stopped and resumed: outputs
    that exist are skipped. An input that cannot be read is reported and left out. Split a folder
    over several jobs with --shard, or over the processes of torchrun or accelerate launch:
    torchrun --nproc_per_node 2 -m salhub.cli run NAME FOLDER.

    \b
    salhub run normgrad-efficientnet-lite0 sample:cat
    salhub run normgrad photo.jpg --classifier my-network --method grad_cam
    salhub run normgrad pictures -o maps --batch-size 8 layers=[blocks.10,blocks.15]
    salhub run salun-ddpm-mnist 3 -o threes.png num_images=16 seed=1
    salhub run lexrank-news-en reviews --together --budget 100w
    salhub run normgrad pictures -o maps --shard 3/16
    """  # noqa: D301
    if as_json and output == STDIN:
        raise typer.BadParameter("--json and -o - both write to standard output; use one of them.")
    with sharing(shard) as share:
        settings = parse_settings(words or [])
        check_quickly(name, settings, source)
        choice = choose(name, settings)
        settings = typed_settings(words or [], choice.entry.config_class)
        load, call = choice.split(settings)
        call |= as_written(words or [], choice.pipeline_class.companions)
        saving = view_settings(choice, view)
        run = _Run(choice, load, call, share.device(device), batch_size, saving, as_json, share)
        _carry_out(run, source, output, file_format, overwrite=overwrite, together=together)


def _carry_out(
    run: "_Run",
    source: str,
    output: str | None,
    file_format: str | None,
    *,
    overwrite: bool,
    together: bool,
) -> None:
    suffix = output_suffix(run.choice, file_format)
    found = None if together else folder_sources(source, run.kind)
    if found is not None:
        run.run_folder(source, found, output, suffix, overwrite)
        return
    refuse_single(run.share, f"{source} --together" if together else source)
    if together:
        run.take_together()
    find = pile_source if together else single_source
    if output == STDIN:
        _, result = run.run_single(source, find, lambda one: None)
        _print_as_file(result, suffix, run.saving)
        return
    writes = run.kind.writes_by_default or output is not None or file_format is not None

    def target_of(one: Source) -> Path | None:
        default = output_name(one.stem, f"-{run.choice.short_name}{suffix}")
        return single_target(output, one, default, run.kind.result_class.writers, overwrite)

    lines, result = run.run_single(source, find, target_of if writes else lambda one: None)
    if not run.as_json:
        typer.echo("\n".join([*lines, result.summary()]))


@dataclass
class _Run:
    choice: Choice
    load: dict[str, Any]
    call: dict[str, Any]
    device: str | None
    batch_size: int | None
    saving: dict[str, Any]
    as_json: bool
    share: Share
    num_done: int = field(default=0, init=False)
    num_skipped: int = field(default=0, init=False)
    num_failed: int = field(default=0, init=False)
    sentences: set[str] = field(default_factory=set, init=False)
    # What processes that work together have to print, which the first one does in the end.
    lines: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.kind = self.choice.pipeline_class
        self.given = {name: self.call[name] for name in self.kind.companions if name in self.call}

    def load_pipeline(self) -> Any:
        return self.choice.load(self.load, device=self.device, batch_size=self.batch_size)

    def take_together(self) -> None:
        """Have the pipeline take a list as one input."""
        if "together" not in self.kind.call_settings:
            raise typer.BadParameter(
                f"{self.choice.short_name} takes one input at a time; leave out --together."
            )
        self.call["together"] = True

    def run_single(
        self,
        text: str,
        find: Callable[[str, Any], Source],
        target_of: Callable[[Source], Path | None],
    ) -> tuple[list[str], Any]:
        """Work on one input; return lines that say what was read and written, and the result."""
        with self.told_as_json(text):
            source = accompanied(find(text, self.kind), self.kind, self.given)
        target = target_of(source)
        with self.told_as_json(text):
            content = source.read(self.kind)
        pipeline = self.load_pipeline()
        with self.told_as_json(text):
            result = pipeline(content, **self.settings_for(source))
        self.finish(source, target, result)
        lines = [f"Using {path} as {name}" for name, path in source.companions.items()]
        lines += filter(None, [source.left_out])
        return lines + ([] if target is None else [f"Wrote {target.resolve()}"]), result

    def settings_for(self, source: Source) -> dict[str, Any]:
        """Return the settings of the call, with the files that belong to an input."""
        return {**self.call, **dict.fromkeys(self.kind.companions), **source.companions}

    @contextmanager
    def told_as_json(self, text: str) -> Generator[None]:
        """Tell what is wrong with the only input as in a folder; the failure goes its usual way."""
        try:
            yield
        except _BAD_INPUT as error:
            if self.as_json:
                echo_json({"input": text, "error": sentence_of(error)})
            raise

    def run_folder(
        self,
        source: str,
        found: FolderSources,
        output: str | None,
        suffix: str,
        overwrite: bool,
    ) -> None:
        if output == STDIN:
            raise typer.BadParameter("Outputs of a folder need an output folder; give one with -o.")
        for name, place in self.given.items():
            if place is not None and Path(str(place)).is_file():
                raise typer.BadParameter(
                    f"--{name} is a single file for all inputs of {source}; give a folder with "
                    "one file per input, with matching names."
                )
        folder = folder_target(output, source, self.choice)
        remove_stale_drafts(folder)
        settings = {**self.load, **self.call, **self.saving}
        targets = file_targets(
            folder,
            found.sources,
            self.choice,
            suffix,
            settings,
            overwrite,
            is_part=self.share.is_shard,
        )
        own = self.share.of(found.sources)
        waiting = [one for one in own if overwrite or not self.is_there(one, targets[one])]
        last = self.work_through(waiting, targets, overwrite) if waiting else None
        num_done, num_skipped, num_failed, last = self.add_up(found.sources, last)
        left_out = describe_left_out(found.left_out, found.folders)
        if not self.share.is_speaker:
            raise typer.Exit(int(num_failed > 0))
        if not self.as_json:
            parts = [f"Wrote {num_done} to {folder.resolve()}"]
            if self.share.is_shard:
                parts[0] += (
                    f", shard {self.share.name} with {len(own)} of {len(found.sources)} files"
                )
            if num_skipped:
                parts.append(f"{num_skipped} already done")
            if num_failed:
                parts.append(f"{num_failed} left out")
            typer.echo(", ".join(parts))
            if last is not None:
                typer.echo(f"The last one: {last[1]}")
        if left_out:
            typer.echo(left_out, err=self.as_json)
        if num_failed:
            raise typer.Exit(1)

    def is_there(self, source: Source, target: Path) -> bool:
        """Whether an output was written before, by this run or by another one."""
        # Unlike Path.exists, this takes a name that no file can have.
        if not os.path.exists(target):  # noqa: PTH110
            return False
        self.num_skipped += 1
        self.tell({"input": source.text, "output": str(target), "skipped": True})
        return True

    def work_through(
        self, waiting: list[Source], targets: dict[Source, Path], overwrite: bool
    ) -> tuple[Source, Any] | None:
        """Return the last input that was worked on, and its result."""
        from tqdm.auto import tqdm

        pipeline, last = self.load_pipeline(), None
        size = self.batch_size or 1
        of = f"1 of {self.share.count} processes" if self.share.is_together else None
        # None: no bar where nobody watches a terminal.
        hidden = None if self.share.is_speaker else True
        with tqdm(total=len(waiting), unit="file", desc=of, disable=hidden) as bar:
            for start in range(0, len(waiting), size):
                chunk = waiting[start : start + size]
                # Another run may have come to them since.
                new = [one for one in chunk if overwrite or not self.is_there(one, targets[one])]
                for source, result in self.explain(pipeline, new):
                    self.finish_or_fail(source, targets[source], result)
                    last = (source, result)
                bar.update(len(chunk))
        return last

    def add_up(
        self, sources: list[Source], last: tuple[Source, Any] | None
    ) -> tuple[int, int, int, tuple[int, str] | None]:
        """Return what all processes have done, skipped and left out, and the last result.

        Lines of processes that work together are printed in the order of the files.
        """
        places = {one.text: place for place, one in enumerate(sources)}
        ended = None if last is None else (places[last[0].text], last[1].summary())
        counts = (self.num_done, self.num_skipped, self.num_failed)
        found = self.share.gather((counts, ended, self.lines))
        if self.share.is_speaker:
            lines = [line for _, _, own in found for line in own]
            lines.sort(key=lambda line: ("skipped" not in line, places[line["input"]]))
            for line in lines:
                echo_json(line)
        totals = [sum(column) for column in zip(*(own for own, _, _ in found), strict=True)]
        return *totals, max((own for _, own, _ in found if own is not None), default=None)

    def explain(self, pipeline: Any, chunk: list[Source]) -> list[tuple[Source, Any]]:
        from tqdm.auto import tqdm

        read = []
        for source in chunk:
            try:
                whole = accompanied(source, self.kind, self.given)
                if whole.left_out:
                    tqdm.write(whole.left_out, file=sys.stderr)
                read.append((whole, whole.read(self.kind)))
            except _BAD_INPUT as error:
                self.fail(source, error)
        if not read:
            return []
        beside = {
            name: [source.companions.get(name) for source, _ in read]
            for name in self.kind.companions
        }
        try:
            results = pipeline([content for _, content in read], **{**self.call, **beside})
            return [(source, result) for (source, _), result in zip(read, results, strict=True)]
        except _BAD_INPUT:
            return self.explain_one_by_one(pipeline, read)

    def explain_one_by_one(
        self, pipeline: Any, read: list[tuple[Source, Any]]
    ) -> list[tuple[Source, Any]]:
        found, errors = [], []
        for source, content in read:
            try:
                found.append((source, pipeline(content, **self.settings_for(source))))
            except _BAD_INPUT as error:
                errors.append((source, error))
        for source, error in errors:
            if not (found or self.num_done) and sentence_of(error) in self.sentences:
                # Nothing has worked, and it is always the same: the settings are wrong.
                raise error
            self.fail(source, error)
        return found

    def finish_or_fail(self, source: Source, target: Path, result: Any) -> None:
        """Write a result; a name that the file system refuses costs this input alone."""
        try:
            self.finish(source, target, result)
        except OSError as error:
            if error.errno not in _BAD_NAME:
                raise
            self.fail(source, error)

    def finish(self, source: Source, target: Path | None, result: Any) -> None:
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            result.save(target, **self.saving)
        self.num_done += 1
        if self.as_json:
            model = self.choice.name or self.choice.entry.name
            written = None if target is None else str(target)
            names: dict[str, Any] = {"input": source.text, "output": written, "model": model}
            if self.choice.classifier is not None:
                names["classifier"] = self.choice.classifier
            if self.kind.companions:
                names |= {"companions": {k: str(path) for k, path in source.companions.items()}}
            # Twice: first to stand in front, then because a result has a name for its model too.
            self.tell({**names, **result.to_dict(), **names})

    def fail(self, source: Source, error: Exception) -> None:
        from tqdm.auto import tqdm

        self.num_failed += 1
        self.sentences.add(sentence_of(error))
        self.tell({"input": source.text, "error": sentence_of(error)})
        tqdm.write(f"Left out {source.text}: {sentence_of(error)}", file=sys.stderr)

    def tell(self, line: dict[str, Any]) -> None:
        """Print a line of JSON where that is wanted; of several processes, the first one will."""
        if self.as_json and self.share.is_together:
            self.lines.append(line)
        elif self.as_json:
            echo_json(line)


def _print_as_file(result: Any, suffix: str, saving: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        echo_bytes(result.save(Path(folder) / f"output{suffix}", **saving))
    typer.echo(result.summary(), err=True)
