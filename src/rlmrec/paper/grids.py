"""The experiments that come with the package: the paper's tables and figures, with its numbers, and our own.

The grids are in ``paper/tables/*.toml`` and ``experiments/tables/*.toml``, the paper's numbers in ``numbers/*.csv``.
"""

from __future__ import annotations

import csv
import io
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable

from rlmrec.errors import ConfigError
from rlmrec.experiments.experiment import Experiment, Published, Row

# Our dataset → the paper's, where the paper's own split is published.
SAME_DATA = {"rlmrec-amazon": "amazon-book"}


def _files() -> dict[str, Traversable]:
    """Return the file of each grid by its name."""
    folders = (resources.files(package) / "tables" for package in ("rlmrec.paper", "rlmrec.experiments"))
    paths = [path for folder in folders for path in folder.iterdir() if path.name.endswith(".toml")]
    return {path.name.removesuffix(".toml"): path for path in sorted(paths, key=lambda path: path.name)}


def grid_names() -> list[str]:
    """Return the names of the grids, from figure4 to table4."""
    return list(_files())


def grid(name: str) -> Experiment:
    """Return the grid called ``name``, with the paper's numbers if it has any.

    Raises:
        ConfigError: there is none of this name.
    """
    files = _files()
    if name not in files:
        raise ConfigError(
            f"unknown experiment {name!r}: expected one of {', '.join(files)}, or the path of a file ending in "
            ".toml"
        )
    values = tomllib.loads(files[name].read_text(encoding="utf-8"))
    numbers = paper_numbers(name, values["rows"])
    return Experiment(name, values, Published(numbers, SAME_DATA) if numbers else None)


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
