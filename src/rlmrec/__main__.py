"""``rlmrec`` and ``python -m rlmrec``: the command line."""

import os
import sys


def run() -> None:
    """Set the environment that PyTorch reads when it is imported, then run the command line."""
    # By default OpenMP's waiting threads spin for long. On a machine that does anything else at the same time
    # that makes an epoch up to ten times slower; spinning briefly costs nothing (benchmarks/README.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        from rlmrec.cli import main

        main()
    except KeyboardInterrupt:  # while modules are being imported; later it is the command line's
        sys.exit(130)


if __name__ == "__main__":
    run()
