"""Code blocks of the README and the guides: found, run as they stand, and checked."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from rlmrec.cli import main

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^(```+)([^\n`]*)\n(.*?)^\1 *$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language ("" for commands) and its lines."""

    language: str
    code: str


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown file; directives of the site are left out."""
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(match[2].strip(), match[3]) for match in found if not match[2].startswith("{")]


def python_of(page: Path) -> str:
    """Return the Python of a page as one program."""
    code = "\n".join(block.code for block in blocks_of(page) if block.language == "python")
    assert code, f"{page.name} has no example in Python"
    return code


def run_python(page: Path, names: dict | None = None) -> dict:
    """Run the Python of a page and return its names."""
    names = {} if names is None else names
    exec(compile(python_of(page), page.name, "exec"), names)
    return names


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page, one for each line; a backslash continues a line."""
    blocks = [block.code for block in blocks_of(page) if block.language in ("", "bash", "sh")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def arguments_of(command: str) -> list[str] | None:
    """Return the arguments of a command of rlmrec, without variables set before it; None for another program."""
    words = shlex.split(command, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words[1:] if words and words[0] == "rlmrec" else None


def run_command(command: str) -> None:
    """Run a command: rlmrec in this process, anything else in a shell."""
    arguments = arguments_of(command)
    if arguments is None:
        subprocess.run(["bash", "-c", command], check=True)
        return
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code in (0, None), command  # noqa: PT017
