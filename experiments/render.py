"""Write experiments/README.md from the JSON lines in experiments/results.

python experiments/render.py
"""

from pathlib import Path

from rlmrec.experiments.render import readme
from rlmrec.files import write_text

HERE = Path(__file__).parent

if __name__ == "__main__":
    write_text(HERE / "README.md", readme(HERE / "results"))
