import ast
import gzip
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_files import python2, write

from rlmrec.data.lines import (
    MAX_LINE,
    BadRecord,
    RecordFile,
    identity,
    number,
    parse_json,
    parse_literal,
    plain,
    seconds,
    whole,
)
from rlmrec.errors import DataError

numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# What makes strings hard to tell from the text around them.
hard = st.text(st.sampled_from("\\'\"u{}[]:, \t\0True☃é😀\x7f\x80"), max_size=12)


@given(values | st.dictionaries(hard, hard | st.lists(hard)))
def test_literals_are_what_python_reads(value):
    for text in (repr(value), python2(value)):
        assert parse_literal(text) == ast.literal_eval(text) == value


@given(st.text(st.sampled_from("\\'\"u{}[]():,-+ \0TrueNone12.xn☃é"), max_size=20))
def test_whatever_is_read_as_a_literal_python_reads_alike(text):
    try:
        mine = parse_literal(text)
    except ValueError:
        return
    javascript = text.replace("true", "True")  # the one thing more that is let through
    assert mine == ast.literal_eval(javascript.strip())


HOSTILE = [
    "__import__('os').system('touch {target}')",
    "{{'username': __import__('os').system('touch {target}')}}",
    "(lambda: 0)()",
    "{{'a': 9**9**9}}",
    "{{'a': " + "9" * 5000 + "}}",
    "{{'a': 'x' * 10**9}}",
    "[" * 100_000 + "]" * 100_000,
    "(" * 100_000,
    "-" * 100_000 + "1",
    "{{'a': " * 20_000 + "1" + "}}" * 20_000,
    "'" * 100_001,
    "'" + "\\'" * 200_000,
    "{{'a': f'{{1}}'}}",
    "{{'a': b'x'}}",
    "{{'a': 1, **{{}}}}",
    "{{'a': nan}}",
    "{{'a': '\\ud83d",
    "{{'a'\0: 'b'}}",
    "{{1: 2}}",
    "",
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line[:20] or "empty")
def test_hostile_lines_are_malformed_and_nothing_runs(tmp_path, line):
    target = tmp_path / "touched"
    line = line.format(target=target)
    with pytest.raises((ValueError, RecursionError)):
        parse_literal(line)
    path = write(tmp_path / "t.json", ["{u'id': u'1'}", line, "{u'id': u'2'}"])
    file = RecordFile(path, "things", ["id"])
    assert [row for row, _ in file.each(dict)] == [1, 3]
    assert file.report.bad == (1 if line else 0)
    assert not target.exists()


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{'a': 1}", "[1,]", '"a', ""])
def test_json_is_json(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def records(path, **options):
    file = RecordFile(path, "things", ["id", "n"], **options)
    return [(line, record["id"], record["n"]) for line, record in file.each(dict)], file.report


THINGS = [{"id": "007", "n": 1}, {"id": "b", "n": None}, {"id": 'it\'s "é"', "n": 2.5}]


@pytest.mark.parametrize("ending", ["json", "json.gz", "txt"])
@pytest.mark.parametrize("form", ["json", "python", "python2"])
def test_every_form_gives_the_same(tmp_path, form, ending):
    read, report = records(write(tmp_path / f"t.{ending}", THINGS, form))
    assert read == [(1, "007", 1), (2, "b", None), (3, 'it\'s "é"', 2.5)]
    assert (report.lines, report.usable, report.bad) == (3, 3, 0)


def test_gzip_is_told_by_its_content_not_its_name(tmp_path):
    (tmp_path / "t.json").write_bytes(gzip.compress(b'{"id": 1, "n": 2}'))  # and no line break at the end
    (tmp_path / "t.gz").write_bytes(b'\xef\xbb\xbf{"id": 1, "n": 2}\r\n\r\n  \n')
    assert records(tmp_path / "t.json")[0] == [(1, 1, 2)]
    read, report = records(tmp_path / "t.gz")
    assert (read, report.bad) == ([(1, 1, 2)], 0)


def test_bad_lines_are_counted_with_number_and_reason(tmp_path):
    long = json.dumps({"id": "x" * MAX_LINE, "n": 1})
    lines = [THINGS[0], "{'id': 1, 'n': 2}", "[1]", {"n": 1}, long, "{", {"id": 9, "n": 9}]
    read, report = records(write(tmp_path / "t.json", lines))
    assert read == [(1, "007", 1), (7, 9, 9)]
    assert (report.lines, report.usable, report.bad) == (7, 2, 5)
    assert [row for row, _ in report.first] == [2, 3, 4, 5, 6]
    reasons = dict(report.first)
    assert reasons[2] == "expected a JSON object, got \"{'id': 1, 'n': 2}\""
    assert reasons[3] == "expected an object with keys, got '[1]'"
    assert reasons[4] == "lacks 'id'; it has 'n'"
    assert reasons[5] == "longer than 1,048,576 bytes"
    assert report.plain()["first_bad"][0].startswith("line 2: expected a JSON object")


def test_the_longest_allowed_line_is_read(tmp_path):
    frame = len(json.dumps({"id": "", "n": 1}))
    longest = json.dumps({"id": "x" * (MAX_LINE - frame), "n": 1})
    assert len(longest) == MAX_LINE
    read, report = records(write(tmp_path / "t.json", [longest, longest + " ", THINGS[1]]))
    assert [line for line, *_ in read] == [1, 3]
    assert report.bad == 1


def test_more_bad_lines_than_may_be_are_an_error(tmp_path):
    path = write(tmp_path / "t.json", [THINGS[0], *["{"] * 12, THINGS[1]])
    read, report = records(path, max_bad_lines=12)
    assert (len(read), report.bad, len(report.first)) == (2, 12, 10)
    with pytest.raises(
        DataError, match=r"more than 11 of 13 lines are unusable as things \(line 2: .*--max-bad-lines"
    ):
        records(path, max_bad_lines=11)


def test_a_wrong_file_is_reported_with_its_keys(tmp_path):
    path = write(tmp_path / "t.json", [{"asin": "1", "title": "x"}] * 1000)
    with pytest.raises(DataError) as caught:
        records(path)
    assert str(caught.value) == (
        f"{path} does not contain things: line 1 lacks 'id', 'n'; it has 'asin', 'title'. Expected one record "
        "per line, JSON or Python literals, with 'id', 'n': is this the right file?"
    )
    with pytest.raises(DataError, match=r"line 2 lacks 'id', 'n'; it has 'asin', 'title'"):
        records(write(tmp_path / "t.json", ["rubbish", *[{"asin": "1", "title": "x"}] * 5]))
    with pytest.raises(DataError, match=r"line 1 expected a JSON object or a dictionary of Python literals"):
        records(write(tmp_path / "t.csv", ["id,n", "1,2"]))
    with pytest.raises(DataError, match=r"is empty: expected things"):
        records(write(tmp_path / "e.json", []))
    with pytest.raises(DataError, match=r"does not exist: expected things"):
        records(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"is a folder, expected a file"):
        records(tmp_path)


def test_bytes_that_are_not_utf8_cost_a_character_but_no_id(tmp_path):
    lines = [b'{"id": "a", "text": "caf\xe9"}', b'{"id": "caf\xe9"}', {"id": "caf\ufffd"}]
    file = RecordFile(write(tmp_path / "t.json", lines), "things", ["id"])
    assert list(file.each(dict)) == [(1, {"id": "a", "text": "caf\ufffd"}), (3, {"id": "caf\ufffd"})]
    report = file.report
    assert (report.not_utf8, report.bad) == (1, 1)
    assert report.first == [(2, "'id' has bytes that are not UTF-8")]


def test_a_gzip_file_that_is_cut_off_or_damaged(tmp_path):
    lines = [{"id": str(row), "n": row * 7919} for row in range(5000)]
    whole_file = write(tmp_path / "t.json.gz", lines).read_bytes()
    cut, damaged = tmp_path / "cut.json.gz", tmp_path / "damaged.json.gz"
    cut.write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(DataError, match=r"cut\.json\.gz cannot be read: it is truncated, .*; copy or"):
        records(cut)
    middle = len(whole_file) // 2
    damaged.write_bytes(whole_file[:middle] + b"\xff" * 40 + whole_file[middle + 40 :])
    with pytest.raises(DataError, match=r"damaged\.json\.gz cannot be read: the packed data is damaged"):
        records(damaged)


def test_some_lines_again(tmp_path):
    lines = [THINGS[0], "{", THINGS[1], "", THINGS[2], b'{"id": "a", "n": "\xe9"}']
    file = RecordFile(write(tmp_path / "t.json.gz", lines), "things", ["id"])
    first = dict(file.each(lambda record: record["id"]))
    report = file.report.plain()
    assert dict(file.at([6, 1], lambda record: record["id"])) == {1: first[1], 6: first[6]}
    assert list(file.at([], dict)) == []
    assert file.report.plain() == report
    with pytest.raises(DataError, match=r"was changed while it was read: line 2 expected a JSON object"):
        list(file.at([1, 2], dict))


def test_progress_reaches_the_size_of_the_file(tmp_path):
    path = write(tmp_path / "t.json.gz", [{"id": str(row), "n": row} for row in range(20_000)])
    told = []
    file = RecordFile(path, "things", ["id"], progress=lambda *seen: told.append(seen))
    assert sum(1 for _ in file.each(dict)) == 20_000
    size = path.stat().st_size
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1] == ("things", size, size)
    list(file.at([5], dict))
    assert told[-1] == ("texts of things", size, size)


def test_values_of_records():
    assert identity({"id": "007"}, "id") == "007"
    assert identity({"id": 7}, "id") == "7"
    for odd in ("", "  ", None, True, 1.0, [], {"a": 1}):
        with pytest.raises(BadRecord, match="'id': expected an id"):
            identity({"id": odd}, "id")
    assert number({"n": 4}, "n") == 4
    for odd in ("4", None, True, [], math.inf, 10**400):
        with pytest.raises(BadRecord, match="'n': expected a number"):
            number({"n": odd}, "n")
    assert seconds({"t": "1970-01-02"}, "t") == 86400
    assert seconds({"t": "1970-01-01 00:01:00"}, "t") == 60
    assert seconds({"t": "1970-01-01T01:00:00+01:00"}, "t") == 0
    for odd in ("", "yesterday", "2018-13-01", None, 5, []):
        with pytest.raises(BadRecord, match="'t': expected a date"):
            seconds({"t": odd}, "t")


def test_texts_of_records():
    assert plain(" a ") == "a"
    assert plain(["a, b", ["a, b", 3], None, "", True, {"c": 1}, "c"]) == "a, b, 3, c"
    assert (plain(12.99), plain(0), plain(True), plain({}), plain([])) == ("12.99", "0", None, None, None)
    assert whole("\ud83d\ude00 \udc00 é") == "😀 \ufffd é"
    deep = []
    for _ in range(10_000):
        deep = [deep]
    assert plain(deep) is None
