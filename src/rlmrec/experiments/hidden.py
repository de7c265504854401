"""Hidden users and items: left out of training altogether, and ranked afterwards by what their text says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from rlmrec.closed_form.base import UserParts, own_user_texts
from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.evaluation.ranking import Ranking
from rlmrec.linalg import unit_rows
from rlmrec.recommend.cold_start import ColdStart, RuleColdStart, TextModel, has_rule_for_texts
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.topk import top_k
from rlmrec.types import BoolArray, Float32Array, IntArray

SHARES = {"users": 0.1, "items": 0.2}  # which are hidden, and how many of them
BLOCK = 2048  # users that are scored at a time


@dataclass(frozen=True, eq=False)
class Hidden:
    """Users or items that were left out of a dataset, and what there is to find.

    Args:
        kind: "users" or "items".
        rows: int64[n], their rows in the whole dataset.
        rest: the dataset without them. Hidden users keep their rows there, hidden items do not.
        wanted: sparse; all interactions of the hidden users with the items, n x I, or of the users who still have
            training interactions with the hidden items, U x n.
        whole: the whole dataset.
    """

    kind: str
    rows: IntArray
    rest: Dataset
    wanted: sp.csr_array
    whole: Dataset

    @classmethod
    def draw(cls, dataset: Dataset, kind: str, share: float | None = None, seed: int = 0) -> Hidden:
        """Hide a random share of the users or of the items.

        Args:
            dataset: the whole dataset.
            kind: "users" or "items".
            share: of them that is hidden; ``SHARES`` by default.
            seed: of the choice. Trials hide the same ones whatever their seed, so that they can be compared.

        Raises:
            ConfigError: another kind, or a share that is not between 0 and 1.
        """
        share = SHARES.get(kind, 0.0) if share is None else share
        if kind not in SHARES or not 0 < share < 1:
            raise ConfigError(
                f"hidden {kind!r}, a share of {share:g}: expected {' or '.join(SHARES)}, and between 0 and 1 of them"
            )
        n = dataset.n_users if kind == "users" else dataset.n_items
        rows = np.sort(np.random.default_rng(seed).choice(n, max(1, round(share * n)), replace=False))
        known = sum((dataset.split(split).csr() for split in SPLITS[1:]), dataset.train.csr())
        if kind == "users":
            return cls(kind, rows, _without_users(dataset, rows), sp.csr_array(known[rows]), dataset)
        rest = _without_items(dataset, rows)
        trained = (rest.train.user_degrees() > 0).astype(known.dtype)
        wanted = sp.csr_array(sp.diags_array(trained) @ known[:, rows])
        wanted.eliminate_zeros()
        return cls(kind, rows, rest, wanted, dataset)

    def with_new_means(self, text_embeddings: TextEmbeddings) -> TextEmbeddings:
        """Return the text vectors of all, in which no user's mean over training items tells of what is hidden.

        Hidden users have a vector only where they have a text of their own, since their mean tells which items are to
        be found. Of hidden items the others get means over the items that are left. Shuffle afterwards: means of other
        users are not recognised.

        Args:
            text_embeddings: of the whole dataset, not shuffled.

        Raises:
            ConfigError: users are hidden, and none has a text of their own.
        """

        def renewed(raw: TextEmbeddings) -> TextEmbeddings:
            own = own_user_texts(raw, self.whole)
            if self.kind == "users":
                if not own.any():
                    raise ConfigError(
                        "no user has a text of their own: their vectors are means over the items that are to be found. "
                        "Encode texts of users (rlmrec encode --user-vectors texts), or hide items alone "
                        "(--only hidden=items)"
                    )
                has_user = raw.has_user & (own | self._stays())
                return replace(
                    raw, users=np.where(has_user[:, None], raw.users, np.float32(0)), has_user=has_user
                )
            left = replace(raw, items=raw.items[self._stays()], has_item=raw.has_item[self._stays()])
            left = left.with_means_over(self.rest.train, raw.has_user & ~own)
            return replace(left, items=raw.items, has_item=raw.has_item)

        return text_embeddings.mapped(renewed)

    def texts_of_rest(self, text_embeddings: TextEmbeddings) -> TextEmbeddings:
        """Return the text vectors without the hidden ones.

        Args:
            text_embeddings: of the whole dataset, as ``with_new_means`` returns them; shuffled or not.
        """
        stays = self._stays()

        def reduced(raw: TextEmbeddings) -> TextEmbeddings:
            manifest = {**raw.manifest, "dataset": self.rest.fingerprint}
            if self.kind == "users":
                users = np.where(stays[:, None], raw.users, np.float32(0))
                return TextEmbeddings(users, raw.items, manifest, raw.has_user & stays, raw.has_item)
            return TextEmbeddings(raw.users, raw.items[stays], manifest, raw.has_user, raw.has_item[stays])

        return text_embeddings.mapped(reduced)

    def _stays(self) -> BoolArray:
        """Return which users, or which items, are not hidden."""
        stays = np.ones(self.whole.n_users if self.kind == "users" else self.whole.n_items, bool)
        stays[self.rows] = False
        return stays

    def evaluate(
        self,
        recommender: Recommender,
        text_embeddings: TextEmbeddings | None,
        k: tuple[int, ...],
        text_alone: bool,
    ) -> Ranking:
        """Rank all items for the hidden users, or the hidden items for the users who have a history.

        Args:
            recommender: trained on ``rest``.
            text_embeddings: of the whole dataset, as for ``texts_of_rest``; None ranks by popularity, of which hidden
                items have none.
            k: the list lengths to report.
            text_alone: the recommender's vectors are text vectors, which are compared by their cosine.
        """
        model = None
        if text_embeddings is not None:
            if has_rule_for_texts(recommender):  # which whitens by itself
                text_embeddings = text_embeddings.unwhitened or text_embeddings
            model = _text_model(recommender, self.texts_of_rest(text_embeddings), self.rest, text_alone)
        if self.kind == "users":
            vectors = None if text_embeddings is None else text_embeddings.users[self.rows]
            return self._rank(self.rows, _scores_of_users(recommender, model, vectors, self.rest), k)
        # Without a text nothing tells them apart: they stay in the order of the catalogue.
        placed = np.zeros((len(self.rows), recommender.items.shape[1]), np.float32)
        if model is not None and text_embeddings is not None:
            placed = model.items(text_embeddings.items[self.rows])
        ids = [self.whole.items.id(int(row)) for row in self.rows]
        with_hidden = recommender.with_items(ids, placed)
        new = np.arange(self.rest.n_items, self.rest.n_items + len(ids))
        return self._rank(np.arange(self.whole.n_users), lambda rows: with_hidden.score_rows(rows, new), k)

    def _rank(
        self, users: IntArray, scores: Callable[[IntArray], Float32Array], k: tuple[int, ...]
    ) -> Ranking:
        """Return the lists of the users who have something to find; ``scores`` takes places among ``users``.

        Raises:
            DataError: nobody has.
        """
        places = np.flatnonzero(np.diff(self.wanted.indptr))
        if not len(places):
            raise DataError(
                f"the {len(self.rows)} hidden {self.kind} have no interaction to be found: take a larger dataset"
            )
        found: list[tuple[IntArray, BoolArray]] = []
        for start in range(0, len(places), BLOCK):
            block = places[start : start + BLOCK]
            items, _ = top_k(scores(block), k[-1])
            hits = np.take_along_axis(self.wanted[block].toarray() > 0, items, axis=1)
            behind = ((0, 0), (0, k[-1] - items.shape[1]))  # the items may be fewer than K
            found.append((np.pad(items, behind, constant_values=-1), np.pad(hits, behind)))
        n_relevant = np.diff(self.wanted.indptr)[places].astype(np.int64)
        degrees = self.rest.train.item_degrees()
        popularity = degrees if self.kind == "users" else np.zeros(len(self.rows), np.int64)
        lists, hits = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return Ranking(users[places], lists, hits, n_relevant, popularity, self.whole.n_users, k)


class _Cosine:
    """Text vectors as the embeddings of users and items, all of length 1."""

    manifest: dict[str, Any]
    encoder: str
    size: int

    def __init__(self, text_embeddings: TextEmbeddings) -> None:
        self.manifest = text_embeddings.manifest
        self.encoder, self.size = str(self.manifest.get("encoder", "unknown")), text_embeddings.size

    def items(self, texts: Float32Array) -> Float32Array:
        return unit_rows(texts)

    def new_user(self, text: Float32Array) -> UserParts:
        return UserParts(unit_rows(text[None]))


def _text_model(
    recommender: Recommender, texts: TextEmbeddings, rest: Dataset, text_alone: bool
) -> TextModel | None:
    """Return what places texts among a recommender's embeddings; None for one that texts cannot reach."""
    if text_alone:
        return _Cosine(texts)
    if has_rule_for_texts(recommender):
        return RuleColdStart(recommender)
    return None if recommender.parts is not None else ColdStart.fit(recommender, texts, rest)


def _scores_of_users(
    recommender: Recommender, model: TextModel | None, vectors: Float32Array | None, rest: Dataset
) -> Callable[[IntArray], Float32Array]:
    """Return a function from places among hidden users to scores; who has no text gets what is popular."""
    popular = rest.train.item_degrees().astype(np.float32)

    def scores(places: IntArray) -> Float32Array:
        found = np.tile(popular, (len(places), 1))
        if model is not None and vectors is not None:
            for row, place in enumerate(places):
                if vectors[place].any():
                    found[row] = recommender.score_parts(model.new_user(vectors[place]))[0]
        return found

    return scores


def _without_users(dataset: Dataset, rows: IntArray) -> Dataset:
    """Return a dataset without the interactions of some users, who keep their rows."""
    stays = np.ones(dataset.n_users, bool)
    stays[rows] = False
    parts: dict[str, Any] = {
        name: dataset.split(name).take(stays[dataset.split(name).users]) for name in SPLITS
    }
    return replace(dataset, name=f"{dataset.name}, {len(rows)} users hidden", **parts)


def _without_items(dataset: Dataset, rows: IntArray) -> Dataset:
    """Return a dataset without some items; a user who has no training interaction left is not evaluated."""
    stays = np.ones(dataset.n_items, bool)
    stays[rows] = False
    place = np.cumsum(stays) - 1
    parts: dict[str, Any] = {}
    for name in SPLITS:
        split = dataset.split(name)
        keep = stays[split.items]
        if parts:
            keep &= (parts["train"].user_degrees() > 0)[split.users]
        parts[name] = replace(split.take(keep), items=place[split.items[keep]], n_items=int(stays.sum()))
    return replace(
        dataset,
        name=f"{dataset.name}, {len(rows)} items hidden",
        items=Vocabulary((dataset.items.id(int(row)) for row in np.flatnonzero(stays)), "item"),
        item_texts=None if dataset.item_texts is None else dataset.item_texts[np.flatnonzero(stays)],
        cold=None,
        unranked=None,
        low_rated=None,
        **parts,
    )
