"""A wheel holds every file of the package."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rlmrec"


def test_the_patterns_of_package_data_find_every_file_that_is_not_python():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {path for pattern in settings["package-data"]["rlmrec"] for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert {path for path in files if path.suffix not in (".py", ".pyc")} == found


def test_every_folder_with_python_files_is_a_package():
    assert not [path for path in PACKAGE.rglob("*.py") if not (path.parent / "__init__.py").exists()]
