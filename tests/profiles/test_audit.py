import dataclasses
import json

import numpy as np
import pytest
from made_dataset import make_dataset

from rlmrec.data.dataset import Dataset
from rlmrec.errors import DataError
from rlmrec.llm.base import LLM, Completion
from rlmrec.llm.store import Profile, Store
from rlmrec.profiles.audit import audit
from rlmrec.profiles.profiler import Profiler
from rlmrec.profiles.suspicious import suspicious


class Model(LLM):
    name = "m"

    async def complete(self, system, prompt, schema=None):
        return Completion('{"summarization": "Some people.", "reasoning": "So."}')


@pytest.fixture
def store(tmp_path, dataset):
    with Store(tmp_path / "profiles.sqlite") as store:
        for kind in ("item", "user"):
            Profiler(Model(), store).run(dataset, kind)
        yield store


def plant(store, kind, key, *sources, error=None, quoted=()):
    text, content = None if error else "x", make_dataset().content
    store.put_profile(
        Profile(kind, key, text, None, "h", sources, error=error, dataset=content, quoted=quoted)
    )


def test_a_finished_set_passes(store, dataset):
    found = audit(store, dataset)
    assert found.passed
    assert found.profiles == {"item": 8, "user": 6}
    assert 0 < found.interactions <= len(dataset.train)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("kind", ["item", "user"])
@pytest.mark.parametrize("error", [None, "failed, but its prompt was sent"])
def test_a_planted_leak_fails(store, dataset, split, kind, error):
    part = dataset.split(split)
    row = int(part.items[0] if kind == "item" else part.users[0])
    key = (dataset.items if kind == "item" else dataset.users).id(row)
    plant(store, kind, key, int(part.id[0]), error=error)
    found = audit(store, dataset)
    assert not found.passed
    assert found.n_violations == 1
    assert f"interaction {part.id[0]}, which is held out for {split}" in found.violations[0]


def test_other_violations(store, dataset):
    foreign_item = int(dataset.train.id[dataset.train.items != 0][0])
    foreign_user = int(dataset.train.id[dataset.train.users != 0][0])
    plant(store, "item", 100, foreign_item, -1)
    plant(store, "user", "u0", foreign_user, 10**9)
    found = audit(store, dataset)
    assert found.n_violations == 4
    assert sum("is not of this" in line for line in found.violations) == 2
    assert sum("does not hold" in line for line in found.violations) == 2
    later = dataclasses.replace(dataset, provenance={**dataset.provenance, "taken back": [10**9]})
    assert audit(store, later).n_violations == 3, "training interactions that were taken back are no leak"


def test_a_leak_through_a_quoted_item_profile_fails(store, dataset):
    own = int(dataset.train.id[dataset.train.users == 0][0])
    others = int(dataset.train.id[dataset.train.users != 0][0])
    plant(store, "user", "u0", own, quoted=(others,))
    assert audit(store, dataset).passed
    plant(store, "user", "u0", own, quoted=(others, int(dataset.test.id[0])))
    found = audit(store, dataset)
    assert found.n_violations == 1
    assert "used an item profile written from interaction" in found.violations[0]
    assert "held out for test" in found.violations[0]


@pytest.mark.parametrize(
    "sources", ["[]", "[1.5]", "[null]", "[true]", f"[{10**30}]", "no JSON", "7", '["1"]']
)
def test_sources_that_cannot_be_are_violations(store, dataset, sources):
    store._db.execute("UPDATE profiles SET sources = ? WHERE kind = 'user' AND key = '\"u0\"'", (sources,))
    found = audit(store, dataset)
    assert found.n_violations == 1
    assert 'user "u0"' in found.violations[0]
    assert not found.passed


def test_profiles_of_other_texts_are_stale_though_ids_and_split_are_the_same(tmp_path):
    dataset, changed = make_dataset(described=8, reviews=False), make_dataset(described=8, reviews=False)
    changed.item_texts[2, "description"] = "Something else."
    assert changed.fingerprint == dataset.fingerprint
    with Store(tmp_path / "profiles.sqlite") as store:
        Profiler(Model(), store).run(dataset, "item")
        assert audit(store, dataset).passed
        found = audit(store, changed)
        assert found.n_violations == 8
        assert "the profile of item 100 is stale" in found.violations[0]
        assert "rlmrec profile --items" in found.violations[0]
        assert Profiler(Model(), store).run(changed, "item").asked == 1  # the cure costs what changed
        assert audit(store, changed).passed


def test_another_split_of_the_same_data_fails(store):
    assert not audit(store, make_dataset(seed=1)).passed


def test_profiles_of_other_datasets_and_none_at_all(store, dataset, tmp_path):
    plant(store, "item", 999, 0)
    found = audit(store, dataset)
    assert found.passed
    assert found.other_datasets == 1
    with Store(tmp_path / "empty.sqlite") as empty:
        assert not audit(empty, dataset).passed


def test_ids_that_prove_nothing(store, dataset):
    def renumbered(part):
        return type(part)(part.users, part.items, part.n_users, part.n_items, id=np.arange(len(part)))

    ambiguous = Dataset(
        "a", renumbered(dataset.train), renumbered(dataset.valid), dataset.test, dataset.users, dataset.items
    )
    with pytest.raises(DataError, match="occur more than once"):
        audit(store, ambiguous)


def test_many_violations_are_counted_and_some_are_shown(store, dataset):
    plant(store, "item", 100, *range(1000, 1100))
    found = audit(store, dataset)
    assert (found.n_violations, len(found.violations)) == (100, 20)


def answered(store, key, text, answer=None, finish="stop", kind="item"):
    """Store a profile, and the answer that it was made of."""
    request = f"r{kind}{key}"
    store.put_answer(
        request, "m", {}, Completion(answer or json.dumps({"summarization": text}), finish=finish)
    )
    store.put_profile(Profile(kind, key, text, None, request, requests=(request,)))


USUAL = "People who enjoy quiet evenings with a long book and a cup of tea."


@pytest.mark.parametrize(
    ("text", "answer", "finish", "expected"),
    [
        ("Fans of the", None, "stop", {"open end", "short"}),
        ("Fans of the", '{"summarization": "Fans of the', "length", {"differs", "short"}),
        ("Fans of the", '{"summarization": "Fans of the "Dune" saga."}', "stop", {"open end", "differs", "short"}),
        ("Everybody.", None, "stop", {"short"}),
        ("None of the information says who would enjoy it, sadly and regrettably.", None, "stop", {"says nothing"}),
        ("It cannot be determined who would enjoy this item from its title alone.", None, "stop", {"says nothing"}),
        ("There is not enough information about this item to say who likes it.", None, "stop", {"says nothing"}),
        ("I'm sorry, but as a language model there is nothing that I can write.", None, "stop", {"says nothing"}),
        ("喜欢安静夜晚、长篇小说和热茶的读者。", None, "stop", set()),
        ('People who say: "I want a long book on a quiet evening, with tea!"', None, "stop", set()),
        ("Fans of nonesuch bands, unknown directors and nothing but blues, at night.", None, "stop", set()),
        (USUAL, f'<think>Hm.</think>```json\n{{"summarization": "{USUAL}"}}\n```', "stop", set()),
    ],
)  # fmt: skip
def test_suspicious_profiles_are_found_by_their_signs(tmp_path, text, answer, finish, expected):
    with Store(tmp_path / "s.sqlite") as store:
        for key in range(20):
            answered(store, key, USUAL)
        assert suspicious(store, store.profiles("item")) == []
        answered(store, 99, text, answer, finish)
        found = suspicious(store, store.profiles("item"))
    assert {finding.kind.removeprefix("profile ") for finding in found} == expected
    assert all(finding.count == 1 and "of item 99" in finding.example for finding in found)


def test_an_audit_lists_suspicious_profiles_and_passes(store, dataset):
    key = dataset.items.id(0)
    first = store.profile("item", key)
    store.put_profile(dataclasses.replace(first, summarization="Some"))
    found = audit(store, dataset)
    assert found.passed
    assert {finding.kind for finding in found.findings} == {"profile open end", "profile differs"}
    assert found.findings[0].count == 1
