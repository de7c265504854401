"""Who may import whom: left never imports right (docs/decisions.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "rlmrec"
# Each name may import those before it and its own; sets stand at one height and do not know each other.
LAYERS = [
    {"errors", "types", "lazy", "findings", "html", "durations"},
    {"machine", "shards", "trust", "engine", "batch"},
    {"files", "sqlite", "config", "topk", "linalg", "http_client", "registry"},
    {"parts"},
    {"data", "llm", "losses", "hub"},
    {"graph", "text", "profiles", "evaluation", "columns"},
    {"closed_form"},
    {"workspace"},
    {"recommend"},
    {"server"},
    {"backbones"},
    {"alignment"},
    {"training"},
    {"models"},
    {"testing", "experiments"},
    {"report"},
    {"paper"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
# Evaluation and serving stand on data and numpy alone, so that a server needs no torch.
NUMPY_ONLY = {
    "errors",
    "types",
    "findings",
    "durations",
    "machine",
    "trust",
    "engine",
    "files",
    "hub",
    "sqlite",
    "topk",
    "linalg",
    "data",
    "evaluation",
    "closed_form",
    "recommend",
    "server",
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def home(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_left_never_imports_right(path):
    own = home(path)
    assert own in HEIGHT, f"give {own} a place in LAYERS"
    for module in imports(path):
        if module == "rlmrec" or not module.startswith("rlmrec."):
            continue
        other = module.split(".")[1]
        if other != own:
            assert HEIGHT[other] < HEIGHT[own], f"{own} must not import {other}"


ROOFS = {"paper", "report", "cli", "__main__"}


def test_nothing_in_the_library_imports_paper_report_or_command_line():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in MODULES
        if home(path) not in ROOFS
        for module in imports(path)
        if module.split(".")[0] == "rlmrec" and set(module.split(".")[1:2]) & ROOFS
    ]
    assert not wrong


@pytest.mark.parametrize(
    "path", [p for p in MODULES if home(p) in NUMPY_ONLY], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_torch_where_a_server_runs(path):
    assert not [module for module in imports(path) if module.split(".")[0] == "torch"]


def test_importing_reads_no_argument_and_no_torch():
    """`import rlmrec` is light; torch comes with the first name that needs it."""
    code = (
        "import sys; sys.argv = ['x', '--nonsense']; import rlmrec; assert 'torch' not in sys.modules; "
        "rlmrec.LightGCN"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist():
    import rlmrec

    for name in rlmrec.__all__:
        assert getattr(rlmrec, name) is not None
    with pytest.raises(AttributeError):
        rlmrec.nonsense  # noqa: B018
