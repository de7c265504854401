"""What lies in a folder or a file from elsewhere is data: no code of it runs (SECURITY.md)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlmrec.errors import DataError
from rlmrec.trust import TYPES, read_tensors, write_tensors

SOURCE = Path(__file__).parents[1] / "src"
# Packages that dependencies try to import and do without.
PROBED = ("cython", "altair", "org", "gevent", "dill")


def test_arrays_are_written_as_the_library_of_the_format_writes_them(tmp_path):
    arrays = {f"a {name}": np.arange(6).astype(kind) for name, kind in TYPES.items()}
    arrays |= {
        "matrix": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32),
        "by columns": np.arange(6.0).reshape(2, 3).T,
        "every other": np.arange(8)[::2],
        "empty": np.empty((0, 4), np.float32),
        "größe": np.zeros((), np.int64),
    }
    for number, metadata in enumerate((None, {}, {"manifest": "ü"})):
        ours, theirs = tmp_path / f"ours-{number}", tmp_path / f"theirs-{number}"
        write_tensors(ours, arrays, metadata)
        save_file({name: np.array(array, order="C") for name, array in arrays.items()}, theirs, metadata)
        assert ours.read_bytes() == theirs.read_bytes()
        read, kept = read_tensors(ours, mmap=True)
        assert kept == (metadata or {})
        for name, array in load_file(ours).items():
            np.testing.assert_array_equal(array, arrays[name])
            np.testing.assert_array_equal(read[name], arrays[name])


def test_arrays_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(DataError, match="array 'half' has type float16"):
        write_tensors(tmp_path / "x", {"half": np.zeros(3, np.float16)})
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space"):
            write_tensors(Path("/dev/full"), {"a": np.zeros(3, np.float32)})


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
