"""Index: approximate search by inner product for large catalogues."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_file, read_json, sha256, write_json
from rlmrec.topk import top_k
from rlmrec.trust import damaged, expect
from rlmrec.types import Float32Array, IntArray

# Below this number of items, exact search is fast enough.
EXACT_BELOW = 200_000
FILE, MANIFEST = "index.faiss", "index.json"
FORMAT = 1
K = 20  # recall is measured at 20
SAMPLE = 1000  # queries that recall is measured on
INSTALL = "install it with  pip install 'rlmrec[index]'"


class Index:
    """An inverted file over item vectors (FAISS ``IVF…,Flat``). Made by ``build_index``.

    The items are divided into cells; a query scores the items of the ``probes`` nearest cells, exactly. Of the
    indexes measured on a million vectors, it was the cheapest to build at equal recall and speed
    (benchmarks/README.md).

    Args:
        faiss_index: a trained ``faiss.IndexIVF`` of inner products.
        manifest: kind, number of items, probes, recall and build time; JSON.
        tail: float32[n, d], items that were appended later, which are searched exactly.

    Attributes:
        recall: share of the exact 20 best that were found, measured when it was built.
    """

    def __init__(self, faiss_index: Any, manifest: dict[str, Any], tail: Float32Array | None = None) -> None:
        self._faiss = faiss_index
        self.manifest = manifest
        self._tail = np.empty((0, faiss_index.d), np.float32) if tail is None else tail
        self.recall: float = manifest["recall@20"]

    def __len__(self) -> int:
        return int(self._faiss.ntotal) + len(self._tail)

    def search(self, queries: Float32Array, k: int) -> tuple[IntArray, Float32Array]:
        """Return item rows int64[B, k] and inner products float32[B, k], best first, padded with −1 and −∞."""
        faiss = _faiss()
        parameters = faiss.SearchParametersIVF(nprobe=self.manifest["probes"])
        queries = np.ascontiguousarray(queries, np.float32)
        scores, rows = self._faiss.search(queries, k, params=parameters)
        scores = np.where(rows < 0, np.float32(-np.inf), scores)
        if not len(self._tail):
            return rows, scores
        more, values = top_k(queries @ self._tail.T, k)
        rows = np.concatenate([rows, more + self._faiss.ntotal], axis=1)
        order, scores = top_k(np.concatenate([scores, values], axis=1), k)
        return np.take_along_axis(rows, order, 1), scores

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
        found = faiss.read_index(str(folder / FILE), flags)
        _check_index(found, items, expect(manifest["probes"], int, "probes"))
        return cls(found, manifest)


def _check_index(found: Any, items: Float32Array, probes: int) -> None:
    """Check a stored index: FAISS searches whatever sizes and rows the file has.

    Raises:
        DataError: it is not an index of these items.
    """
    faiss = _faiss()
    cells = getattr(found, "nlist", 0)
    coarse = faiss.downcast_index(found.quantizer) if isinstance(found, faiss.IndexIVFFlat) else None
    if not (
        isinstance(coarse, faiss.IndexFlat)
        and found.metric_type == faiss.METRIC_INNER_PRODUCT
        and (coarse.ntotal, coarse.d, found.d) == (cells, items.shape[1], items.shape[1])
        and found.ntotal == len(items)
        and found.code_size == found.invlists.code_size == 4 * items.shape[1]
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


def build_index(
    items: Float32Array,
    queries: Float32Array,
    recall: float = 0.95,
    seed: int = 0,
    seen: sp.csr_array | None = None,
) -> Index:
    """Build an index whose recall at 20, measured on a sample of ``queries``, reaches ``recall``.

    It is measured as the index is used: the items that a user has seen are left out of both lists.

    There are about 4 √I cells, as FAISS advises. The number of probed cells is doubled until the recall is
    reached; with all cells the search is exact.

    Args:
        items: float32[I, d].
        queries: float32[n, d], the users' vectors.
        recall: share of the exact 20 best items that must be found, in (0, 1].
        seed: of the sample and of the cells.
        seen: sparse n x I, whose non-zeros are left out; None leaves out nothing.

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

    faiss = _faiss()
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    cells = 2 ** round(math.log2(4 * math.sqrt(len(items))))
    cells = min(cells, 2 ** int(math.log2(len(items) / 39)))  # FAISS wants 39 points a cell
    found = faiss.index_factory(items.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    found.cp.seed = seed + 1
    training = rng.choice(len(items), min(len(items), 64 * cells), replace=False)
    found.train(np.ascontiguousarray(items[np.sort(training)]))
    found.add(np.ascontiguousarray(items))
    seconds = time.perf_counter() - start
    chosen = np.sort(rng.choice(len(queries), min(SAMPLE, len(queries)), replace=False))
    left_out = None if seen is None else sp.csr_array(seen[chosen]).__getitem__
    sample = search.Queries(len(chosen), queries[chosen].__getitem__, left_out)
    exact = search.exact(sample, items, K)[0]
    manifest: dict[str, Any] = {
        "kind": f"IVF{cells},Flat",
        "items": len(items),
        "vectors": digest(items),
        "seconds": round(seconds, 2),
        "seed": seed,
        "sample": len(chosen),
    }
    probes, reached = 1, 0.0
    while True:
        index = Index(found, {**manifest, "probes": probes, "recall@20": reached})
        reached = _recall(search.approximate(sample, index, K, items)[0], exact)
        if reached >= recall or probes >= cells:
            return Index(found, {**manifest, "probes": probes, "recall@20": round(reached, 4)})
        probes = min(2 * probes, cells)


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
