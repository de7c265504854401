"""``python -m rlmrec``: the command line."""

from rlmrec.cli import main

main()
