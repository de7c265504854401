"""Experiments: the grids, the paper's numbers, the tables made of lines, the command."""

import csv
import io
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from rlmrec.cli import main
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.evaluation.ranking import read_table
from rlmrec.evaluation.significance import compare_tables
from rlmrec.experiments.experiment import Experiment, _select, coordinates
from rlmrec.experiments.results import results_path
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial, TrialInputs
from rlmrec.paper.grids import grid, grid_names
from rlmrec.paper.studies import STUDIES
from rlmrec.report.experiments import (
    _long_table,
    _printed_table,
    current_records,
    describe_environments,
    load_asked,
    load_tests,
    save_tests,
    summaries_of,
    summarize,
    tables_of,
    write_experiment,
)
from rlmrec.report.tables import as_csv, as_latex, as_markdown
from rlmrec.text.embeddings import TextEmbeddings

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
README = runpy.run_path(str(EXPERIMENTS / "render.py"))["readme"]
NAMES = ["figure4", "figure5", "table1", "table2", "table3", "table4"]  # of the paper


@pytest.fixture
def place(place):
    """Dataset and two encoders' vectors."""
    text_embeddings = place.text_embeddings(place.dataset())
    other = TextEmbeddings(
        text_embeddings.users[:, ::-1], text_embeddings.items[:, ::-1], text_embeddings.manifest
    )
    other.save(place.path / "text_embeddings" / "other.safetensors")
    return place


def trials(place, name, **more):
    options = more.pop("options", {})
    return grid(name).trials(TrialInputs(place), "general", options, **more)


def test_the_grids(place):
    assert grid_names() == sorted([*NAMES, "hidden", "history", "strong"])
    sizes = {name: len(trials(place, name, seeds=2)[0]) for name in NAMES if name != "table3"}
    assert sizes == {
        "table1": 1 + 6 * 3 * 2,
        "table2": (2 * 3 + 2) * 2,
        "table4": 6 * 3 * 2,
        "figure4": 4 * 2 * (1 + 2 * 2 + 2 * 3),  # two encoders; shuffled in three ways
        "figure5": 6 * 3 * 2,
    }
    assert len(trials(place, "table1")[0]) == 1 + 6 * 3 * 5
    for name in NAMES:
        assert len(list(grid(name).points(["default"], 1))) == len(
            {tuple(point.values()) for point in grid(name).points(["default"], 1)}
        ), "no trial twice"


def test_pretraining_goes_from_the_earlier_to_the_later_half():
    points = list(grid("table3").points(["default"], 1))
    assert len(points) == 8
    assert {(point["period"], point["cut"]) for point in points} == {
        ("later", "global"),
        ("later", "per-user"),
    }


def test_table3_refuses_data_without_timestamps(place):
    with pytest.raises(DataError, match="needs timestamps and this dataset has none"):
        trials(place, "table3")


def test_cells_without_text_vectors_are_told_apart(place):
    place.text_embeddings_path().unlink()
    (place.path / "text_embeddings" / "other.safetensors").unlink()
    runnable, lacking = trials(place, "table1", seeds=1)
    assert {trial.spec.alignment for trial in runnable} == {"none"}
    assert len(runnable) == 6
    assert len(lacking) == 1 + 12


def test_options_go_where_they_are_known(place):
    found, _ = trials(place, "table1", seeds=1, options={"weight": 0.5, "epochs": 3})
    trained = [trial for trial in found if trial.spec is not None]
    assert {trial.spec.training.epochs for trial in trained} == {3}
    weights = {trial.spec.alignment_config.weight for trial in trained if trial.spec.alignment != "none"}
    assert weights == {0.5}
    with pytest.raises(ConfigError, match="no trial of table1 has an option lr"):
        trials(place, "table1", options={"lr": 1})
    with pytest.raises(ConfigError, match=r"has an option epoch \(did you mean 'epochs'\?\)"):
        trials(place, "table1", options={"epoch": 1})


def test_only(place):
    only = {"backbone": ["sgl", "lightgcn"], "alignment": ["none"], "seed": ["2"]}
    found, _ = trials(place, "table1", only=only)
    assert [(trial.spec.backbone, trial.seed) for trial in found] == [("lightgcn", 2), ("sgl", 2)]
    assert len(trials(place, "figure5", seeds=1, only={"noise": ["0.05", "0"]})[0]) == 6
    for wrong, message in (
        ({"model": ["sgl"]}, "--only model=sgl: expected one of backbone"),
        ({"alignment": ["con"]}, "expected none, contrastive, generative"),
        ({"noise": ["much"]}, "figure5 has no 'much' there; expected 0.0, 0.05"),
        ({"backbone": ["lightgnc", "sgl"]}, "table1 has no 'lightgnc' there; expected semantic-only, gccf"),
        ({"seed": ["9"]}, "expected 1, 2, 3, 4, 5"),
        ({"backbone": ["semantic-only"], "alignment": ["contrastive"]}, "no trial with all of --only"),
    ):
        with pytest.raises(ConfigError, match=message):
            trials(place, "figure5" if "noise" in wrong else "table1", only=wrong)


def test_names_of_version_0_1_are_still_read(place, tmp_path):
    (tmp_path / "old.toml").write_text(
        'title = "x"\nmetrics = ["recall@20"]\nrows = ["semantics", "cut"]\nseeds = 1\n'
        'against = {semantics = "default"}\n[[grid]]\nalignment = ["contrastive"]\n'
        'semantics = ["default", "other"]\nperiod = ["later", "later, by user"]\n'
    )
    old = Experiment.read(tmp_path / "old.toml")
    assert old.rows == ["text_embeddings", "cut"]
    assert old.values["against"] == {"text_embeddings": "default"}
    points = _select(list(old.points([])), {"semantics": ["other"]}, "old")
    assert [(point["text_embeddings"], point["period"], point["cut"]) for point in points] == [
        ("other", "later", "global"), ("other", "later", "per-user"),
    ]  # fmt: skip
    trial = Trial(RunSpec.resolve(), "f", period="later", cut="per-user").as_dict()
    assert trial["data"]["period"] == "later, by user", "ids of trials stay"
    assert coordinates(trial)["cut"] == "within each user's history"


def test_timing_says_where(place):
    found, _ = trials(place, "table4", timing="cpu, 2 threads")
    assert {trial.timing for trial in found} == {"cpu, 2 threads"}
    assert {trial.spec.training.epochs for trial in found} == {5}


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4"])
def test_every_number_of_the_paper_has_its_row(name):
    experiment = grid(name)
    rows = {
        tuple("" if key == "cut" else value for key, value in zip(experiment.rows, row, strict=True))
        for row in experiment.known_rows
    }
    for dataset, numbers in _numbers(name).items():
        assert set(numbers) == rows, dataset
        assert all(set(metrics) == set(experiment.metrics) for metrics in numbers.values())


def _numbers(name):
    return grid(name).published.numbers


def test_numbers_of_the_paper():
    table1 = _numbers("table1")
    assert table1["amazon-book"][("LightGCN", "Base")]["recall@20"] == 0.1411
    assert table1["steam"][("AutoCF", "Gen")]["ndcg@20"] == 0.0886
    assert _numbers("table2")["yelp"][("SGL", "KAR")] == {"recall@20": 0.1208, "ndcg@20": 0.0761}
    for (backbone, variant), metrics in _numbers("table2")["amazon-book"].items():
        if variant != "KAR":
            assert metrics.items() <= table1["amazon-book"][(backbone, variant)].items()
    assert _numbers("table3")["yelp"][("", "Gen")]["recall@20"] == 0.1068
    assert _numbers("table4")["amazon-book"][("DCCF", "Con")] == {"seconds_per_epoch": 2.49}
    assert grid("figure5").published is None


def line(alignment, seed, value, dataset="rlmrec-amazon", backbone="lightgcn", status="done", **options):
    texts = {} if alignment == "none" else {"texts": "t", "text_embeddings": "default"}
    trial = Trial(RunSpec.resolve(backbone, alignment, seed=seed, options=options), "f", **texts)
    metrics = dict.fromkeys(grid("table1").metrics, value)
    return {
        "id": trial.id, "status": status, "dataset": dataset, "cell": trial.as_dict(), "test": metrics,
        "valid": metrics, "epochs": 10 * seed, "seconds_per_epoch": 1.0,
        "environment": {"device": "cpu", "threads": 2, "torch": "2"},
    }  # fmt: skip


def store(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def test_a_table_of_known_numbers(tmp_path):
    experiment = grid("table1")
    lines = [
        line("none", 1, 0.10),
        line("none", 2, 0.14),
        line("contrastive", 1, 0.15),
        line("generative", 1, 0.3, status="failed"),
    ]
    path = store(results_path(tmp_path, "table1", "rlmrec-amazon"), lines)
    con = ("LightGCN", "Con")
    save_tests(
        path,
        {con: {"recall@20": {"p_holm": 0.01, "p_t": 0.005, "low": 0.02, "seeds": None}}},
    )
    assert load_tests(path)[con]["recall@20"]["p_holm"] == 0.01
    table = summarize(experiment, path)
    base, contrastive = table.rows
    assert (base.row, base.seeds, base.epochs) == (("LightGCN", "Base"), [1, 2], 15)
    assert base.mean["recall@20"] == pytest.approx(0.12)
    assert base.std["recall@20"] == pytest.approx(0.02 * 2**0.5)
    assert contrastive.std is None
    assert contrastive.change["recall@20"] == pytest.approx(0.25)
    assert contrastive.published_change["recall@20"] == pytest.approx(0.1483 / 0.1411 - 1)
    assert table.failed == 1
    text = as_markdown(tables_of(table))
    assert "| LightGCN | Base | 1, 2 | 15 | 0.1200 ± 0.0283 |" in text
    assert "0.1500 (+25.0 %*)" in text, "R@20 is marked"
    assert text.count("%*") == 2, "in both tables, and no other metric is"
    assert "| LightGCN | Con | 0.1500 | 0.1483 | +1.1 % | +25.0 %* | +5.1 % |" in text
    assert "1 trial failed." in text
    records = list(csv.DictReader(io.StringIO(as_csv([_long_table(table)]))))
    assert len(records) == 12
    found = next(r for r in records if r["variant"] == "Con" and r["metric"] == "recall@20")
    assert (found["mean"], found["std"], found["p_t_holm"], found["paper"]) == ("0.15", "", "0.01", "0.1483")
    assert r"LightGCN & Con & 1 & 0.1500 (0.0608)" in as_latex([_printed_table(table)])
    assert "0.1500$^{*}$ (0.1483)" in as_latex([_printed_table(table)])
    assert r"LightGCN & Base & 2 & 0.1200 $\pm$ 0.0283 (0.0" in as_latex([_printed_table(table)])
    assert as_latex([_printed_table(table)]).count(r"\begin{tabular}") == 1
    assert len(write_experiment(experiment, tmp_path)) == 3


def printed(experiment, results):
    return as_latex([_printed_table(summary) for summary in summaries_of(experiment, results)])


def test_latex_is_whole_and_says_what_its_marks_mean(tmp_path):
    lines = [line("none", 1, 0.1, "a_b & 100 %"), line("contrastive", 1, 0.2, "a_b & 100 %")]
    path = store(results_path(tmp_path, "table1", "x"), lines)
    tests = {"recall@20": {"p_holm": 0.01}}
    save_tests(path, {("LightGCN", "Con"): tests})
    written = write_experiment(grid("table1"), tmp_path)
    texts = {name: printed(grid(name), EXPERIMENTS / "results") for name in NAMES}
    texts["table1"] += written[-1].read_text()
    texts |= {name: as_latex(study.tables(EXPERIMENTS / "results")) for name, study in STUDIES.items()}
    for name, text in texts.items():
        plain = text.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
        assert plain.count("{") == plain.count("}"), name
        assert not re.search(r"(?<!\\)[%#]|[^\x00-\x7f]", text), name
        assert text.count("$") % 2 == 0
        outside = re.sub(r"\$[^$]*\$", "", text)
        assert not re.search(r"(?<!\\)[_^]", outside), name
        for part in text.split(r"\begin{table}")[1:]:
            width = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", part)[1])
            rows = [row for row in part.splitlines() if row.endswith(r"\\")]
            assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {width}, name
            ends = ("table}", "tabular}", "toprule", "midrule", "bottomrule")
            assert [part.count(end) for end in ends] == [1, 2, 1, 1, 1]
    assert r"a\_b \& 100 \%" in texts["table1"]
    assert r"$^{*}$ better and $^{\downarrow}$ worse than variant Base, p $<$ 0.05" in texts["table1"]
    save_tests(path, {})
    assert "better and" not in printed(grid("table1"), tmp_path), "no mark, no explanation"


def test_other_data_is_not_held_against_the_paper(tmp_path):
    path = store(results_path(tmp_path, "table1", "yelp-profiles"), [line("none", 1, 0.1, "yelp-profiles")])
    table = summarize(grid("table1"), path)
    assert table.published_dataset == "yelp"
    assert not table.is_same_data
    assert "which is different data" in as_markdown(tables_of(table))
    assert "difference" not in as_markdown(tables_of(table))
    assert next(csv.DictReader(io.StringIO(as_csv([_long_table(table)]))))["difference_to_paper"] == ""


def test_runs_with_other_options_are_not_averaged():
    old = [line("none", seed, 0.5, layers=1) for seed in (1, 2, 3)]
    new = [line("none", seed, 0.1, layers=2) for seed in (1, 2)]
    kept, left_out = current_records(grid("table1"), [*old, *new])
    assert kept == {("LightGCN", "Base"): new}
    assert left_out == 3


def test_rows_of_other_data_are_not_compared(tmp_path):
    old, new = line("none", 1, 0.5), line("contrastive", 1, 0.1)
    old["cell"]["data"]["dataset"] = "before it was split anew"
    path = store(tmp_path / "x.jsonl", [old, new])
    save_tests(path, {("LightGCN", "Con"): {"recall@20": {"p_holm": 0.01, "p_t": 0.01}}})  # before that, too
    table = summarize(grid("table1"), path)
    assert [row.row for row in table.rows] == [("LightGCN", "Con")]
    assert table.rows[0].change == table.rows[0].tests == {}
    assert "In brackets" not in as_markdown(tables_of(table)), "there are none"
    assert (
        "1 run with options other than those of the row's last run, or on different data, is not"
        in as_markdown(tables_of(table))
    )
    # What was run again last decides, in whatever order rows stand.
    kept, left_out = current_records(grid("table1"), [new, old])
    assert (kept, left_out) == ({("LightGCN", "Base"): [old]}, 1)


def test_the_note_says_all_that_the_runs_were_made_with(tmp_path):
    lines = [line("none", seed, 0.1) for seed in (1, 2)] + [line("contrastive", 1, 0.1)]
    lines[1]["environment"] |= {"threads": 1, "rlmrec": "0.2.0", "machine": "aarch64"}
    lines[2]["environment"] |= {"device": "cuda", "torch": "3", "rlmrec": "0.1.0", "machine": "x86_64"}
    text = as_markdown(tables_of(summarize(grid("table1"), store(tmp_path / "x.jsonl", lines))))
    assert (
        "Run on cpu or cuda (aarch64 or x86_64) with 1 or 2 threads; rlmrec 0.1.0 or 0.2.0, torch 2 or 3."
        in text
    )
    assert describe_environments([{}]) == "Run on an unknown device with unknown threads."


def test_the_note_says_what_made_the_text_vectors(tmp_path):
    lines = [line("none", 1, 0.1), line("contrastive", 1, 0.1)]
    experiment, path = grid("table1"), tmp_path / "x.jsonl"
    assert "Text embeddings" not in as_markdown(tables_of(summarize(experiment, store(path, lines))))
    lines[1]["encoder"] = "wordllama 256"
    assert "Text embeddings: default by wordllama 256." in as_markdown(
        tables_of(summarize(experiment, store(path, lines)))
    )


def test_noise_is_shown_against_no_noise(tmp_path):
    lines = []
    for noise, value in ((0.0, 0.2), (0.1, 0.15)):
        one = line("none", 1, value)
        one["cell"]["data"]["noise"], one["id"] = noise, str(noise)
        lines.append(one)
    path = store(results_path(tmp_path, "figure5", "x"), lines)
    table = summarize(grid("figure5"), path)
    assert [row.row for row in table.rows] == [("0 %", "Base"), ("10 %", "Base")]
    assert table.rows[1].to_reference["recall@20"] == pytest.approx(-0.25)
    assert "-25.0 %" in as_markdown(tables_of(table))
    assert r"& $-$25.0 \%" in as_latex([_printed_table(table)])


def test_coordinates():
    text = {"texts": "t", "text_embeddings": "minilm"}
    kar = Trial(RunSpec.resolve("kar-sgl"), "f", **text)
    assert coordinates(kar.as_dict())["variant"] == "KAR"
    assert coordinates(kar.as_dict())["backbone"] == "SGL"
    shuffled = Trial(RunSpec.resolve("dccf", "generative"), "f", shuffle="users", **text)
    found = coordinates(shuffled.as_dict())
    assert (found["backbone"], found["variant"], found["text_embeddings"], found["shuffle"]) == (
        "DCCF",
        "Gen",
        "minilm",
        "users",
    )
    start = Trial(RunSpec.resolve("lightgcn", "contrastive"), "f", period="earlier", **text)
    later = Trial(RunSpec.resolve(), "f", period="later", start=start)
    assert coordinates(later.as_dict())["start"] == "Con"
    assert coordinates(shuffled.as_dict())["start"] == "random"
    assert grid("table3").row(start.as_dict()) is None


def test_a_start_that_is_none_is_named():
    values = {**grid("table3").values, "grid": [{"start": ["random", "conn"]}]}
    with pytest.raises(
        ConfigError, match=r"start = 'conn', expected random, or the alignment of .*: none, contr"
    ):
        Experiment("mine", values)


def test_damaged_tests_are_named(tmp_path):
    (tmp_path / "x.significance.json").write_text("[1]")
    with pytest.raises(WorkspaceError, match="damaged"):
        load_tests(tmp_path / "x.jsonl")
    (tmp_path / "x.asked.json").write_text('[{"row": ["x"], "seeds": [1], "trials": [{}]}]')
    with pytest.raises(WorkspaceError, match=r"x\.asked\.json is damaged"):
        load_asked(tmp_path / "x.jsonl", grid("table1"))


def test_the_readme_shows_the_stored_lines():
    assert (EXPERIMENTS / "README.md").read_text(encoding="utf-8") == README(EXPERIMENTS / "results"), (
        "run: python experiments/render.py"
    )


def test_a_readme_has_a_table_for_each_dataset_that_was_run(tmp_path):
    for dataset in ("rlmrec-amazon", "yelp-profiles"):
        store(results_path(tmp_path, "table1", dataset), [line("none", 1, 0.1, dataset)])
    text = README(tmp_path)
    assert text.count("### Table 1") == 2
    missing = (
        "distilled, encoders, figure1, figure4, figure5, figure6, hidden, history, profiles, strong, "
        "table2, table3, "
    )
    assert f"Not run yet: {missing}" in text


def test_the_command(place, tmp_path, capsys):
    def call(*arguments):
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    results = tmp_path / "results"
    where = ["-w", place.path, "--results", results]
    quick = ["--seeds", 1, "--epochs", 2, "--set", "batch_size=256", "--threads", 1, "--json"]
    only = ["--only", "backbone=lightgcn,kar-lightgcn", "--only", "alignment=none,contrastive"]
    command = ["experiment", "table2", *where, *only, *quick]
    code, out, err = call(*command)
    assert code == 0
    assert "| LightGCN | KAR | 1 | 2 |" in err
    rows = json.loads(out)["rows"]
    assert [row["variant"] for row in rows] == ["Base", "KAR", "Con"]
    lines = [json.loads(text) for text in (results / "table2" / "blocks.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    folders = {coordinates(one["cell"])["variant"]: place.trial(one["id"]) for one in lines}
    tables = {variant: read_table(folder / "test.parquet") for variant, folder in folders.items()}
    tests = load_tests(results / "table2" / "blocks.jsonl")
    expected = compare_tables(tables["Con"], tables["Base"], "recall@20")
    assert tests[("LightGCN", "Con")]["recall@20"]["p_t"] == pytest.approx(expected.p_t)
    assert {path.name for path in (results / "table2").glob("[!.]*")} == {
        "blocks.jsonl", "blocks.asked.json", "blocks.significance.json", "table2.md", "table2.csv", "table2.tex",
    }  # fmt: skip
    # Again: nothing runs. Another experiment with the same trial: it is not run either, and has its own line.
    before = (results / "table2" / "blocks.jsonl").read_text()
    code, _, err = call(*command)
    assert code == 0
    assert "trials: 3 of 3" in err
    assert (results / "table2" / "blocks.jsonl").read_text() == before
    model = folders["Base"] / "model.safetensors"
    made = model.stat().st_mtime_ns
    same = ["--only", "noise=0", "--only", "alignment=none"]
    assert call("experiment", "figure5", *where, *same, *quick)[0] == 0
    assert model.stat().st_mtime_ns == made
    assert summaries_of(grid("figure5"), results)[0].rows[0].mean["recall@20"] == rows[0]["recall@20"]
    (results / "table2" / "table2.md").unlink()
    assert call("experiment", "table2", "--results", results, "--render")[0] == 0
    assert "KAR" in (results / "table2" / "table2.md").read_text()
    other = tmp_path / "other"
    (other / "table2").mkdir(parents=True)
    of_other = (results / "table2" / "blocks.jsonl").read_text().replace(place.dataset().fingerprint, "0" * 8)
    (other / "table2" / "blocks.jsonl").write_text(of_other)
    for arguments, message in (
        (["table9"], "unknown experiment 'table9': expected one of figure4, figure5"),
        (["figure1", "--run", "base"], "figure1 is not a grid of trials: use rlmrec paper rerank"),
        (["figure6"], "use rlmrec paper case-study"),
        (["table1", "--only", "seed"], "expected key=value"),
        (["table1", "--results", tmp_path / "none", "--render"], "nothing to render"),
        (["table3"], "needs timestamps"),
        (["table2", "--results", other], "blocks.jsonl has trials of another dataset called 'blocks'"),
        (["table2", "--results", other, "--render"], "has trials of another dataset called 'blocks'"),
    ):
        code, _, err = call("experiment", *arguments, "-w", place.path)
        assert code != 0
        assert message in " ".join(err.split())


OWN = """
title = "Layers of noise"
metrics = ["recall@20", "precision@10"]
rows = ["backbone", "noise"]
against = { noise = "0 %" }
seeds = 1
[options]
epochs = 2
batch_size = 256
[[grid]]
backbone = ["mf", "gccf"]
noise = [0.0, 0.5]
"""


def test_an_experiment_of_your_own(place, tmp_path, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["experiment", *map(str, arguments), "-w", str(place.path)])
        return end.value.code, *capsys.readouterr()

    file = tmp_path / "mine.toml"
    file.write_text(OWN)
    code, out, _ = call(file, "--threads", 1, "--json")
    assert code == 0
    assert [(row["backbone"], row["noise"]) for row in json.loads(out)["rows"]] == [
        ("MF", "0 %"), ("MF", "50 %"), ("GCCF", "0 %"), ("GCCF", "50 %"),
    ]  # fmt: skip
    folder = place.experiments_path / "mine"
    assert {path.name for path in folder.glob("[!.]*")} == {
        "blocks.jsonl", "blocks.asked.json", "blocks.significance.json", "mine.toml", "mine.md", "mine.csv", "mine.tex",
    }  # fmt: skip
    assert "Layers of noise: blocks" in (folder / "mine.md").read_text()
    assert call(folder / "mine.toml", "--render")[0] == 0, "by the copy beside the lines, too"
    other = tmp_path / "elsewhere" / "mine.toml"
    other.parent.mkdir()
    changed = OWN.replace('["backbone", "noise"]', '["backbone", "variant"]').replace("against", "# against")
    other.write_text(changed.replace("Layers", "Shares"))
    code, out, err = call(other, "--only", "backbone=gccf", "--only", "noise=0")
    assert code == 2
    assert "add noise to rows" in out, "although --only runs one of them"
    assert "rename the file" in err
    assert "Layers of noise" in (folder / "mine.toml").read_text(), "the copy is not replaced"
    other.write_text(OWN.replace('["backbone", "noise"]', '["variant", "backbone", "noise"]'))
    assert call(other, "--render")[0] == 0
    assert call(other)[0] == 0, "a column more: records hold every coordinate"
    (tmp_path / "table1.toml").write_text(OWN)
    code, _, err = call(tmp_path / "table1.toml")
    assert code == 2
    assert "table1 is a name of the paper's" in " ".join(err.split())


def test_a_row_is_tested_against_the_base_that_it_has(place, tmp_path):
    text = (
        'title = "x"\nmetrics = ["recall@20"]\nrows = ["backbone", "variant", "text_embeddings", "shuffle"]\n'
        'seeds = 1\nagainst = { variant = "Base" }\n[[grid]]\nbackbone = ["lightgcn", "gccf"]\n'
        'alignment = ["none", "contrastive"]\nshuffle = ["none", "users"]\ntext_embeddings = "*"\n'
    )

    def read(against):
        (tmp_path / "x.toml").write_text(text.replace('variant = "Base"', against))
        return Experiment.read(tmp_path / "x.toml")

    base = ("GCCF", "Base", "–", "none")
    for against in ('variant = "Base"', 'variant = "Base", text_embeddings = "none"'):
        plan = read(against)
        rows = [plan.row(trial.as_dict()) for trial in plan.trials(TrialInputs(place), "general", {})[0]]
        assert base in rows
        for row in rows:
            expected = None if row[1] == "Base" else ("GCCF" if row[0] == "GCCF" else "LightGCN", *base[1:])
            assert plan.other_row(row, "against", rows) == expected
    con = ("GCCF", "Con", "other", "users")
    unshuffled = (*con[:3], "none")
    assert read('shuffle = "none"').other_row(con, "against", rows) == unshuffled
    assert read('variant = "Gen"').other_row(con, "against", rows) not in rows, "there is none"
    for against, message in (
        (
            'variant = "base"',
            r"against has variant = 'base' \(did you mean 'Base'\?\), but no row: .* Base, Con",
        ),
        ('text_embeddings = ""', "text_embeddings = '', but no row: expected one of –, default, other"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(against).trials(TrialInputs(place), "general", {})


def test_the_table_shows_what_the_command_asks_for(place, tmp_path, capsys):
    file = tmp_path / "q.toml"
    file.write_text(
        'title = "Q"\nmetrics = ["recall@20"]\nrows = ["variant"]\nseeds = 1\nagainst = { variant = "Base" }\n'
        "details = true\n[options]\nepochs = 1\nbatch_size = 256\n"
        '[[grid]]\nalignment = ["none", "contrastive"]\n'
    )

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["experiment", str(file), *arguments, "-w", str(place.path), "--threads", "1", "--json"])
        assert end.value.code == 0
        base, con = json.loads(capsys.readouterr().out)["rows"]
        return base, con, (place.experiments_path / "q" / "q.md").read_text()

    only = ("--only", "alignment=none")
    base, con, text = call()
    assert "In brackets the change to variant Base" in text
    spectral, old, text = call(*only, "--set", "initial_embeddings=spectral")
    assert spectral["recall@20"] != base["recall@20"]
    assert old == {**con, "other_options": {"training.initial_embeddings": [None, "spectral"]}}
    assert "In brackets the change to variant" not in text, "rows with other options are not compared"
    assert (
        "† marks rows that were run with options other than the last command asked for: Con (initial_embeddings the "
        "default instead of spectral)." in text
    )
    assert "| Con † | 1 | 1 |" in text
    assert text.count("| Con † |") == 3, "also in the tables of groups and of cost"
    for again in ((), ("--render",)):
        call(*only, "--set", "initial_embeddings=spectral")
        assert call(*again)[:2] == (base, con), "what was trained last does not count"
    assert "In brackets the change to variant Base" in (text := call()[2])
    assert "†" not in text
    assert "1 run with options other than those shown, or on different data, is not shown." in text
    # More seeds of one row: the comparison says so.
    assert "Compared over different seeds: Con (1) with Base (1, 2)." in call(*only, "--seeds", "2")[2]
    assert "Compared over different seeds" not in call("--seeds", "2")[2]
    # A changed file: the row that did not run again has the options of before.
    file.write_text(file.read_text().replace("epochs = 1", "epochs = 2"))
    assert "Con (epochs 1 instead of 2)" in call(*only)[2]


def test_text_embeddings_that_are_not_there_are_named(place, tmp_path, capsys):
    def call(names, grid='alignment = ["contrastive"]\noptions = {epochs = 1, batch_size = 256}'):
        file = tmp_path / "texts.toml"
        file.write_text(
            'title = "x"\nmetrics = ["recall@20"]\nrows = ["text_embeddings"]\nseeds = 1\n'
            f"[[grid]]\n{grid}\ntext_embeddings = {names}\n"
        )
        with pytest.raises(SystemExit) as end:
            main(["experiment", str(file), "-w", str(place.path), "--threads", "1"])
        return end.value.code, " ".join("".join(capsys.readouterr()).split())

    code, text = call(["othre"])
    assert code == 2
    assert (
        "1 of 1 trial needs text embeddings 'othre' (did you mean 'other'?) that this workspace does not"
        in text
    )
    assert "none is left: there are default, other; make them with 'rlmrec encode' --name othre" in text
    assert "###" not in text, "no empty table"
    code, text = call(["othre"], 'backbone = ["graph-filter"]')
    assert code == 2
    assert "text embeddings 'othre'" in text, "nor is a closed form fitted without the texts that are named"
    code, text = call(["other", "missing"])
    assert code == 0
    assert (
        "1 of 2 trials needs text embeddings 'missing' that this workspace does not have, and is left out"
        in text
    )


def test_trials_that_one_row_would_hide_are_named(place):
    def plan(*grids):
        values = {"title": "x", "metrics": ["recall@20"], "rows": ["variant", "dimension"], "seeds": 2}
        return Experiment("x", {**values, "grid": list(grids)})

    two, three = ({"options": {"layers": layers}} for layers in (2, 3))
    own = "put one of them into a file of its own"
    for grids, message in (
        ([two, three], rf"\[\[grid\]\] 1 and 2 both give the row Base 32, with layers 2 and 3; .*: {own}"),
        (
            [{"noise": [0.0, 0.1]}],
            r"1 gives twice the row Base 32, with noise 0 % and 10 %; .*: add noise to rows",
        ),
        ([{"backbone": ["mf", "sgl"]}], "with backbone MF and SGL; .*: add backbone to rows"),
        ([{"tries": [{"l2": 1e-6}, {"l2": l2}]} for l2 in (1e-5, 1e-4)], "with l2 1e-05 and 0.0001;"),
    ):
        told = []
        plan(*grids).asked(TrialInputs(place), "general", {}, tell=told.append)
        assert len(told) == 1
        assert re.search(message, told[0])
    same = plan({**two, "seeds": 1}, two, {"options": {"layers": 2, "embedding_size": 64}})
    same.asked(TrialInputs(place), "general", {}, tell=pytest.fail)
    assert len(same.methods(TrialInputs(place), "general", {})[0][0]) == 3, "two of them give the same trials"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('title = "Layers of noise"', "", "has no title"),
        ("seeds = 1", 'seeds = "three"', "seeds = 'three', expected a number"),
        ("seeds = 1", "seeds = -1", "mine: seeds = -1, expected a number of seeds, 1 or more"),
        ("[[grid]]", "[[grid]]\nseeds = 0", "mine: seeds = 0, expected"),
        ("seeds = 1", "seed = 2", r"the file has seed \(did you mean 'seeds'\?\), expected some of title"),
        (
            '"precision@10"',
            '"recal@20"',
            r"metrics has recal@20 \(did you mean 'recall@20'\?\), expected some of",
        ),
        ('"noise"]', '"cuts"]', r"rows has cuts \(did you mean 'cut'\?\), expected some of backbone"),
        ("{ noise =", "{ variant =", "against has variant, expected some of backbone, noise"),
        ("[0.0, 0.5]", "0.5", "noise = 0.5, expected a list"),
        ("[[grid]]", "[grid]", "expected one or more tables"),
        ("seeds = 1", "seeds = ", "is not TOML"),
    ],
)
def test_a_slip_in_an_experiment_of_your_own_is_named(tmp_path, before, after, message):
    assert before in OWN
    (tmp_path / "mine.toml").write_text(OWN.replace(before, after))
    with pytest.raises(ConfigError, match=message):
        Experiment.read(tmp_path / "mine.toml")


def test_the_numbers_of_a_timing_run_are_seconds(tmp_path):
    lines = [line("none", 1, 0.1, backbone="gccf"), line("contrastive", 1, 0.1, backbone="gccf")]
    for one, seconds in zip(lines, (0.5, 2.0), strict=True):
        one["seconds_per_epoch"] = seconds
        one["environment"]["load"] = 4 * seconds
    path = store(results_path(tmp_path, "table4", "rlmrec-amazon"), lines)
    table = summarize(grid("table4"), path)
    assert [row.mean["seconds_per_epoch"] for row in table.rows] == [0.5, 2.0]
    assert table.rows[1].published["seconds_per_epoch"] == 1.95
    assert "| GCCF | Con | 2.00 | 1.95 | +2.6 % |" in as_markdown(tables_of(table))
    assert "Load of the machine 2 to 8" in as_markdown(tables_of(table))
    assert np.isclose(table.rows[0].published["seconds_per_epoch"], 0.88)
