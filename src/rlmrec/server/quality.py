"""Metrics of quality: who gets what is popular, how old model and data are, how much of the catalogue is listed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter

from rlmrec.server import schemas
from rlmrec.server.catalogue import Catalogue
from rlmrec.types import FloatArray

HOUR = 3600.0


class Quality:
    """Counts lists by their source and keeps when each item was last in one; with several workers, for all of them.

    Args:
        registry: of the counter.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lists = Counter(
            "rlmrec_lists",
            "Lists by what they follow from: history, text, or popularity where nothing is known of the user.",
            ["source"],
            registry=registry,
        )
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # of this server, shared by its workers
        self._file = tempfile.TemporaryFile() if folder is None else (Path(folder) / "listed").open("a+b")  # noqa: SIM115
        self._listed: FloatArray = np.empty(0)

    def observe(self, lists: Sequence[schemas.Recommendations], catalogue: Catalogue) -> None:
        """Take note of lists that were answered."""
        for one in lists:
            self.lists.labels(one.source).inc()
        rows = catalogue.recommender.item_ids.rows([item.id for one in lists for item in one.items])
        self._times(len(catalogue.recommender.items))[rows] = time.time()

    def text(self, catalogue: Catalogue) -> bytes:
        """Return what is known at the moment, in the text format of Prometheus."""
        n_items = len(catalogue.recommender.items)
        recent = self._times(n_items)[:n_items] > time.time() - HOUR
        gauges = [
            (
                "rlmrec_catalogue_coverage_hour",
                "Share of the items in lists of the last hour.",
                recent.mean(),
            ),
            ("rlmrec_model_timestamp_seconds", "When the model was made.", catalogue.model_made),
            (
                "rlmrec_data_timestamp_seconds",
                "When the dataset was last made or appended to.",
                catalogue.data_made,
            ),
        ]
        lines = [
            f"# HELP {name} {what}\n# TYPE {name} gauge\n{name} {value:.15g}\n"
            for name, what, value in gauges
            if value is not None
        ]
        return "".join(lines).encode()

    def _times(self, n_items: int) -> FloatArray:
        """Return when each item was last listed, float64[I] or longer, in seconds since 1970; rows of items stay."""
        if len(self._listed) < n_items:
            size = os.fstat(self._file.fileno()).st_size
            if size < 8 * n_items:
                self._file.truncate(8 * n_items)
            self._listed = np.memmap(self._file, np.float64, "r+", shape=(n_items,))
        return self._listed
