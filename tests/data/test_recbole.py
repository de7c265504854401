import pytest

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import metadata_texts, own_texts, text_columns
from rlmrec.data.recbole import read_recbole
from rlmrec.errors import ConfigError, DataError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
INTER = HEADER + "2\tx\t4.5\t100\n10\ty\t1\t200\n2\ty\t3\t300\n"
ITEM = 'item_id:token\ttitle:token_seq\tprice:float\nx\tA "quoted\t9.5\nunseen\tNo\t1\ny\tTwo  Words\t\n'
USER = "user_id:token\tage:token\n10\t50\n2\t20\n"


def folder(tmp_path, **files):
    for ending, content in {"inter": INTER, "item": ITEM, "user": USER, **files}.items():
        if content is not None:
            (tmp_path / f"made.{ending}").write_text(content)
    return tmp_path


def test_a_folder_gives_interactions_and_texts(tmp_path):
    source = read_recbole(folder(tmp_path))
    assert (source.users.ids, source.items.ids) == ([2, 10], ["x", "y"])
    assert source.interactions.users.tolist() == [0, 1, 0]
    assert source.interactions.items.tolist() == [0, 1, 1]
    assert source.interactions.rating.tolist() == [4.5, 1, 3]
    assert source.interactions.timestamp.tolist() == [100, 200, 300]
    assert source.item_texts.to_dicts() == [
        {"title": 'A "quoted', "price": "9.5"},
        {"title": "Two  Words", "price": None},
    ]
    assert source.user_texts.to_dicts() == [{"age": "20"}, {"age": "50"}]
    dataset = Dataset.from_source(source)
    assert dataset.n_items == 2
    assert text_columns(dataset) == ["title"], "a column of floats is no text"
    assert text_columns(dataset, "user") == ["age"]


def test_items_without_texts_are_told_what_helps(tmp_path):
    item = "item_id:token\tprice:float\nx\t9.5\n"
    dataset = Dataset.from_source(read_recbole(folder(tmp_path, item=item)))
    with pytest.raises(ConfigError, match=r"no column of texts, only price: pass items=…, or --items FILE$"):
        own_texts(dataset)


def test_item_user_and_optional_fields_may_be_absent(tmp_path):
    inter = "item_id:token\tuser_id:token\na\t1\nb\t2\n"
    source = read_recbole(folder(tmp_path, inter=inter, item=None, user=None))
    assert source.interactions.columns().keys() == {"users", "items", "id"}
    assert source.item_texts is None
    assert source.user_texts is None


def test_fields_may_have_other_names(tmp_path):
    inter = "u:token\ti:token\tstars:float\n1\ta\t2\n"
    source = read_recbole(
        folder(tmp_path, inter=inter, item=None, user=None),
        user_field="u",
        item_field="i",
        rating_field="stars",
    )
    assert source.interactions.rating.tolist() == [2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"inter": None}, "expected exactly one .inter file, or .*, found none"),
        ({"inter": ""}, r"made\.inter is empty"),
        ({"inter": HEADER}, r"made\.inter has a header but no rows"),
        (
            {"inter": "user_id\titem_id\n1\t2\n"},
            r"made\.inter, line 1: expected fields such as 'user_id:token'",
        ),
        ({"inter": "user_id:int\titem_id:token\n1\t2\n"}, "got 'user_id:int'"),
        (
            {"inter": "uid:token\titem_id:token\n1\t2\n"},
            "has no column 'user_id': its columns are 'uid', 'item_id'",
        ),
        (
            {"inter": INTER.replace("4.5", "good")},
            r"line 2, column 'rating': expected a finite number, got 'good'",
        ),
        ({"inter": INTER.replace("10\ty", "\ty")}, r"line 3, column 'user_id': the user id is missing"),
        (
            {"item": ITEM + "x\tagain\t1\n"},
            r"made\.item, line 5, column 'item_id': item 'x' is in line 2",
        ),
        ({"user": "uid:token\tage:token\n1\t2\n"}, r"made\.user has no column 'user_id'"),
    ],
)
def test_bad_files_are_refused(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        read_recbole(folder(tmp_path, **files))


def test_two_interaction_files_are_refused(tmp_path):
    (tmp_path / "other.inter").write_text(INTER)
    with pytest.raises(DataError, match=r"found made\.inter, other\.inter"):
        read_recbole(folder(tmp_path))


def ready(tmp_path, **parts):
    """A folder as RecBole's benchmark_filename has it, with texts."""
    folder(tmp_path, inter=None)
    lines = {
        "train": "2\tx\t4.5\t100\n10\ty\t1\t200\n",
        "valid": "2\ty\t3\t300\n",
        "test": "10\tx\t5\t400\n",
        **parts,
    }
    for part, content in lines.items():
        if content is not None:
            (tmp_path / f"made.{part}.inter").write_text(HEADER + content)
    return tmp_path


def test_a_ready_split_is_kept(tmp_path):
    dataset = Dataset.from_source(read_recbole(ready(tmp_path)))
    assert dataset.name == "made"
    assert (dataset.users.ids, dataset.items.ids) == ([2, 10], ["x", "y"])
    parts = [dataset.split(split) for split in ("train", "valid", "test")]
    assert [list(zip(part.users.tolist(), part.items.tolist(), strict=True)) for part in parts] == [
        [(0, 0), (1, 1)], [(0, 1)], [(1, 0)]
    ]  # fmt: skip
    assert [part.id.tolist() for part in parts] == [[0, 1], [2], [3]]
    assert dataset.train.timestamp.tolist() == [100, 200]
    assert dataset.item_texts["title"].to_list() == ['A "quoted', "Two  Words"]
    assert dataset.user_texts["age"].to_list() == ["20", "50"]


def test_a_part_of_a_ready_split_is_none(tmp_path):
    with pytest.raises(
        DataError, match=r"exactly one \.inter file, or .*, found made\.train\.inter, made\.valid\.inter"
    ):
        read_recbole(ready(tmp_path, test=None))


def test_what_sums_up_held_out_behaviour_is_no_text(tmp_path):
    item = (
        "item_id:token\titem_name:token_seq\titem_stars:float\titem_review_count:float\tcity:token\tsales_rank:float\t"
        "countries:token\nx\tCafé\t4.5\t7\tBonn\t3\tDE\ny\tBar\t1\t2\tKöln\t9\tDE\n"
    )
    user = "user_id:token\tage:token\taverage_stars:float\n2\t20\t3\n10\t50\t4\n"
    source = read_recbole(folder(tmp_path, item=item, user=user))
    assert source.item_texts.columns == ["item_name", "city", "countries"]
    assert source.user_texts.columns == ["age"]
    assert tuple(source.provenance["columns_left_out"]) == (
        "item_stars",
        "item_review_count",
        "sales_rank",
        "average_stars",
    )
    only = "user_id:token\treview_count:float\n2\t20\n10\t5\n"
    assert read_recbole(folder(tmp_path, item=item, user=only)).user_texts is None
    assert metadata_texts(source.item_texts)[0] == "Café. City: Bonn. Countries: DE."
