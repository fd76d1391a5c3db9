"""The command line: `salhub COMMAND`, one file a command."""

import typer

import salhub
from salhub.cli.cache import cache_app
from salhub.cli.card import card_command
from salhub.cli.compare import compare_command
from salhub.cli.compress import compress_command
from salhub.cli.demo import demo_command
from salhub.cli.evaluate import evaluate_command
from salhub.cli.export import export_command
from salhub.cli.failures import CommandGroup
from salhub.cli.info import info_command
from salhub.cli.list import list_command
from salhub.cli.push import push_command
from salhub.cli.recipe_help import RecipeCommand
from salhub.cli.run import run_command
from salhub.cli.settings import SettingsCommand
from salhub.cli.train import train_command
from salhub.cli.unlearn import unlearn_command

_EXIT_CODES = """
Exit codes: 0 success; 1 an input, the data, a model, a recipe or the value of a setting was
refused, or an input of a folder was left out; 2 wrong usage: an unknown command, option or setting,
a missing one, or an invalid option value; 130 Ctrl-C.
"""

# Plain text instead of boxes: errors stay one line, and help needs no further import.
app = typer.Typer(
    name="salhub",
    cls=CommandGroup,
    no_args_is_help=True,
    epilog=_EXIT_CODES,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(salhub.__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks and log what is loaded."),
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Run, train and evaluate published saliency methods.

    Start with: salhub run normgrad-efficientnet-lite0 sample:cat
    """


app.command("list")(list_command)
app.command("info")(info_command)
app.command("run", cls=SettingsCommand, epilog=_EXIT_CODES)(run_command)
app.command("compare", cls=SettingsCommand)(compare_command)
app.command("train", cls=RecipeCommand)(train_command)
app.command("unlearn", cls=RecipeCommand)(unlearn_command)
app.command("compress", cls=RecipeCommand)(compress_command)
app.command("export")(export_command)
app.command("evaluate", cls=SettingsCommand)(evaluate_command)
app.command("card")(card_command)
app.command("push")(push_command)
app.command("demo")(demo_command)
app.add_typer(cache_app, name="cache")


def main() -> None:
    """Run the command line; the `salhub` command calls this."""
    app(prog_name="salhub")
