"""A small dataset whose texts show where they came from."""

import numpy as np
import polars as pl

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.source import Source
from rlmrec.data.vocabulary import Vocabulary


def make_dataset(n_users=6, n_items=8, *, described=0, reviews=True, seed=0, split=(3, 1, 1)):
    """Every user meets every item; review number i says "mark-i", so a prompt's text shows what went in."""
    users, items = map(np.ravel, np.meshgrid(np.arange(n_users), np.arange(n_items), indexing="ij"))
    told = np.array([f"I liked it, mark-{number}." for number in range(len(users))], object)
    every = Interactions(users, items, n_users, n_items, review=told if reviews else None)
    texts = pl.DataFrame(
        {
            "title": [f"Title {row}" for row in range(n_items)],
            "genre": [f"genre {row % 3}" for row in range(n_items)],
            "description": [
                f"About things, part {row}." if row < described else None for row in range(n_items)
            ],
        }
    )
    users, items = Vocabulary([f"u{row}" for row in range(n_users)]), Vocabulary(range(100, 100 + n_items))
    source = Source("made", every, users, items, texts)
    return Dataset.from_source(source, split=split, seed=seed)
