"""Section of the report: maps of the items by their texts and by the models, before and after alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.evaluation.groups import ITEM_GROUPS, head_mid_tail
from rlmrec.profiles.parse import cut_words
from rlmrec.report.blocks import Block, Options, Section, Text
from rlmrec.report.charts import scatter
from rlmrec.report.collect import Inputs
from rlmrec.topk import unit_rows
from rlmrec.types import Float32Array, FloatArray, IntArray

MAP_POINTS = 1500  # more would overlap, and make the file large
NEIGHBOURS = 10
CLASSES = 6
CLASS_ITEMS = 5  # on average; a column with smaller classes describes items rather than classifies them
# Columns that people classify items by, the most helpful first.
ATTRIBUTES = (
    "genres",
    "genre",
    "categories",
    "category",
    "tags",
    "type",
    "brand",
    "publisher",
    "city",
    "year",
)


def maps(inputs: Inputs, options: Options) -> Section | None:
    """Return maps of the items by text embeddings, by the base and by aligned runs, coloured by an attribute."""
    data = inputs.dataset
    if data is None:
        return None
    spaces: list[tuple[str, Float32Array]] = []
    if inputs.text_embeddings is not None:
        spaces.append(("text embeddings", inputs.text_embeddings.items))
    backbone = next((name for name in inputs.backbones() if inputs.base_of(name) is not None), None)
    groups = inputs.of_backbone(backbone) if backbone is not None else []
    seen: set[str] = set()
    for group in groups:  # one of each variant
        recommender = None if group.first.variant in seen else inputs.recommender(group)
        # A closed form may have no item embeddings, or a single number per item.
        if recommender is not None and recommender.items.shape[1] > 1:
            seen.add(group.first.variant)
            when = "before alignment" if group.first.is_base else "after alignment"
            spaces.append((f"{group.name}: {when}", recommender.items))
    if not spaces:
        return None
    attribute, names, classes = item_classes(data, options.colour_by)
    rng = np.random.default_rng(options.seed)
    chosen = np.sort(rng.permutation(data.n_items)[:MAP_POINTS])
    sizes = np.bincount(classes, minlength=len(names) + 1)[: len(names)]
    chance = float((sizes * (sizes - 1)).sum() / max(1, sizes.sum() * (data.n_items - 1)))
    blocks: list[Block] = []
    for title, vectors in spaces:
        directions = unit_rows(vectors)
        points = _project(directions[chosen], options)
        share = neighbour_agreement(directions, classes, len(names))
        note = (
            f"Of an item's {NEIGHBOURS} nearest neighbours (cosine, all dimensions) {100 * share:.0f} % have the "
            f"same {attribute}; {100 * chance:.0f} % would by chance."
        )
        blocks.append(scatter(f"Items by {title}", points, classes[chosen], names, note=note))
    method = "PCA" if options.projection == "pca" else "t-SNE"
    about = (
        f"Each point is one of {len(chosen):,} items, its vector scaled to unit length and projected to the plane by "
        f"{method}; axes have no unit, only distances matter. Coloured by {attribute}."
    )
    if (classes >= len(names)).any():
        about += f" Small grey points have none of the {len(names)} most frequent values."
    return Section("maps", "Maps of the items", [Text(about), *blocks])


def item_classes(data: Dataset, column: str | None = None) -> tuple[str, list[str], IntArray]:
    """Return the attribute that colours a map, its classes, and the class of each item.

    An attribute with several values (comma-separated or a list) counts by its first. Without a ``column`` it is
    one of ``ATTRIBUTES``, else the column with the fewest classes of at least 5 items on average; a dataset
    without an attribute is coloured by popularity.

    Returns:
        the attribute's name, the names of the classes, int64[I] with len(names) for other items.

    Raises:
        ConfigError: the items' texts have no such column.
    """
    texts = data.item_texts
    columns = [] if texts is None else texts.columns
    if column is not None and column not in columns:
        raise ConfigError(f"no column {column!r} to colour by: the items have {', '.join(columns) or 'none'}")
    if column is None and texts is not None:
        column = next((name for name in ATTRIBUTES if name in columns), None) or _classifying(texts)
    if column is None or texts is None:
        return "popularity", list(ITEM_GROUPS), head_mid_tail(data.train.item_degrees())
    values = [_first_value(value) for value in texts[column].to_list()]
    names, counts = np.unique([value for value in values if value], return_counts=True)
    kept = names[np.argsort(-counts, kind="stable")][:CLASSES].tolist()
    places = {name: place for place, name in enumerate(kept)}
    label = f"{column} (first named)" if any(_several(value) for value in texts[column].to_list()) else column
    return label, kept, np.array([places.get(value, len(kept)) for value in values], np.int64)


def _classifying(texts: pl.DataFrame) -> str | None:
    """Return the column with the fewest classes, at least two, of at least 5 items each on average."""
    found = []
    for name in texts.columns:
        values = [value for value in map(_first_value, texts[name].to_list()) if value]
        if 2 <= len(set(values)) <= len(values) / CLASS_ITEMS:
            found.append((len(set(values)), name))
    return min(found)[1] if found else None


def _several(value: Any) -> bool:
    return len(value) > 1 if isinstance(value, list) else "," in str(value or "")


def _first_value(value: Any) -> str:
    first = (value[0] if value else "") if isinstance(value, list) else str(value or "").split(",")[0]
    return cut_words(str(first or "").strip(), 4)


def neighbour_agreement(directions: Float32Array, classes: IntArray, n_classes: int) -> float:
    """Return the share of nearest neighbours that have the item's class, over the items of the classes.

    Args:
        directions: float32[I, d], unit length; the share is over a sample of 5,000 items, their neighbours are any.
        classes: int64[I].
        n_classes: items of higher classes are "other" and not in the share.
    """
    sample = np.random.default_rng(0).permutation(np.flatnonzero(classes < n_classes))[:5000]
    most = min(NEIGHBOURS, len(directions) - 1)
    same = 0
    for rows in np.array_split(sample, max(1, len(sample) * len(directions) // (1 << 23))):
        cosines = directions[rows] @ directions.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        same += int((classes[nearest] == classes[rows, None]).sum())
    return same / max(1, most * len(sample))


def _project(directions: Float32Array, options: Options) -> FloatArray:
    if options.projection == "tsne" and len(directions) > 4:
        perplexity = min(30.0, (len(directions) - 1) / 4)
        method = TSNE(2, perplexity=perplexity, init="pca", random_state=options.seed)
    else:
        method = PCA(2, random_state=options.seed)
    points: FloatArray = method.fit_transform(directions)
    return points
