"""A shop made by chance from a seed: orders over ninety days, products with prices and stock, and a next day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

DAYS = 90
OPENING = datetime(2026, 8, 29)  # the first order; the next day is DAYS later, 2026-11-27
CATEGORIES = {
    "Kitchen": ("pan", "kettle", "knife", "grater", "bowl"),
    "Garden": ("spade", "hose", "planter", "rake", "lantern"),
    "Coffee": ("espresso beans", "filter coffee", "decaf beans", "cold brew", "cocoa"),
    "Sports": ("yoga mat", "dumbbell", "running belt", "bottle", "jump rope"),
    "Toys": ("puzzle", "kite", "train set", "plush bear", "marble run"),
    "Office": ("notebook", "fountain pen", "desk lamp", "stapler", "folder"),
}
CONSUMABLES = "Coffee"  # the category that customers buy again and again
BRANDS = ("Arbor", "Bolt", "Cirrus", "Dune", "Ember", "Fjord", "Grove", "Halo", "Iris", "Juno")
MATERIALS = ("steel", "oak", "cotton", "glass", "ceramic", "recycled", "bamboo", "cork")
FAVOURITES = 2  # categories that a customer mostly buys from
LOYALTY = 0.85  # share of a customer's orders from them


@dataclass(frozen=True)
class Shop:
    """Tables of a shop.

    Args:
        orders: customer_id, product_id, ordered_at, quantity, price, returned; in the order of time.
        products: product_id, title, category, brand, description, price, in_stock; a few without a description.
        next_day: orders of the day after, some by new customers and of new products.
        next_products: the products of the day after: new ones, other prices and other stock.
    """

    orders: pl.DataFrame
    products: pl.DataFrame
    next_day: pl.DataFrame
    next_products: pl.DataFrame

    def write(self, folder: Path) -> None:
        """Write the tables as orders.csv, products.csv, next_day.csv and next_products.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("orders", "products", "next_day", "next_products"):
            getattr(self, name).write_csv(folder / f"{name}.csv", datetime_format="%Y-%m-%d %H:%M:%S")


def shop(customers: int = 300, products: int = 120, orders: int = 6000, seed: int = 0) -> Shop:
    """Make a shop in which customers prefer two categories each, so that their orders can be foretold.

    A few products sell most, customers and products arrive over time, coffee is bought again, some orders are
    returned. The same seed gives the same tables.

    Args:
        customers: C.
        products: P, at least one for each category.
        orders: number of orders in the ninety days; the next day has about a ninetieth of them.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    new_customers, new_products = max(2, customers // 100), max(2, products // 50)
    market = _Market(rng, customers + new_customers, products + new_products)
    old = range(customers), range(products)
    today = market.orders(rng, orders, *old)
    tomorrow = [
        market.orders(rng, max(20, orders // DAYS), *old, DAYS),
        market.orders(rng, 4 * new_customers, range(customers, customers + new_customers), old[1], DAYS),
        market.orders(rng, 4 * new_products, old[0], range(products, products + new_products), DAYS),
    ]
    catalogue = market.catalogue(rng)
    changed = catalogue.with_columns(
        (pl.col("price") * pl.Series(rng.choice([0.8, 1.0, 1.0, 1.1], len(catalogue)))).round(2),
        pl.Series("in_stock", rng.random(len(catalogue)) < 0.9),
    )
    return Shop(today, catalogue[:products], pl.concat(tomorrow).sort("ordered_at"), changed)


class _Market:
    """Tastes, popularity and times of arrival, from which orders are drawn."""

    def __init__(self, rng: np.random.Generator, customers: int, products: int) -> None:
        self.n_categories = len(CATEGORIES)
        self.category = np.arange(products) % self.n_categories
        # The new products at the end sell as well as any.
        self.weight = 1 / (1 + rng.permutation(products)) ** 0.8
        self.launch = np.where(rng.random(products) < 0.8, 0, rng.uniform(0, DAYS, products))
        self.favourites = np.argsort(rng.random((customers, self.n_categories)), axis=1)[:, :FAVOURITES]
        self.activity = rng.pareto(1.5, customers) + 0.2
        self.arrival = np.where(rng.random(customers) < 0.6, 0, rng.uniform(0, DAYS, customers))
        self.price = np.round(np.exp(rng.normal(3, 0.7, products)), 2)

    def orders(
        self, rng: np.random.Generator, count: int, customers: range, products: range, day: int | None = None
    ) -> pl.DataFrame:
        """Draw orders of some customers for some products, over the ninety days or on one day."""
        people, things = np.array(customers), np.array(products)
        who = rng.choice(people, count, p=self.activity[people] / self.activity[people].sum())
        loyal = rng.random(count) < LOYALTY
        chosen = self.favourites[who, rng.integers(FAVOURITES, size=count)]
        category = np.where(loyal, chosen, rng.integers(self.n_categories, size=count))
        if day is None:
            moment = rng.uniform(self.arrival[who], DAYS)
        else:
            moment = rng.uniform(day, day + 1, count)
        what = np.empty(count, np.int64)
        for kind in range(self.n_categories):
            rows = np.flatnonzero(category == kind)
            items = things[self.category[things] == kind] if kind in self.category[things] else things
            cumulative = np.cumsum(self.weight[items])
            what[rows] = items[np.searchsorted(cumulative, rng.random(len(rows)) * cumulative[-1])]
        moment = np.maximum(moment, np.minimum(self.launch[what], DAYS - 0.5) if day is None else moment)
        order = np.argsort(moment, kind="stable")
        return self._table(rng, who[order], what[order], moment[order])

    def _table(self, rng: np.random.Generator, who: Any, what: Any, moment: Any) -> pl.DataFrame:
        seconds = pl.Series(np.floor(moment * 86_400).astype(np.int64)).cast(pl.Duration("ms")) * 1000
        return pl.DataFrame(
            {
                "customer_id": _ids("c", who, 6),
                "product_id": _ids("p", what, 5),
                "ordered_at": pl.Series(seconds + OPENING).cast(pl.Datetime("ms")),
                "quantity": rng.choice([1, 1, 1, 2, 3], len(who)),
                "price": self.price[what],
                "returned": rng.random(len(who)) < 0.04,
            }
        )

    def catalogue(self, rng: np.random.Generator) -> pl.DataFrame:
        """Return the table of products."""
        names = list(CATEGORIES)
        rows = []
        for row, kind in enumerate(self.category.tolist()):
            noun = CATEGORIES[names[kind]][row // self.n_categories % len(CATEGORIES[names[kind]])]
            brand, material = (
                BRANDS[int(rng.integers(len(BRANDS)))],
                MATERIALS[int(rng.integers(len(MATERIALS)))],
            )
            about = f"A {noun} by {brand}, {material}, for {names[kind].lower()} lovers."
            rows.append(
                {
                    "product_id": f"p{row:05d}",
                    "title": f"{brand} {material} {noun} {row}",
                    "category": names[kind],
                    "brand": brand,
                    "description": None if rng.random() < 0.05 else about,
                    "price": float(self.price[row]),
                    "in_stock": bool(rng.random() < 0.9),
                }
            )
        return pl.DataFrame(rows)


def _ids(letter: str, numbers: npt.NDArray[np.int64], width: int) -> pl.Series:
    return letter + pl.Series(numbers).cast(pl.String).str.zfill(width)
