"""The command line. Exit codes: 0 done, 1 failed, 2 wrong use, 3 partly failed (profiling), 130 interrupted."""

from __future__ import annotations

import json
import sys
import traceback
from importlib import import_module
from typing import Annotated

import typer

from rlmrec import __version__
from rlmrec.cli import output
from rlmrec.errors import ConfigError, RlmrecError

INTERRUPTED = 130  # what typer makes of Ctrl-C
GROUPS = ("data", "cold")  # commands with commands of their own
RENAMED = {"--semantics": "--text-embeddings"}  # options of version 0.1, which still work

HELP = (
    "Recommendations that understand text: graph collaborative filtering aligned with profiles (RLMRec).\n\n"
    "**Example:**  `rlmrec quickstart`  or, with your own data,  "
    "`rlmrec data table ratings.csv --items items.csv -w shop`  →  `rlmrec encode -w shop`  →  "
    "`rlmrec train -w shop --alignment contrastive --name con`  →  "
    "`rlmrec recommend -w shop --run con --user 42`"
)
# Command → module under rlmrec.cli that holds it, in the order of --help. Only the module of the command that
# was given is imported: what serves starts without PyTorch.
COMMANDS = {
    "quickstart": "quickstart",
    "data": "data",
    "profile": "profile",
    "audit": "profile",
    "encode": "encode",
    "train": "train",
    "options": "options",
    "evaluate": "evaluate",
    "compare": "compare",
    "sweep": "sweep",
    "experiment": "experiment",
    "report": "report",
    "recommend": "recommend",
    "explain": "recommend",
    "cold": "cold",
    "serve": "serve",
    "index": "recommend",
    "export": "recommend",
}


def build(command: str | None = None) -> typer.Typer:
    """The program with this command; with all of them where it has no such command."""
    app = typer.Typer(
        name="rlmrec",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help=HELP,
    )
    app.callback()(_options)
    for name in [command] if command in COMMANDS else COMMANDS:
        module = import_module(f"rlmrec.cli.{COMMANDS[name]}")
        if name in GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rlmrec {__version__}")
        raise typer.Exit


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del debug, version  # --debug is taken by main() wherever it stands


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; one line per error, a traceback only with ``--debug``."""
    arguments = [_renamed(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in arguments
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        build(named)(args=[argument for argument in arguments if argument != "--debug"])
    except SystemExit as end:
        if end.code == INTERRUPTED:
            output.error("interrupted: repeat the command to resume")
        raise
    except BrokenPipeError:  # the reader of a pipe has left, as `| head` does
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            output.error(_in_a_line(error))
        code = 2 if isinstance(error, ConfigError) else 1
        if "--json" in arguments:  # a program that reads stdout finds out there, too
            print(json.dumps({"error": _in_a_line(error), "exit_code": code}), flush=True)
        sys.exit(code)


def _renamed(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return RENAMED.get(name, name) + equals + value


def _in_a_line(error: Exception) -> str:
    if isinstance(error, RlmrecError):
        return str(error)
    if isinstance(error, OSError):  # a full disk, a folder that may not be written: the user's to mend
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return f"{type(error).__name__}: {error} (unexpected error; rerun with --debug for the traceback)"
