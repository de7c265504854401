"""Tables at the width of a terminal."""

import pytest
from rich.console import Console

from rlmrec.cli.output import Output

PLAN = [
    [str(part), backbone, variant, texts, "none", "32", "7/7", "?"]
    for part, backbone, variant, texts in (
        (1, "popularity", "Base", "–"),
        (15, "LightGCN", "Con", "default"),
        (17, "graph filter", "Distilled, softmax", "default"),
    )
]  # fmt: skip
COLUMNS = ["part", "backbone", "variant", "texts", "shuffle", "dimension", "left", "time"]


@pytest.fixture
def table(capsys):
    """Print a table at a width and return its lines."""

    def run(width, *arguments):
        output = Output(as_json=False)
        output.console = Console(width=width, highlight=False, emoji=False)
        output.table(*arguments)
        return capsys.readouterr().out.splitlines()

    return run


def words(lines):
    return {word for line in lines for word in line.replace("│", " ").replace("┃", " ").split()}


def test_what_is_the_same_in_all_rows_stands_below_and_no_word_is_broken(table):
    lines = table(80, "plan", COLUMNS, PLAN, 6)
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "the same in all rows: shuffle none, dimension 32"
    assert {"popularity", "LightGCN", "graph", "filter", "Distilled,", "softmax", "7/7"} <= words(lines)
    wide = table(120, "plan", COLUMNS, PLAN, 6)
    assert any("dimension" in line for line in wide)
    assert not any("the same" in line for line in wide)


def test_headers_continue_on_the_next_line_before_cells_do(table):
    row = ["lightgcn-con", "recall@20", "+0.0103 to +0.0253", "2.6e-05", "4.3e-05"]
    lines = table(78, "p", ["run", "metric", "difference, 95 %", "p of t", "p of Wilcoxon, Holm"], [row], 2)
    assert max(map(len, lines)) <= 78
    assert any("+0.0103 to +0.0253" in line for line in lines)
    assert any(line.rstrip("┃ ").endswith("Holm") for line in lines)


def test_long_names_are_broken_and_numbers_are_not(table):
    name = "lightgcn-contrastive-general-seed1"
    lines = table(60, "t", ["run", *"abcde"], [[name, *["0.4774 +2.0*"] * 5]], 1)
    assert max(map(len, lines)) <= 60
    assert {"0.4774", "+2.0*"} <= words(lines)
    assert name in "".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))


def test_a_table_without_room_has_a_line_for_each_row(table):
    lines = table(20, "t", ["run", "a", "b"], [["base", "0.123456", "0.234567"], ["con", "1", "2"]], 1)
    assert lines == ["t", "run base, a 0.123456, b 0.234567", "run con, a 1, b 2"]
