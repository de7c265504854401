"""``rlmrec`` and ``python -m rlmrec``: the command line."""

import os
import sys


def run() -> None:
    """Set the import path and the environment that PyTorch reads when it is imported, then run the command line."""
    _leave_current_folder()
    # By default OpenMP's waiting threads spin for long. On a machine that does anything else at the same time
    # that makes an epoch up to ten times slower; spinning briefly costs nothing (benchmarks/README.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        from rlmrec.cli import main

        main()
    except KeyboardInterrupt:  # while modules are being imported; later it is the command line's
        sys.exit(130)


def _leave_current_folder() -> None:
    """Take the current folder off the import path, where ``python -m`` puts it.

    Dependencies try to import packages that may be missing: a file of such a name in a downloaded folder would run.
    The path of a class of the user's own is added when the command names it (rlmrec.registry).
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # for worker processes
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # the folder was removed
        return
    if here != os.path.dirname(os.path.dirname(os.path.realpath(__file__))):  # unless it holds rlmrec itself
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != here]


if __name__ == "__main__":
    run()
