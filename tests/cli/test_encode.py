"""rlmrec encode from outside: which text stands for whom, what is missing, names, mistakes."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))
from fault_server import FaultServer, embedded, failure, vector_of

from rlmrec.cli import main
from rlmrec.data.dataset import Dataset
from rlmrec.llm.store import Profile, Store
from rlmrec.testing import blocks
from rlmrec.text import encoder_of
from rlmrec.workspace import Workspace

MODEL = "some-model"


@pytest.fixture
def place(tmp_path):
    """A workspace whose items have titles, all but the last one; no profiles yet."""
    plain, _ = blocks(users=4, items=3, density=0.9)
    titles = [f"Title {row}." for row in range(plain.n_items - 1)]
    texts = pl.DataFrame({"title": [*titles, None]})
    place = Workspace(tmp_path / "w")
    Dataset(
        plain.name, plain.train, plain.valid, plain.test, plain.users, plain.items, texts
    ).save(place.dataset_path)  # fmt: skip
    return place


@pytest.fixture
def call(capsys, place):
    """Encode against a fake endpoint; exit code, the JSON line or None, what a person reads."""
    with FaultServer(lambda number, body: embedded(body)) as server:

        def run(*arguments, encoder=("--encoder", "openai:fake", "--base-url", server.url)):
            code = 0
            try:
                main(["encode", "-w", str(place.path), *encoder, *map(str, arguments), "--json"])
            except SystemExit as end:
                code = end.code or 0
            captured = capsys.readouterr()
            return code, json.loads(captured.out) if captured.out else None, captured.err

        run.server = server
        yield run


def profile(place, kind, rows, failed=(), sources=()):
    dataset = place.dataset()
    vocabulary = dataset.items if kind == "item" else dataset.users
    with Store(place.profiles_path) as store:
        for row in rows:
            text = None if row in failed else f"{kind} {row} profiled."
            error = "malformed" if row in failed else None
            store.put_profile(
                Profile(kind, vocabulary.id(row), text, None, f"hash {row}", tuple(sources),
                        error=error, error_kind=error, model=MODEL, dataset=dataset.content)
            )  # fmt: skip


def texts_sent(call):
    return {text for body in call.server.bodies for text in body["input"]}


def row_of(text):
    return np.array(vector_of(text), np.float32)


def test_metadata_and_the_mean_without_profiles(call, place):
    code, result, err = call()
    assert code == 0
    assert texts_sent(call) == {f"Title {row}." for row in range(8)}
    text_embeddings = place.text_embeddings(place.dataset())
    assert np.array_equal(text_embeddings.items[3], row_of("Title 3."))
    assert text_embeddings.has_item.tolist() == [True] * 8 + [False]
    assert (result["profiles"], result["users"]) == ("metadata", "mean over training items")
    assert (result["items_without_vector"], result["dimensions"], result["texts_cut"]) == (1, 4, 0)
    assert result["encoder"] == f"fake ({call.server.url})"
    assert {"texts_sha256", "dataset", "revision", "on_missing"} <= result.keys()
    assert "items: their metadata; 1 of 9 have none" in err
    assert (~text_embeddings.has_user).sum() == 1  # who met the last item alone in training
    assert "1 item and 1 user have no vector: the alignment leaves them out" in err


def test_the_same_again_asks_nothing_and_a_changed_text_alone(call, place):
    _, result, err = call("--price", 50)
    assert (result["tokens"], result["cost"]) == (80, 0.004)
    assert "paid for: 80 tokens, cost 0.004" in err
    before = call.server.requests
    code, result, err = call()
    assert (code, result["skipped"], result["tokens"]) == (0, True, 0)
    assert "kept" in err
    # What repeats it, in another workspace too: nothing of the price, and no password.
    address = call.server.url.replace("://", "://me:pw@")
    _, secret, _ = call("--price", 50, encoder=("--encoder", "openai:fake", "--base-url", address))
    for told in (result, secret):
        assert told["command"] == f"rlmrec encode --encoder openai:fake --base-url {call.server.url}"
    assert call.server.requests == before
    dataset = place.dataset()
    titles = dataset.item_texts.with_columns(
        title=pl.when(pl.col("title") == "Title 2.").then(pl.lit("New.")).otherwise("title")
    )
    Dataset(
        dataset.name, dataset.train, dataset.valid, dataset.test, dataset.users, dataset.items, titles
    ).save(place.dataset_path)  # fmt: skip
    code, result, _ = call()
    assert (code, result["skipped"]) == (0, False)
    assert [body["input"] for body in call.server.bodies[before:]] == [["New."]]


def test_finished_profiles_are_used_by_default_and_said_so(call, place):
    profile(place, "item", range(9), failed=[4])
    code, result, err = call()
    assert code == 0
    assert texts_sent(call) == {f"item {row} profiled." for row in range(9) if row != 4} | {"Title 4."}
    assert (result["profiles"], result["models"]) == ("llm", {MODEL: 8})
    counts = ("items_with_profile", "items_failed", "items_with_fallback", "items_without_vector")
    assert [result[name] for name in counts] == [8, 1, 1, 0]
    assert (
        f"items: profiles by {MODEL}: 8 of 9; of the other 1 (1 failed) 1 have their metadata instead, 0 nothing"
        in err
    )
    assert "users: the mean over their training items' vectors" in err


def test_unfinished_profiles_are_not_used_by_default_and_said_so(call, place):
    profile(place, "item", range(3))
    _, result, err = call()
    assert result["profiles"] == "metadata"
    assert "not used: profiles of 3 of 9 items" in err
    _, result, err = call("--profiles", "llm")
    assert (result["items_with_profile"], result["items_with_fallback"], result["items_without_vector"]) == (
        3,
        5,
        1,
    )
    assert "not used" not in err


def test_drop_leaves_nodes_without_a_profile_out(call, place):
    profile(
        place, "item", range(9), failed=[0, 1, 2]
    )  # all of the first group: its users have no mean either
    _, result, err = call("--on-missing", "drop")
    assert (result["items_failed"], result["items_with_fallback"]) == (3, 0)
    assert (result["items_without_vector"], result["users_without_vector"]) == (3, 4)
    assert "3 items and 4 users have no vector" in err
    text_embeddings = place.text_embeddings(place.dataset())
    assert not text_embeddings.has_item[:3].any()
    assert not text_embeddings.has_user[:4].any()
    for alignment in ("contrastive", "generative"):
        assert not run(
            ["train", "-w", place.path, "--backbone", "lightgcn", "--alignment", alignment, "--epochs", 2]
        )


def run(arguments):
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize("on_missing", ["text", "drop"])
def test_users_by_their_profiles(call, place, on_missing):
    profile(place, "item", range(9))
    profile(place, "user", range(12), failed=[5])
    _, result, err = call("--on-missing", on_missing)
    assert (result["users"], result["users_with_profile"], result["users_failed"]) == ("profiles", 11, 1)
    assert result["users_by_mean"] == (on_missing == "text")
    assert f"users: profiles by {MODEL}: 11 of 12 (1 failed)" in err
    text_embeddings = place.text_embeddings(place.dataset())
    assert np.array_equal(text_embeddings.users[3], row_of("user 3 profiled."))
    assert text_embeddings.has_user[5] == (on_missing == "text")
    _, result, err = call("--profiles", "mean")
    assert (result["profiles"], result["users"], result["users_by_mean"]) == (
        "llm",
        "mean over training items",
        12,
    )
    assert "not used: profiles of 11 of 12 users" in err
    assert "--user-vectors profiles uses them" in err


def test_both_in_one_text(call, place):
    profile(place, "item", range(9), failed=[4])
    _, result, _ = call("--profiles", "llm+metadata")
    sent = texts_sent(call)
    assert "Title 3. item 3 profiled." in sent
    assert {"Title 4.", "item 8 profiled."} <= sent
    assert result["profiles"] == "llm+metadata"


def test_a_file_of_items_is_metadata(call, place, tmp_path):
    profile(place, "item", range(9))
    (tmp_path / "items.csv").write_text("item_id,words\n" + "".join(f"i{row},W{row}\n" for row in range(9)))
    _, result, err = call("--items", tmp_path / "items.csv")
    assert result["profiles"] == "metadata"
    assert "not used: profiles of 9 of 9 items" in err
    assert texts_sent(call) == {f"W{row}." for row in range(9)}


def test_names_keep_vectors_apart_and_runs_record_them(call, place):
    profile(place, "item", range(9))
    assert call("--profiles", "metadata", "--name", "plain")[0] == 0
    assert call("--profiles", "llm", "--name", "by-llm")[0] == 0
    dataset = place.dataset()
    assert place.text_embeddings(dataset, "plain").digest != place.text_embeddings(dataset, "by-llm").digest
    train = ["train", "-w", place.path, "--alignment", "contrastive", "--epochs", 2]
    assert run([*train, "--semantics", "by-llm"]) == 0
    metrics = json.loads(
        (
            place.finished_run("lightgcn-contrastive-general-seed0-texts=by-llm-epochs=2") / "metrics.json"
        ).read_text()
    )
    assert metrics["config"]["names"]["semantics"] == "by-llm"
    assert metrics["config"]["data"]["texts"] == place.text_embeddings(dataset, "by-llm").digest


def test_profiles_of_another_split_are_refused(call, place):
    held_out = int(place.dataset().test.id[0])
    profile(place, "item", range(9), sources=[held_out])
    code, _, err = call("--profiles", "llm")
    assert code == 1
    assert f"was written from interaction {held_out}, which is no training interaction" in err
    code, result, err = call()
    assert (code, result["profiles"]) == (0, "metadata")
    assert "not used: the profile of item" in err


def test_profiles_of_other_texts_are_refused_where_asked_for(call, place):
    profile(place, "item", range(9))
    profile(place, "user", range(12))
    old = place.dataset()
    texts = old.item_texts.with_columns(title=pl.col("title").str.replace("Title 2", "New"))
    Dataset(old.name, old.train, old.valid, old.test, old.users, old.items, texts).save(place.dataset_path)
    for option in ("llm", "llm+metadata", "mean"):
        code, _, err = call("--profiles", option)
        assert code == 1
        assert "9 item profiles" in err
        assert "are stale" in err
        assert "rlmrec profile --items" in err
    assert call("--user-vectors", "profiles")[0] == 1
    code, result, err = call()
    assert (code, result["profiles"], result["users"]) == (0, "metadata", "mean over training items")
    assert "not used: 9 item profiles" in err
    assert "not used: 12 user profiles" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--profiles", "magic"], 2, "--profiles 'magic': expected one of llm, metadata, llm+metadata, mean"),
        (["--on-missing", "guess"], 2, "expected one of text, drop"),
        (["--user-vectors", "guess"], 2, "expected one of profiles, texts, mean"),
        (["--profiles", "mean", "--user-vectors", "profiles"], 2, "leave out --user-vectors profiles"),
        (["--user-vectors", "mean", "--users", "u.csv"], 2, "does not use --users u.csv"),
        (["--user-vectors", "texts"], 2, "no user texts"),
        (["--text-column", "nope"], 2, "text column ['nope'] not found: the texts have title"),
        (["--name", "../out"], 2, "text embeddings name '../out'"),
        (["--profiles", "llm"], 1, "holds no profile of items"),
        (["--user-vectors", "profiles"], 1, "rlmrec profile --users"),
        (["--encoder", "magic"], 2, "expected one of local, wordllama, sentence-transformers:NAME_OR_FOLDER"),
        (["--encoder", "openai:"], 2, "expected one of local"),
        (["--encoder", "local", "--base-url", "http://x"], 2, "--base-url belongs to --encoder openai:MODEL"),
        (["--encoder", "sentence-transformers:nobody/nothing"], 2, "cannot load 'nobody/nothing'"),
        (["--encoder", "openai:text-embedding-3-small"], 2, "$OPENAI_API_KEY holds no key"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_without_a_traceback(call, arguments, code, message):
    got, _, err = call(*arguments, encoder=() if "--encoder" in arguments else ("--encoder", "local"))
    assert got == code
    assert message in err
    assert "Traceback" not in err
    assert not [line for line in err.splitlines() if "error" in line][1:]


def test_an_endpoint_that_refuses_leaves_nothing_half_done(call, place):
    call.server.script = lambda number, body: failure(401, "bad key")
    code, _, err = call()
    assert code == 1
    assert "refuses access" in err
    assert not place.text_embeddings_path().exists()


def test_refused_texts_zeros_and_another_model_are_told_and_everything_else_is_encoded(call, place):
    def odd(number, body):
        if any(text == "Title 2." for text in body["input"]):
            return failure(400, "policy 7 forbids this text")
        data = [
            {"index": row, "embedding": [0.0, 0.0] if text == "Title 1." else [1.0, float(row)]}
            for row, text in enumerate(body["input"])
        ]
        return embedded(body, data=data, model="another")

    call.server.script = odd
    code, result, said = call("--rpm", "60000", "--tpm", "1e9")
    items = place.dataset().items
    assert code == 0
    assert result["texts_refused"]["count"] == 1
    assert f"1 texts were refused by the endpoint, also when cut:\n  item {items.id(2)!r}: HTTP 400" in said
    assert "policy 7 forbids this text" in said
    assert f"1 items have a text vector of zeros, for example {items.id(1)!r}" in said
    kinds = {finding["kind"]: finding["count"] for finding in result["findings"]}
    assert kinds["zero vector"] == 1
    assert kinds["other model"] >= 1
    assert not place.text_embeddings(place.dataset()).has_item[2]
    assert call("--rpm", "5", encoder=("--encoder", "tfidf"))[0] == 2, "it sends no requests"


def test_missing_names_are_listed_and_the_old_place_is_told(call, place, capsys):
    call("--name", "plain")
    assert run(["train", "-w", place.path, "--alignment", "contrastive", "--semantics", "other"]) == 1
    err = capsys.readouterr().err
    assert "no text vectors 'other'" in err
    assert "there are plain" in err
    (place.path / "semantics.safetensors").write_bytes(b"")
    assert run(["train", "-w", place.path, "--alignment", "contrastive"]) == 1
    assert "move it to" in capsys.readouterr().err


def test_whitened_vectors_of_two_encoders_encode_new_texts_alike(call, place):
    """--encoder A+B --whiten p, and the same encoder again from what the manifest names."""
    words = ["red", "green", "blue", "warm", "cold", "old", "new", "tall", "small"]
    ids = list(place.dataset().items.ids)
    texts = [f"{words[row]} {words[row * 2 % 9]} {words[row * 4 % 9]} thing" for row in range(9)]
    pl.DataFrame({"item_id": ids, "text": texts}).write_parquet(place.path / "items.parquet")
    own = ("--items", place.path / "items.parquet")
    code, result, err = call(*own, "--whiten", 0.5, "--set", "dim=3", encoder=("--encoder", "tfidf+tfidf"))
    assert code == 0, err
    assert result["whitening"]["power"] == 0.5
    found = place.text_embeddings(place.dataset())
    again = encoder_of(found.manifest, folder=place.encoders_path)
    np.testing.assert_allclose(again.encode(texts[3:4]), found.items[[3]], atol=1e-5)
    code, _, err = call("--set", "size=3", encoder=("--encoder", "tfidf+tfidf"))
    assert (code, "none of tfidf, tfidf has the option 'size': expected one of dim" in err) == (2, True)
    code, _, err = call("--set", "dimm=3", encoder=("--encoder", "tfidf"))
    assert (code, "unknown option 'dimm' (did you mean 'dim'?): expected one of dim" in err) == (2, True)
    assert "Config" not in err
    code, _, err = call(encoder=("--encoder", "tfid"))
    assert (code, "did you mean 'tfidf'?" in err, "items:" in err) == (2, True, False), "before any plan"
    code, _, err = call("--whiten", 2)
    assert code == 2
    assert "'--whiten'" in err
