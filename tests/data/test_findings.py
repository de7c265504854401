"""Mistakes that change the data without an error: each is found, counted, and shown with an example."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from rlmrec.data.append import append
from rlmrec.data.checks import spelling
from rlmrec.data.dataset import Dataset
from rlmrec.data.file_format import FileFormat
from rlmrec.data.frames import read_frame
from rlmrec.data.table import Table
from rlmrec.data.tables import Columns, check_thousands, read_tables
from rlmrec.errors import ConfigError, DataError

HEAD = "user_id,item_id\n"
GOOD = "".join(f"u{u},{i}\n" for u in range(6) for i in range(10, 16))


def dataset(tmp_path, rows=GOOD, header="user_id,item_id", items=None, build=None, **options):
    (tmp_path / "r.csv").write_text(f"{header}\n{rows}")
    if items is not None:
        (tmp_path / "i.csv").write_text(items)
        options["items"] = tmp_path / "i.csv"
    return Dataset.from_source(read_tables(tmp_path / "r.csv", **options), **(build or {}))


def found(made):
    return {finding.kind: str(finding) for finding in made.findings if not finding.ordinary}


def test_good_data_has_no_findings(tmp_path):
    assert dataset(tmp_path).findings == ()


@pytest.mark.parametrize(
    ("ids", "one"),
    [
        (["7", "7.0", "007", "7.00", " 7", "\ufeff7", "７"], "7"),
        (["Ab c", "abc", "AB\u00a0C"], "abc"),
        (["é", "e\u0301", "É"], "é"),
        (["0", "00", "0.0"], "0"),
        (["1.5"], "1.5"),
        (["b007"], "b007"),
    ],
)
def test_spellings(ids, one):
    assert spelling(pl.Series(ids)).unique().to_list() == [one]


@pytest.mark.parametrize("lost", ["7.0", " 7", "007", "７"])
def test_a_held_out_id_in_another_spelling_is_found(tmp_path, lost):
    train, held_out = f"{HEAD}a,7\nb,8\nc,8\nc,9\n", f"{HEAD}a,8\nb,{lost}\n"
    for name, text in (("t", train), ("v", f"{HEAD}b,9\n"), ("h", held_out)):
        (tmp_path / f"{name}.csv").write_text(text)
    source = read_tables(train=tmp_path / "t.csv", valid=tmp_path / "v.csv", test=tmp_path / "h.csv")
    text = found(Dataset.from_source(source))["held-out spelling"]
    assert text.startswith("1 held-out item id never occurs in training and looks like one that does")
    assert f"for example {lost!r} for '7'" in text


def test_ids_in_two_spellings_are_found(tmp_path):
    text = found(dataset(tmp_path, GOOD + "u1,Ab\nu2,ab\nu3,x \nu4,x\n"))["spelling"]
    assert text.startswith("2 item ids occur in two forms, for example 'Ab' and 'ab'")


@pytest.mark.parametrize("word", ["nan", "NULL", "None", "<NA>"])
def test_ids_that_say_that_a_value_is_missing_are_found(tmp_path, word):
    text = found(dataset(tmp_path, GOOD + f"{word},10\n{word},11\n"))["missing id"]
    assert text.startswith(
        f"2 interactions have a user id that stands for a missing value, for example 2 times {word!r}"
    )


@pytest.mark.parametrize(
    ("ids", "example"),
    [
        (["1.23457E+18", "a", "b"], "1.23457E+18"),
        (["1,23457E+18", "a", "b"], "1,23457E+18"),
        ([1234567890123456789 + 1000 * n for n in range(8)], 1234567890123456768),  # by way of floats
        ([1234567890123450 + 100 * n for n in range(8)], 1234567890123450),  # 15 digits
    ],
)
@pytest.mark.parametrize("typed", [False, True])
def test_ids_that_were_rounded_are_found(tmp_path, ids, example, typed):
    ids = [one if isinstance(one, str) else int(float(one)) for one in ids]
    rows = pd.DataFrame(
        [(user, item) for user in ids for item in range(10, 16)], columns=["user_id", "item_id"]
    )
    if typed:
        rows.to_parquet(tmp_path / "r.parquet")
        made = Dataset.from_source(read_tables(tmp_path / "r.parquet"))
    else:
        rows["user_id"] = [f'"{user}"' for user in rows["user_id"]]
        made = dataset(tmp_path, "".join(f"{user},{item}\n" for user, item in rows.to_numpy()))
    count = sum(isinstance(one, int) for one in ids) or 1
    text = found(made)["rounded id"]
    assert text.startswith(f"{count} user id{'s are' if count > 1 else ' is a'} number")
    assert f"for example '{example}'" in text


def test_long_ids_that_were_not_rounded_are_not_reported(tmp_path):
    for ids in (
        [
            1_700_000_000_123_000_000 + 7_000_000 * n for n in range(12)
        ],  # nanoseconds of a clock of milliseconds
        [1234567890123456789 + n for n in range(12)],
        [2**70 + n for n in range(12)],
        ["1E5", "2e-3"],
    ):
        assert "rounded id" not in found(dataset(tmp_path, "".join(f"{i},{j}\n" for i in ids for j in "ab")))


def test_rounded_ids_of_a_table_of_items_are_named(tmp_path):
    exact = [1923020000000000000 + 12345678987 * n for n in range(40)]
    rows = "".join(f"u{user},{item}\n" for user in range(6) for item in exact)
    advice = "that a spreadsheet or a column of floats has rounded"

    def table(ids):
        return "item_id,title\n" + "".join(f'"{one}",t\n' for one in ids)

    def power(number):
        return f"{number:.5E}".replace(".", ",")

    with pytest.raises(
        DataError, match=r"'1,92302E\+18' is in line 2 already .*export the ids again as text"
    ) as error:
        dataset(tmp_path, rows, items=table(map(power, exact)))
    assert advice in str(error.value)
    assert "keep one row" not in str(error.value)
    floats = [int(float(one)) for one in exact]
    away = [one for one in floats if one not in exact]
    with pytest.raises(DataError, match=r"is a known item: .*ids are numbers that a spreadsheet"):
        dataset(tmp_path, rows, items=table(away))
    half = exact[:20] + [one for one in floats[20:] if one not in exact]
    [text] = [text for text in found(dataset(tmp_path, rows, items=table(half))).values() if advice in text]
    assert text.startswith(f"{len(half) - 20} item ids of the table of texts are numbers")
    frame = pl.DataFrame({"user_id": ["a", "b"], "item_id": [1893276741913644500.0, 1.0]})
    with pytest.raises(
        DataError, match=r"must be integers or text: .* again with the ids as text or integers"
    ):
        Dataset.from_frame(frame)
    (tmp_path / "r.jsonl").write_text('{"user_id": "a", "item_id": 1.92302E+18}\n')
    with pytest.raises(DataError, match="integers or text: a float keeps 15 to 17 digits"):
        read_tables(tmp_path / "r.jsonl")
    with pytest.raises(DataError, match="must be integers or text: convert the column"):
        Dataset.from_frame(frame.with_columns(item_id=pl.lit(1.5)))


def items(texts):
    return "item_id,title\n" + "".join(f"{i},{text}\n" for i, text in zip(range(10, 16), texts, strict=True))


def test_texts_that_say_that_a_value_is_missing_are_found(tmp_path):
    text = found(dataset(tmp_path, items=items(["a", "nan", "b", "NULL", "c", "d"])))["missing text"]
    assert text.startswith(
        "2 texts of items stand for a missing value, for example 'nan' as title of item 11"
    )


def test_a_dash_is_no_text(tmp_path):
    text = found(dataset(tmp_path, items=items(["-", "\u2013", "b-c", "--", "c", "d"])))["missing text"]
    assert text.startswith("3 texts of items stand for a missing value, for example '-' as title of item 10")


def test_items_without_a_title_are_told(tmp_path):
    table = "item_id,title,brand\n10,,x\n11,A,x\n12,,\n" + "".join(f"{i},T,x\n" for i in range(13, 16))
    [told] = [str(finding) for finding in dataset(tmp_path, items=table).findings if finding.ordinary]
    assert told == "1 of 6 items has no title, for example 10: lists call them by their id"


def test_few_items_with_a_text_are_found(tmp_path):
    text = found(dataset(tmp_path, items=items(["a", "", "b", "", "c", "d"])))["without text"]
    assert text.startswith("2 of 6 items have no text, for example 11")
    assert not found(dataset(tmp_path, items=items("abcdef")))


def test_zeros_lost_in_the_table_of_items_are_found(tmp_path):
    rows = GOOD.replace(",1", ",01").replace("u0,010", "u0,x")
    text = found(dataset(tmp_path, rows, items=items("abcdef") + "x,e\n"))["text spelling"]
    assert text.startswith("6 item ids have another form in the table of texts, so these items get no text")
    assert "for example '010' for '10'" in text


@pytest.mark.parametrize(
    ("name", "first", "kept"), [("Unnamed: 0", 0, False), ("index", 0, False), ("index", 5, True)]
)
def test_the_index_of_a_data_frame_is_found_and_left_out(tmp_path, name, first, kept):
    table = f"{name},item_id,title\n" + "".join(f"{first + n},{10 + n},t{n}\n" for n in range(6))
    made = dataset(tmp_path, items=table)
    assert (name in made.item_texts.columns) is kept
    assert ("index column" in found(made)) is not kept


def test_interactions_without_a_rating_are_counted_where_ratings_decide(tmp_path):
    rows = "".join(f"{line},{'' if n in (2, 3) else 4}\n" for n, line in enumerate(GOOD.split()))
    options = {"header": "user_id,item_id,stars", "rating_column": "stars"}
    assert "no rating" not in found(dataset(tmp_path, rows, **options))
    text = found(dataset(tmp_path, rows, **options, build={"min_rating": 1}))["no rating"]
    assert text.startswith("2 interactions have no rating and are left out, for example user 'u0' with item")


def test_ratings_of_zero_are_found_unless_low_ratings_are_left_out(tmp_path):
    rows = "".join(f"{line},{0 if n == 3 else 4}\n" for n, line in enumerate(GOOD.split()))
    options = {"header": "user_id,item_id,stars", "rating_column": "stars"}
    text = found(dataset(tmp_path, rows, **options))["low rating"]
    assert text.startswith(
        "1 interaction is rated 0 or lower and counts like all others, for example 0 of user 'u0' with"
    )
    assert not found(dataset(tmp_path, rows, **options, build={"min_rating": 1}))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("20170714", 1_499_990_400), ("20170714220911", 1_500_070_151), ("1499990400", 1_499_990_400)],
)
def test_compact_dates_are_dates(tmp_path, written, seconds):
    rows = "".join(f"{line},{written}\n" for line in GOOD.split())
    made = dataset(tmp_path, rows, "user_id,item_id,day", timestamp_column="day")
    assert set(made.train.timestamp.tolist()) == {seconds}
    assert not found(made)
    frame = pl.DataFrame({"u": [1, 1, 2, 2], "i": [1, 2, 1, 3], "day": [int(written)] * 4})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty splits
        made = Dataset.from_frame(frame, user="u", item="i", timestamp="day", split=(2, 1, 1))
    assert set(made.everything().timestamp.tolist()) == {seconds}


def test_a_compact_date_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match=r"line 3, column 'day': '20171399' .1 such in all. is not a date"):
        dataset(tmp_path, "a,1,20170714\nb,2,20171399\n", "user_id,item_id,day", timestamp_column="day")


def test_milliseconds_are_found(tmp_path):
    rows = "".join(f"{line},1499990400000\n" for line in GOOD.split())
    made = dataset(tmp_path, rows, "user_id,item_id,day", timestamp_column="day")
    assert found(made)["time"].startswith(
        "36 times lie after the year 2100, for example 1499990400000 of user 'u0'"
    )
    assert "(timestamp_format, --timestamp-format milliseconds)" in found(made)["time"]


@pytest.mark.parametrize("unit", ["microseconds", "nanoseconds", "milliseconds"])
def test_a_wrong_unit_of_times_is_found(tmp_path, unit):
    rows = "".join(f"{line},1499990400000\n" for line in GOOD.split())
    made = dataset(tmp_path, rows, "user_id,item_id,day", timestamp_column="day", timestamp_format=unit)
    if unit == "milliseconds":
        assert not found(made)
    else:
        text = found(made)["time"]
        assert text.startswith("36 times of ")
        assert f"all lie before the year 1990 as {unit}, for example 1499990400000" in text
        assert text.endswith("name their unit (timestamp_format, --timestamp-format milliseconds)")


@pytest.mark.parametrize(
    ("form", "meant"), [("ms", "milliseconds"), ("millisecond", "milliseconds"), ("day", None)]
)
def test_a_form_of_times_that_is_none_is_refused(form, meant):
    with pytest.raises(ConfigError, match="or one of seconds, milliseconds") as error:
        FileFormat(timestamp_format=form)
    assert str(error.value).endswith("did you mean 'milliseconds'?") == (meant is not None)


# -- the latest opinion counts --------------------------------------------------------------------------

OPINIONS = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 1, 2, 2, 2, 1],
        "item_id": [1, 1, 2, 3, 1, 2, 3, 3],
        "stars": [5.0, 1.0, 4.0, 5.0, 5.0, 4.0, 3.0, None],
        "time": [1, 2, 1, 1, 1, 1, 1, 9],
    }
)


def pairs(part, made):
    return sorted(
        zip((made.users.id(u) for u in part.users), (made.items.id(i) for i in part.items), strict=True)
    )


@pytest.mark.filterwarnings("ignore")
def test_a_later_dislike_takes_back_an_earlier_rating():
    made = Dataset.from_frame(OPINIONS, rating="stars", timestamp="time", min_rating=3, split=(1, 0, 0))
    assert pairs(made.everything(), made) == [(1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    before = Dataset.from_frame(
        OPINIONS, rating="stars", timestamp="time", min_rating=3, period=(0, 2), split=(1, 0, 0)
    )
    assert (1, 1) in pairs(before.everything(), before)  # what is outside the period is not known


@pytest.mark.filterwarnings("ignore")
def test_a_later_dislike_counts_in_what_is_appended():
    made = Dataset.from_frame(
        OPINIONS[2:], rating="stars", timestamp="time", min_rating=3, split="hash 3:1:1"
    )
    columns = Columns(rating="stars", timestamp="time")
    later = append(made, read_frame(OPINIONS[:2], "df", columns.present, columns[:2]), columns)
    assert later.dataset.fingerprint == made.fingerprint
    assert later.counts["rated below 3 and left out"] == 1
    assert later.dataset.low_rated.keys().tolist() == [0], "which is not recommended from now on"


# -- the command ----------------------------------------------------------------------------------------


def test_strict_refuses_what_is_found_and_writes_nothing(tmp_path, call):
    (tmp_path / "r.csv").write_text(f"{HEAD}{GOOD}nan,10\nnan,11\n")
    status, _, errors = call("data", "table", tmp_path / "r.csv", "--strict", "-w", tmp_path / "w")
    assert status == 1
    assert "--strict: 1 finding in the data (missing id): nothing is written" in errors
    assert not (tmp_path / "w").exists()
    status, output, errors = call("data", "table", tmp_path / "r.csv", "-w", tmp_path / "w", "--json")
    [finding] = json.loads(output)["findings"]
    assert (finding["kind"], finding["count"], finding["ordinary"]) == ("missing id", 2, False)
    assert "found: 2 interactions have a user id" in errors


def test_strict_takes_good_data(tmp_path, call):
    (tmp_path / "r.csv").write_text(f"{HEAD}{GOOD}u0,10\n")  # a repeated pair is ordinary
    status, output, _ = call("data", "table", tmp_path / "r.csv", "--strict", "-w", tmp_path / "w")
    assert status == 0
    assert "note: 1 pair of user and item occurs more than once" in output


@pytest.mark.parametrize(
    ("late", "told"),
    [
        (
            [("z", 1)],
            "1 user has no training interaction, for example 'z': the user is kept and not evaluated",
        ),
        ([("z", 1), ("y", 1)], "2 users have no training interaction, for example 'y': they are kept"),
        (
            [("a", 9)],
            "1 item has no training interaction, for example 9: interactions alone cannot find it (",
        ),
    ],
)
def test_what_has_no_training_interaction_is_told_by_number(late, told):
    rows = [(user, item, 0) for user in "abc" for item in range(1, 5)]
    rows += [(user, item, 9 * 86400) for user, item in late]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "at"], orient="row")
    with pytest.warns(UserWarning, match=re.escape(told)):
        Dataset.from_frame(frame, timestamp="at", split="temporal 1970-01-05 1970-01-06")


def test_python_users_are_warned():
    frame = pd.DataFrame({"user_id": ["a", "b"] * 6, "item_id": np.repeat(list("uvwxyz"), 2)})
    with pytest.warns(UserWarning, match="3 interactions have a user id that stands for a missing value"):
        Dataset.from_frame(pd.concat([frame, pd.DataFrame({"user_id": ["nan"] * 3, "item_id": list("uvw")})]))


def test_garbled_ids_and_texts_are_found(tmp_path):
    good = ["SÃO PAULO", "AMANHÃ – ÇA", "ÂGE", "Käse", "5 €", "√2", "6 ÷ 2", "▀ █ x"]
    items = "item_id,title\n" + "".join(f"{10 + row},{title}\n" for row, title in enumerate(good))
    assert dataset(tmp_path, items=items).findings == ()
    ways = [("utf-8", "cp1252"), ("utf-8", "mac-roman"), ("cp1252", "latin-1"), ("cp1252", "cp850")]
    for row, way in enumerate(ways):
        title = "Käse – größer".encode(way[0]).decode(way[1])
        rows = f"M{title},10\nM{title},11\n"
        made = dataset(tmp_path, GOOD + rows, items=items.replace(good[row], title))
        garbled = [str(one) for one in made.findings if one.kind == "garbled"]
        assert garbled[0].startswith(
            f"1 user id has signs of a wrong encoding, for example {'M' + title!r}: name"
        )
        assert f"1 text of items has signs of a wrong encoding, for example {title!r} as title" in garbled[1]
        assert not any(one.ordinary for one in made.findings if one.kind == "garbled")


def test_decimal_commas_of_prices_are_told_and_read(tmp_path):
    prices = [f"{row},50" for row in range(6)]
    items = pl.DataFrame({"item_id": range(10, 16), "title": ["a film"] * 6, "price": prices})
    told = [
        one for one in dataset(tmp_path, items=items.write_csv()).findings if one.kind == "amounts as text"
    ]
    assert "for decimal commas say so (decimal, --decimal ,); else write" in str(told[0])
    frame = pl.read_csv(tmp_path / "r.csv")
    made = Dataset.from_frame(frame, items=items.with_columns(weight=pl.lit(1.125)), decimal=",")
    assert made.item_texts["price"].to_list() == [price.replace(",", ".") for price in prices]
    assert set(made.item_texts["weight"]) == {"1.125"}  # a number has no decimal comma


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (["1.000", "2", "12.345", "3"], 2), (["1.000", "2.000", "1.500", "3.250"], 0),
        (["0.125", "2", "3", "1.000"], 0), (["1.5", "2", "1.000", "3"], 0), (["1", "2", "3", "4"], 0),
    ],
)  # fmt: skip
def test_points_that_seem_to_separate_thousands_are_told(tmp_path, values, count):
    rows = "".join(f"u{row % 2},{10 + row},{value}\n" for row, value in enumerate(values))
    items = "item_id,title,price\n" + "".join(
        f"{10 + row},a film,{value}\n" for row, value in enumerate(values)
    )
    header = "user_id,item_id,n"
    made = dataset(tmp_path, rows, header, items, {"split": (2, 1, 1)}, weight_column="n")
    told = [one for one in made.findings if one.kind == "thousands"]
    blanks = Table("t", pl.DataFrame({"n": ["1.000", " ", None]}), typed=False)
    assert check_thousands(blanks, ["n"]) == []
    assert [one.count for one in told] == [count, count] * bool(count)
    if count:
        made = dataset(tmp_path, rows, header, items, {"split": (2, 1, 1)}, weight_column="n", decimal=",")
        assert made.item_texts["price"].to_list() == [value.replace(".", "") for value in values]


@pytest.mark.parametrize(
    ("name", "values", "count", "example"),
    [
        ("price", ["12,50 €", "9.90", "8", "7", "6", "5"], 1, "'12,50 €'"),
        ("tariff", ["EUR 12", "EUR 9", "EUR 8", "EUR 7", "free", ""], 5, "'EUR 12'"),
        ("Stock", ["5", "sold out", "3", "2", "1", "0"], 1, "'sold out'"),
        ("stock", ["5", "4", "3", "2", "1", ""], 0, ""),
        ("availability", ["soon", "now", "now", "now", "5", "now"], 0, ""),
        ("edition", ["1984", "second", "3", "4", "5", "6"], 0, ""),
    ],
)
def test_amounts_that_are_no_numbers_are_told(tmp_path, name, values, count, example):
    rows = zip(range(10, 16), values, strict=True)
    items = f"item_id,title,{name}\n" + "".join(f'{item},a film,"{value}"\n' for item, value in rows)
    told = [one for one in dataset(tmp_path, items=items).findings if one.kind == "amounts as text"]
    assert [(one.count, one.example) for one in told] == [(count, example)] * bool(count)
    if told:
        present = sum(bool(value) for value in values)
        assert f"of {present} values of the column {name!r} of " in str(told[0])
        assert told[0].ordinary, "--strict lets it pass"
