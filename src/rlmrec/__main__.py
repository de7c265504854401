"""``rlmrec`` and ``python -m rlmrec``: the command line."""

import os
import sys


def run() -> None:
    """Set what must be set before PyTorch is imported, then hand over to the command line."""
    # By default OpenMP's threads spin while they wait. On a machine that does anything else at the same time
    # that made an epoch three to ten times slower; sleeping costs next to nothing (benchmarks/README.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.path.append(os.getcwd())  # so that --backbone mymodule:MyModel finds a file beside the user
    from rlmrec.cli import main

    main()


if __name__ == "__main__":
    run()
