"""What lies in a folder or a file from elsewhere is data: no code of it runs (SECURITY.md)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
# Packages that dependencies try to import and do without.
PROBED = ("cython", "altair", "org", "gevent", "dill")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "-w", "empty"],
        ["train", "-w", "empty", "--backbone", "mine.py:Mine"],
        ["train", "-w", "empty", "--backbone", "mine:Mine"],
    ],
)
def test_files_in_the_current_folder_do_not_run_as_modules(tmp_path, arguments):
    for name in PROBED:
        (tmp_path / f"{name}.py").write_text("import os\nos.mkdir(f'{__name__} ran')\n")
    (tmp_path / "mine.py").write_text(
        "import beside\nfrom rlmrec import Backbone\nclass Mine(Backbone): pass\n"
    )
    (tmp_path / "beside.py").write_text("import os\nos.mkdir('beside ran')\n")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "rlmrec", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: ")
    own = "--backbone" in arguments
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(" ran")] == ["beside ran"] * own
