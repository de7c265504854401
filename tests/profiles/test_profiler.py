import asyncio
import dataclasses
import json
import threading

import numpy as np
import polars as pl
import pytest
from fault_server import GOOD, HANG, RESET, FaultServer, failure, reply
from made_dataset import make_dataset

from rlmrec.data.dataset import SPLITS
from rlmrec.data.interactions import Interactions
from rlmrec.errors import AccessError, ConfigError, EndpointError, WorkspaceError
from rlmrec.llm.base import LLM, Completion, Usage
from rlmrec.llm.client import OpenAIChat
from rlmrec.llm.replay import Replay
from rlmrec.llm.store import Profile, Store
from rlmrec.profiles.audit import audit
from rlmrec.profiles.profiler import Profiler
from rlmrec.profiles.progress import Price
from rlmrec.profiles.prompts import PromptBuilder, PromptOptions
from rlmrec.profiles.requests import ANSWER_TOKENS
from rlmrec.profiles.select import stored_profiles
from rlmrec.profiles.template import KINDS


class Model(LLM):
    """Answers by a function of the prompt and counts; no endpoint in between."""

    name = "model"

    def __init__(self, answer=lambda prompt: GOOD, concurrency=4, **options):
        self.answer = answer
        self.concurrency = concurrency
        self.options = options
        self.prompts = []
        self.closed = 0

    async def complete(self, system, prompt, schema=None):
        self.prompts.append(prompt)
        await asyncio.sleep(0)
        text = self.answer(prompt)
        if isinstance(text, Exception):
            raise text
        return Completion(text, Usage(100, 10, 0))

    async def aclose(self):
        self.closed += 1


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "profiles.sqlite") as store:
        yield store


def test_items_then_users_whose_prompts_quote_them(store, dataset):
    model = Model(lambda prompt: json.dumps({"summarization": f"Fans of {len(prompt)}.", "reasoning": "So."}))
    profiler = Profiler(model, store, domain="books")
    items = profiler.run(dataset, "item")
    assert (items.total, items.profiled, items.n_failed, items.asked, items.left) == (8, 8, 0, 8, 0)
    users = profiler.run(dataset, "user")
    assert users.profiled == 6
    assert model.closed == 2
    told = store.profile("item", 100).summarization
    assert any(told in prompt for prompt in model.prompts if prompt.startswith("PURCHASED BOOKS: "))
    profile = store.profile("user", "u0")
    assert profile.model == "model"
    assert profile.dataset == dataset.content
    assert set(profile.sources) <= {int(i) for i in dataset.train.id}


def test_a_second_run_asks_nothing_and_a_change_only_what_it_changes(store, dataset):
    model = Model()
    Profiler(model, store).run(dataset, "item")
    again = Profiler(model, store).run(dataset, "item")
    assert (again.kept, again.profiled, again.asked) == (8, 8, 0)
    changed = make_dataset()
    changed.item_texts[0, "title"] = "Another title"
    assert Profiler(model, store).run(changed, "item").asked == 1
    back = Profiler(model, store).run(dataset, "item")
    assert (back.asked, back.cached, back.kept) == (0, 1, 7)
    assert Profiler(Model(temperature=1), store).run(dataset, "item").asked == 8
    assert Profiler(Model(temperature=1), store, domain="books").run(dataset, "item").asked == 8


def test_equal_prompts_pay_once(store):
    same = pl.DataFrame({"title": ["The same"] * 8})
    dataset = dataclasses.replace(make_dataset(reviews=False), item_texts=same)
    model = Model()
    progress = Profiler(model, store).run(dataset, "item")
    assert (progress.profiled, progress.asked, progress.cached) == (8, 1, 7)


FAULTS = {
    "429": failure(429),
    "429 with Retry-After": failure(429, headers={"retry-after": "0.05"}),
    "500": failure(500),
    "502": failure(502, "<html>bad gateway</html>"),
    "503": failure(503),
    "reset": RESET,
    "hang": HANG,
    "empty choice": (200, {}, b'{"choices": []}'),
    "truncated": reply('{"summarization": "It goes on and', finish="length"),
    "fences": reply(f"```json\n{GOOD}\n```"),
    "prose": reply(f"Of course! {GOOD} Anything else?"),
    "wrong keys": reply('{"profile": "x"}'),
    "None": reply('{"summarization": "None", "reasoning": "None"}'),
    "3000 words": reply(json.dumps({"summarization": "word " * 3000, "reasoning": ""})),
    "non-UTF-8": (200, {}, reply("caf\x00 " + GOOD)[2].replace(b"\\u0000", b"\xe9")),
    "content filter": failure(400, "filtered", code="content_filter"),
    "refusal": reply(message={"role": "assistant", "content": None, "refusal": "No."}),
    "no JSON": reply("I would rather not."),
}
USABLE = {"fences", "prose", "3000 words", "non-UTF-8"}  # repaired however often they come
KIND = {
    "429": "endpoint", "429 with Retry-After": "endpoint", "500": "endpoint", "502": "endpoint",
    "503": "endpoint", "reset": "endpoint", "hang": "endpoint", "empty choice": "empty",
    "truncated": "truncated", "wrong keys": "keys", "None": "none", "content filter": "refused",
    "refusal": "refused", "no JSON": "malformed",
}  # fmt: skip


def faulty_dataset():
    dataset = make_dataset(n_users=8, n_items=len(FAULTS), reviews=False)
    for row, name in enumerate(FAULTS):
        dataset.item_texts[row, "title"] = f"fault: {name}."
    return dataset


def fault_of(body):
    prompt = body["messages"][-1]["content"]
    return next(fault for name, fault in FAULTS.items() if f"fault: {name}." in prompt)


def profiler_of(server, store, **settings):
    llm = OpenAIChat("fake", base_url=server.url, timeout=0.4, retries=2, backoff=0.01, concurrency=6)
    return Profiler(llm, store, **settings)


def test_every_fault_for_ever_ends_in_a_profile_or_a_recorded_failure(store):
    dataset = faulty_dataset()
    with FaultServer(lambda number, body: fault_of(body)) as server:
        progress = profiler_of(server, store).run(dataset, "item")
        assert progress.done == progress.total == len(FAULTS)
        assert progress.profiled == len(USABLE)
        assert progress.stopped is None
        before = server.requests
        for row, name in enumerate(FAULTS):
            profile = store.profile("item", 100 + row)
            assert profile.error_kind == KIND.get(name), name
            assert (profile.summarization is None) == (name in KIND), name
            if name in KIND:
                assert profile.error
                if name not in ("reset", "hang"):  # nothing was received there
                    assert profile.raw is not None, name
        assert sum(progress.failed.values()) == len(KIND)
        assert progress.repaired["over-long summarization cut"] == 1
        # What was answered is settled; what never got an answer is asked for again.
        again = profiler_of(server, store).run(dataset, "item")
        unanswered = [name for name, kind in KIND.items() if kind == "endpoint"]
        assert again.kept == len(FAULTS) - len(unanswered)
        assert server.requests > before


def test_every_fault_once_ends_in_a_profile(store):
    dataset = faulty_dataset()
    seen = set()

    def once(number, body):
        prompt = body["messages"][-1]["content"]
        key = prompt.split("\n\n")[0]
        if key in seen:
            return reply()
        seen.add(key)
        return fault_of(body)

    with FaultServer(once) as server:
        progress = profiler_of(server, store).run(dataset, "item")
        final = {"None", "content filter", "refusal"}  # the model's last word, until it is asked to retry
        assert progress.profiled == len(FAULTS) - len(final)
        assert progress.failed == {"none": 1, "refused": 2}
        retried = profiler_of(server, store).run(dataset, "item", retry_failed=True)
        assert (retried.profiled, retried.n_failed, retried.asked) == (len(FAULTS), 0, 3)
        assert retried.kept == len(FAULTS) - 3


def test_asking_again_says_what_was_wrong_and_is_bounded(store, dataset):
    model = Model(lambda prompt: "no JSON")
    progress = Profiler(model, store, attempts=3).run(dataset, "item", limit=1)
    assert progress.failed == {"malformed": 1}
    assert len(model.prompts) == len(set(model.prompts)) == 3
    assert "was not JSON" in model.prompts[1]
    profile = store.profile("item", 100)
    assert profile.raw == "no JSON"
    assert profile.usage == Usage(300, 30, 0)


def test_limit_settles_so_many_more(store, dataset):
    model = Model()
    profiler = Profiler(model, store)
    assert [profiler.run(dataset, "item", limit=3).profiled for _ in range(3)] == [3, 6, 8]
    assert len(model.prompts) == 8


def test_no_access_ends_the_run_and_keeps_what_was_answered(store, dataset):
    def answer(prompt):
        return AccessError("no money") if "Title 5" in prompt else GOOD

    model = Model(answer, concurrency=1)
    stopped = Profiler(model, store).run(dataset, "item")
    assert (stopped.stopped, stopped.profiled, stopped.n_failed, stopped.asked) == ("no money", 5, 0, 5)
    assert store.usage()[0] == 5
    assert Profiler(Model(), store).run(dataset, "item").asked == 3


def test_an_endpoint_that_is_gone_stops_the_run(store):
    dataset = make_dataset(n_items=60)
    model = Model(lambda prompt: EndpointError("gone", "raw"))
    progress = Profiler(model, store).run(dataset, "item")
    assert "10 requests in a row got no answer" in progress.stopped
    assert progress.n_failed < 20
    assert Profiler(Model(), store).run(dataset, "item").profiled == 60


def test_cost_is_counted_and_bounded(store, dataset):
    price = Price(1.0, 10.0)  # an answer takes 100 and 10 tokens: 0.0002
    with pytest.raises(ConfigError, match="needs prices"):
        Profiler(Model(), store, max_cost=1)
    stopped = Profiler(Model(max_tokens=20), store, price=price, max_cost=0.0011).run(dataset, "item")
    assert "over the bound" in stopped.stopped
    assert 0 < stopped.cost <= 0.0011
    assert 0 < stopped.profiled < 8
    through = Profiler(Model(max_tokens=20), store, price=price, max_cost=1).run(dataset, "item")
    assert through.profiled == 8
    assert through.cost == pytest.approx(0.0002 * (8 - stopped.profiled))
    assert Profiler(Model(), store, price=price, max_cost=0).run(dataset, "user").profiled == 0


def test_dry_run_counts_and_shows_without_asking(store, dataset):
    model = Model()
    profiler = Profiler(model, store, price=Price(1, 2))
    estimate = profiler.estimate(dataset, "item")
    assert (estimate.requests, estimate.total, estimate.kept, len(estimate.samples)) == (8, 8, 0, 3)
    assert estimate.cost == pytest.approx(profiler.price.of(estimate.usage))
    assert profiler.estimate(dataset, "user").requests == 6  # before there is any item profile
    profiler.run(dataset, "item", limit=5)
    assert profiler.estimate(dataset, "item").requests == 3
    assert profiler.estimate(dataset, "item", limit=2).requests == 2
    assert len(model.prompts) == 5


def test_progress_is_told_after_every_node(store, dataset):
    told = []
    profiler = Profiler(Model(), store, on_progress=lambda p: told.append((p.done, p.asked, p.rate > 0)))
    profiler.run(dataset, "item")
    assert [done for done, _, _ in told][:8] == list(range(1, 9))


def test_users_need_item_profiles_of_this_split(store, dataset):
    with pytest.raises(WorkspaceError, match="write them first"):
        Profiler(Model(), store).run(dataset, "user")
    Profiler(Model(), store).run(dataset, "item")
    held_out = int(dataset.test.id[0])
    store.put_profile(Profile("item", 100, "leaky", None, "h", (held_out,), dataset=dataset.content))
    with pytest.raises(WorkspaceError, match=f"item 100 was written from interaction {held_out}"):
        Profiler(Model(), store).run(dataset, "user")


def moved_to_test(dataset, position=0):
    """The dataset with one training interaction held out for test."""
    rest = np.delete(np.arange(len(dataset.train)), position)
    one, test = dataset.train.take(np.array([position])), dataset.test
    return dataclasses.replace(
        dataset, train=dataset.train.take(rest),
        test=Interactions(
            *(np.concatenate([getattr(test, name), getattr(one, name)]) for name in ("users", "items")),
            dataset.n_users, dataset.n_items,
            review=np.concatenate([test.review, one.review]), id=np.concatenate([test.id, one.id]),
        ),
    )  # fmt: skip


def test_a_review_that_is_held_out_now_does_not_live_on_in_users_that_quoted_it(store, dataset):
    """An item's profile repeats a review; the users' prompts repeat the profile; then the review is held out."""
    model = Model(lambda prompt: json.dumps({"summarization": f"Fans of {prompt[-900:]}", "reasoning": ""}))
    options = PromptOptions(reviews=99, items=99, profile_tokens=999, tokens=20_000)
    profiler = Profiler(model, store, options=options)
    for kind in KINDS:
        profiler.run(dataset, kind)
    source = int(dataset.train.id[0])
    quoting = {profile.key for profile in store.profiles("user") if source in profile.quoted}
    assert len(quoting) > 1
    now = moved_to_test(dataset)
    with pytest.raises(WorkspaceError, match=r"8 item profiles .* are stale"):
        profiler.run(now, "user")
    items = profiler.run(now, "item")
    assert (items.asked, items.kept) == (1, 7)
    profiler.run(now, "user", limit=1)
    found = audit(store, now)
    assert not found.passed
    assert any("user" in line and "stale" in line for line in found.violations)
    assert any(f"an item profile written from interaction {source}" in line for line in found.violations)
    with pytest.raises(WorkspaceError, match=r"user profiles .* are stale"):
        stored_profiles(store, now, "user")
    users = profiler.run(now, "user")
    assert users.asked + 1 <= len(quoting | {dataset.users.id(int(dataset.train.users[0]))})
    assert audit(store, now).passed
    assert len(stored_profiles(store, now, "user").texts) == 6


def test_what_did_not_change_is_confirmed_without_a_request_in_every_way_of_running(store, dataset):
    renumbered = dataclasses.replace(
        dataset,
        **{
            name: dataclasses.replace(dataset.split(name), id=dataset.split(name).id + 1000)
            for name in SPLITS
        },
    )
    model = Model()
    for kind in KINDS:
        Profiler(model, store).run(dataset, kind)
    before = len(model.prompts)
    for now in (renumbered, dataset):
        item, user = (Profiler(model, store), Profiler(model, store))
        assert list(item.pending(now, "item")) == []
        assert user.settle(now, "user").kept == 6
        assert audit(store, now).passed  # the sources are those of the new numbers
    assert len(model.prompts) == before


def test_users_wait_for_the_last_item(store, dataset):
    model = Model(lambda prompt: EndpointError("gone", "raw") if "Title 7" in prompt else GOOD)
    profiler = Profiler(model, store)
    profiler.run(dataset, "item", limit=3)
    asked = len(model.prompts)
    with pytest.raises(WorkspaceError, match=r"5 of 8 items of made have no profile yet.*--allow-partial"):
        profiler.run(dataset, "user")
    profiler.run(dataset, "item")
    assert store.profile("item", 107).error_kind == "endpoint"
    with pytest.raises(WorkspaceError, match="1 of 8 items"):
        profiler.run(dataset, "user")
    with pytest.raises(WorkspaceError, match="1 of 8 items"):
        list(profiler.pending(dataset, "user"))
    assert profiler.estimate(dataset, "user").requests == 6
    assert len(model.prompts) == asked + 5
    assert Profiler(Model(), store, allow_partial=True).run(dataset, "user").profiled == 6


def test_nothing_to_go_by_costs_nothing(store):
    whole = make_dataset(reviews=False)
    blank = pl.DataFrame({"title": ["", None, *[f"T{row}" for row in range(6)]], "genre": [None] * 8})
    train = whole.train.take(np.flatnonzero(whole.train.users != 2))  # user 2 is new
    empty = whole.test.take(np.array([], int))
    dataset = dataclasses.replace(whole, train=train, valid=empty, test=empty, item_texts=blank)
    model = Model()
    for _ in range(2):
        items, users = (Profiler(model, store).run(dataset, kind, retry_failed=True) for kind in KINDS)
        assert (items.profiled, items.failed, users.profiled, users.failed) == (
            6,
            {"none": 2},
            5,
            {"none": 1},
        )
        assert len(model.prompts) == 11
    assert (items.kept, users.kept) == (8, 6)
    assert "no text to write a profile from" in store.profile("user", "u2").error
    assert audit(store, dataset).passed
    assert Profiler(Model(), store).estimate(dataset, "item").requests == 0
    assert Profiler(model, store).run(whole, "item").asked > 0  # texts came later


def test_replay_writes_the_same_profiles_without_a_model(store, dataset, tmp_path):
    Profiler(Model(), store).run(dataset, "item")
    Profiler(Model(), store).run(dataset, "user")
    file = tmp_path / "answers.jsonl.gz"
    store.export(file)
    with Store(tmp_path / "again.sqlite") as again:
        for kind, count in (("item", 8), ("user", 6)):
            assert Profiler(Replay(file), again).run(dataset, kind).profiled == count
            assert list(again.profiles(kind)) == list(store.profiles(kind))
    with Store(tmp_path / "other.sqlite") as other:
        options = PromptOptions(reviews=1)
        missing = Profiler(Replay(file), other, options=options).run(dataset, "item")
        assert missing.failed["missing"] > 0
        assert Profiler(Model(), other, options=options).run(dataset, "item").profiled == 8


def test_it_runs_where_an_event_loop_runs_already(store, dataset):
    async def notebook():
        return Profiler(Model(), store).run(dataset, "item").profiled

    assert asyncio.run(notebook()) == 8
    assert threading.active_count() < 20


def test_two_runs_on_one_store_do_not_pay_twice(store, dataset):
    with store.writing(), Store(store.path) as other, pytest.raises(WorkspaceError, match="another process"):
        Profiler(Model(), other).run(dataset, "item")


def test_concurrency_is_the_models_or_ones_own(store, dataset):
    with FaultServer(latency=0.05) as server:
        llm = OpenAIChat("fake", base_url=server.url, concurrency=3)
        assert Profiler(llm, store).run(dataset, "item").profiled == 8
        assert server.most == 3
    with pytest.raises(ConfigError):
        Profiler(Model(), store, concurrency=0)


def test_a_limit_or_a_stop_hides_nothing_that_was_settled_before(store, dataset):
    model = Model(lambda prompt: "no JSON" if "Title 7" in prompt else GOOD)
    Profiler(model, store).run(dataset, "item")
    changed = make_dataset()
    changed.item_texts[0, "title"] = "Another"
    changed.item_texts[1, "title"] = "Yet another"
    limited = Profiler(model, store).run(changed, "item", limit=1)
    assert (limited.profiled, dict(limited.failed), limited.kept, limited.asked) == (
        6,
        {"malformed": 1},
        6,
        1,
    )
    broke = Model(lambda prompt: AccessError("no money"), concurrency=1)
    stopped = Profiler(broke, store).run(changed, "item")
    assert (stopped.stopped, stopped.profiled, stopped.kept, stopped.asked) == ("no money", 6, 7, 0)
    assert stopped.total - stopped.done == 1
    retried = Profiler(model, store).run(dataset, "item", limit=1, retry_failed=True)
    assert retried.done == 8


def test_an_estimate_of_a_retry_counts_what_it_asks(store, dataset):
    model = Model(lambda prompt: "no JSON" if "Title 1" in prompt else GOOD)
    profiler = Profiler(model, store, attempts=1)
    profiler.run(dataset, "item")
    assert profiler.estimate(dataset, "item").requests == 0
    assert profiler.estimate(dataset, "item", retry_failed=True).requests == 1
    assert profiler.run(dataset, "item", retry_failed=True).asked == 1


def test_without_a_count_of_tokens_the_cost_is_estimated_and_bounded(store):
    dataset = make_dataset(n_items=40)
    reply_without = (200, {}, json.dumps({"choices": [{"message": {"content": GOOD}}]}).encode())
    with FaultServer(lambda number, body: reply_without) as server:
        llm = OpenAIChat("fake", base_url=server.url, max_tokens=50, concurrency=2)
        profiler = Profiler(llm, store, price=Price(1000, 1000), max_cost=2)
        expected = profiler.estimate(dataset, "item").cost
        progress = profiler.run(dataset, "item")
    assert "over the bound" in progress.stopped
    assert progress.estimated == progress.asked == server.requests < 40
    assert 1 < progress.cost <= 2
    assert progress.cost / progress.asked == pytest.approx(expected / 40, rel=0.8)


def test_a_server_that_ignores_max_tokens_passes_the_bound_by_one_answer_a_slot_at_most(store):
    dataset = make_dataset(n_items=60)
    long = reply(completion_tokens=5000)  # 50 were asked for
    price, slots = Price(0, 1000), 4
    with FaultServer(lambda number, body: long, latency=0.01) as server:
        llm = OpenAIChat("fake", base_url=server.url, max_tokens=50, concurrency=slots)
        progress = Profiler(llm, store, price=price, max_cost=12).run(dataset, "item")
    assert "over the bound" in progress.stopped
    assert progress.cost == 5 * progress.asked
    assert progress.cost <= 12 + slots * 5
    with Store(store.path.with_name("one.sqlite")) as other, FaultServer(lambda number, body: long) as server:
        llm = OpenAIChat("fake", base_url=server.url, max_tokens=50, concurrency=1)
        progress = Profiler(llm, other, price=price, max_cost=12).run(dataset, "item")
    assert progress.cost == 10, "what an answer costs is learned from the first one"


def test_a_refusal_that_was_paid_for_is_counted(store, dataset):
    refused = reply(message={"role": "assistant", "content": None, "refusal": "No."})
    with FaultServer(lambda number, body: refused) as server:
        llm = OpenAIChat("fake", base_url=server.url, concurrency=1)
        progress = Profiler(llm, store, price=Price(1, 10)).run(dataset, "item")
    assert (progress.asked, progress.usage, progress.failed) == (8, Usage(800, 160), {"refused": 8})
    assert progress.cost == pytest.approx(0.0024)
    assert store.profile("item", 100).usage == Usage(100, 20)


def test_refusals_one_by_one_are_answers(store):
    dataset = make_dataset(n_items=30)
    with FaultServer(lambda number, body: failure(400, f"bad prompt {number}")) as server:
        llm = OpenAIChat("fake", base_url=server.url, concurrency=1)
        progress = Profiler(llm, store).run(dataset, "item")
    assert (progress.stopped, dict(progress.failed)) == (None, {"request": 30})
    assert "bad prompt" in progress.reason("request")


def test_the_commonest_reason_of_each_failure_is_kept(store, dataset):
    def answer(prompt):
        return EndpointError("at\nnight " * 100) if "Title 3" in prompt else '{"a": 1}'

    progress = Profiler(Model(answer), store).run(dataset, "item")
    assert progress.reason("keys").startswith("expected the keys")
    assert progress.reason("endpoint").startswith("at night at")
    assert len(progress.reason("endpoint")) <= 200
    assert (progress.n_unanswered, progress.reason("none")) == (1, "")
    again = Profiler(Model(answer), store).run(dataset, "item")
    assert again.reason("keys") == progress.reason("keys")


def test_a_replay_is_not_paid_for(store, dataset, tmp_path):
    Profiler(Model(), store).run(dataset, "item")
    with Store(tmp_path / "again.sqlite") as again:
        told = Profiler(Replay(store.path), again, price=Price(1, 1), max_cost=0).run(dataset, "item")
    assert (told.profiled, told.asked, told.cached, told.cost, told.usage) == (8, 0, 8, 0, Usage())


def test_repeated_tries_are_told(store, dataset):
    told = []
    with FaultServer(lambda number, body: failure(503) if number % 2 == 0 else reply()) as server:
        llm = OpenAIChat("fake", base_url=server.url, backoff=0.01, concurrency=1)
        profiler = Profiler(llm, store, on_progress=lambda progress: told.append(progress.repeated))
        assert profiler.run(dataset, "item").repeated == 8
        assert told[:3] == [1, 2, 3]
        profiler.run(dataset, "item")
    assert told[-1] == 0, "another run counts anew"


@pytest.mark.parametrize("bound", [float("nan"), -1.0, float("inf")])
def test_a_bound_that_bounds_nothing(store, bound):
    with pytest.raises(ConfigError, match="max_cost must be a number of money"):
        Profiler(Model(), store, price=Price(1, 1), max_cost=bound)
    with pytest.raises(ConfigError, match="price out must be"):
        Profiler(Model(), store, price=Price(1, bound))


def test_a_model_that_answers_with_something_else(store, dataset):
    class Plain(LLM):
        name = "plain"

        async def complete(self, system, prompt, schema=None):
            return GOOD

    with pytest.raises(ConfigError, match=r"'plain' returned str, expected a rlmrec\.llm\.Completion"):
        Profiler(Plain(), store).run(dataset, "item")


def test_an_endpoint_out_of_reach_costs_no_profile_that_another_model_wrote(store, dataset):
    Profiler(Model(), store).run(dataset, "item")
    dead = Model(lambda prompt: EndpointError("nobody there", ""), size="other")
    progress = Profiler(dead, store).run(dataset, "item")
    assert progress.n_failed > 0
    assert stored_profiles(store, dataset, "item").profiled == dataset.n_items


def test_an_estimate_learns_from_answers_of_the_same_model_alone(store, dataset):
    Profiler(Model(), store).run(dataset, "item", limit=4)
    ours = Profiler(Model(), store).estimate(dataset, "item")
    other = Profiler(Model(size="other"), store).estimate(dataset, "item")
    assert ours.usage.completion == ours.requests * 10
    assert other.usage.completion == other.requests * ANSWER_TOKENS


def test_a_resumed_run_makes_few_prompts_again(store, monkeypatch):
    dataset = make_dataset(4, 200)
    Profiler(Model(), store).run(dataset, "item")
    made = []
    item = PromptBuilder.item
    monkeypatch.setattr(PromptBuilder, "item", lambda self, row: made.append(row) or item(self, row))
    again = Profiler(Model(), store).run(dataset, "item")
    assert (again.profiled, again.kept, again.asked) == (200, 200, 0)
    assert len(made) <= 70
    made.clear()
    store._db.execute("UPDATE profiles SET recipe = ''")  # as an older version wrote them
    for expected in (200, 70):
        assert Profiler(Model(), store).run(dataset, "item").kept == 200
        assert expected - 10 <= len(made) <= expected
        made.clear()
    other = Profiler(Model(), store, options=PromptOptions(reviews=1)).run(dataset, "item")
    assert other.asked > 100, "most have several reviews"


def test_prompts_that_a_new_version_words_otherwise_are_noticed(store, dataset, monkeypatch):
    Profiler(Model(), store).run(dataset, "item")
    item = PromptBuilder.item
    monkeypatch.setattr(
        PromptBuilder,
        "item",
        lambda self, row: dataclasses.replace(item(self, row), text=f"Otherwise: {item(self, row).text}"),
    )
    assert Profiler(Model(), store).run(dataset, "item").asked == dataset.n_items


def test_users_are_profiled_again_when_a_profile_that_they_quote_changes(store, dataset):
    for kind in KINDS:
        Profiler(Model(), store).run(dataset, kind)
    store.put_profile(dataclasses.replace(store.profile("item", 100), summarization="Something else."))
    quoting = np.unique(dataset.train.users[dataset.train.items == 0])
    assert 0 < len(quoting) < dataset.n_users
    assert Profiler(Model(), store).run(dataset, "user").asked == len(quoting)
