"""The registry of readers: each is one function and one line here.

``rlmrec data NAME`` is made of the function: its positional parameters become arguments, its keyword-only
parameters options, and its docstring the help text.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlmrec.data.lines import MAX_BAD_LINES, Progress

if TYPE_CHECKING:
    from rlmrec.data.source import Source

# What the signature of a reader may refer to, apart from built-in names.
_NAMES = {"Path": Path, "Progress": Progress, "MAX_BAD_LINES": MAX_BAD_LINES}


@dataclass(frozen=True)
class Reader:
    """A function that reads one kind of source, and the filters that its command offers.

    Args:
        path: of the function, as "module:function"; it returns the source. A parameter called ``progress`` is given
            by the command, and a path is a ``Path | str``.
        examples: commands for the help text.
        rated: whether the source can have ratings.
        min_rating: default of --min-rating.
        is_split: whether the split is always ready-made, so that there is nothing to filter.
        k_core: default of --k-core.
    """

    path: str
    examples: tuple[str, ...]
    rated: bool = True
    min_rating: float | None = None
    is_split: bool = False
    k_core: int = 10

    @cached_property
    def read(self) -> Callable[..., Source]:
        """The function; the first use imports its module."""
        module, _, name = self.path.partition(":")
        function: Callable[..., Source] = getattr(import_module(module), name)
        return function

    @property
    def declaration(self) -> Callable[..., Any]:
        """A function of the same signature and docstring that does nothing.

        It is compiled from the source of the module alone: a help page must not wait for Polars, which the
        module imports.
        """
        module, _, name = self.path.partition(":")
        spec = find_spec(module)
        source = spec.loader.get_source(module) if spec and isinstance(spec.loader, InspectLoader) else None
        statements = ast.parse(source or "").body
        found = [node for node in statements if isinstance(node, ast.FunctionDef) and node.name == name]
        if not found:  # defined in another module, or installed without its source
            return self.read
        found[0].returns = None
        found[0].body = found[0].body[:1]  # the docstring
        names: dict[str, Any] = dict(_NAMES)
        exec(compile(ast.Module([*found], []), module, "exec"), names)
        declared: Callable[..., Any] = names[name]
        return declared


READERS = {
    "debian-packages": Reader(
        "rlmrec.data.debian:read_debian_packages", ("debian-packages -w packages",), rated=False, k_core=5
    ),
    "movielens-100k": Reader(
        "rlmrec.data.movielens:read_movielens_100k", ("movielens-100k -w movies",), min_rating=3
    ),
    "recbole": Reader(
        "rlmrec.data.recbole:read_recbole", ("recbole dataset/ml-100k --min-rating 3 -w movies",)
    ),
    "amazon": Reader(
        "rlmrec.data.amazon:read_amazon",
        ("amazon --reviews reviews_Books.json.gz --meta meta_Books.json.gz --sample-users 0.2 -w books",),
        min_rating=3,
    ),
    "yelp": Reader(
        "rlmrec.data.yelp:read_yelp", ("yelp yelp_dataset --sample-users 0.25 -w yelp",), min_rating=3
    ),
    "steam": Reader(
        "rlmrec.data.steam:read_steam",
        ("steam --reviews steam_reviews.json.gz --games steam_games.json.gz --sample-users 0.25 -w steam",),
        rated=False,
    ),
    "table": Reader(
        "rlmrec.data.tables:read_tables",
        (
            "table ratings.csv --rating-column rating --min-rating 3 --items items.csv -w shop",
            "table orders.csv --timestamp-column ordered_at --split 'temporal 8:1:1' -w shop",
            "table --train train.csv --valid valid.csv --test test.csv -w shop",
        ),
        k_core=1,
    ),
    "published": Reader(
        "rlmrec.data.published:read_published", ("published data/amazon -w amazon",), is_split=True
    ),
    "map": Reader(
        "rlmrec.data.mapped:read_mapped",
        (
            "map data/amazon --user-mapper amazon_user.json --item-mapper amazon_item.json "
            "--reviews reviews_Books.json.gz --meta meta_Books.json.gz -w amazon",
            "map data/yelp --user-mapper yelp_user.json --item-mapper yelp_item.json --yelp yelp_dataset -w yelp",
        ),
        is_split=True,
    ),
}
