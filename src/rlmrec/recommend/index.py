"""Index: approximate search by inner product for large catalogues."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_file, read_json, sha256, write_json
from rlmrec.topk import ByNorm, top_k
from rlmrec.trust import damaged, expect
from rlmrec.types import Float32Array, IntArray

# Below this number of items, exact search is fast enough. Above it both are timed on the recommender itself: where
# popular items have large norms, a user and a million items took exact search .7 ms and an index of recall .997 9.7 ms.
EXACT_BELOW = 200_000
# Above this number the index keeps codes of some bytes instead of vectors, and the best are scored again.
CODES_ABOVE = 10_000_000
CODE_COLUMNS = 4  # numbers of a vector that one byte of its code stands for
DEPTHS = 4, 256  # candidates scored again for each item that is asked for: at first, and at most
AGAIN = 64 << 20  # bytes of vectors that are scored again at a time
ADDED = 1 << 18  # items added to the index at a time
FILE, MANIFEST = "index.faiss", "index.json"
FORMAT = 1
K = 20  # recall is measured at 20
LITTLE = 0.02  # gain in recall below which more cells do not help, but more candidates may
SAMPLE = 1000  # queries that recall is measured on
TIMED = 100  # queries of that sample that searches are timed on, one at a time
INSTALL = "install it with  pip install 'rlmrec[index]'"


class Index:
    """An inverted file over item vectors (FAISS ``IVF…,Flat`` or ``IVF…,PQ…``). Made by ``build_index``.

    The items are divided into cells; a query scores the items of the ``probes`` nearest cells, exactly. Of the
    indexes measured on a million vectors, it was the cheapest to build at equal recall and speed
    (benchmarks/README.md).

    With codes (product quantisation) the scores in the cells are estimates, and the best ``depth`` · k of them are
    scored again by the recommender's own vectors, which stay in their file.

    Args:
        faiss_index: a trained ``faiss.IndexIVF`` of inner products.
        manifest: kind, number of items, probes, depth, recall, build time, and the median milliseconds in which the
            index and exact search answer one user; JSON.
        items: float32[I, d], the vectors that it was built over.
        tail: float32[n, d], items that were appended later, which are searched exactly.

    Attributes:
        recall: share of the exact 20 best that were found, measured when it was built.
    """

    def __init__(
        self,
        faiss_index: Any,
        manifest: dict[str, Any],
        items: Float32Array,
        tail: Float32Array | None = None,
    ) -> None:
        self._faiss = faiss_index
        self.manifest = manifest
        self._items = items
        self._tail = np.empty((0, items.shape[1]), np.float32) if tail is None else tail
        self.recall: float = manifest["recall@20"]

    @property
    def is_faster(self) -> bool:
        """Whether it answered one user faster than exact search when it was built.

        True for an index of version 0.1, which was not timed.
        """
        milliseconds = self.manifest.get("milliseconds")
        return milliseconds is None or milliseconds["index"] < milliseconds["exact"]

    def __len__(self) -> int:
        return int(self._faiss.ntotal) + len(self._tail)

    def search(self, queries: Float32Array, k: int) -> tuple[IntArray, Float32Array]:
        """Return item rows int64[B, k] and inner products float32[B, k], best first, padded with −1 and −∞."""
        queries = np.ascontiguousarray(queries, np.float32)
        depth = self.manifest.get("depth")
        if depth is None:
            scores, rows = self._candidates(queries, k)
        else:
            at_once = max(1, AGAIN // (4 * depth * k * queries.shape[1]))
            blocks = [queries[start : start + at_once] for start in range(0, len(queries), at_once)]
            found = [self._scored_again(block, k, depth) for block in blocks]
            rows = np.concatenate([np.empty((0, k), np.int64), *(rows for rows, _ in found)])
            scores = np.concatenate([np.empty((0, k), np.float32), *(scores for _, scores in found)])
        if not len(self._tail):
            return rows, scores
        more, values = top_k(queries @ self._tail.T, k)
        rows = np.concatenate([rows, more + self._faiss.ntotal], axis=1)
        order, scores = top_k(np.concatenate([scores, values], axis=1), k)
        return np.take_along_axis(rows, order, 1), scores

    def _candidates(self, queries: Float32Array, k: int) -> tuple[Float32Array, IntArray]:
        """FAISS' own scores float32[B, k] and rows int64[B, k], best first."""
        parameters = _faiss().SearchParametersIVF(nprobe=self.manifest["probes"])
        scores, rows = self._faiss.search(_padded(queries, self._faiss.d), k, params=parameters)
        return np.where(rows < 0, np.float32(-np.inf), scores), rows

    def _scored_again(self, queries: Float32Array, k: int, depth: int) -> tuple[IntArray, Float32Array]:
        """Rows and exact scores of the best k among ``depth`` · k candidates."""
        _, rows = self._candidates(queries, min(depth * k, self._faiss.ntotal))
        rows.sort(axis=1)  # in the order of the file; and of equal scores the lower row comes first
        scores = np.einsum("bcd,bd->bc", self._items[np.maximum(rows, 0)], queries)
        scores[rows < 0] = -np.inf
        order, scores = top_k(scores, k)
        rows = np.take_along_axis(rows, order, 1)
        missing = ((0, 0), (0, k - rows.shape[1]))
        return np.pad(rows, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf)

    def with_items(self, vectors: Float32Array) -> Index:
        """Return an index with items appended. They are searched exactly, so there should be few of them."""
        other = copy.copy(self)
        other._tail = np.concatenate([self._tail, np.asarray(vectors, np.float32)])
        return other

    def save(self, folder: Path) -> None:
        """Write ``index.faiss`` and ``index.json`` into the recommender's folder."""
        if len(self._tail):
            raise ConfigError("an index with appended items cannot be saved: build it again over all items")
        with atomic_file(Path(folder) / FILE) as temporary:
            _faiss().write_index(self._faiss, str(temporary))
        write_json(
            Path(folder) / MANIFEST,
            {**self.manifest, "format": FORMAT, "sha256": sha256(Path(folder) / FILE)},
        )

    @classmethod
    def load(cls, folder: Path, items: Float32Array, mmap: bool = False) -> Index:
        """Read the files that ``save`` wrote.

        Args:
            folder: of the recommender.
            items: the vectors that it must have been built over.
            mmap: map the file, so that processes share its memory.

        Raises:
            WorkspaceError: the index is missing, damaged or built over other vectors.
            ConfigError: FAISS is not installed.
        """
        folder = Path(folder)
        again = "build it again with 'rlmrec index'"
        with damaged(folder / MANIFEST, again):
            return cls._load(folder, items, mmap, again)

    @classmethod
    def _load(cls, folder: Path, items: Float32Array, mmap: bool, again: str) -> Index:
        faiss = _faiss()
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise WorkspaceError(f"{folder / MANIFEST} is not an index of this version: {again}")
        if not (folder / FILE).exists() or sha256(folder / FILE) != manifest.get("sha256"):
            raise WorkspaceError(f"{folder / FILE} is missing or was changed: {again}")
        if manifest["vectors"] != digest(items):
            raise WorkspaceError(f"{folder / FILE} was built over other embeddings: {again}")
        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mmap else 0
        expect(manifest["recall@20"], (int, float), "the recall")
        depth = manifest.get("depth")
        if depth is not None and not 1 <= expect(depth, int, "the depth") <= DEPTHS[1]:
            raise DataError(f"the depth is {depth}, expected 1 to {DEPTHS[1]}")
        found = faiss.read_index(str(folder / FILE), flags)
        _check_index(found, items, expect(manifest["probes"], int, "probes"), depth is not None)
        return cls(found, manifest, items)


def _check_index(found: Any, items: Float32Array, probes: int, codes: bool) -> None:
    """Check a stored index: FAISS searches whatever sizes and rows the file has.

    Raises:
        DataError: it is not an index of these items.
    """
    faiss = _faiss()
    cells = getattr(found, "nlist", 0)
    kind = faiss.IndexIVFPQ if codes else faiss.IndexIVFFlat
    coarse = faiss.downcast_index(found.quantizer) if isinstance(found, kind) else None
    width = _code_bytes(items.shape[1]) * CODE_COLUMNS if codes else items.shape[1]
    size = _code_bytes(items.shape[1]) if codes else 4 * items.shape[1]
    if not (
        isinstance(coarse, faiss.IndexFlat)
        and found.metric_type == faiss.METRIC_INNER_PRODUCT
        and (coarse.ntotal, coarse.d, found.d) == (cells, width, width)
        and found.ntotal == len(items)
        and found.code_size == found.invlists.code_size == size
        and (not codes or (found.pq.M, found.pq.nbits, found.pq.d) == (size, 8, width))
        and found.invlists.nlist == cells
        and 1 <= probes <= cells
    ):
        raise DataError(f"it is not an index of {len(items)} vectors of {items.shape[1]} numbers")
    lists = found.invlists
    rows = [
        faiss.rev_swig_ptr(lists.get_ids(cell), lists.list_size(cell)).copy()
        for cell in range(cells)
        if lists.list_size(cell)
    ]
    listed = np.concatenate([np.empty(0, np.int64), *rows])
    if len(listed) != len(items) or (np.bincount(listed[(listed >= 0) & (listed < len(items))]) != 1).any():
        raise DataError("its rows are not those of the items")


def has_index(folder: Path) -> bool:
    """Return whether a recommender's folder holds an index."""
    return (Path(folder) / MANIFEST).exists()


def remove_index(folder: Path) -> None:
    """Remove the index of a recommender's folder, if it holds one; the recommender then searches exactly."""
    for name in (MANIFEST, FILE):  # without the first, the folder holds no index
        (Path(folder) / name).unlink(missing_ok=True)


def build_index(
    items: Float32Array,
    queries: Float32Array,
    recall: float = 0.95,
    seed: int = 0,
    seen: sp.csr_array | None = None,
    codes: bool | None = None,
    added: Callable[[IntArray], sp.csr_array] | None = None,
) -> Index:
    """Build an index whose recall at 20, measured on a sample of ``queries``, reaches ``recall``.

    It is measured as the index is used: the items that a user has seen are left out of both lists, and what is added
    to the dot products is in both.

    There are about 4 √I cells, as FAISS advises. The number of probed cells is doubled until the recall is
    reached; with all cells the search of vectors is exact. With codes the number of candidates that are scored again is
    doubled where more cells help little.

    Args:
        items: float32[I, d].
        queries: float32[n, d], the users' vectors.
        recall: share of the exact 20 best items that must be found, in (0, 1].
        seed: of the sample and of the cells.
        seen: sparse n x I, whose non-zeros are left out; None leaves out nothing.
        codes: keep a byte for each ``CODE_COLUMNS`` numbers instead of the vectors; None does so above
            ``CODES_ABOVE`` items.
        added: given rows of queries, returns what is added to their dot products, sparse n x I; None adds nothing.

    Raises:
        ConfigError: FAISS is not installed, or the recall is out of range.
        DataError: fewer than 1,000 items.
    """
    if not 0 < recall <= 1:
        raise ConfigError(f"recall must be in (0, 1], got {recall:g}")
    if len(items) < 1000:
        raise DataError(
            f"an index over {len(items)} items is slower than exact search: expected at least 1,000 items"
        )
    from rlmrec.recommend import search  # which imports this module

    codes = len(items) > CODES_ABOVE if codes is None else codes
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    cells = _cells(len(items))
    kind, width = f"IVF{cells},Flat", items.shape[1]
    if codes:
        kind, width = f"IVF{cells},PQ{_code_bytes(width)}", _code_bytes(width) * CODE_COLUMNS
    found = _faiss().index_factory(width, kind, _faiss().METRIC_INNER_PRODUCT)
    found.cp.seed = seed + 1
    training = rng.choice(len(items), min(len(items), 64 * cells), replace=False)
    found.train(_padded(items[np.sort(training)], width))
    for first in range(0, len(items), ADDED):
        found.add(_padded(items[first : first + ADDED], width))
    seconds = time.perf_counter() - start
    chosen = np.sort(rng.choice(len(queries), min(SAMPLE, len(queries)), replace=False))
    left_out = None if seen is None else sp.csr_array(seen[chosen]).__getitem__
    more = None if added is None else added(chosen).__getitem__
    sample = search.Queries(len(chosen), queries[chosen].__getitem__, left_out, added=more)
    by_norm = ByNorm.of(items)
    exact = search.exact(sample, items, K, by_norm=by_norm)[0]
    manifest: dict[str, Any] = {
        "kind": kind,
        "items": len(items),
        "vectors": digest(items),
        "seconds": round(seconds, 2),
        "seed": seed,
        "sample": len(chosen),
    }
    options: dict[str, int] = {"probes": 1, **({"depth": DEPTHS[0]} if codes else {})}
    reached = 0.0
    while True:
        index = Index(found, {**manifest, **options, "recall@20": reached}, items)
        before, reached = reached, _recall(search.approximate(sample, index, K, items)[0], exact)
        following = _wider(options, cells, reached - before)
        if reached >= recall or following == options:
            break
        options = following
    some = range(min(TIMED, len(chosen)))
    manifest["milliseconds"] = {
        "exact": _milliseconds(lambda row: search.exact(sample.row(row), items, K, by_norm=by_norm), some),
        "index": _milliseconds(lambda row: search.approximate(sample.row(row), index, K, items), some),
    }
    return Index(found, {**manifest, **options, "recall@20": round(reached, 4)}, items)


def _milliseconds(work: Callable[[int], object], rows: Sequence[int]) -> float:
    """Return the median time of ``work`` over these rows, after one call that is not timed."""
    work(rows[0])
    times = []
    for row in rows:
        start = time.perf_counter()
        work(row)
        times.append(time.perf_counter() - start)
    return round(1e3 * float(np.median(times)), 3)


def _wider(options: dict[str, int], cells: int, gain: float) -> dict[str, int]:
    """Return the options of a search for more, given what the last step gained; the same if there are none."""
    wider = {**options, "probes": min(2 * options["probes"], cells)}
    if "depth" in options and (gain < LITTLE or options["probes"] >= cells):
        wider["depth"] = min(2 * options["depth"], DEPTHS[1])
    return wider


def estimate_bytes(n_items: int, d: int, codes: bool | None = None) -> int:
    """Estimate the bytes of an index: the codes or vectors, the items' rows, and the cells' centres."""
    codes = n_items > CODES_ABOVE if codes is None else codes
    return n_items * ((_code_bytes(d) if codes else 4 * d) + 8) + 4 * d * _cells(n_items)


def _cells(n_items: int) -> int:
    """About 4 √I, but FAISS wants 39 points a cell."""
    return int(min(2 ** round(math.log2(4 * math.sqrt(n_items))), 2 ** int(math.log2(n_items / 39))))


def _code_bytes(d: int) -> int:
    return math.ceil(d / CODE_COLUMNS)


def _padded(vectors: Float32Array, width: int) -> Float32Array:
    """Return float32[B, width]: the vectors with zeros behind, which change no inner product."""
    if vectors.shape[1] < width:
        vectors = np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
    return np.ascontiguousarray(vectors, np.float32)


def digest(items: Float32Array) -> str:
    """Return a hash of vectors, by which an index and a cold-start model name the ones they belong to."""
    return hashlib.sha256(np.ascontiguousarray(items).data).hexdigest()[:16]


def _recall(found: IntArray, exact: IntArray) -> float:
    """Return the mean share of the exact lists that was found; a list without an item counts as found."""
    shares = []
    for a, b in zip(found, exact, strict=True):
        wanted = b[b >= 0]
        shares.append(len(np.intersect1d(a, wanted)) / len(wanted) if len(wanted) else 1.0)
    return float(np.mean(shares))


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except ImportError:
        raise ConfigError(f"an approximate index needs FAISS: {INSTALL}") from None
