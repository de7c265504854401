"""The command line. Exit codes: 0 done, 1 failed, 2 wrong use, 3 partly failed (profiling), 130 interrupted."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from rlmrec import __version__
from rlmrec.errors import BrokenRowsError, ConfigError, RlmrecError, did_you_mean, wrong_value

LEFT_OUT = ("torch", "aiohttp", "jinja2")  # of what rlmrec needs, by rlmrec-serve
INTERRUPTED = 130  # what typer makes of Ctrl-C
# Commands with commands of their own, and their summaries: a group builds all of its commands when it is imported.
GROUPS = {
    "data": "Read interactions and texts, filter, split, and store them in the workspace.",
    "cold": "New items and new users from their text, without training.",
    "paper": "Repeat the paper's studies: Figure 1, Figure 6 and Theorem 2.",
}
RENAMED = {"--semantics": "--text-embeddings"}  # options of version 0.1, which still work

HELP = (
    "Recommendations that understand text: graph collaborative filtering aligned with profiles (RLMRec).\n\n"
    "**Example:**  `rlmrec quickstart`  or, with your own data,  "
    "`rlmrec data table ratings.csv --items items.csv -w shop`  →  `rlmrec encode -w shop`  →  "
    "`rlmrec train -w shop --alignment contrastive --name con`  →  "
    "`rlmrec recommend -w shop --run con --user 42`"
)
# In the order of --help. Each has a module of its name, and only that of the given command is imported. The modules
# are light: a command imports PyTorch and the like when it runs.
COMMANDS = (
    "quickstart",
    "data",
    "profile",
    "audit",
    "encode",
    "train",
    "options",
    "evaluate",
    "compare",
    "sweep",
    "experiment",
    "paper",
    "report",
    "recommend",
    "explain",
    "cold",
    "publish",
    "monitor",
    "serve",
    "mcp",
    "index",
    "export",
    "push",
)


def build(command: str | None = None) -> typer.Typer:
    """Return the program with one command; without one, with the names and summaries of all, for its --help."""
    app = typer.Typer(
        name="rlmrec",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help=HELP,
    )
    app.callback()(_options)
    for name in COMMANDS if command is None else [command]:
        if name in GROUPS and command is None:
            app.command(name, help=GROUPS[name])(_nothing)
            continue
        module = import_module(f"rlmrec.cli.{name}")
        if name in GROUPS:
            app.add_typer(module.app, name=name)
        elif command is None:
            app.command(name, help=module.__dict__[name].__doc__)(_nothing)
        else:
            app.command(name, cls=getattr(module, "COMMAND", None))(module.__dict__[name])
    return app


def _nothing() -> None:
    """Placeholder for a command of which only the summary is shown."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rlmrec {__version__}")
        raise typer.Exit


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="Print no progress and no remarks: only tables, findings, errors and JSON."
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del debug, quiet, version  # main() accepts --debug and --quiet at any place


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; one line per error, a traceback only with ``--debug``."""
    arguments = [_renamed(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    try:
        _run_or_fail(arguments)
    except KeyboardInterrupt:
        _fail("interrupted: repeat the command to resume", INTERRUPTED)
    except BrokenPipeError:
        # The reader of the pipe has ended, as `head` does, perhaps before an error was written.
        sys.stderr.close()
        sys.exit(1)


def _run_or_fail(arguments: list[str]) -> NoReturn:
    """Run a command and exit with its code, or report the error and exit with that of the error."""
    try:
        with _output_context("--quiet" not in arguments):
            sys.exit(_run([argument for argument in arguments if argument not in ("--debug", "--quiet")]))
    except BrokenPipeError:
        raise
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        message, code = _in_a_line(error), 2 if isinstance(error, ConfigError) else 1
        if "--json" in arguments:  # a program that reads stdout learns of the failure there
            print(json.dumps({"error": message, "exit_code": code}), flush=True)
        if "--debug" in arguments:
            sys.exit(code)
        _fail(message, code, isinstance(error, BrokenRowsError))


def _output_context(wanted: bool) -> AbstractContextManager[None]:
    """Return the context in which a command runs: silent if no output is wanted."""
    if wanted:
        return nullcontext()
    from rlmrec.cli.output import quiet

    return quiet()


def _run(arguments: list[str]) -> int:
    """Run a command and return its exit code.

    Raises:
        ConfigError: an unknown command or option, or a value that an option cannot have.
        KeyboardInterrupt: the user stopped it.
    """
    command = _command(arguments)
    if command is None and "--version" in arguments:
        print(f"rlmrec {__version__}")
        return 0
    try:
        code = build(command)(args=arguments, prog_name="rlmrec", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # Typer brings its own copy of click's exceptions, and older versions of it click's own.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return 2
        raise ConfigError(_wrong_use(error)) from None
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _command(arguments: list[str]) -> str | None:
    """Return the command that is given, or that stands in the line that a shell wants to complete.

    Raises:
        ConfigError: there is no such command.
    """
    completing = "_RLMREC_COMPLETE" in os.environ
    if completing:  # zsh, fish and PowerShell give the line in the one variable, bash in the other
        line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
        arguments = line.split()[1:]
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if command is None or command in COMMANDS:
        return command
    if completing:
        return None
    raise ConfigError(
        f"unknown command {command!r}{did_you_mean(command, COMMANDS)}: rlmrec --help lists the commands"
    )


def _wrong_use(error: Any) -> str:
    """Return one line for an error of the parser: what is wrong, the nearest option, where to look."""
    message = str(error.format_message()).rstrip(".")
    if type(error).__name__ == "NoSuchOption":
        known = [] if error.ctx is None else [name for one in error.ctx.command.params for name in one.opts]
        message = f"unknown option {error.option_name!r}{did_you_mean(error.option_name, known)}"
    if (cause := getattr(error, "__cause__", None)) is not None and hasattr(cause, "errors"):
        message = f"{message.removesuffix(str(error.message).rstrip('.'))}{wrong_value(cause.errors()[0])}"
    message = re.sub(
        r"\. (Did you mean .*\?)", lambda found: f" ({found[1][0].lower()}{found[1][1:]})", message
    )
    where = "rlmrec" if error.ctx is None else error.ctx.command_path
    return f"{message[0].lower()}{message[1:]}: see {where} --help"


def _fail(message: str, code: int, several: bool = False) -> NoReturn:
    from rlmrec.cli.output import error

    error(*(message.splitlines() if several else [message]))
    sys.exit(code)


def _renamed(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return RENAMED.get(name, name) + equals + value


def _in_a_line(error: Exception) -> str:
    if isinstance(error, RlmrecError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in LEFT_OUT:
        return f"this needs {error.name}, which rlmrec-serve leaves out: pip install rlmrec"
    from rlmrec.files import is_full  # here, as it imports NumPy

    if is_full(error):
        name = getattr(error, "filename", None)
        where = f"{name} cannot be written, " if name else ""
        return f"{where}the disk is full: free some space and run the same command again"
    if isinstance(error, OSError):  # a folder without write permission: the user can fix it
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return f"{type(error).__name__}: {error} (unexpected error; rerun with --debug for the traceback)"
