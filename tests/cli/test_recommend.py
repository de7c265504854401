"""recommend, explain, cold, index, export from outside."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from rlmrec.cli import main
from rlmrec.cli.ids import parse_id_lists
from rlmrec.data.dataset import Dataset
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import UnknownIdError
from rlmrec.recommend import index
from rlmrec.recommend.cold_start import ColdStart
from rlmrec.recommend.recommender import Recommender
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import Workspace

KINDS = ["cookery", "detectives", "travel"]


class FakeEncoder:
    """Words of three kinds to the three directions of blocks()."""

    name = "fake"
    dim = 8

    def __init__(self, device="cpu"):
        pass

    def encode(self, texts):
        return np.array([[kind in text for kind in KINDS] + [0] * 5 for text in texts], np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace with three trained runs."""
    place = Workspace(tmp_path_factory.mktemp("serve") / "w")
    dataset, text_embeddings = blocks()
    texts = pl.DataFrame({"title": [f"<b>{KINDS[row // 15]}</b> {row}" for row in range(45)]})
    dataset = Dataset(
        "blocks", dataset.train, dataset.valid, dataset.test, dataset.users, dataset.items, texts
    )
    dataset.save(place.dataset_path)
    text_embeddings.manifest.update({"encoder": "fake", "made_by": {"encoder": "local"}})
    text_embeddings.save(place.text_embeddings_path())
    for name, alignment in (("base", "none"), ("con", "contrastive"), ("gen", "generative")):
        with pytest.raises(SystemExit) as end:
            main(["train", "-w", str(place.path), "--backbone", "lightgcn", "--alignment", alignment,
                  "--name", name, "--epochs", "30",
                  "--set", "learning_rate=0.02", "--set", "batch_size=256"])  # fmt: skip
        assert end.value.code in (0, None)
    return place


@pytest.fixture
def call(capsys, monkeypatch, place):
    monkeypatch.setattr("rlmrec.text.local.LocalEncoder", FakeEncoder)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments), "-w", str(place.path)])
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


def last_json(out):
    return json.loads(out.strip().splitlines()[-1])


def test_recommend_for_all(call, place, tmp_path):
    code, out, _ = call(
        "recommend", "--run", "con", "--all", "--out", tmp_path / "a.parquet", "-k", 3, "--json"
    )
    assert code == 0
    assert last_json(out)["users"] == 60
    table = pl.read_parquet(tmp_path / "a.parquet")
    _, out, _ = call("recommend", "--run", "con", "--user", "u7", "-k", 3, "--json")
    [row] = table.filter(pl.col("user") == "u7")["items"].to_list()
    assert row == [item["id"] for item in last_json(out)["items"]]


@pytest.mark.parametrize(
    "command",
    [
        ("recommend", "--user", "u7"),
        ("recommend", "--all", "--out", "OUT"),
        ("cold", "user", "--likes", "i1"),
    ],
)
def test_a_list_of_two_thousand_million_ends_with_the_items_and_says_so(call, place, tmp_path, command):
    n = place.dataset().n_items
    arguments = [str(tmp_path / "a.csv") if part == "OUT" else part for part in command]
    code, out, said = call(*arguments, "--run", "con", "-k", 2_000_000_000, "--json")
    assert code == 0
    assert f"-k 2,000,000,000: there are {n} items, so lists have at most {n}" in said
    assert len(last_json(out).get("items", [])) <= n


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["recommend", "--run", "con"], 2, "either --user ID"),
        (["recommend", "--run", "con", "--all"], 2, "--out FILE"),
        (["recommend", "--run", "con", "--user", "u1", "--out", "x"], 2, "either --user ID"),
        (["explain", "--run", "con", "--user", "u1", "--item", "nothing"], 1, "unknown item 'nothing'"),
        (["export", "--run", "con"], 2, "--out FOLDER"),
        (["cold", "user", "--run", "con"], 2, "either --text or --likes"),
        (["cold", "user", "--run", "con", "--likes", "i1,zzz"], 1, "unknown item 'zzz'"),
        (["recommend", "--run", "con", "--all", "--out", "recs.xml"], 2, "must end in one of .parquet"),
        (["export", "--run", "con", "--out", __file__], 2, f"--out is a folder, {__file__} is a file"),
        (
            ["cold", "fit", "--run", "base", "--projector"],
            2,
            "--projector needs a run trained with contrastive; base is none",
        ),
        (
            ["cold", "fit", "--run", "gen", "--projector"],
            2,
            "--projector needs a run trained with contrastive; gen is generative",
        ),
        (["cold", "item", "--run", "con", "--text", " "], 2, "--text is empty"),
        (["cold", "user", "--run", "con", "--text", ""], 2, "--text is empty"),
        (["cold", "user", "--run", "con", "--likes", ""], 2, "--likes is empty"),
        (["cold", "item", "--run", "con", "--text", "travel"], 1, "'rlmrec cold fit' (-w "),
        (["index", "--run", "con", "--force"], 1, "at least 1,000"),
    ],
)
def test_mistakes_are_one_line(call, arguments, code, message):
    got, _, err = call(*arguments)
    assert got == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_explain(call, place):
    code, out, err = call("explain", "--run", "con", "--user", "u2", "--item", "i5", "-k", 2, "--json")
    assert code == 0
    found = last_json(out)
    assert found["exact"]
    assert len(found["because"]) == 2
    assert all(int(reason["id"][1:]) < 15 for reason in found["because"]), "the user's own block"
    assert found["title"] == "<b>cookery</b> 5"
    assert found["sentence"] is None
    assert "the other" in err
    assert found["because"][0]["id"] in err
    dataset = place.dataset()
    mine = dataset.train.items[dataset.train.users == dataset.users.row("u2")]
    has = dataset.items.id(int(mine[0]))
    _, out, err = call("explain", "--run", "con", "--user", "u2", "--item", has, "-k", 100, "--json")
    n_others = last_json(out)["history"] - len(last_json(out)["because"])
    assert n_others == 1, "the item itself"
    assert "the other item" in err
    assert "who has it already" in err
    assert "is recommended because" not in err
    free = next(i for i in range(15) if i not in mine)
    _, out, err = call("explain", "--run", "con", "--user", "u2", "--item", f"i{free}", "-k", 100, "--json")
    assert last_json(out)["history"] == len(last_json(out)["because"]) == len(mine)
    assert "the other" not in err


def test_tables_show_the_ids_that_other_commands_ask_for(call, place):
    _, out, _ = call("recommend", "--run", "con", "--user", "u7", "-k", 3)
    ids = last_json(call("recommend", "--run", "con", "--user", "u7", "-k", 3, "--json")[1])["items"]
    assert all(f"│ {item['id']} " in out for item in ids)
    assert max(map(len, out.splitlines())) <= 80
    assert call("cold", "fit", "--run", "con")[0] == 0
    for arguments, listed in (
        (("cold", "item", "--run", "con", "--text", "travel", "-k", 3), "similar"),
        (("cold", "user", "--run", "con", "--text", "travel", "-k", 3), "items"),
    ):
        _, out, err = call(*arguments, "--json")
        found = last_json(out)[listed]
        assert len(found) == 3
        assert all(f"│ {item['id']} " in err for item in found)
    (place.run("con") / "recommender" / "cold_start.safetensors").unlink()


def test_cold_start(call, place):
    assert last_json(call("cold", "fit", "--run", "base", "--json")[1])["method"]["name"] == "kernel"
    code, out, _ = call("cold", "item", "--run", "base", "--text", "a book on travel", "-k", 5, "--json")
    assert code == 0
    found = last_json(out)
    assert all(int(user["id"][1:]) >= 40 for user in found["users"]), "users of the third block"
    assert all(int(item["id"][1:]) >= 30 for item in found["similar"])
    for kind in ("item", "user"):
        code, out, said = call("cold", kind, "--run", "base", "--text", "qwxyz", "--json")
        assert code == 0
        assert "the encoder knows no word of this text" in " ".join(said.split())
        assert last_json(out)["note"].startswith("the encoder knows no word")
    code, out, _ = call("cold", "item", "--run", "base", "--text", "travel", "-k", 6)
    cosines = [line.split("│")[2].strip() for line in out.splitlines() if line.startswith("│ u")]
    assert len(cosines) == len(set(cosines)) == 6, "the order can be read"
    for taste in (("--text", "detectives"), ("--likes", "i1,i2")):
        condition = "title = '<b>travel</b> 31'"
        code, out, _ = call("cold", "user", "--run", "base", *taste, "--where", condition, "--json")
        assert [item["id"] for item in last_json(out)["items"]] == ["i31"]
        code, _, said = call("cold", "user", "--run", "base", *taste, "--where", "title = 'none'")
        assert (code, "no item fulfils the condition" in said) == (2, True)
    code, out, _ = call("cold", "user", "--run", "base", "--text", "detectives", "-k", 5, "--json")
    assert code == 0
    assert all(15 <= int(item["id"][1:]) < 30 for item in last_json(out)["items"])
    code, out, _ = call("cold", "user", "--run", "base", "--likes", "i1, i2", "-k", 5, "--json")
    assert code == 0
    items = [item["id"] for item in last_json(out)["items"]]
    assert all(int(raw[1:]) < 15 for raw in items)
    assert not {"i1", "i2"} & set(items)
    assert call("cold", "fit", "--run", "con", "--projector", "--json")[0] == 0
    assert ColdStart.load(place.run("con") / "recommender").map.name == "projector"
    (place.run("con") / "recommender" / "cold_start.safetensors").unlink()


def test_lists_of_ids_that_may_hold_commas():
    titles = Vocabulary(["Alien", "Crouching Tiger, Hidden Dragon", "Heat"], "item")
    assert parse_id_lists(titles, ["Heat, Alien", titles.id(1)]) == ["Heat", "Alien", titles.id(1)]
    assert parse_id_lists(Vocabulary([3, 5, 8], "item"), ["8,3", "5"]) == [8, 3, 5]
    with pytest.raises(UnknownIdError, match="item ids are integers"):
        parse_id_lists(Vocabulary([3], "item"), ["3,x"])


def test_the_map_is_fitted_on_the_vectors_of_the_run(call, place):
    """By their name; and where these have changed since, the projector is refused and a map is not silent."""
    dataset = place.dataset()
    texts = place.text_embeddings(dataset)
    default, other = place.text_embeddings_path().read_bytes(), place.text_embeddings_path("other")
    wider = TextEmbeddings(np.tile(texts.users, 2), np.tile(texts.items, 2), texts.manifest)
    wider.save(other)
    train = [
        "train",
        "--alignment",
        "contrastive",
        "--semantics",
        "other",
        "--name",
        "by-other",
        "--epochs",
        "2",
    ]
    assert call(*train)[0] == 0
    code, out, err = call("cold", "fit", "--run", "by-other", "--json")
    assert code == 0
    assert last_json(out)["text_size"] == 16
    assert "not those" not in err
    wider.shuffled(np.random.default_rng(0)).save(other)
    code, _, err = call("cold", "fit", "--run", "by-other", "--json")
    assert code == 0
    assert "the text embeddings 'other' are not those that by-other was trained with" in " ".join(err.split())
    code, _, err = call("cold", "fit", "--run", "by-other", "--projector")
    assert code == 2
    assert "the text embeddings 'other' are not those that by-other was trained with" in " ".join(err.split())
    code, out, err = call("cold", "fit", "--run", "by-other", "--semantics", "default", "--json")
    assert (code, "not those" in err) == (0, False), "asked for by name"
    assert (last_json(out)["text_embeddings"], last_json(out)["text_size"]) == ("default", 8)
    code, _, err = call("cold", "fit", "--run", "by-other", "--semantics", "default", "--projector")
    assert (code, "which its projector needs" in " ".join(err.split())) == (2, True)
    other.unlink()
    assert "no text vectors 'other'" in call("cold", "fit", "--run", "by-other")[2]
    assert place.text_embeddings_path().read_bytes() == default


def test_another_encoder_is_refused(call, monkeypatch):
    assert call("cold", "fit", "--run", "base")[0] == 0
    monkeypatch.setattr(FakeEncoder, "name", "other")
    code, _, err = call("cold", "user", "--run", "base", "--text", "travel")
    assert code == 2
    assert "cannot be mixed" in " ".join(err.split())


def test_index_is_not_needed_here(call):
    code, out, _ = call("index", "--run", "con", "--json")
    assert code == 0
    assert last_json(out) == {"run": "con", "built": False, "items": 45}


def test_an_index_that_is_slower_than_exact_search_is_not_kept(call, place, monkeypatch):
    kept = []
    earlier = place.recommender_path("con") / index.MANIFEST
    earlier.write_text("{}")  # a damaged one is built again, too
    assert "the index of con, built with --force, stays in use" in " ".join(
        call("index", "--run", "con")[1].split()
    )
    manifest = {
        "kind": "IVF4,Flat",
        "seconds": 1.0,
        "probes": 4,
        "milliseconds": {"exact": 0.7, "index": 9.7},
    }
    built = SimpleNamespace(manifest=manifest, recall=0.99, is_faster=False, save=kept.append)
    monkeypatch.setattr(Recommender, "build_index", lambda *_: built)
    monkeypatch.setattr(index, "EXACT_BELOW", 10)
    code, out, err = call("index", "--run", "con", "--json")
    assert code == 0
    assert not last_json(out)["built"]
    assert not kept
    assert "one user takes 9.7 ms with the index, 0.7 ms by exact search" in " ".join(err.split())
    assert "exact search is faster for this run" in " ".join(err.split())
    assert not earlier.exists(), "it would still be used"
    code, out, _ = call("index", "--run", "con", "--force", "--json")
    assert last_json(out)["built"]
    assert len(kept) == 1


def test_export(call, tmp_path):
    pytest.importorskip("qdrant_client", reason="the qdrant extra is not installed")
    code, out, _ = call(
        "export", "--run", "con", "--out", tmp_path / "v", "--qdrant", tmp_path / "q", "--json"
    )
    assert code == 0
    assert len(last_json(out)["files"]) == 2
    assert len(pl.read_parquet(tmp_path / "v" / "items.parquet")) == 45
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(tmp_path / "q"))
    assert client.count("rlmrec-users").count == 60
    client.close()


def test_recommend_needs_no_torch(place):
    code = (
        "import sys; from rlmrec.cli import main\n"
        f"sys.argv[1:] = ['recommend', '-w', {str(place.path)!r}, '--run', 'con', '--user', 'u1']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
