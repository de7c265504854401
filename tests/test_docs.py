"""The guides under docs/: their commands and their Python run as they stand, and the site builds without a warning."""

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import polars as pl
import pytest
import typer.main
from fault_server import FaultServer

import rlmrec
from examples import ROOT, arguments_of, blocks_of, commands_of, python_of, run_command, run_python
from rlmrec.cli import build
from rlmrec.data.dataset import Dataset
from rlmrec.testing import blocks

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIAL = DOCS / "tutorial.md"
# Pages whose Python runs in the folder that the tutorial leaves behind.
AFTER_TUTORIAL = ("data.md", "encoders.md", "own-parts.md", "recommending.md")


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The folder in which somebody has followed the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    for file in (DOCS / "data").glob("*.csv"):
        shutil.copy(file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "100")
        yield folder


def without_decimals(text):
    """Figures may differ in the last digit from one machine to another, and seconds do."""
    return re.sub(r"<?\d+\.\d+", "#", re.sub(" +", " ", text))


def test_the_tutorial_prints_what_it_says(tutorial, capfd):
    for command in commands_of(TUTORIAL):
        if not command.startswith(("pip install", "rlmrec serve")):
            run_command(command)
    printed = without_decimals(capfd.readouterr().out)
    quoted = [block.code for block in blocks_of(TUTORIAL) if block.language == "output"]
    assert len(quoted) >= 3
    for line in without_decimals("".join(quoted)).splitlines():
        assert line in printed
    assert {"lists.csv", "shop"} <= {path.name for path in tutorial.iterdir()}
    assert (tutorial / "shop" / "report.html").exists()


@pytest.mark.parametrize("name", AFTER_TUTORIAL)
def test_the_python_of_a_guide_runs(tutorial, name, capsys):
    assert (tutorial / "shop" / "published.json").exists(), "this test follows that of the tutorial"
    if name == "own-parts.md":
        pytest.importorskip("torch_geometric")
    run_python(DOCS / name)


def test_profiles(tmp_path, monkeypatch, capsys):
    toy, _ = blocks(users=4, items=4)
    texts = pl.DataFrame({"title": [f"thing {row}" for row in range(toy.n_items)]})
    Dataset("toy", toy.train, toy.valid, toy.test, toy.users, toy.items, texts).save(
        tmp_path / "shop" / "dataset"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FaultServer() as server:
        run_python(DOCS / "profiles.md", {"ENDPOINT": server.url})
    assert f"{toy.n_items} profiled, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "answers.jsonl.gz").exists()


def test_no_page_has_python_that_no_test_runs():
    with_python = {p.name for p in PAGES if any(block.language == "python" for block in blocks_of(p))}
    assert with_python == {*AFTER_TUTORIAL, "profiles.md"}
    for name in with_python:
        compile(python_of(DOCS / name), name, "exec")


def parse(command, name, arguments, parent=None):
    """Parse the arguments of a command and of its subcommand, and run neither."""
    context = command.make_context(name, list(arguments), parent=parent)
    if hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, arguments = command.resolve_command(context, rest)
        parse(command, name, arguments, context)


@pytest.mark.parametrize("page", [p for p in PAGES if commands_of(p)], ids=lambda page: page.stem)
def test_the_command_line_accepts_every_command(page):
    for line in commands_of(page):
        for command in re.split(r" && | & ", line):
            arguments = arguments_of(command)
            if arguments:
                program = typer.main.get_command(build(arguments[0]))
                parse(program, "rlmrec", arguments)


class Page(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        of_tag = dict(attributes)
        self.ids |= {of_tag[name] for name in ("id", "name") if of_tag.get(name)}
        self.links |= {of_tag[name] for name in ("href", "src") if of_tag.get(name)}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    for needed in ("sphinx", "furo", "myst_nb"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "trees", DOCS, folder / "html"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return folder / "html"


def test_no_link_of_the_site_is_broken(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue  # another site: not asked, since tests need no network
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.exists()
            if there and parts.fragment and target in pages:
                there = unquote(parts.fragment) in pages[target].ids
            if not there:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_the_reference_has_every_public_name_and_little_else(site):
    documented = {anchor for page in (site / "reference").glob("*.html") for anchor in Page(page).ids}
    assert {f"rlmrec.{name}" for name in rlmrec.__all__} <= documented
    assert not [name for name in documented if name.endswith((".load_state_dict", ".model_fields"))]
