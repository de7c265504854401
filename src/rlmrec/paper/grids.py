"""The paper's tables and figures that are grids of trials: ``tables/*.toml``, and its numbers: ``numbers/*.csv``."""

from __future__ import annotations

import csv
import io
import tomllib
from importlib import resources

from rlmrec.errors import ConfigError
from rlmrec.experiments.experiment import Experiment, Published, Row

# Our dataset → the paper's, where the paper's own split is published.
SAME_DATA = {"rlmrec-amazon": "amazon-book"}


def grid_names() -> list[str]:
    """Return the names of the grids, from figure4 to table4."""
    folder = resources.files("rlmrec.paper") / "tables"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def grid(name: str) -> Experiment:
    """Return the grid called ``name``, with the paper's numbers.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in grid_names():
        raise ConfigError(
            f"unknown experiment {name!r}: expected one of {', '.join(grid_names())}, or the path of a file ending in "
            ".toml"
        )
    text = (resources.files("rlmrec.paper") / "tables" / f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    return Experiment(name, values, Published(paper_numbers(name, values["rows"]), SAME_DATA))


def grids() -> list[Experiment]:
    """Return all grids."""
    return [grid(name) for name in grid_names()]


def paper_numbers(name: str, rows: list[str]) -> dict[str, dict[Row, dict[str, float]]]:
    """Return the paper's numbers: dataset → row → metric → value. Empty if the paper only has a plot.

    Args:
        name: of the grid.
        rows: the coordinates that make a row; "" stands for those that the paper does not have.
    """
    path = resources.files("rlmrec.paper") / "numbers" / f"{name}.csv"
    if not path.is_file():
        return {}
    numbers: dict[str, dict[Row, dict[str, float]]] = {}
    for record in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
        row = tuple(record.get(coordinate, "") for coordinate in rows)
        metrics = {key: float(value) for key, value in record.items() if key not in ("dataset", *rows)}
        numbers.setdefault(record["dataset"], {})[row] = metrics
    return numbers
