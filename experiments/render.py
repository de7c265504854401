"""Write experiments/README.md, history.svg, and the tables beside the records in experiments/results.

python experiments/render.py
"""

from pathlib import Path

from rlmrec.experiments.experiment import Experiment
from rlmrec.files import write_text
from rlmrec.paper.grids import grid, grids
from rlmrec.paper.studies import STUDIES
from rlmrec.report.charts import standalone
from rlmrec.report.experiments import summaries_of, tables_of, write_experiment
from rlmrec.report.history import NAME, gain_chart
from rlmrec.report.tables import as_markdown

HERE = Path(__file__).parent
OWN = {
    "distilled": "experiments/distilled.toml",
    "encoders": "experiments/encoders.toml",
    "profiles": "experiments/profiles.toml",
}  # experiments of this folder
PLANS = [*grids(), *(Experiment.read(HERE.parent / path) for path in OWN.values())]
INTRODUCTION = """\
# Experiments

Written by `python experiments/render.py` from the records in `results/`; do not edit. `LOG.md` says what was learned.
`rlmrec experiment NAME -w WORKSPACE --results experiments/results` runs one and adds its records.

"""


def readme(results: Path) -> str:
    """Return the tables of everything that was run, as README.md shows them."""
    tables = {
        plan.name: [table for summary in summaries_of(plan, results) for table in tables_of(summary)]
        for plan in PLANS
    }
    tables |= {name: study.tables(results) for name, study in STUDIES.items()}
    parts = [INTRODUCTION + _older_results(results)]
    for name in sorted(tables):
        if tables[name]:
            command = (
                f"paper {STUDIES[name].command}" if name in STUDIES else f"experiment {OWN.get(name, name)}"
            )
            parts.append(f"{as_markdown(tables[name])}\n`rlmrec {command}`\n")
    missing = [name for name in sorted(tables) if not tables[name]]
    return "\n".join([*parts, *([f"Not run yet: {', '.join(missing)}.\n"] if missing else [])])


def _older_results(results: Path) -> str:
    """Return a sentence about the files in ``results`` itself, which the log beside it explains."""
    log = results.parent / "LOG.md"
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    names = [f"`{path.name}`" for path in sorted(results.glob("*.jsonl")) if path.name in text]
    listed = ", ".join(names)
    return (
        f"Results of other forms, from before there were experiments, are in `LOG.md`: {listed}.\n"
        if names
        else ""
    )


if __name__ == "__main__":
    for plan in PLANS:
        if summaries_of(plan, HERE / "results"):
            write_experiment(plan, HERE / "results")
    for study in STUDIES.values():
        if study.tables(HERE / "results"):
            study.write(HERE / "results")
    chart = gain_chart(summaries_of(grid(NAME), HERE / "results"))
    if chart is not None:
        write_text(HERE / "history.svg", standalone(chart))
    write_text(HERE / "README.md", readme(HERE / "results"))
