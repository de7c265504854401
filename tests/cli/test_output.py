"""Tables at the width of a terminal, and progress in a log."""

import pytest
from rich.console import Console

from rlmrec.cli.output import Output, ProgressLines, quiet
from rlmrec.findings import Finding

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


def test_a_log_has_a_line_every_twenty_seconds_and_one_at_the_end():
    now, said = [0.0], []
    lines = ProgressLines(said.append, "encoding", 2000, True, lambda: now[0])

    def at(seconds, *progress):
        now[0] = seconds
        lines.update(*progress) if progress else lines.tick()

    at(0.5, 10)
    assert said == []  # a short step has one line
    at(1.5, 100, "5 cached")
    at(15, 900)
    at(22, 1000)
    at(44)  # the step reports nothing, but time passes
    now[0] = 50
    lines.update(2000)
    lines.end()
    assert said == [
        "encoding: 100 of 2,000, 1.5 s so far, about 28 s left, 5 cached",
        "encoding: 1,000 of 2,000, 22 s so far, about 22 s left",
        "encoding: 1,000 of 2,000, 44 s so far, about 44 s left",
        "encoding: 2,000 of 2,000, done in 50 s",
    ]


def test_a_step_without_a_count_and_one_that_fails(capsys):
    clock = iter([0.0, 4.2, 5.0, 5.4, 7.0])
    output = Output(as_json=False, clock=lambda: next(clock))
    for name in ("fitting", "a moment"):
        with output.step(name):
            pass
    with pytest.raises(RuntimeError), output.step("reading"):
        raise RuntimeError
    assert capsys.readouterr().out == "fitting: done in 4.2 s\n"


def test_a_terminal_gets_a_bar_and_the_time_of_a_step(capsys):
    clock = iter([0.0, 12.0])
    output = Output(as_json=False, clock=lambda: next(clock))
    output.console = Console(force_terminal=True, width=80, highlight=False)
    with output.step("fitting"), output.progress("users", 4) as update:
        update(4)
    out = capsys.readouterr().out
    assert "4/4" in out
    assert "fitting: 12 s" in out


def test_quiet_keeps_tables_findings_and_json(capsys):
    output = Output(as_json=False)
    with quiet():
        output.say("encoding")
        with output.step("fitting"):
            pass
        output.table("t", ["run"], [["base"]])
        output.findings([Finding("looks-odd", "ids in two spellings", 2)])
    out = capsys.readouterr().out
    assert "base" in out
    assert "two spellings" in out
    assert "encoding" not in out
    assert "fitting" not in out
    output.say("talks again")
    assert "talks again" in capsys.readouterr().out
