"""Raw files to a dataset: the paper's recipe against a plain one, the texts, and the way to a proved profile."""

import json
import pickle
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from raw_files import (
    amazon_item,
    amazon_review,
    steam_game,
    steam_review,
    write,
    yelp_business,
    yelp_review,
)

from rlmrec.data.amazon import AMAZON, read_amazon
from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.published import read_published
from rlmrec.data.raw import add_texts
from rlmrec.data.steam import read_steam
from rlmrec.data.yelp import read_yelp
from rlmrec.errors import DataError
from rlmrec.llm.base import LLM, Completion
from rlmrec.llm.replay import Replay
from rlmrec.llm.store import Store
from rlmrec.profiles.audit import audit
from rlmrec.profiles.profiler import Profiler

DAY = 86400


def rows(dataset):
    """{(user, item): (interaction id, review)} of all splits."""
    found = {}
    for split in SPLITS:
        part = dataset.split(split)
        for user, item, number, review in zip(part.users, part.items, part.id, part.review, strict=True):
            found[dataset.users.id(user), dataset.items.id(item)] = (int(number), review)
    return found


def texts(dataset):
    return dict(zip(dataset.items.ids, dataset.item_texts.to_dicts(), strict=True))


def random_reviews(n, seed=0, users=30, items=20):
    """(user, item, stars, time, text), pairs repeated now and then; the text says which line it stands in."""
    draw = random.Random(seed)
    return [
        (
            f"00{draw.randrange(users)}",
            str(draw.randrange(items)),
            float(draw.randint(1, 5)),
            DAY * draw.randrange(1000),
            f"mark-{line}.",
        )
        for line in range(1, n + 1)
    ]


def plain_recipe(reviews, k, rated=True, first=0, last=10**9):
    """The recipe of Section 4.1.1, the slow way: {(user, item): (line, text)}."""
    latest = {}
    for line, (user, item, stars, time, text) in enumerate(reviews, 1):
        if first <= time <= last and time >= latest.get((user, item), (0,))[0]:
            latest[user, item] = (time, line, text, stars)
    latest = {pair: entry[:3] for pair, entry in latest.items() if entry[3] >= 3 or not rated}
    while True:
        degrees = {}
        for pair in latest:
            for end in zip("ui", pair, strict=True):
                degrees[end] = degrees.get(end, 0) + 1
        poor = [pair for pair in latest if min(degrees["u", pair[0]], degrees["i", pair[1]]) < k]
        if not poor:
            return {pair: entry[1:] for pair, entry in latest.items()}
        for pair in poor:
            del latest[pair]


@pytest.fixture(params=["amazon", "amazon python", "yelp", "steam", "steam json"])
def source(request, tmp_path):
    """(rated, read): how to read random reviews written in a source's form."""
    name, _, form = request.param.partition(" ")

    def read(reviews, **options):
        items = sorted({item for _, item, *_ in reviews})
        recipe = {"min_rating": 3}
        if name == "amazon":
            ours = write(tmp_path / "r.json.gz", [amazon_review(u, i, s, t, x) for u, i, s, t, x in reviews],
                         form or "json")  # fmt: skip
            meta = write(tmp_path / "m.json.gz", map(amazon_item, items), form or "python")
            return Dataset.from_source(read_amazon(reviews=ours, meta=meta), **recipe, **options)
        if name == "steam":
            ours = write(tmp_path / "r.json.gz", [steam_review(u, i, t, x) for u, i, _, t, x in reviews],
                         form or "python2")  # fmt: skip
            games = write(tmp_path / "g.json.gz", map(steam_game, items), form or "python2")
            return Dataset.from_source(read_steam(reviews=ours, games=games), **options)
        write(
            tmp_path / "yelp_academic_dataset_review.json",
            [yelp_review(u, i, s, t, x) for u, i, s, t, x in reviews],
        )
        write(tmp_path / "yelp_academic_dataset_business.json", map(yelp_business, items))
        return Dataset.from_source(read_yelp(tmp_path), **recipe, **options)

    return name != "steam", read


@pytest.mark.parametrize("k", [1, 4])
def test_the_recipe_is_the_plain_one(source, k):
    rated, read = source
    reviews = random_reviews(500)
    dataset = read(reviews, k_core=k, seed=3)
    expected = plain_recipe(reviews, k, rated)
    assert rows(dataset) == expected
    total = len(expected)
    assert [len(dataset.split(split)) for split in SPLITS] == [
        round(total * 3 / 5), round((total - round(total * 3 / 5)) / 2), pytest.approx(total / 5, abs=1)
    ]  # fmt: skip
    assert all(isinstance(raw, str) for raw in [*dataset.users.ids, *dataset.items.ids])
    assert dataset.provenance["interactions"]["read"] == 500


def test_a_period_is_kept(source):
    rated, read = source
    reviews = random_reviews(500)
    dataset = read(reviews, k_core=2, period=(200 * DAY, 601 * DAY))
    assert rows(dataset) == plain_recipe(reviews, 2, rated, 200 * DAY, 600 * DAY)
    with pytest.raises(DataError, match=r"no interaction is in the period.* span 1970-01-0\d to 1972-09"):
        read(reviews, k_core=2, period=(10**9, None))


def test_a_sample_of_users(source):
    _, read = source
    dataset = read(random_reviews(500), k_core=1, sample_users=12, seed=1)
    assert dataset.n_users == 12
    assert read(random_reviews(500), k_core=1, sample_users=0.4, seed=1).fingerprint == dataset.fingerprint
    assert read(random_reviews(500), k_core=1, sample_users=1000).n_users == 30


def test_saved_and_loaded_texts_are_the_same(source, tmp_path):
    dataset = source[1](random_reviews(200), k_core=1)
    dataset.save(tmp_path / "dataset")
    again = Dataset.load(tmp_path / "dataset")
    assert rows(again) == rows(dataset)
    assert texts(again) == texts(dataset)
    assert again.provenance == dataset.provenance


PAIRS = [("A1", "0001"), ("A1", "0002"), ("A2", "0001"), ("A2", "0002")]


def amazon(tmp_path, meta, reviews=None, form="json", **options):
    reviews = reviews or [amazon_review(*pair) for pair in PAIRS]
    source = read_amazon(
        reviews=write(tmp_path / "books.json.gz", reviews),
        meta=write(tmp_path / "m.json.gz", meta, form),
        **options,
    )
    return Dataset.from_source(source, min_rating=3)


@pytest.mark.parametrize("form", ["json", "python", "python2"])
def test_amazon_texts(tmp_path, form):
    bare = {"asin": "0002", "related": {}}
    dataset = amazon(tmp_path, [amazon_item("0001"), bare, amazon_item("0003")], form=form)
    assert texts(dataset) == {
        "0001": {
            "title": "Book 0001", "description": "It's about \"0001\" & more.",
            "categories": "Books, Literature & Fiction, Crafts, Hobbies & Home", "brand": "Penguin",
            "price": "12.99",
        },
        "0002": dict.fromkeys(["title", "description", "categories", "brand", "price"]),
    }  # fmt: skip
    assert dataset.provenance["source"] == "amazon"
    assert dataset.provenance["domain"] == "books"
    assert dataset.provenance["texts"] == {
        "items found": 2, "items with a title": 1, "items with a description": 1,
        "repeated records of items": 0, "interactions with a review": 4,
    }  # fmt: skip


def test_amazon_texts_without_html(tmp_path):
    item = amazon_item(
        "0001", title="I <3 x <y",
        description="<p>A <b>bold</b> tale.<br/>Read it &lt;i&gt;now&lt;/i&gt;!</p><!-- ad --><style>p {}</style>",
    )  # fmt: skip
    found = texts(amazon(tmp_path, [item]))["0001"]
    assert found["description"] == "A bold tale. Read it now!"
    assert found["title"] == "I <3 x <y"


def test_amazon_of_2018(tmp_path):
    item = {
        "asin": "0001", "title": "T", "description": ["One.", "", "Two &gt; one."], "category": ["Books", "Art"],
        "brand": "", "price": "$5.00",
    }  # fmt: skip
    found = texts(amazon(tmp_path, [item]))["0001"]
    assert list(found.values()) == ["T", "One. Two > one.", "Books, Art", None, "$5.00"]


def test_a_headline_stands_for_a_missing_review(tmp_path):
    said = {"reviewText": "I &#34;loved&#34; it", "summary": "Not this"}
    reviews = [
        {**amazon_review(*pair), **fields}
        for pair, fields in zip(
            PAIRS, [said, {"reviewText": ""}, {"reviewText": None, "summary": ""}, {}], strict=True
        )
    ]
    del reviews[3]["reviewText"], reviews[3]["summary"]
    dataset = amazon(tmp_path, [amazon_item("0001")], reviews)
    assert [rows(dataset)[pair][1] for pair in PAIRS] == ['I "loved" it', "In short", None, None]


def test_of_repeated_metadata_the_first_counts(tmp_path):
    dataset = amazon(tmp_path, [amazon_item("0001"), amazon_item("0002"), amazon_item("0001", title="Other")])
    assert texts(dataset)["0001"]["title"] == "Book 0001"
    assert dataset.provenance["texts"]["repeated records of items"] == 1


def test_bad_lines_of_both_files_are_reported(tmp_path):
    reviews = ["{", *[amazon_review(*pair) for pair in PAIRS], {**amazon_review("A1", "0003"), "overall": "5"},
               amazon_review("A1", None), {**amazon_review("A1", "0003"), "unixReviewTime": None}]  # fmt: skip
    meta = [amazon_item("0001"), "nonsense"]
    lines = amazon(tmp_path, meta, reviews).provenance["lines"]
    assert lines["reviews"]["bad"] == 4
    assert [line.split(":")[0] for line in lines["reviews"]["first_bad"]] == [
        "line 1",
        "line 6",
        "line 7",
        "line 8",
    ]
    assert lines["reviews"]["first_bad"][1] == "line 6: 'overall': expected a number, got '5'"
    assert (lines["items"]["bad"], lines["items"]["lines"]) == (1, 2)
    with pytest.raises(DataError, match=r"more than 3 of 8 lines are unusable as Amazon reviews"):
        amazon(tmp_path, meta, reviews, max_bad_lines=3)


def test_files_that_were_mixed_up(tmp_path):
    reviews = write(tmp_path / "r.json", [amazon_review(*pair) for pair in PAIRS])
    meta = write(tmp_path / "m.json", [amazon_item("0001")])
    with pytest.raises(
        DataError, match=r"m\.json does not contain Amazon reviews: line 1 lacks 'reviewerID', 'overall'"
    ):
        read_amazon(reviews=meta, meta=meta)
    with pytest.raises(DataError, match=r"r\.json does not contain Amazon items: line 1 is a review"):
        read_amazon(reviews=reviews, meta=reviews)
    with pytest.raises(
        DataError, match=r"m\.json\.gz has none of the 2 items .* for example '0001': do the two files"
    ):
        amazon(tmp_path, [amazon_item("0009")])
    with pytest.raises(DataError, match=r"none\.json does not exist: expected Amazon items"):
        read_amazon(reviews=reviews, meta=tmp_path / "none.json")
    games = write(tmp_path / "g.json", [steam_game("10")], "python2")
    with pytest.raises(
        DataError, match=r"does not contain Steam reviews: line 1 lacks 'username', 'product_id', 'date'"
    ):
        read_steam(reviews=games, games=games)
    ours = write(tmp_path / "s.json", [steam_review("a", "10"), steam_review("b", "20")], "python2")
    with pytest.raises(DataError, match=r"does not contain Steam items: line 1 lacks 'id'"):
        read_steam(reviews=ours, games=ours)
    with pytest.raises(DataError, match=r"has no yelp_academic_dataset_review\.json: give the folder"):
        read_yelp(tmp_path)


def test_a_wrong_file_of_items_is_told_before_the_reviews_are_read(tmp_path):
    reviews = write(tmp_path / "r.json", [amazon_review(*pair) for pair in PAIRS])
    told = []
    with pytest.raises(DataError, match=r"does not contain Amazon items"):
        read_amazon(reviews=reviews, meta=reviews, progress=lambda *seen: told.append(seen))
    assert told == [("Amazon items", reviews.stat().st_size, reviews.stat().st_size)]


def test_steam_texts(tmp_path):
    # The repr of a narrow Python 2 spells an emoji as two halves.
    odd = "{u'username': u'\\ud83d\\ude00 \"it\\'s\"', u'product_id': u'20', u'date': u'2017-12-17', u'text': u''}"
    reviews = [steam_review(user, game) for user in ("7", "8") for game in ("10", "20")] + [odd]
    games = [steam_game("10"), steam_game("20", app_name=None, title=None, release_date="Soon", price="Free to Play"),
             {"app_name": "no id"}]  # fmt: skip
    del games[1]["developer"]
    source = read_steam(
        reviews=write(tmp_path / "r.gz", reviews, "python2"), games=write(tmp_path / "g.gz", games, "python2")
    )
    dataset = Dataset.from_source(source)
    assert '😀 "it\'s"' in dataset.users
    assert dataset.train.rating is None
    assert texts(dataset) == {
        "10": {
            "title": "Game 10", "genres": "Action, Indie", "tags": "Strategy, Action", "developer": "Kotoshiro",
            "publisher": "Kotoshiro", "specs": "Single-player", "year": "2018", "price": "4.99",
        },
        "20": {
            "title": None, "genres": "Action, Indie", "tags": "Strategy, Action", "developer": None,
            "publisher": "Kotoshiro", "specs": "Single-player", "year": None, "price": "Free to Play",
        },
    }  # fmt: skip
    assert dataset.provenance["domain"] == "games"
    assert dataset.provenance["lines"]["items"]["first_bad"][0].startswith("line 3: lacks 'id'")


def test_yelp_texts(tmp_path):
    write(tmp_path / "review.json.gz", [yelp_review(user, item) for user in "ab" for item in "xy"])
    old = yelp_business("y", attributes=None, categories=["Food", "Bars"], city="")
    write(tmp_path / "business.json.gz", [yelp_business("x"), old])
    dataset = Dataset.from_source(read_yelp(tmp_path))
    assert texts(dataset) == {
        "x": {
            "title": "Café x", "city": "Santa Barbara", "state": "CA", "categories": "Coffee & Tea, Bakeries",
            "attributes": "wifi: free; bike parking; restaurants price range2: 2; business parking: street, lot",
        },
        "y": {"title": "Café y", "city": None, "state": "CA", "categories": "Food, Bars", "attributes": None},
    }  # fmt: skip
    assert dataset.provenance["domain"] == "businesses"


# -- the published matrices meet raw texts ---------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """A folder as published, of 3 users and 3 items, its mappers, and what the rows are called."""
    folder = tmp_path / "amazon"
    folder.mkdir()
    for name, pairs in {"trn": [(0, 0), (1, 1), (2, 2)], "val": [(0, 1)], "tst": [(1, 2)]}.items():
        users, items = np.array(pairs).T
        matrix = sp.coo_matrix((np.ones(len(pairs)), (users, items)), shape=(3, 3))
        (folder / f"{name}_mat.pkl").write_bytes(pickle.dumps(matrix))
    write(tmp_path / "user.json", [{"uid": row, "reviewerID": f"A{row}"} for row in (2, 0, 1)])
    write(tmp_path / "item.json", [{"iid": row, "asin": f"000{row}"} for row in (0, 1, 2)])
    return folder


RAW = [
    amazon_review("A0", "0000", 5, 100, "old"),
    amazon_review("A0", "0000", 4, 300, "latest that counts"),
    amazon_review("A0", "0000", 1, 400, "too few stars"),
    amazon_review("A0", "0000", 5, 200, "between"),
    amazon_review("A1", "0001", 3, 100, "one"),
    amazon_review("A0", "0001", 5, 100, "held out"),
    amazon_review("A2", "0000", 5, 100, "no such pair"),
    amazon_review("A9", "0000", 5, 100, "no such user"),
    amazon_review("A1", "0002", 5, 100, ""),
]
RAW[-1]["summary"] = ""


def from_published(*arguments, **mappers):
    return Dataset.from_source(read_published(*arguments, **mappers))


def test_map_adds_texts_and_keeps_the_split(tmp_path, published):
    dataset = from_published(
        published, user_mapper=tmp_path / "user.json", item_mapper=tmp_path / "item.json"
    )
    reviews = write(tmp_path / "r.json.gz", RAW)
    meta = write(tmp_path / "m.json.gz", [amazon_item("0000"), amazon_item("0002")], "python")
    mapped, matched = add_texts(AMAZON, dataset, reviews, meta)
    assert mapped.fingerprint == dataset.fingerprint
    assert rows(mapped) == {
        ("A0", "0000"): (0, "latest that counts"),
        ("A1", "0001"): (1, "one"),
        ("A2", "0002"): (2, None),
        ("A0", "0001"): (3, "held out"),
        ("A1", "0002"): (4, None),
    }
    assert [texts(mapped)[raw]["title"] for raw in ("0000", "0001", "0002")] == [
        "Book 0000",
        None,
        "Book 0002",
    ]
    assert (matched.items_found, matched.items) == (2, 3)
    assert (matched.interactions_found, matched.interactions, matched.reviews) == (4, 5, 3)
    assert mapped.provenance["domain"] == "books"
    with pytest.raises(
        DataError, match=r"has no review of the dataset's 5 interactions: its users have ids like"
    ):
        add_texts(AMAZON, from_published(published), reviews, meta)


def test_map_matches_ids_that_a_mapper_has_as_numbers(tmp_path, published):
    write(tmp_path / "item.json", [{"iid": row, "asin": 10 + row} for row in range(3)])
    dataset = from_published(
        published, user_mapper=tmp_path / "user.json", item_mapper=tmp_path / "item.json"
    )
    reviews = write(tmp_path / "r.json", [amazon_review("A0", "10", text="found")])
    _, matched = add_texts(AMAZON, dataset, reviews, write(tmp_path / "m.json", [amazon_item("11")]))
    assert (matched.items_found, matched.interactions_found) == (1, 1)


# -- the commands ----------------------------------------------------------------------------------------


def test_map_command(tmp_path, published, call):
    reviews, meta = write(tmp_path / "r.json", RAW), write(tmp_path / "m.json", [amazon_item("0000")])
    vectors = np.eye(3, dtype=np.float32)
    for kind in ("usr", "itm"):
        (published / f"{kind}_emb_np.pkl").write_bytes(pickle.dumps(vectors))
    mappers = ("--user-mapper", tmp_path / "user.json", "--item-mapper", tmp_path / "item.json")
    options = ("-w", tmp_path / "w", *mappers, "--reviews", reviews)
    code, out, _ = call("data", "map", published, *options, "--meta", meta)
    assert code == 0
    assert "matched 1 of 3 items and 4 of 5 interactions, 3 of them with the text of a review" in out
    assert "text vectors of the source, 3 dimensions" in out
    assert Dataset.load(tmp_path / "w" / "dataset").item_texts["title"].to_list() == ["Book 0000", None, None]
    code, _, err = call("data", "map", published, *options)
    assert code == 2
    assert "give the raw files of one source" in err


def test_map_command_with_the_other_sources(tmp_path, published, call):
    pairs = [(f"A{row}", f"000{row}") for row in range(3)]
    write(tmp_path / "user.json", [{"uid": row, "username": user} for row, (user, _) in enumerate(pairs)])
    write(tmp_path / "item.json", [{"iid": row, "product_id": item} for row, (_, item) in enumerate(pairs)])
    mappers = ("--user-mapper", tmp_path / "user.json", "--item-mapper", tmp_path / "item.json")
    reviews = write(tmp_path / "r.gz", [steam_review(*pair) for pair in pairs], "python2")
    games = write(tmp_path / "g.gz", [steam_game(item) for _, item in pairs], "python2")
    write(tmp_path / "review.json", [yelp_review(*pair, stars=2 + row) for row, pair in enumerate(pairs)])
    write(tmp_path / "business.json", [yelp_business(item) for _, item in pairs])
    for files, domain, found in [
        (("--reviews", reviews, "--games", games), "games", 3),
        (("--yelp", tmp_path), "businesses", 2),
        (("--yelp", tmp_path, "--min-rating", "4"), "businesses", 1),
        (("--yelp", tmp_path, "--domain", "general"), "general", 2),
    ]:
        code, out, _ = call("data", "map", published, *mappers, *files, "-w", tmp_path / "w", "--json")
        assert code == 0
        told = json.loads(out)["matched"]
        assert (told["items_found"], told["interactions_found"]) == (3, found)
        assert Dataset.load(tmp_path / "w" / "dataset").provenance["domain"] == domain


def test_what_the_commands_say(tmp_path, call):
    reviews = write(
        tmp_path / "r.gz", [steam_review(u, g) for u in "abc" for g in "xyz"] + ["[red]{"], "python2"
    )
    games = write(tmp_path / "g.gz", [steam_game("x")], "python2")
    options = ("--reviews", reviews, "--games", games, "--k-core", 3, "-w", tmp_path / "w")
    code, out, _ = call("data", "steam", *options)
    assert code == 0
    assert "no ratings: every review counts" in out
    assert (
        "1 of 10 lines of reviews skipped: line 10: expected a dictionary of Python literals, got '[red]{'"
        in out
    )
    assert re.search(r"items found +│ +1 ", out)
    code, out, err = call("data", "steam", *options, "--json")
    told = json.loads(out)
    assert (told["users"], told["lines"]["reviews"]["bad"], told["texts"]["items found"]) == (3, 1, 1)
    for wrong, message in [
        (("--from", "yesterday"), "--from 'yesterday': expected a day"),
        (("--from", "2018-01-02", "--until", "2018-01-01"), "--from 2018-01-02 is not before --until"),
        (("--domain", "toys"), "--domain 'toys': expected one of"),
    ]:
        code, _, err = call("data", "steam", *options, *wrong)
        assert code == 2
        assert message in err
    code, _, err = call("data", "steam", *options, "--until", "2017-12-16")
    assert code == 1
    assert "the timestamps span 2017-12-17 to 2017-12-17" in err
    assert call("data", "steam", *options, "--from", "2017-12-17", "--until", "2017-12-17")[0] == 0


class Model(LLM):
    """Writes a profile of everything and remembers what it was asked."""

    name = "model"
    options: dict = {}  # noqa: RUF012
    concurrency = 4

    def __init__(self):
        self.prompts = []

    async def complete(self, system, prompt, schema=None):
        self.prompts.append(prompt)
        return Completion(
            json.dumps({"summarization": f"For readers of {len(prompt)} letters.", "reasoning": "So."})
        )


def test_from_raw_files_to_proved_profiles(tmp_path, call):
    described = {"0": {}, "1": {"title": "{{ Emma }}"}}
    meta = [amazon_item(str(item), **described.get(str(item), {"description": ""})) for item in range(20)]
    reviews = random_reviews(500)
    options = (
        "--reviews", write(tmp_path / "reviews_Books.gz", [amazon_review(*review) for review in reviews]),
        "--meta", write(tmp_path / "m.gz", meta, "python"), "--k-core", 5, "-w", tmp_path / "w",
    )  # fmt: skip
    assert call("data", "amazon", *options)[0] == 0
    dataset = Dataset.load(tmp_path / "w" / "dataset")
    assert rows(dataset) == plain_recipe(reviews, 5)

    code, out, _ = call("profile", "-w", tmp_path / "w", "--items", "--model", "fake", "--dry-run")
    assert code == 0
    assert "which types of readers would enjoy" in out  # the domain is known from the file's name
    tea = Path(shutil.copy(tmp_path / "reviews_Books.gz", tmp_path / "reviews_Tea.gz"))
    other = ("-w", tmp_path / "tea", "--reviews", tea, *options[2:-2])
    assert "domain of the prompts" in call("data", "amazon", *other)[1]
    assert Dataset.load(tmp_path / "tea" / "dataset").provenance["domain"] == "general"
    assert "Book " in out
    model = Model()
    with Store(tmp_path / "w" / "profiles.sqlite") as store:
        profiler = Profiler(model, store, domain=dataset.provenance["domain"])
        assert profiler.run(dataset, "item").profiled == dataset.n_items
        asked_of_items = list(model.prompts)
        assert profiler.run(dataset, "user").profiled == dataset.n_users
        found = audit(store, dataset)
        assert found.passed
        assert found.interactions > 0
        # The marks in the prompts are lines of the file, and those lines are training interactions.
        training = {f"mark-{number}" for number in dataset.train.id}
        marks = {mark for prompt in model.prompts for mark in re.findall(r"mark-\d+", prompt)}
        assert marks
        assert marks <= training
    with_description = [prompt for prompt in asked_of_items if "It's about" in prompt]
    assert len(with_description) == 2
    assert not any("mark-" in prompt for prompt in with_description)
    assert any('"title": "\\u007b\\u007b Emma \\u007d\\u007d"' in prompt for prompt in asked_of_items)
    assert all("mark-" in prompt for prompt in asked_of_items if prompt not in with_description)

    # Asked again of the stored answers alone, in a workspace made anew from the same files.
    assert call("data", "amazon", *options[:-1], tmp_path / "again")[0] == 0
    again = (
        "profile",
        "-w",
        tmp_path / "again",
        "--items",
        "--users",
        "--replay",
        tmp_path / "w" / "profiles.sqlite",
    )
    assert Replay(tmp_path / "w" / "profiles.sqlite").name == "model"
    assert call(*again)[0] == 0
    code, out, _ = call("audit", "-w", tmp_path / "again")
    assert code == 0
    assert "passed: the prompts of" in out
