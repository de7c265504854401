"""Files as shops write them: encodings, separators, quotes, line ends, decimal commas, dates and packing."""

import csv
import gzip
import io
import re
import tracemalloc
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from rlmrec.data.delimited import read_delimited
from rlmrec.data.file_format import FileFormat
from rlmrec.data.lines import RecordFile
from rlmrec.data.tables import read_table, read_tables
from rlmrec.errors import ConfigError, DataError

GERMAN = "kunde;artikel;größe;wann\nMüller;7;3,5;31.12.2026 23:59\nÖzil;8;1.234,50;1.1.2027 08:00\n"


def moment(*parts):
    return datetime(*parts, tzinfo=UTC).timestamp()


# -- encodings and packing -----------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, lambda raw: gzip.compress(raw, mtime=0), zstd.compress])
@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", None), ("utf-8-sig", None), ("cp1252", "Windows-1252"), ("latin-1", "Windows-1252"),
        ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"),
    ],
)  # fmt: skip
def test_the_usual_encodings_are_recognised_and_named(tmp_path, encoding, name, pack):
    path = tmp_path / "t.csv"
    if pack is not bytes:
        path = tmp_path / ("t.csv.gz" if pack is not zstd.compress else "t.csv.zst")
    path.write_bytes(pack(GERMAN.encode(encoding)))
    table = read_table(path)
    assert table.frame.columns == ["kunde", "artikel", "größe", "wann"]
    assert table.frame["kunde"].to_list() == ["Müller", "Özil"]
    said = [str(found).split(",")[0] for found in table.findings]
    assert said == ([f"{path.name} is read as {name}"] if name else [])
    named = read_table(path, form=FileFormat(encoding=encoding))
    assert named.frame.equals(table.frame)
    assert named.findings == ()


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp850", "Kaffeekännchen weiß"), ("mac-roman", "Käse"), ("cp1250", "Żółta łyżka"), ("iso8859-2", "łyżka"),
        ("cp1251", "Чайная ложка"), ("cp1253", "κουτάλι"), ("gbk", "咖啡杯"),
    ],
)  # fmt: skip
def test_what_would_be_garbled_as_windows_1252_is_refused(tmp_path, encoding, text):
    path = tmp_path / "t.csv"
    path.write_bytes(f"user_id,item_id,title\n1,1,{text}\n".encode(encoding))
    with pytest.raises(DataError, match=r"neither UTF-8 nor UTF-16 nor Windows-1252.*name its encoding"):
        read_table(path)
    assert read_table(path, form=FileFormat(encoding=encoding)).frame["title"].to_list() == [text]


def test_western_texts_are_not_refused(tmp_path):
    texts = "L´Oréal Crème Brûlée 5€|Škoda Œuvre|don’t – “quoted” Lego®Duplo|3½ m² H²O|Ærø øl ßö|¿Qué? ¡Sí! 1ª|Größe XL"
    (tmp_path / "t.csv").write_bytes(f"title\n{texts.replace('|', chr(10))}\n".encode("cp1252"))
    assert read_table(tmp_path / "t.csv").frame["title"].to_list() == texts.split("|")


@pytest.mark.parametrize("above", ["sep=;\n", "Orders of 2026\n\n"])
def test_a_line_above_the_header_is_told(tmp_path, above):
    (tmp_path / "t.csv").write_text(f"{above}kunde;artikel\n1;2\n")
    with pytest.raises(
        DataError, match=r"has no column 'kunde'.*the first line must name the columns, separated by"
    ):
        read_table(tmp_path / "t.csv", ["kunde"])


def test_a_zip_archive_is_no_csv_file(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(DataError, match=r"is a zip archive and no text: rename it to \.xlsx"):
        read_table(tmp_path / "t.csv")


def test_a_wrong_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(GERMAN.encode("cp1252"))
    with pytest.raises(DataError, match=r"line 1 is not UTF-8 .* \(--encoding\)"):
        read_table(tmp_path / "t.csv", form=FileFormat(encoding="utf-8"))
    with pytest.raises(ConfigError, match="expected one that Python knows"):
        FileFormat(encoding="utf-9")
    with pytest.raises(ConfigError, match="expected one that Python knows"):
        FileFormat(encoding="hex")


def test_json_lines_in_another_encoding(tmp_path):
    (tmp_path / "t.jsonl").write_bytes('{"a": "ä"}\n{"a": "\\u00f6"}\n'.encode("utf-16"))
    assert read_table(tmp_path / "t.jsonl").frame["a"].to_list() == ["ä", "ö"]
    (tmp_path / "t.jsonl").write_bytes('{"a": "ä"}\n'.encode("cp1252"))
    assert read_table(tmp_path / "t.jsonl").frame["a"].to_list() == ["ä"]


def test_damaged_packing_is_one_of_our_errors(tmp_path):
    for name, pack in (("t.csv.gz", gzip.compress), ("t.csv.zst", zstd.compress)):
        whole = pack(np.random.default_rng(0).bytes(50_000).hex().encode())
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"cannot be read: it is truncated"):
            read_table(tmp_path / name)
        (tmp_path / name).write_bytes(whole[:4] + b"garbage")
        with pytest.raises(DataError, match=r"cannot be read: "):
            read_table(tmp_path / name)


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_records_that_unpack_to_far_too_much_are_refused(tmp_path, monkeypatch, pack):
    monkeypatch.setattr("rlmrec.files.UNPACKED_BYTES", 1 << 20)
    (tmp_path / "t.json").write_bytes(pack(b'{"id": 1}\n' * 130_000))
    with pytest.raises(DataError, match=r"unpacks to more than 1 MB .* set RLMREC_MAX_UNPACKED_MB"):
        list(RecordFile(tmp_path / "t.json", "things", ["id"]).each(dict))
    monkeypatch.setenv("RLMREC_MAX_UNPACKED_MB", "3")
    assert len(list(RecordFile(tmp_path / "t.json", "things", ["id"]).each(dict))) == 130_000


# -- separators, quotes and line ends ------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_the_one_that_all_lines_agree_on(tmp_path, separator):
    rows = [["kunde", "artikel", "preis, netto"], ["a", "1", "3,5"], ["b", "2", "1;2|3"]]
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(rows)
    (tmp_path / "t.csv").write_text(out.getvalue())
    assert read_table(tmp_path / "t.csv").frame.rows() == [tuple(row) for row in rows[1:]]
    (tmp_path / "t.csv").write_text("a:b\n1:2\n")
    assert read_table(tmp_path / "t.csv", form=FileFormat(delimiter=":")).frame.rows() == [("1", "2")]
    (tmp_path / "t.tsv").write_text("a;b\n1;2\n")
    assert read_table(tmp_path / "t.tsv", form=FileFormat(delimiter=";")).frame.rows() == [("1", "2")]


@pytest.mark.parametrize("wrong", ["ab", "", "é", '"'])
def test_a_delimiter_is_one_ascii_character(wrong):
    with pytest.raises(ConfigError, match="expected one ASCII character"):
        FileFormat(delimiter=wrong)


def by_csv(text, separator=","):
    """The rows that Python's csv reads, padded; empty fields and missing ones are the same."""
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    padded = [tuple(row + [""] * (len(header) - len(row))) for row in rows]
    return [row for row in padded if any(value.strip(" ") for value in row)]  # the others are left out


def by_us(path, text, separator=","):
    path.write_bytes(text.encode())
    return [tuple(value or "" for value in row) for row in read_delimited(path, separator).frame.rows()]


@pytest.mark.parametrize(
    "text",
    [
        'a,b\nTablet 12" 5,x\n"q,""z",y\n',
        'a,b\nTablet 12",5\nx,"y\nz"\n',
        'a,b\n"x"y,1\n"x" "y",2\n',
        'a,b\n "x, y",1\n'.replace("x, y", "x"),
        'a,b\r1,2\r3,"x\ry"\r',
        "a,b\r1,2\r\n3,4\n",
        'a,b\n"",""\n"""",""""""\n',
        "a,b\n1,\n\n,2\n3\n",
        'a,b\nx"y,1\n\n2,"z"',
    ],
)
def test_quotes_and_line_ends_are_read_as_csv_reads_them(tmp_path, text):
    assert by_us(tmp_path / "t.csv", text) == by_csv(text)


@pytest.mark.parametrize("line", [";;;", ' ; ;""; '])
@pytest.mark.parametrize("name", ["Stuhl", '12" Tisch'])
def test_lines_of_separators_alone_are_left_out_and_counted(tmp_path, line, name):
    path = tmp_path / "t.csv"
    path.write_text(f"user_id;item_id;rating;name\n1;2;5;{name}\n\n{line}\n2;2;4;b\n{line}\n3;1;;\n")
    table = read_table(path, ["user_id", "item_id"])
    assert table.frame["user_id"].to_list() == ["1", "2", "3"]
    [finding] = table.findings
    assert (
        str(finding)
        == f"2 lines of {path} have separators and no values, for example line 4: they are left out"
    )
    assert table.place(2) == "line 7"
    # A line with a value elsewhere is a row, whose id is missing.
    path.write_text(f"user_id;item_id;rating;name\n{line}\n;;5;{name}\n")
    with pytest.raises(DataError, match="line 3, column 'user_id': the user id is missing"):
        read_table(path, ["user_id", "item_id"]).ids("user_id", "user")


@contextmanager
def small_blocks(size):
    """Read in blocks of this many bytes, so that borders of blocks are everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlmrec.data.delimited._BLOCK", size)
        yield


FIELDS = st.text('ab",\n\r ;', max_size=6)


@given(rows=st.lists(st.lists(FIELDS, min_size=2, max_size=2), min_size=1, max_size=6))
def test_well_written_records_come_back(tmp_path_factory, rows):
    out = io.StringIO(newline="")
    rows.append(["1", "2"])
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["x", "y"], *rows])
    with small_blocks(len(out.getvalue()) % 5 + 1):
        read = by_us(tmp_path_factory.getbasetemp() / "t.csv", out.getvalue())
    assert read == [tuple(row) for row in rows if any(field.strip(" ") for field in row)]


@given(text=st.text('ab",\n\r ', min_size=1, max_size=30))
def test_badly_written_records_are_read_as_csv_does_or_refused(tmp_path_factory, text):
    whole = f"x,y\n{text}\n1,2\n"
    read = said = None
    try:
        with small_blocks(len(text) % 5 + 1):
            read = by_us(tmp_path_factory.getbasetemp() / "t.csv", whole)
    except DataError as error:
        said = str(error)
    assert read == by_csv(whole) if said is None else REFUSED.search(said)


REFUSED = re.compile("is never closed|fields, the first line has 2")


def test_an_unclosed_quote_takes_little_memory_and_one_line(tmp_path, monkeypatch):
    """The bound of the test is 20 MB; the size does not matter to a pass over blocks."""
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n1,"2\n' + b"1,2\n" * 5_000_000)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"^[^\n]*the quote in line 2 is never closed: close it$"):
        read_table(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    monkeypatch.setattr("rlmrec.files.LINE_BYTES", 1 << 20)
    for count in (1000, 500_000):  # beside a quote inside a field, below and above the bound of a field
        path.write_bytes(b'a,b\nTablet 12" 5,x\n1,"2\n' + b"1,2\n" * count)
        with pytest.raises(DataError, match=r"a quote in line 3 is never closed"):
            read_table(path)


# -- numbers and times ---------------------------------------------------------------------------------


def test_a_german_export(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_bytes(GERMAN.encode("cp1252"))
    (tmp_path / "items.csv").write_bytes(
        'artikel;titel;preis\n7;Tablett 12";12,50\n8;Löffel;1.000\n'.encode("cp1252")
    )
    source = read_tables(
        path, user_column="kunde", item_column="artikel", rating_column="größe", timestamp_column="wann", decimal=",",
        items=tmp_path / "items.csv", title_column="titel",
    )  # fmt: skip
    assert source.interactions.rating.tolist() == [3.5, 1234.5]
    assert source.interactions.timestamp.tolist() == [moment(2026, 12, 31, 23, 59), moment(2027, 1, 1, 8)]
    assert source.item_texts.to_dict(as_series=False) == {
        "title": ['Tablett 12"', "Löffel"],
        "preis": ["12.50", "1000"],
    }
    assert source.provenance["format"] == {"decimal": ","}
    assert [found.kind for found in source.findings] == ["encoding", "encoding"]
    with pytest.raises(DataError, match=r"got '3,5' .*; for decimal commas say so \(decimal, --decimal ,\)"):
        read_tables(path, user_column="kunde", item_column="artikel", rating_column="größe")
    path.write_bytes(GERMAN.replace("3,5", "3.5").encode("cp1252"))
    with pytest.raises(DataError, match=r"expected a finite number, got '3\.5'"):
        read_tables(path, user_column="kunde", item_column="artikel", rating_column="größe", decimal=",")


TIMES = [
    (["31.12.2026 23:59", "1.2.2026"], [moment(2026, 12, 31, 23, 59), moment(2026, 2, 1)]),
    (["31.12.26", "01.02.70"], [moment(2026, 12, 31), moment(1970, 2, 1)]),
    (["31.12.2026, 23:59:01 Uhr", "02.01.2026, 00:00"], [moment(2026, 12, 31, 23, 59, 1), moment(2026, 1, 2)]),
    (["12/31/2026", "1/2/2026"], [moment(2026, 12, 31), moment(2026, 1, 2)]),
    (["31/12/2026", "1/2/2026"], [moment(2026, 12, 31), moment(2026, 2, 1)]),
    (["12/31/2026 11:59 PM", "1/2/2026 12:00 am"], [moment(2026, 12, 31, 23, 59), moment(2026, 1, 2)]),
    (["3/3/2026", "4/4/2026"], [moment(2026, 3, 3), moment(2026, 4, 4)]),
    (["20261231", "20260102"], [moment(2026, 12, 31), moment(2026, 1, 2)]),
    (["202612312359", "202601020000"], [moment(2026, 12, 31, 23, 59), moment(2026, 1, 2)]),
    (["20261231T235959", "20260102T000000"], [moment(2026, 12, 31, 23, 59, 59), moment(2026, 1, 2)]),
    (["2026-12-31T23:59:59.5+01:30", "2026/1/2"], [moment(2026, 12, 31, 22, 29, 59) + 0.5, moment(2026, 1, 2)]),
    (["2026-12-31 23:59Z", "2026-01-02"], [moment(2026, 12, 31, 23, 59), moment(2026, 1, 2)]),
    (["100", "10000000"], [100, 1e7]),
]  # fmt: skip


def times(tmp_path, values, form=None):
    rows = "".join(f'u{row},i,"{value}"\n' for row, value in enumerate(values))
    (tmp_path / "t.csv").write_text("user_id,item_id,at\n" + rows)
    return read_tables(
        tmp_path / "t.csv", timestamp_column="at", timestamp_format=form
    ).interactions.timestamp.tolist()


@pytest.mark.parametrize(("values", "expected"), TIMES)
def test_the_usual_forms_of_times(tmp_path, values, expected):
    assert times(tmp_path, values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["3/4/2026", "5/6/2026"],
            r"line 2, .*'3/4/2026' may be day and month .* '%d/%m/%Y' or '%m/%d/%Y'",
        ),
        (["3-4-26 10:00", "5-6-26 11:00"], r"--timestamp-format '%d-%m-%y %H:%M' or '%m-%d-%y %H:%M'"),
        (
            ["31.12.2026", "12/31/2026"],
            r"line 3, .*got '12/31/2026' \(1 such in all\), expected .* like the others \('31.12.2026'\)",
        ),
        (["13/13/2026", "1/2/2026"], "line 2, .*is no date of the calendar"),
        (["31.02.2026", "1.2.2026"], "line 2, .*is no date of the calendar"),
        (["12/31/2026 13:00 pm"], "is no date of the calendar"),
        (["20261231", "20260101", "20261301"], "line 4, .*is not a date, and the column looks like dates"),
        (["20261231", "20260101", "2026101"], "line 4, .*is not a date, and the column looks like dates"),
        (
            ["yesterday", "today"],
            r"line 2, .*got 'yesterday' \(2 such in all\), expected seconds since 1970 or a date",
        ),
        (["100", ""], r"line 3, .*the time is missing \(1 in all\)"),
        (["31.12.2026", ""], r"line 3, .*the time is missing \(1 in all\): fill it in"),
    ],
)
def test_times_that_cannot_be_told_are_refused_with_the_remedy(tmp_path, values, message):
    with pytest.raises(DataError, match=message):
        times(tmp_path, values)


@pytest.mark.parametrize(
    ("form", "values", "expected"),
    [
        ("%d/%m/%Y", ["3/4/2026"], moment(2026, 4, 3)),
        ("%m/%d/%Y", ["3/4/2026"], moment(2026, 3, 4)),
        ("%d.%m.%y %H.%M", ["31.12.26 23.59"], moment(2026, 12, 31, 23, 59)),
        ("%Y%m%d", ["20261231"], moment(2026, 12, 31)),
        ("%Y-%m-%d %H:%M%z", ["2026-12-31 23:59+0100"], moment(2026, 12, 31, 22, 59)),
        ("milliseconds", ["1500"], 1.5),
        ("seconds", ["20261231"], 20261231),
    ],
)
def test_a_named_form_of_times(tmp_path, form, values, expected):
    assert times(tmp_path, values, form) == [expected]


def test_a_named_form_that_does_not_fit(tmp_path):
    with pytest.raises(
        DataError, match=r"line 3, .*got '2026' \(1 such in all\), expected a time written as '%d.%m.%Y'"
    ):
        times(tmp_path, ["1.2.2026", "2026"], "%d.%m.%Y")
    with pytest.raises(DataError, match=r"expected a time written as '%!'"):
        times(tmp_path, ["1.2.2026"], "%!")
    pl.DataFrame({"user_id": [1], "item_id": [1], "at": [20261231]}).write_parquet(tmp_path / "t.parquet")
    for form in (None, "%Y%m%d"):
        read = read_tables(tmp_path / "t.parquet", timestamp_column="at", timestamp_format=form)
        assert read.interactions.timestamp.tolist() == [moment(2026, 12, 31)]
