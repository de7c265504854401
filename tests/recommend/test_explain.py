import asyncio
import dataclasses
import json

import numpy as np
import polars as pl
import pytest
import torch

from rlmrec.backbones import BACKBONES
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, UnknownIdError
from rlmrec.llm.base import LLM, Completion
from rlmrec.llm.store import Profile, Store
from rlmrec.recommend.explain import Explainer, plain_reasons, shared_terms, words_in_common
from rlmrec.recommend.lists import Lists
from rlmrec.recommend.recommender import Recommender
from rlmrec.testing import blocks
from rlmrec.training.trainer import embeddings, item_messages

LINEAR = ["lightgcn", "gccf", "sgl", "simgcl"]


def made(name, dataset):
    torch.manual_seed(0)
    backbone = BACKBONES[name](dataset.n_users, dataset.n_items)
    users, items = embeddings(backbone, dataset)
    handed = item_messages(backbone, dataset)
    return backbone, Recommender.of(dataset, users, items, None, handed, backbone.self_loops)


@pytest.mark.parametrize("name", LINEAR)
def test_contributions_add_up_and_own_is_the_users_own(name, toy):
    """Without the user's edges only `own` is left: the same x, encoded with those edges' messages at zero."""
    dataset, _ = toy
    backbone, recommender = made(name, dataset)
    x = backbone.initial().detach()
    for user, item in ((0, 3), (17, 40), (59, 0)):
        rows, parts, own = recommender.contributions(user, item)
        assert set(rows.tolist()) == set(dataset.train.items[dataset.train.users == user].tolist())
        score = recommender.users[user] @ recommender.items[item]
        assert own + parts.sum() == pytest.approx(float(score), abs=1e-5)
        if name != "gccf":  # its self-loops carry the user's own x through every layer
            assert own == pytest.approx(float(x[user].numpy() @ recommender.items[item]), abs=1e-5)


def test_gccf_own_part_against_dense_algebra(toy):
    dataset, _ = toy
    backbone, recommender = made("gccf", dataset)
    n = dataset.n_users + dataset.n_items
    adjacency = np.eye(n)
    users, items = dataset.train.users, dataset.train.items + dataset.n_users
    adjacency[users, items] = adjacency[items, users] = 1
    scale = 1 / np.sqrt(adjacency.sum(axis=1))
    adjacency *= scale[:, None] * scale
    layers = [backbone.initial().detach().numpy().astype(float)]
    for _ in range(2):
        layers.append(adjacency @ layers[-1])
    user, item = 5, 7
    own = np.concatenate([layers[0][user], *(adjacency[user, user] * layer[user] for layer in layers[:2])])
    expected = own @ np.concatenate([layer[dataset.n_users + item] for layer in layers])
    assert recommender.contributions(user, item)[2] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["mf", "ngcf"])
def test_without_linear_messages_the_reasons_are_the_nearest(name, toy):
    dataset, _ = toy
    _, recommender = made(name, dataset)
    assert recommender.item_messages is None
    explanation = Explainer(recommender, dataset).explain("u4", "i20", k=2)
    assert not explanation.exact
    assert explanation.own is None
    mine = [dataset.items.id(int(row)) for row in dataset.train.items[dataset.train.users == 4]]
    near = dict(zip(*(part.tolist() for part in recommender.similar_items("i20", k=44)), strict=True))
    expected = sorted((raw for raw in mine if near.get(raw, 0) > 0), key=lambda raw: -near[raw])[:2]
    assert [reason.id for reason in explanation.because] == expected


def test_a_subclass_with_its_own_encode_is_not_taken_for_linear(toy):
    dataset, _ = toy

    class Bent(BACKBONES["lightgcn"]):
        def encode(self, x, graph):
            return tuple(part.tanh() for part in super().encode(x, graph))

    assert item_messages(Bent(dataset.n_users, dataset.n_items), dataset) is None
    no_layers = BACKBONES["lightgcn"]
    zero = no_layers(dataset.n_users, dataset.n_items, no_layers.Config(layers=0))
    assert item_messages(zero, dataset) is None


TITLES = ["Alien", "Aliens", "Blade Runner", "Annie Hall", "It", "The Matrix"]


@pytest.fixture
def films(tmp_path):
    """Two users, six films; user 1 has Alien and Blade Runner, and a profile."""
    texts = pl.DataFrame({
        "title": TITLES,
        "genres": ["space horror", "space horror war", "noir science fiction", "comedy", "horror", "science fiction"],
    })  # fmt: skip
    train = Interactions(np.array([0, 0, 1]), np.array([0, 2, 3]), 2, 6)
    empty = Interactions(np.array([], int), np.array([], int), 2, 6)
    dataset = Dataset(
        "films", train, empty, empty, Vocabulary([1, 2], "user"), Vocabulary([*"abcdef"], "item"), texts
    )
    users = np.array([[1, 0.5], [0, 1]], np.float32)
    items = np.array([[1, 0], [0.9, 0.1], [0.7, 0], [0, 1], [0.2, 0], [0.6, 0.2]], np.float32)
    recommender = Recommender.of(dataset, users, items, None, items / 2)
    path = tmp_path / "profiles.sqlite"
    with Store(path) as store:
        for kind, key, text in (
            ("user", 1, "Loves dark science fiction."),
            ("item", "b", "For fans of space war."),
        ):
            store.put_profile(Profile(kind, key, text, None, "request", dataset=dataset.content))
    return Explainer(recommender, dataset, path)


def test_an_explanation_in_full(films):
    found = films.explain(1, "b", k=3)
    assert found.title == "Aliens"
    assert found.exact
    assert [reason.title for reason in found.because] == ["Alien", "Blade Runner"]
    assert [reason.contribution for reason in found.because] == pytest.approx(
        [0.45 / np.sqrt(2), 0.315 / np.sqrt(2)], rel=1e-5
    )
    assert found.score == pytest.approx(0.95)
    assert found.own == pytest.approx(0.95 - 0.765 / np.sqrt(2), rel=1e-4)
    assert found.item_profile == "For fans of space war."
    assert found.user_profile == "Loves dark science fiction."
    assert found.terms == ("space",)
    assert found.text == "Aliens goes with Alien and Blade Runner; what they share: space."
    assert json.loads(json.dumps(found.as_dict()))["because"][0]["id"] == "a"
    other = films.explain(2, "f", k=1)
    assert other.user_profile is None
    assert other.item_profile == "The Matrix. Genres: science fiction."


def test_who_has_nothing_is_told_that_the_list_is_what_is_popular(films):
    dataset = films.dataset
    train = Interactions(np.array([0, 0, 1]), np.array([0, 3, 3]), 3, 6)
    empty = Interactions(np.array([], int), np.array([], int), 3, 6)
    three = Dataset(
        "films", train, empty, empty, Vocabulary([1, 2, 3], "user"), dataset.items, dataset.item_texts
    )
    users = np.array([[1, 0.5], [0, 1], [5, 5]], np.float32)
    recommender = Recommender.of(three, users, films.recommender.items)
    [listed] = Lists(recommender, three).of([3], 1)
    found = Explainer(recommender, three).explain(3, listed.items[0])
    assert (found.title, found.score, found.own) == ("Annie Hall", listed.scores[0], 2.0)
    assert (found.own_parts, found.because) == (("popularity",), ())
    assert found.text == "Annie Hall is recommended because it is popular."
    assert plain_reasons(found) == ["It is popular."]


def test_profiles_of_another_dataset_are_passed_over(films):
    changed = dataclasses.replace(
        films.dataset, item_texts=films.dataset.item_texts.with_columns(genres=pl.lit("x"))
    )
    found = Explainer(films.recommender, changed, films.profiles).explain(1, "b")
    assert found.user_profile is None
    assert found.item_profile == "Aliens. Genres: x."


def test_an_item_of_the_history_is_not_its_own_reason(films):
    found = films.explain(1, "a")
    assert [reason.id for reason in found.because] == ["c"]
    assert found.seen
    assert not films.explain(1, "b").seen
    # Nothing says that what the user already has is recommended, and no model is asked to.
    assert found.text.startswith(
        "Alien is not recommended: the user has it already; it goes with Blade Runner"
    )
    assert asyncio.run(films.sentence(found, None)) == found.text
    assert films.explain(2, "d").text == "Annie Hall is not recommended: the user has it already."


def test_unknown_ids_and_a_bad_k(films):
    for user, item in ((3, "a"), (1, "z")):
        with pytest.raises(UnknownIdError):
            films.explain(user, item)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        films.explain(1, "a", k=0)
    assert repr(films) == f"Explainer({films.recommender!r}, profiles of {films.profiles})"


class Says(LLM):
    name = "says"

    def __init__(self, text):
        self.text = text

    async def complete(self, system, prompt, schema=None):
        self.prompt = prompt
        return Completion(self.text)


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("Since you liked Alien and Blade Runner, Aliens should suit you.", True),
        ("If you like The Matrix, Aliens is for you.", False),
        ("You liked Alien, and ANNIE HALL too.", False),
        ("It should suit you, since it is like Alien.", True),
        ("You liked Alien and It so much.", False),
        ("", False),
    ],
)
def test_a_sentence_that_names_another_item_is_dropped(films, sentence, kept):
    found = films.explain(1, "b")
    for answer in (json.dumps({"sentence": sentence}), sentence):
        model = Says(answer)
        said = asyncio.run(films.sentence(found, model))
        assert said == (sentence if kept else found.text)
        assert json.loads(model.prompt)["because of"] == ["Alien", "Blade Runner"]


CATALOGUE = [
    "Star Wars (1977)", "Star Wars: The Empire Strikes Back (1980)", "It (1990)", "Up (2009)", "Alien (1979)",
    "Aliens (1986)", "M*A*S*H (1970)", "Lion King, The (1994)", "Amélie (2001)", "Shanghai Triad (Yao a yao) (1995)",
    "The Birds (1963)", "千と千尋の神隠し", "Heat (1995)", "Heat Wave (1990)", "Brother's Keeper (1992)",
]  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "named", "foreign"),
    [
        ("You liked Star Wars.", ["Star Wars: The Empire Strikes Back (1980)"], ["Star Wars (1977)"]),
        ("You liked Star Wars: The Empire Strikes Back.", ["Star Wars: The Empire Strikes Back (1980)"], []),
        ("For you, as a fan of STAR WARS (1977).", [], ["Star Wars (1977)"]),
        ("You liked Alien.", ["Aliens (1986)"], ["Alien (1979)"]),
        ("Like Heat Wave it is hot.", ["Heat Wave (1990)"], []),
        ("You liked Heat.", ["Heat Wave (1990)"], ["Heat (1995)"]),
        ('"Up" is why.', [], ["Up (2009)"]),
        ("Up (2009) is why.", [], ["Up (2009)"]),
        ("It cheers you up. It is new.", [], []),
        ("You liked “It” most.", [], ["It (1990)"]),
        ("You liked MASH.", [], ["M*A*S*H (1970)"]),
        ("You liked The Lion King.", [], ["Lion King, The (1994)"]),
        ("You liked the lion king.", ["Lion King, The (1994)"], []),
        ("You liked Amelie.", [], ["Amélie (2001)"]),
        ("You liked Ame\u0301lie.", [], ["Amélie (2001)"]),
        ("You liked Shanghai Triad and Yao A Yao.", [], ["Shanghai Triad (Yao a yao) (1995)"] * 2),
        ("You like birds.", [], []),
        ("You like Birds.", [], ["The Birds (1963)"]),
        ("因为你喜欢千と千尋の神隠し。", [], ["千と千尋の神隠し"]),
        ("You liked Brothers Keeper.", [], ["Brother's Keeper (1992)"]),
    ],
)
def test_names_of_other_items_are_found_however_they_are_written(sentence, named, foreign):
    dataset, _ = blocks(users=5, items=5)
    dataset = Dataset(
        dataset.name, dataset.train, dataset.valid, dataset.test, dataset.users, dataset.items,
        pl.DataFrame({"title": CATALOGUE}),
    )  # fmt: skip
    recommender = Recommender.of(dataset, np.zeros((15, 2), np.float32), np.zeros((15, 2), np.float32))
    assert Explainer(recommender, dataset).foreign_titles(sentence, named) == foreign


def test_names_are_found_whatever_their_column_is_called(films):
    texts = films.dataset.item_texts.rename({"title": "titel"})
    german = Explainer(films.recommender, dataclasses.replace(films.dataset, item_texts=texts))
    assert german.foreign_titles("You liked Annie Hall.", ["Alien"]) == ["Annie Hall"]


@pytest.mark.parametrize("answer", ['{"sentence": 7}', "[1]", '{"other": "x"}'])
def test_an_answer_that_is_no_sentence_is_dropped(films, answer):
    found = films.explain(1, "b")
    assert asyncio.run(films.sentence(found, Says(answer))) == found.text


def test_shared_terms():
    assert shared_terms("A slow science fiction tale of robots", ["science of robots", "Robots!", None]) == (
        "robots",
        "science",
    )
    assert shared_terms(None, ["x"]) == ()


def test_words_that_every_text_has_are_no_terms():
    dataset, _ = blocks()
    table = pl.DataFrame(
        {"title": [f"T{row}" for row in range(45)], "genres": ["drama"] * 44 + ["jazz drama"]}
    )
    with_texts = Dataset(
        dataset.name, dataset.train, dataset.valid, dataset.test, dataset.users, dataset.items, table
    )
    _, recommender = made("lightgcn", with_texts)
    found = Explainer(recommender, with_texts).explain("u0", "i1")
    assert not set(found.terms) & {"genres", "drama"}


def test_words_of_a_description_are_found_in_singular_and_plural():
    mine = "A funny adventure for children, with pirates and maps"
    assert words_in_common(mine, "Children's. A pirate's map of maps.") == ["children", "pirates", "maps"]
    assert words_in_common(mine, "an adventure", frozenset({"adventure"})) == []
