"""Build wheels and sdists of rlmrec and rlmrec-serve into dist/, and try them in environments of their own.

    python packaging/build.py           # needs the package 'build'; all dependencies are those of this Python
    python packaging/build.py --fresh   # rlmrec-serve with dependencies of its own, downloaded: some minutes

Indexes and proxies are those of pip's own settings. Versions follow constraints.txt.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
SHARED = ("src", "LICENSE", "CHANGELOG.md")
WHOLE, SLIM = "rlmrec", "rlmrec-serve"


def main() -> None:
    """Build, look into the archives, install and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true", help="download the dependencies of rlmrec-serve")
    fresh = parser.parse_args().fresh
    os.environ.setdefault("PIP_CONSTRAINT", str(ROOT / "constraints.txt"))
    shutil.rmtree(DIST, ignore_errors=True)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in (WHOLE, SLIM):
            build(staged(name, folder / name))
        check_archives()
        # The dependencies of rlmrec are gigabytes: those of this Python serve, rlmrec itself comes from the wheel.
        borrowed = [sysconfig.get_path("purelib")]
        try_commands(environment(folder / "whole", ["--no-deps", wheel(WHOLE)], borrowed), folder / "w")
        source = str(sdist(SLIM))
        install = [source] if fresh else ["--no-deps", source]
        try_commands(environment(folder / "slim", install, [] if fresh else borrowed), folder / "w2")


def staged(name: str, folder: Path) -> Path:
    """Copy what a distribution is made of into a folder that stands for itself, as an sdist needs it."""
    folder.mkdir()
    for part in SHARED:
        source = ROOT / part
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy2(
            source, folder
        )
    if name == WHOLE:
        shutil.copy2(ROOT / "README.md", folder)
        shutil.copy2(ROOT / "pyproject.toml", folder)
    else:
        settings = (ROOT / "packaging" / name / "pyproject.toml").read_text(encoding="utf-8")
        (folder / "pyproject.toml").write_text(settings.replace("../../src", "src"), encoding="utf-8")
    return folder


def build(folder: Path) -> None:
    """Build the sdist, and the wheel from it."""
    run(sys.executable, "-P", "-m", "build", "--outdir", str(DIST), str(folder))


def wheel(name: str) -> str:
    """Return the path of a distribution's wheel."""
    [path] = DIST.glob(f"{name.replace('-', '_')}-*.whl")
    return str(path)


def sdist(name: str) -> Path:
    """Return the path of a distribution's sdist."""
    [path] = DIST.glob(f"{name.replace('-', '_')}-*.tar.gz")
    return path


def check_archives() -> None:
    """Check that wheels and sdists hold every file of the package, and nothing that is none."""
    package = ROOT / "src" / "rlmrec"
    files = {
        path.relative_to(ROOT / "src").as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }
    for name in (WHOLE, SLIM):
        with zipfile.ZipFile(wheel(name)) as archive:
            held = {entry for entry in archive.namelist() if ".dist-info/" not in entry}
        if held != files:
            sys.exit(f"{wheel(name)} differs from src/: {sorted(held ^ files)[:10]}")
        source = sdist(name)
        with tarfile.open(source) as archive:
            inside = {entry.partition("/")[2].removeprefix("src/") for entry in archive.getnames()}
        if not files <= inside:
            sys.exit(f"{source} lacks {sorted(files - inside)[:10]}")


def environment(folder: Path, install: list[str], borrowed: list[str]) -> Path:
    """Make an environment and install into it; return its Python.

    Args:
        folder: of the environment.
        install: arguments of ``pip install``.
        borrowed: folders of packages that it may import after its own.
    """
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *install)
    if borrowed:  # in a .pth file: packages that are there in editable mode are not taken
        own = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        (Path(own) / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return python


def try_commands(python: Path, workspace: Path) -> None:
    """Run the installed command: from the data of the package to recommendations."""
    command = python.with_name("rlmrec.exe" if os.name == "nt" else "rlmrec")
    home = run(str(python), "-P", "-c", "import rlmrec; print(rlmrec.__file__)").strip()
    if not Path(home).resolve().is_relative_to(python.parents[1].resolve()):
        sys.exit(f"rlmrec was imported from {home}, not from the environment")
    place = ["-w", str(workspace)]
    run(str(command), "--version")
    run(str(command), "data", "debian-packages", *place)
    run(str(command), "train", "--backbone", "popularity", "--name", "p", *place)
    listed = run(
        str(command), "recommend", "--run", "p", "--all", "--out", str(workspace / "lists.csv"), *place
    )
    print(listed)


def run(*command: str) -> str:
    """Run a command outside of the repository and return what it prints; end with its message if it fails."""
    print("+", *command, flush=True)
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}\nfailed: {' '.join(command)}")
    return done.stdout


if __name__ == "__main__":
    main()
