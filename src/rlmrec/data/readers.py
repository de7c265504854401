"""The registry of readers: each is one function and one line here.

``rlmrec data NAME`` is made of the function: its positional parameters become arguments, its keyword-only
parameters options, and its docstring the help text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlmrec.data.amazon import read_amazon
from rlmrec.data.mapped import read_mapped
from rlmrec.data.movielens import read_movielens_100k
from rlmrec.data.published import read_published
from rlmrec.data.recbole import read_recbole
from rlmrec.data.source import Source
from rlmrec.data.steam import read_steam
from rlmrec.data.tables import read_tables
from rlmrec.data.yelp import read_yelp


@dataclass(frozen=True)
class Reader:
    """A function that reads one kind of source, and the filters that its command offers.

    Args:
        read: returns the source. A parameter called ``progress`` is given by the command, and a path is a
            ``Path | str``.
        examples: commands for the help text.
        rated: whether the source can have ratings.
        min_rating: default of --min-rating.
        is_split: whether the split is always ready-made, so that there is nothing to filter.
    """

    read: Callable[..., Source]
    examples: tuple[str, ...]
    rated: bool = True
    min_rating: float | None = None
    is_split: bool = False


READERS = {
    "movielens-100k": Reader(read_movielens_100k, ("movielens-100k -w movies",), min_rating=3),
    "recbole": Reader(read_recbole, ("recbole dataset/ml-100k --min-rating 3 -w movies",)),
    "amazon": Reader(
        read_amazon,
        ("amazon --reviews reviews_Books.json.gz --meta meta_Books.json.gz --sample-users 0.2 -w books",),
        min_rating=3,
    ),
    "yelp": Reader(read_yelp, ("yelp yelp_dataset --sample-users 0.25 -w yelp",), min_rating=3),
    "steam": Reader(
        read_steam,
        ("steam --reviews steam_reviews.json.gz --games steam_games.json.gz --sample-users 0.25 -w steam",),
        rated=False,
    ),
    "table": Reader(
        read_tables,
        (
            "table ratings.csv --rating-column rating --min-rating 3 --items items.csv -w shop",
            "table --train train.csv --valid valid.csv --test test.csv -w shop",
        ),
    ),
    "published": Reader(read_published, ("published data/amazon -w amazon",), is_split=True),
    "map": Reader(
        read_mapped,
        (
            "map data/amazon --user-mapper amazon_user.json --item-mapper amazon_item.json "
            "--reviews reviews_Books.json.gz --meta meta_Books.json.gz -w amazon",
            "map data/yelp --user-mapper yelp_user.json --item-mapper yelp_item.json --yelp yelp_dataset -w yelp",
        ),
        is_split=True,
    ),
}
