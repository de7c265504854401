"""The chart of gains by history length: its values, and the file that stands alone."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from rlmrec.experiments.results import results_path
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial
from rlmrec.paper.grids import grid
from rlmrec.report.charts import standalone
from rlmrec.report.experiments import summaries_of
from rlmrec.report.history import gain_chart

LENGTHS = 1, 2, 3, 5, 0


def record(dataset, history, value, backbone="graph-filter", **text):
    trial = Trial(RunSpec.resolve(backbone, seed=1), "f", history=history, **text)
    return {
        "id": trial.id, "status": "done", "dataset": dataset, "cell": trial.as_dict(), "epochs": 0,
        "test": {"recall@20": value, "ndcg@20": value}, "valid": {"recall@20": value}, "seconds": 1.0,
        "environment": {},
    }  # fmt: skip


@pytest.fixture
def summaries(tmp_path):
    experiment = grid("history")
    for dataset in ("books", "films"):
        path = results_path(tmp_path, "history", dataset)
        path.parent.mkdir(exist_ok=True)
        lines = []
        for place, history in enumerate(LENGTHS):
            text = {"texts": "t", "text_embeddings": "default"}
            lines += [
                record(dataset, history, 0.1),
                record(dataset, history, 0.12 if history == 1 else 0.05, "popularity"),
                record(dataset, history, 0.15 - 0.01 * place, **text),
                record(dataset, history, 0.1, shuffle="both", **text),
            ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return summaries_of(experiment, tmp_path)


def test_the_chart_has_a_line_for_each_dataset_with_text_and_with_shuffled_text(summaries, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "rlmrec.report.history.lines", lambda *given, **more: drawn.update(given=given, **more)
    )
    gain_chart(summaries)
    series = {one.name: one for one in drawn["given"][1]}
    assert list(series) == [
        f"{dataset}: graph filter, {text}"
        for dataset in ("books", "films")
        for text in ("text", "shuffled text")
    ]
    text = series["films: graph filter, text"]
    assert list(text.x) == [0, 1, 2, 3, 4]
    assert text.y == pytest.approx([25, 40, 30, 20, 10]), "at the first length popularity is the better base"
    shuffled = series["films: graph filter, shuffled text"]
    assert shuffled.y == pytest.approx([100 * (0.1 / 0.12 - 1), 0, 0, 0, 0])
    assert drawn["x_ticks"] == [(0, "1"), (1, "2"), (2, "3"), (3, "5"), (4, "all")]
    assert gain_chart([]) is None


def test_the_file_of_a_chart_stands_alone_in_light_and_dark(summaries):
    chart = gain_chart(summaries)
    root = ElementTree.fromstring(standalone(chart))
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "Gain from text against history length"
    assert [text[2:] for text in texts[1:5]] == [name for _, _, name in chart.legend]
    assert {"1", "2", "3", "5", "all"} <= set(texts)
    style = root.find("{http://www.w3.org/2000/svg}style").text
    assert style.count("--ink: #") == style.count("--series-0: #") == 2
    assert "prefers-color-scheme: dark" in style
    assert "#0a0b" not in standalone(chart), "no placeholder is left"
