"""Section of the report: maps of the items by their texts and by the models, before and after alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import described_items, item_labels
from rlmrec.errors import ConfigError
from rlmrec.evaluation.groups import ITEM_GROUPS, head_mid_tail
from rlmrec.linalg import unit_rows
from rlmrec.profiles.parse import cut_words
from rlmrec.report.blocks import Block, Chart, Options, Section, Text
from rlmrec.report.charts import scatter
from rlmrec.report.collect import Inputs
from rlmrec.types import Float32Array, FloatArray, IntArray

MAP_POINTS = 1500  # more would overlap, and make the file large
NEIGHBOURS = 10
ARROWS = 60
AFTER = ": after alignment"
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
    spaces: list[tuple[str, bool, Float32Array]] = []  # title, whether it is the base, vectors
    if inputs.text_embeddings is not None:
        spaces.append(("text embeddings", False, inputs.text_embeddings.items))
    # One backbone, with aligned runs if there is any: before and after alignment belong together.
    backbones = [
        name for name in inputs.backbones() if any(group.first.is_base for group in inputs.of_backbone(name))
    ]
    backbones.sort(key=lambda name: all(group.first.is_base for group in inputs.of_backbone(name)))
    backbone = next(iter(backbones), None)
    groups = inputs.of_backbone(backbone) if backbone is not None else []
    bases = [inputs.base_of(group) for group in groups if not group.first.is_base]
    groups.sort(key=lambda group: group not in bases[:1])  # the base of the first aligned run comes first
    seen: set[str] = set()
    for group in groups:  # one of each variant
        recommender = None if group.first.variant in seen else inputs.recommender(group)
        # A closed form may have no item embeddings, or a single number per item.
        if recommender is not None and recommender.items.shape[1] > 1:
            seen.add(group.first.variant)
            when = ": before alignment" if group.first.is_base else AFTER
            unit = recommender.unit_items
            assert not isinstance(unit, sp.csr_array)
            spaces.append((f"{group.name}{when}", group.first.is_base, unit))
    if not spaces:
        return None
    attribute, names, classes = item_classes(data, options.colour_by)
    rng = np.random.default_rng(options.seed)
    chosen = np.sort(rng.permutation(data.n_items)[:MAP_POINTS])
    sizes = np.bincount(classes, minlength=len(names) + 1)[: len(names)]
    chance = float((sizes * (sizes - 1)).sum() / max(1, sizes.sum() * (data.n_items - 1)))
    labels = [f"{name} ({_class_of(names, place)})" for name, place in _labelled(data, chosen, classes)]
    blocks: list[Block] = []
    before: _Map | None = None  # the map of the base, in whose plane the maps after alignment are drawn
    for title, is_base, vectors in spaces:
        directions = unit_rows(vectors)
        same_size = before is not None and before.directions.shape[1] == directions.shape[1]
        after = _Map.after(before, directions, chosen, options) if before is not None and same_size else None
        shown = after or _Map(directions, _project(directions[chosen], options))
        before = shown if is_base else before
        share = neighbour_agreement(directions, classes, len(names))
        note = (
            f"Of an item's {NEIGHBOURS} nearest neighbours (cosine, all dimensions) {100 * share:.0f} % have the "
            f"same {attribute}; {100 * chance:.0f} % would by chance."
        )
        blocks.append(
            scatter(f"Items by {title}", shown.points, classes[chosen], names, note=note, labels=labels)
        )
        if after is not None and before is not None:
            blocks.append(_what_changed(title, before, after, classes[chosen], names, labels, chosen))
    method = "PCA" if options.projection == "pca" else "t-SNE"
    about = (
        f"Each point is one of {len(chosen):,} items, its vector scaled to unit length and projected to the plane by "
        f"{method}; axes have no unit, only distances matter. Coloured by {attribute}. Maps before and after alignment "
        "share their plane: the vectors after alignment are rotated onto those before it (orthogonal Procrustes), "
        "which keeps all distances between them."
    )
    if (classes >= len(names)).any():
        about += f" Small grey points have none of the {len(names)} most frequent values."
    return Section("maps", "Maps of the items", [Text(about), *blocks])


def item_classes(data: Dataset, column: str | None = None) -> tuple[str, list[str], IntArray]:
    """Return the attribute that colours a map, its classes, and the class of each item.

    An attribute with several values (comma-separated or a list) counts by its first. Without a ``column`` it is
    one of ``ATTRIBUTES``, else the column of texts with the fewest classes of at least 5 items on average, never
    stock or prices; a dataset without an attribute is coloured by popularity.

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
        described = described_items(data)
        column = next((name for name in ATTRIBUTES if name in columns), None)
        column = column or (None if described is None else _classifying(described))
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
        directions: float32[I, d], unit length; rows of zeros, of items without a text, are left out. The share is over
            a sample of 5,000 items, their neighbours are any.
        classes: int64[I].
        n_classes: items of higher classes are "other" and not in the share.
    """
    known = directions.any(axis=1)
    directions, classes = directions[known], classes[known]
    if len(directions) < 2:
        return 0.0
    sample = np.random.default_rng(0).permutation(np.flatnonzero(classes < n_classes))[:5000]
    most = min(NEIGHBOURS, len(directions) - 1)
    same = 0
    for rows in np.array_split(sample, max(1, len(sample) * len(directions) // (1 << 23))):
        cosines = directions[rows] @ directions.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        same += int((classes[nearest] == classes[rows, None]).sum())
    return same / max(1, most * len(sample))


@dataclass(frozen=True, eq=False)
class _Map:
    """Vectors of items and their places on a map.

    Args:
        directions: float32[I, d], unit length.
        points: float[n, 2], of the items that are shown.
    """

    directions: Float32Array
    points: FloatArray

    @classmethod
    def after(cls, before: _Map, directions: Float32Array, chosen: IntArray, options: Options) -> _Map:
        """Return the map of other vectors of the same items in the plane of the map before."""
        rotation, _ = orthogonal_procrustes(directions, before.directions)
        turned = (directions @ rotation).astype(np.float32)
        plane = PCA(2, random_state=options.seed).fit(before.directions[chosen])
        if options.projection == "pca":
            return cls(turned, plane.transform(turned[chosen]))
        # t-SNE has no plane to draw in: it starts from the places before.
        return cls(turned, _project(turned[chosen], options, before.points))


def _what_changed(
    title: str,
    before: _Map,
    after: _Map,
    classes: IntArray,
    names: Sequence[str],
    labels: Sequence[str],
    chosen: IntArray,
) -> Chart:
    """Draw an arrow from before to after for the items whose vectors turned most."""
    cosines = (before.directions * after.directions).sum(axis=1)
    most = np.argsort(cosines[chosen], kind="stable")[:ARROWS]
    moved = np.full_like(after.points, np.nan)
    moved[most] = after.points[most]
    kept = neighbours_kept(before.directions, after.directions)
    return scatter(
        f"What changed by alignment: {title.removesuffix(AFTER)}",
        before.points,
        classes,
        names,
        note=f"Arrows lead from before to after, for the {len(most)} items whose vectors turned most. On average an "
        f"item keeps {100 * kept:.0f} % of its {NEIGHBOURS} nearest neighbours.",
        labels=[
            f"{label}: cosine of before and after {cosines[row]:.2f}"
            for label, row in zip(labels, chosen, strict=True)
        ],
        moved=moved,
    )


def neighbours_kept(before: Float32Array, after: Float32Array) -> float:
    """Return the mean share of an item's nearest neighbours that are the same before and after.

    Args:
        before: float32[I, d], unit length; the mean is over a sample of 1,000 items.
        after: float32[I, e], of the same items.
    """
    sample = np.random.default_rng(0).permutation(len(before))[:1000]
    most = min(NEIGHBOURS, len(before) - 1)
    nearest = []
    for directions in (before, after):
        cosines = directions[sample] @ directions.T
        cosines[np.arange(len(sample)), sample] = -np.inf
        nearest.append(np.argpartition(-cosines, most - 1, axis=1)[:, :most])
    same = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(axis=2)
    return float(same.mean())


def _labelled(data: Dataset, chosen: IntArray, classes: IntArray) -> list[tuple[str, int]]:
    """Return the title and the class of each chosen item."""
    titles = item_labels(data)
    return [(cut_words(titles[row], 8), int(classes[row])) for row in chosen.tolist()]


def _class_of(names: Sequence[str], place: int) -> str:
    return names[place] if place < len(names) else "other"


def _project(directions: Float32Array, options: Options, start: FloatArray | None = None) -> FloatArray:
    if options.projection == "tsne" and len(directions) > 4:
        perplexity = min(30.0, (len(directions) - 1) / 4)
        init: Any = "pca" if start is None else (1e-4 * start / start[:, 0].std()).astype(np.float32)
        method = TSNE(2, perplexity=perplexity, init=init, random_state=options.seed)
    else:
        method = PCA(2, random_state=options.seed)
    points: FloatArray = method.fit_transform(directions)
    return points
