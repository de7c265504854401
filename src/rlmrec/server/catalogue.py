"""Catalogue: everything that a server answers from, as one thing that never changes and is exchanged as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import metadata_texts
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import WorkspaceError
from rlmrec.llm.store import Profile, Store
from rlmrec.recommend.cold_start import ColdStart
from rlmrec.recommend.explain import Explainer
from rlmrec.recommend.recommender import Recommender
from rlmrec.server import schemas
from rlmrec.server.added_items import ColdItem
from rlmrec.types import AnyArray, Float32Array, IntArray

HISTORY = 500  # training items that a profile shows


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A run with its titles, profiles, explanations and the items that came later. Any thread may ask it.

    Args:
        run: name.
        dataset: what it was trained on.
        recommender: of the run; ``added`` are its last items.
        cold: the map from text to its embeddings, if one was fitted.
        base_run: name of the run to compare with.
        base: its recommender.
        profiles: the store of profiles; None, or a file that is not there, means none.
        added: items by text.
    """

    run: str
    dataset: Dataset
    recommender: Recommender
    cold: ColdStart | None = None
    base_run: str | None = None
    base: Recommender | None = None
    profiles: Path | None = None
    added: tuple[ColdItem, ...] = ()

    def with_items(self, items: Sequence[ColdItem]) -> Catalogue:
        """This one, which has no added items yet, with these; of one whose id is trained, the trained stays.

        Items whose ids are of the other type are left out too: the dataset is another than they were added to.

        Raises:
            WorkspaceError: there are items but no cold start to place them by.
        """
        ids = self.recommender.item_ids
        items = [item for item in items if item.id not in ids and isinstance(item.id, str) == ids.is_text]
        if not items:
            return self
        vectors = self._cold().items(np.stack([item.vector for item in items]))
        recommender = self.recommender.with_items([item.id for item in items], vectors)
        return replace(self, recommender=recommender, added=tuple(items))

    def warm(self) -> Catalogue:
        """Make now what would otherwise be made by the first requests."""
        self.recommendations(self.recommender.user_ids.id(0), 1)
        self.explainer.title(0)
        _ = self._folded_titles
        return self

    @cached_property
    def explainer(self) -> Explainer:
        """Of this very recommender."""
        titles = [(item.title, item.text) for item in self.added]
        return Explainer(self.recommender, self.dataset, self.profiles, titles)

    @cached_property
    def user_titles(self) -> list[str]:
        """What to call each user: the id, and what the source says about them."""
        table, ids = self.dataset.user_texts, map(str, self.dataset.users.ids)
        if table is None or not table.columns:
            return list(ids)
        texts = metadata_texts(table)
        return [f"{raw} · {text}" if text else raw for raw, text in zip(ids, texts, strict=True)]

    def health(self, writable: bool) -> schemas.Health:
        """What is being served."""
        return schemas.Health(
            run=self.run,
            base=self.base_run,
            dataset=self.dataset.name,
            users=len(self.recommender.users),
            items=len(self.recommender.items),
            cold_items=len(self.added),
            cold_start=self.cold is not None,
            writable=writable,
        )

    def recommendations(
        self,
        user: RawId,
        k: int,
        exclude_seen: bool = True,
        candidates: Iterable[RawId] | None = None,
        exclude: Iterable[RawId] | None = None,
    ) -> schemas.Recommendations:
        """One user's list; arguments as ``Recommender.recommend``."""
        ids, scores = self.recommender.recommend(user, k, exclude_seen, candidates, exclude)
        return schemas.Recommendations(user=user, items=self._items(ids, scores))

    def batch(self, request: schemas.BatchRequest) -> schemas.Batch:
        """The lists of several users."""
        ids, scores = self.recommender.recommend(
            request.users, request.k, request.exclude_seen, request.candidates, request.exclude
        )
        return schemas.Batch(
            results=[
                schemas.Recommendations(user=user, items=self._items(*row))
                for user, row in zip(request.users, zip(ids, scores, strict=True), strict=True)
            ]
        )

    def comparison(self, user: RawId, k: int) -> schemas.Comparison:
        """This run's list beside the base run's.

        Raises:
            WorkspaceError: there is no base run.
        """
        if self.base is None:
            raise WorkspaceError("there is no base run to compare with: start with --base RUN")
        mine = self.recommendations(user, k).items
        known = [item.id for item in mine if item.id in self.base.item_ids]
        ranks = dict(zip(known, self.base.rank(user, known).tolist(), strict=True)) if known else {}
        aligned = [
            schemas.RankedItem(**item.model_dump(), rank=place, base_rank=ranks.get(item.id))
            for place, item in enumerate(mine, 1)
        ]
        base = self._items(*self.base.recommend(user, k))
        return schemas.Comparison(user=user, aligned=aligned, base=base)

    def similar(self, item: RawId, k: int) -> schemas.SimilarItems:
        """Nearest items."""
        ids, cosines = self.recommender.similar_items(item, k)
        return schemas.SimilarItems(item=item, title=self._title(item), similar=self._near(ids, cosines))

    def search_users(self, query: str, limit: int) -> schemas.Users:
        """Users whose id or text has ``query`` in it, ids that begin with it first."""
        wanted = query.casefold().strip()
        first: list[int] = []
        more: list[int] = []
        for row, folded in enumerate(self._folded_titles):
            if folded.startswith(wanted):
                first.append(row)
                if len(first) == limit:
                    break
            elif len(more) < limit and wanted in folded:
                more.append(row)
        ids = self.recommender.user_ids
        return schemas.Users(
            users=[
                schemas.Named(id=ids.id(row), title=self.user_titles[row]) for row in [*first, *more][:limit]
            ]
        )

    def user_profile(self, user: RawId) -> schemas.UserProfile:
        """History, profile and its reasoning."""
        row = self.recommender.user_ids.row(user)
        rows = self.recommender.history(row).tolist()
        profile = self._profile("user", user)
        history = [
            schemas.Named(id=self.recommender.item_ids.id(item), title=self.explainer.title(item))
            for item in rows[:HISTORY]
        ]
        return schemas.UserProfile(
            user=user,
            title=self.user_titles[row],
            profile=profile and profile.summarization,
            reasoning=profile and profile.reasoning,
            history=history,
            interactions=len(rows),
        )

    def item(self, item: RawId) -> schemas.Item:
        """What is known of an item."""
        row = self.recommender.item_ids.row(item)
        profile = self._profile("item", item)
        cold = row >= self.dataset.n_items
        return schemas.Item(
            id=item,
            title=self.explainer.title(row),
            text=self.explainer.item_text(row),
            profile=profile and profile.summarization,
            reasoning=profile and profile.reasoning,
            interactions=0 if cold else int(self._item_degrees[row]),
            cold=cold,
        )

    def explanation(self, user: RawId, item: RawId, k: int) -> schemas.ExplanationAnswer:
        """Why an item is recommended to a user."""
        return schemas.ExplanationAnswer(**self.explainer.explain(user, item, k).as_dict())

    def for_liked(self, items: Sequence[RawId], k: int) -> schemas.ColdUser:
        """What someone would like who likes these items."""
        return schemas.ColdUser(items=self._items(*self.recommender.recommend_from_items(items, k)))

    def for_taste(self, text: Float32Array, k: int) -> schemas.ColdUser:
        """What someone would like whose taste in words has this text vector, float32[d_s]."""
        vector = self._cold().users(text[None])[0]
        return schemas.ColdUser(items=self._items(*self.recommender.recommend_vectors(vector, k)))

    def likers(self, text: Float32Array, k: int) -> schemas.Likers:
        """Who would like an item whose text has this vector, float32[d_s], and what it is like; nothing is kept."""
        vector = self._cold().items(text[None])[0]
        users, cosines = self.recommender.users_for(vector, k)
        row = self.recommender.user_ids.row
        return schemas.Likers(
            users=[
                schemas.Near(id=raw, title=self.user_titles[row(raw)], cosine=cosine)
                for raw, cosine in zip(users.tolist(), cosines.tolist(), strict=True)
                if math.isfinite(cosine)
            ],
            similar=self._near(*self.recommender.items_for(vector, k)),
        )

    def _cold(self) -> ColdStart:
        if self.cold is None:
            raise WorkspaceError(f"run {self.run!r} cannot read texts yet: rlmrec cold fit --run {self.run}")
        return self.cold

    def _title(self, item: RawId) -> str:
        return self.explainer.title(self.recommender.item_ids.row(item))

    def _items(self, ids: AnyArray, scores: Float32Array) -> list[schemas.ScoredItem]:
        """A row of results; a padded one ends where the candidates do."""
        return [
            schemas.ScoredItem(id=raw, title=self._title(raw), score=score)
            for raw, score in zip(ids.tolist(), scores.tolist(), strict=True)
            if math.isfinite(score)
        ]

    def _near(self, ids: AnyArray, cosines: Float32Array) -> list[schemas.Near]:
        return [
            schemas.Near(id=raw, title=self._title(raw), cosine=cosine)
            for raw, cosine in zip(ids.tolist(), cosines.tolist(), strict=True)
            if math.isfinite(cosine)
        ]

    @cached_property
    def _folded_titles(self) -> list[str]:
        return [title.casefold() for title in self.user_titles]

    @cached_property
    def _item_degrees(self) -> IntArray:
        degrees: IntArray = self.dataset.train.item_degrees()
        return degrees

    def _profile(self, kind: str, raw: RawId) -> Profile | None:
        if self.profiles is None or not Path(self.profiles).exists():
            return None
        with Store(self.profiles, create=False) as store:
            return store.profile(kind, raw)
