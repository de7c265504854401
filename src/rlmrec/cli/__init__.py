"""The command line. Exit codes: 0 done, 1 failed, 2 wrong use, 3 partly failed (profiling), 130 interrupted."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from rlmrec import __version__
from rlmrec.cli import cold, data, output, profile, quickstart, serve, text, train
from rlmrec.errors import ConfigError, RlmrecError

INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="rlmrec",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Recommendations that understand text: graph collaborative filtering aligned with profiles (RLMRec).\n\n"
    "**Example:**  `rlmrec quickstart`  or, with your own data,  "
    "`rlmrec data table ratings.csv --items items.csv -w shop`  →  `rlmrec encode -w shop`  →  "
    "`rlmrec train -w shop --alignment contrastive --name con`  →  "
    "`rlmrec recommend -w shop --run con --user 42`",
)
app.command()(quickstart.quickstart)
app.add_typer(data.app, name="data")
app.command()(profile.profile)
app.command()(profile.audit)
app.command()(text.encode)
app.command()(train.train)
app.command()(train.evaluate)
app.command()(train.compare)
app.command()(serve.recommend)
app.command()(serve.explain)
app.add_typer(cold.app, name="cold")
app.command()(serve.index)
app.command()(serve.export)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rlmrec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del debug, version  # --debug is taken by main() wherever it stands


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; one line per error, a traceback only with ``--debug``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        app(args=[argument for argument in arguments if argument != "--debug"])
    except SystemExit as end:
        if end.code == INTERRUPTED:
            output.error("interrupted: give the same command again to go on where it was")
        raise
    except BrokenPipeError:  # the reader of a pipe has left, as `| head` does
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            output.error(_in_a_line(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _in_a_line(error: Exception) -> str:
    if isinstance(error, RlmrecError):
        return str(error)
    if isinstance(error, OSError):  # a full disk, a folder that may not be written: the user's to mend
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return f"{type(error).__name__}: {error} (not foreseen: --debug shows where)"
