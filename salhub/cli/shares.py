"""Shares of the work: `--shard 3/16`, or the processes of torchrun and `accelerate launch`."""

import logging
import os
import re
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any

import typer

from salhub.cli.failures import sentence_of
from salhub.errors import SalhubError

_SHARD = re.compile(r"([0-9]+)/([0-9]+)")
# What launchers set for each of their processes.
_LAUNCHED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
# One process may have much longer inputs than another, which waits for it.
_PATIENCE = timedelta(days=30)

ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="N/COUNT",
        help="Process one part of the data, such as 3/16; other jobs process the other parts.",
    ),
]


@dataclass(frozen=True)
class Share:
    """The part of the rows that this process works on: every `count`-th, from `index` on.

    Args:
        index: Which part, from 0.
        count: How many parts there are.
        is_shard: Whether the parts know nothing of each other.
        group: Of processes that work together, as torch knows it.

    Example:
        >>> Share(1, 3).of("abcdefg")
        'be'
    """

    index: int = 0
    count: int = 1
    is_shard: bool = False
    group: Any = None

    @property
    def is_together(self) -> bool:
        """Whether several processes talk to each other."""
        return self.count > 1 and not self.is_shard

    @property
    def is_speaker(self) -> bool:
        """Whether this process says what all of them have done."""
        return self.is_shard or self.index == 0

    @property
    def name(self) -> str:
        """Such as "3/16"."""
        return f"{self.index + 1}/{self.count}"

    def of(self, rows: Sequence[Any]) -> Any:
        """The rows of this part."""
        return rows[self.index :: self.count]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in their order; of a shard its own alone.

        Raises:
            OthersFailedError: Another process has failed; it has nothing to give any more.
        ProcessLostError: Another process was killed.
        """
        if not self.is_together:
            return [value]
        return self.exchange(None, value)

    def exchange(self, failure: tuple[str, int] | None, value: Any) -> list[Any]:
        """Give the others a value, or say why there will be none any more; see `gather`."""
        import torch.distributed

        found: list[Any] = [None] * self.count
        try:
            torch.distributed.all_gather_object(found, (failure, value), group=self.group)
        except RuntimeError as error:
            raise ProcessLostError(
                "Another process of this command ended too early; start all processes again to "
                "continue."
            ) from error
        failures = [failed for failed, _ in found if failed is not None]
        if failures:
            raise OthersFailedError(failures)
        return [own for _, own in found]

    def device(self, asked: str | None) -> str | None:
        """Return where to work: each process of a machine on an accelerator of its own.

        Args:
            asked: What the user asked for, which is taken as it is.

        Raises:
            ValueError: There are more processes than accelerators.
        """
        if asked is not None or not self.is_together:
            return asked
        import torch

        if not torch.accelerator.is_available():
            return None
        place, number = int(os.environ.get("LOCAL_RANK", "0")), torch.accelerator.device_count()
        kind = torch.accelerator.current_accelerator()
        if place >= number or kind is None:
            raise ValueError(
                f"This machine has {number} {kind} device{'s' * (number > 1)} but more processes; "
                "start one process per device, or give --device."
            )
        return f"{kind.type}:{place}"


class OthersFailedError(Exception):
    """Processes that work together have failed.

    Args:
        failures: What each of them said, and its exit code.
    """

    def __init__(self, failures: list[tuple[str, int]]) -> None:
        super().__init__(failures[0][0])
        self.failures = failures


class ProcessLostError(SalhubError):
    """A process that works together with this one was killed or interrupted."""


@contextmanager
def sharing(shard: str | None) -> Generator[Share]:
    """Give this process its share; whatever goes wrong in one process ends all, and is said once.

    Args:
        shard: What the user wrote, such as "3/16", or None.

    Raises:
        typer.BadParameter: It is no such part, or processes were started together as well.
        typer.Exit: A process that works together with this one has failed.
    """
    share = _share_of(shard)
    if not share.is_together:
        yield share
        return
    import torch.distributed

    # They come together soon, or not at all.
    torch.distributed.init_process_group("gloo")
    share = replace(share, group=torch.distributed.new_group(timeout=_PATIENCE))
    end = None
    try:
        try:
            yield share
        except typer.Exit as asked:  # which all processes end with
            end = asked
        share.gather(None)
    except KeyboardInterrupt:
        if share.is_speaker:
            raise
        raise typer.Exit(130) from None
    except ProcessLostError:
        raise
    except OthersFailedError as error:
        end = _end(share, error.failures)
    except Exception as error:
        end = _end(share, _tell(share, error))
    # Launchers stop all processes when the first one ends with a failure.
    torch.distributed.barrier(share.group)
    torch.distributed.destroy_process_group()
    if end is not None:
        raise end


def refuse_single(share: Share, text: str) -> None:
    """Refuse to share one input.

    Raises:
        typer.BadParameter: There are several shares.
    """
    if share.is_shard:
        raise typer.BadParameter(
            f"--shard splits the files of a folder, but {text} is a single input; leave it out."
        )
    if share.is_together:
        raise typer.BadParameter(
            f"{share.count} processes split the files of a folder, but {text} is a single input; "
            "start one process."
        )


def refuse_many(shard: str | None) -> None:
    """Refuse to share models that are measured one by one.

    Raises:
        typer.BadParameter: There are several shares.
    """
    if shard is not None or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter(
            "--all measures several models at once with --jobs; leave out --shard, torchrun and "
            "accelerate launch."
        )


def _share_of(shard: str | None) -> Share:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if shard is not None:
        return _parse(shard, processes)
    if processes == 1:
        return Share()
    missing = [name for name in _LAUNCHED if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {processes}, but {missing[0]} is not set; start the processes with "
            "torchrun or accelerate launch, or unset WORLD_SIZE."
        )
    return Share(int(os.environ["RANK"]), processes)


def _parse(shard: str, processes: int) -> Share:
    found = _SHARD.fullmatch(shard.strip())
    if found is None:
        raise typer.BadParameter(
            f"--shard {shard} is not valid; write it as 3/16, the third of sixteen parts."
        )
    number, count = map(int, found.groups())
    if not 1 <= number <= count:
        raise typer.BadParameter(
            f"--shard {shard} is not valid; parts are numbered from 1/{max(count, 1)} to "
            f"{max(count, 1)}/{max(count, 1)}."
        )
    if processes > 1:
        raise typer.BadParameter(
            f"--shard is for independent jobs, but these {processes} processes already share the "
            "work; leave it out."
        )
    return Share(number - 1, count, is_shard=True)


def _tell(share: Share, error: Exception) -> list[tuple[str, int]]:
    """Tell the others of a failure; return all failures."""
    if logging.getLogger().isEnabledFor(logging.INFO):  # which --debug asks for
        traceback.print_exception(error)
    # Errors of the command line have a code, and need no more words than their own.
    code = getattr(error, "exit_code", None)
    failure = (sentence_of(error), 1) if code is None else (str(error), code)
    try:
        share.exchange(failure, None)
    except OthersFailedError as known:
        return known.failures
    raise AssertionError(
        "A failure was reported to the other processes, but none of them received it."
    )


def _end(share: Share, failures: list[tuple[str, int]]) -> typer.Exit:
    if share.is_speaker:
        for sentence in dict.fromkeys(sentence for sentence, _ in failures):
            typer.echo(f"Error: {sentence}", err=True)
    return typer.Exit(failures[0][1])
