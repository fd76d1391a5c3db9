"""What the command line says when something goes wrong: one sentence, never a traceback."""

import io
import logging
import sys

import typer
import typer.core

from salhub.errors import SalhubError, UnknownOptionError, UnknownSettingError
from salhub.files import NAME_ERRORS

# What a person can cause; anything else is a defect and says how to see more.
_EXPECTED = (SalhubError, ValueError, TypeError, OSError, ImportError, KeyError)
# A wrong call, as typer's own usage errors are.
_OF_USAGE = (UnknownOptionError, UnknownSettingError)
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_GOING_ON = {
    **dict.fromkeys(("run", "evaluate"), " Run the same command again to continue."),
    **dict.fromkeys(
        ("train", "unlearn", "compress"),
        " Add resume_from_checkpoint=latest to resume from the last checkpoint.",
    ),
}


class CommandGroup(typer.core.TyperGroup):
    """The commands of salhub, their failures turned into one sentence and an exit code."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Accept `--debug` after the command too."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            args = ["--debug", *(part for part in args[:end] if part != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        """Run a command.

        Raises:
            typer.Exit: With code 1 after a failure, 2 after a wrong call, 130 after Ctrl-C.
        """
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # Names of files need not be text, and not every terminal knows all letters.
                stream.reconfigure(errors=NAME_ERRORS)
        is_debug = ctx.params.get("debug", False)
        if is_debug:
            logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            going_on = _GOING_ON.get(ctx.invoked_subcommand, "")
            typer.echo(f"Interrupted; finished work is kept.{going_on}", err=True)
            raise typer.Exit(_INTERRUPTED) from None
        except Exception as error:
            if is_debug or _belongs_to_typer(error):
                raise
            typer.echo(f"Error: {sentence_of(error)}", err=True)
            raise typer.Exit(2 if isinstance(error, _OF_USAGE) else 1) from None


def sentence_of(error: BaseException) -> str:
    """Return the message of an error as one line.

    Example:
        >>> sentence_of(ValueError("too small,  give more"))
        'too small, give more'
    """
    if type(error).__name__.startswith("StrictDataclass") and error.__cause__ is not None:
        # Its own text names the validator; the cause says what is wrong.
        return sentence_of(error.__cause__)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _EXPECTED):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _belongs_to_typer(error: Exception) -> bool:
    # Usage errors and exits carry their code; a closed pipe is handled there as well.
    return hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError)
