"""Catalogue: all data that a server answers from, in one object that never changes and is replaced as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import metadata_texts
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import WorkspaceError
from rlmrec.llm.store import Profile, Store
from rlmrec.recommend.cold_start import TextModel
from rlmrec.recommend.explain import Explainer
from rlmrec.recommend.lists import Lists, Rules
from rlmrec.recommend.recommender import Recommender
from rlmrec.server import schemas
from rlmrec.server.added_items import AddedItem
from rlmrec.types import AnyArray, Float32Array, IntArray

MAX_HISTORY = 500  # training items in a profile


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A run with its titles, profiles, explanations and added items. Any thread may use it.

    Args:
        run: its name.
        dataset: that it was trained on.
        recommender: of the run; ``added`` are its last items.
        cold: its cold-start model, if one was fitted.
        base_run: name of the run to compare with.
        base: its recommender.
        profiles: path of the store of profiles; None or a missing file means that there are none.
        added: items that were added by text.
        release: name of the published release; None of a run that was named.
        model_made: when the run was made, in seconds since 1970; None if that is unknown.
        data_made: when the dataset was made or last appended to, likewise.
    """

    run: str
    dataset: Dataset
    recommender: Recommender
    cold: TextModel | None = None
    base_run: str | None = None
    base: Recommender | None = None
    profiles: Path | None = None
    added: tuple[AddedItem, ...] = ()
    release: str | None = None
    model_made: float | None = None
    data_made: float | None = None

    def with_items(self, items: Sequence[AddedItem]) -> Catalogue:
        """Return a catalogue with added items; this one must have none yet.

        An item whose id is in the trained catalogue is left out, and so is an item whose id has the other type,
        since it was added to another dataset.

        Raises:
            WorkspaceError: there are items but no cold-start model to map them with.
        """
        ids = self.recommender.item_ids
        items = [item for item in items if item.id not in ids and isinstance(item.id, str) == ids.is_text]
        if not items:
            return self
        vectors = self.cold_start().items(np.stack([item.vector for item in items]))
        recommender = self.recommender.with_items([item.id for item in items], vectors)
        return replace(self, recommender=recommender, added=tuple(items))

    def warm(self) -> Catalogue:
        """Compute now what the first requests would otherwise compute, and return the catalogue."""
        self.recommendations(self.recommender.user_ids.id(0), 1)
        self.explainer.title(0)
        _ = self.lists.columns
        _ = self._folded_titles
        return self

    @cached_property
    def explainer(self) -> Explainer:
        """The explainer of the recommender, added items included."""
        titles = [(item.title, item.text) for item in self.added]
        return Explainer(self.recommender, self.dataset, self.profiles, titles)

    @cached_property
    def user_titles(self) -> list[str]:
        """The title of each user: the id, and the text of the dataset if there is one."""
        table, ids = self.dataset.user_texts, map(str, self.dataset.users.ids)
        if table is None or not table.columns:
            return list(ids)
        texts = metadata_texts(table)
        return [f"{raw} · {text}" if text else raw for raw, text in zip(ids, texts, strict=True)]

    def health(self, writable: bool) -> schemas.Health:
        """Return the names and sizes of what is served."""
        return schemas.Health(
            run=self.run,
            release=self.release,
            base=self.base_run,
            dataset=self.dataset.name,
            users=len(self.recommender.users),
            items=len(self.recommender.items),
            cold_items=len(self.added),
            cold_start=self.cold is not None,
            writable=writable,
        )

    @cached_property
    def lists(self) -> Lists:
        """What makes lists by rules."""
        return Lists(self.recommender, self.dataset)

    def recommendations(
        self, user: RawId, k: int, rules: Rules | None = None, fallback: bool = True
    ) -> schemas.Recommendations:
        """Return a user's recommendations.

        Args:
            user: raw id.
            k: how many items.
            rules: what may be among them.
            fallback: an unknown user gets the most popular items.

        Raises:
            UnknownIdError: an unknown user, without ``fallback``.
            ConfigError: a rule that does not fit to the items.
        """
        return self._lists([user], k, rules or Rules(), fallback)[0]

    def batch(self, request: schemas.BatchRequest) -> schemas.Batch:
        """Return the recommendations of several users."""
        rules = Rules(
            request.filter, request.candidates, request.exclude, request.exclude_seen, request.bought_filter,
            request.at_most, request.diversity,
        )  # fmt: skip
        return schemas.Batch(
            results=self._lists(request.users, request.k, rules, request.fallback),
            skipped=self.lists.allowed(rules)[1],
        )

    def _lists(
        self, users: Sequence[RawId], k: int, rules: Rules, fallback: bool
    ) -> list[schemas.Recommendations]:
        if not fallback:
            self.recommender.user_ids.rows(users)
        return [
            schemas.Recommendations(
                user=one.user, source=one.source, items=self._items(np.array(one.items, object), one.scores)
            )
            for one in self.lists.of(users, k, rules)
        ]

    def comparison(self, user: RawId, k: int) -> schemas.Comparison:
        """Return the recommendations of this run and of the base run.

        Raises:
            WorkspaceError: there is no base run.
        """
        if self.base is None:
            raise WorkspaceError("there is no base run to compare with: start the server with --base RUN")
        mine = self.recommendations(user, k, fallback=False).items
        known = [item.id for item in mine if item.id in self.base.item_ids]
        ranks = dict(zip(known, self.base.rank(user, known).tolist(), strict=True)) if known else {}
        aligned = [
            schemas.RankedItem(**item.model_dump(), rank=place, base_rank=ranks.get(item.id))
            for place, item in enumerate(mine, 1)
        ]
        base = self._items(*self.base.recommend(user, k))
        return schemas.Comparison(user=user, aligned=aligned, base=base)

    def similar(self, item: RawId, k: int) -> schemas.SimilarItems:
        """Return the items with the highest cosine to an item."""
        ids, cosines = self.recommender.similar_items(item, k)
        return schemas.SimilarItems(item=item, title=self._title(item), similar=self._near(ids, cosines))

    def search_users(self, query: str, limit: int) -> schemas.Users:
        """Return users whose id or text contains ``query``; those whose id begins with it come first."""
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
        """Return a user's history, profile and the reasoning of the profile."""
        row = self.recommender.user_ids.row(user)
        rows = self.recommender.history(row).tolist()
        profile = self._profile("user", user)
        history = [
            schemas.Named(id=self.recommender.item_ids.id(item), title=self.explainer.title(item))
            for item in rows[:MAX_HISTORY]
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
        """Return an item's title, text and profile."""
        row = self.recommender.item_ids.row(item)
        profile = self._profile("item", item)
        cold = row >= len(self.recommender.items) - len(self.added)
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
        """Explain the recommendation of an item to a user."""
        return schemas.ExplanationAnswer(**self.explainer.explain(user, item, k).as_dict())

    def recommend_from_items(self, items: Sequence[RawId], k: int) -> schemas.NewUserAnswer:
        """Recommend to a new user who likes these items."""
        return schemas.NewUserAnswer(items=self._items(*self.recommender.recommend_from_items(items, k)))

    def recommend_from_text(self, text: Float32Array, k: int) -> schemas.NewUserAnswer:
        """Recommend to a new user whose description of their taste has this text vector, float32[d_s]."""
        ids, scores = self.recommender.recommend_parts(self.cold_start().new_user(text), k)
        return schemas.NewUserAnswer(items=self._items(ids[0], scores[0]))

    def likely_users(self, text: Float32Array, k: int) -> schemas.LikelyUsers:
        """Return the likely users of a new item with this text vector, float32[d_s], and similar items."""
        vector = self.cold_start().items(text[None])[0]
        users, cosines = self.recommender.users_for(vector, k)
        row = self.recommender.user_ids.row
        return schemas.LikelyUsers(
            users=[
                schemas.Near(id=raw, title=self.user_titles[row(raw)], cosine=cosine)
                for raw, cosine in zip(users.tolist(), cosines.tolist(), strict=True)
                if math.isfinite(cosine)
            ],
            similar=self._near(*self.recommender.items_for(vector, k)),
        )

    def cold_start(self) -> TextModel:
        """Return the cold-start model.

        Raises:
            WorkspaceError: there is none.
        """
        if self.cold is None:
            raise WorkspaceError(
                f"run {self.run!r} has no cold-start model; create it with 'rlmrec cold fit --run {self.run}'"
            )
        return self.cold

    def _title(self, item: RawId) -> str:
        return self.explainer.title(self.recommender.item_ids.row(item))

    def _items(self, ids: AnyArray, scores: Float32Array) -> list[schemas.ScoredItem]:
        """Convert a row of results; padding is dropped."""
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
        degrees: IntArray = np.bincount(self.recommender.seen.indices, minlength=len(self.recommender.items))
        return degrees

    def _profile(self, kind: str, raw: RawId) -> Profile | None:
        if self.profiles is None or not Path(self.profiles).exists():
            return None
        with Store(self.profiles, create=False) as store:
            return store.profile(kind, raw)
