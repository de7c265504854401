"""A wheel holds every file of the package, versions and extras agree, and the workflows are what GitHub reads."""

import re
import tomllib
from pathlib import Path

import pytest

import rlmrec

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rlmrec"


def test_the_patterns_of_package_data_find_every_file_that_is_not_python():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {path for pattern in settings["package-data"]["rlmrec"] for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert {path for path in files if path.suffix not in (".py", ".pyc")} == found


def test_every_folder_with_python_files_is_a_package():
    assert not [path for path in PACKAGE.rglob("*.py") if not (path.parent / "__init__.py").exists()]


def settings_of(path):
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def test_the_version_comes_from_one_place():
    for path in ("pyproject.toml", "packaging/rlmrec-serve/pyproject.toml"):
        settings = settings_of(path)
        assert settings["project"]["dynamic"] == ["version"]
        assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "rlmrec.__version__"}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {rlmrec.__version__}\n" in citation


def test_all_names_extras_that_exist_and_each_has_its_line_in_the_guide():
    extras = settings_of("pyproject.toml")["project"]["optional-dependencies"]
    [everything] = extras["all"]
    assert set(re.findall(r"\w+", everything)) - {"rlmrec"} == set(extras) - {
        "all", "benchmark", "dev", "docs", "gpu", "lancedb", "ray", "wordllama"
    }  # fmt: skip
    guide = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {name for name in extras if f"`{name}`" not in guide} <= {"benchmark", "dev", "docs"}


@pytest.mark.parametrize("name", ["tests", "release"])
def test_workflows_are_yaml_with_jobs_that_run_on_something(name):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    assert {"push", "pull_request"} & set(workflow[True])  # YAML 1.1 reads "on" as true
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all({"uses", "run"} & set(step) for step in job["steps"])
    for script in re.findall(r"python (\S+\.py)", str(workflow)):
        assert (ROOT / script).exists()
