"""The Python examples of the guides under docs/, run as they stand."""

import re
from pathlib import Path

import polars as pl
from fault_server import FaultServer

from rlmrec.data.dataset import Dataset
from rlmrec.testing import blocks

DOCS = Path(__file__).parents[1] / "docs"


def example(file):
    found = re.findall(r"```python\n(.*?)```", (DOCS / file).read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{file} has no example"
    return "\n".join(found)


def test_profiles(tmp_path, monkeypatch, capsys):
    toy, _ = blocks(users=4, items=4)
    texts = pl.DataFrame({"title": [f"thing {row}" for row in range(toy.n_items)]})
    Dataset("toy", toy.train, toy.valid, toy.test, toy.users, toy.items, texts).save(
        tmp_path / "shop" / "dataset"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FaultServer() as server:
        exec(compile(example("profiles.md"), "docs/profiles.md", "exec"), {"ENDPOINT": server.url})
    assert f"{toy.n_items} profiled, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "answers.jsonl.gz").exists()
