"""Catalogue: all data that a server answers from, in one object that never changes and is replaced as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import metadata_texts
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import WorkspaceError
from rlmrec.linalg import unit_rows
from rlmrec.llm.store import Profile, Store
from rlmrec.recommend.cold_start import TextModel
from rlmrec.recommend.explain import Explainer, plain_reasons
from rlmrec.recommend.lists import Lists, Rules
from rlmrec.recommend.recommender import Recommender
from rlmrec.server import schemas
from rlmrec.server.added_items import AddedItem
from rlmrec.server.browse import Browser
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.text.encoder import unknown_words
from rlmrec.topk import top_k
from rlmrec.types import AnyArray, Float32Array, IntArray

MAX_HISTORY = 500  # training items in a profile
MAX_PROFILES = 200_000  # of users and of items that a search reads


Texts = Literal["none", "waiting", "loading", "ready", "failed"]


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
        load_texts: loads the text embeddings of the run; they are needed by the first question about similar texts.
        picture_hosts: names of the hosts whose pictures are shown.
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
    load_texts: Callable[[], TextEmbeddings | None] = lambda: None
    picture_hosts: frozenset[str] = frozenset()

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
        _ = self.lists.dated_columns
        _ = self._folded_titles
        _ = self.browser.columns
        return self

    @cached_property
    def explainer(self) -> Explainer:
        """The explainer of the recommender, added items included."""
        titles = [(item.title, item.text) for item in self.added]
        return Explainer(self.recommender, self.dataset, self.profiles, titles)

    @cached_property
    def browser(self) -> Browser:
        """What a page shows of items and users."""
        return Browser(
            self.lists, self.dataset, self.explainer.title, self.explainer.item_text, self.explainer.item_texts,
            self._profiles_of,
            self.picture_hosts,
        )  # fmt: skip

    @cached_property
    def text_embeddings(self) -> TextEmbeddings | None:
        """The text embeddings of the run's users and items; None without, or if there are too many to hold."""
        return self.load_texts()

    @cached_property
    def user_titles(self) -> list[str]:
        """The title of each user: the id, and the text of the dataset if there is one."""
        table, ids = self.dataset.user_texts, map(str, self.dataset.users.ids)
        if table is None or not table.columns:
            return list(ids)
        texts = metadata_texts(table)
        return [f"{raw} · {text}" if text else raw for raw, text in zip(ids, texts, strict=True)]

    def health(self, writable: bool, texts: Texts, switchable: bool) -> schemas.Health:
        """Return the names and sizes of what is served, and the state of the server."""
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
            texts=texts,
            switchable=switchable,
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
        rules, users = self.rules_of(request), self.recommender.user_ids
        return schemas.Batch(
            results=self._lists(
                [users.given(raw) for raw in request.users], request.k, rules, request.fallback
            ),
            skipped=self.lists.allowed(rules)[1],
        )

    def rules_of(self, request: schemas.BatchRequest) -> Rules:
        """Return the rules of a request."""
        given = self.recommender.item_ids.given
        candidates, exclude = (
            None if raws is None else [given(raw) for raw in raws]
            for raws in (request.candidates, request.exclude)
        )
        return Rules(
            request.filter, candidates, exclude, request.exclude_seen, request.bought_filter, request.at_most,
            request.diversity,
        )  # fmt: skip

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

    @cached_property
    def base_lists(self) -> Lists | None:
        """What makes the lists of the base run; None without one."""
        return None if self.base is None else Lists(self.base, self.dataset)

    def comparison(
        self, user: RawId, k: int, where: str | None = None, other: Catalogue | None = None
    ) -> schemas.Comparison:
        """Return the recommendations of this run and of the base run.

        Args:
            user: raw id.
            k: how many items.
            where: only items for which this SQL condition is true.
            other: the run to compare with instead of the base run.

        Raises:
            WorkspaceError: there is no base run.
        """
        base_run, lists = (self.base_run, self.base_lists) if other is None else (other.run, other.lists)
        if lists is None:
            raise WorkspaceError("there is no base run to compare with: start the server with --base RUN")
        rules = Rules(where)
        mine = self._lists([user], k, rules, False)[0].items
        known = [item.id for item in mine if item.id in lists.recommender.item_ids]
        allowed, _ = lists.allowed(rules)
        places = lists.recommender.rank(user, known, allowed).tolist() if known else []
        ranks = dict(zip(known, places, strict=True))
        aligned = [
            schemas.RankedItem(**item.model_dump(), rank=place, base_rank=ranks.get(item.id))
            for place, item in enumerate(mine, 1)
        ]
        [found] = lists.of([user], k, rules)
        titled_by = other or self  # another run may have items that this one does not have
        base = titled_by._items(np.array(found.items, object), found.scores)
        return schemas.Comparison(user=user, base_run=str(base_run), aligned=aligned, base=base)

    def similar(
        self, item: RawId, k: int, by: Literal["embedding", "text"] = "embedding"
    ) -> schemas.SimilarItems:
        """Return the items with the highest cosine to an item.

        Args:
            item: raw id.
            k: how many.
            by: of the recommender's embeddings, or of the text vectors.

        Raises:
            WorkspaceError: by text, and there are no text vectors of this item.
        """
        if by == "text":
            return self._similar_texts(item, k)
        ids, cosines = self.recommender.similar_items(item, k)
        return schemas.SimilarItems(item=item, title=self._title(item), similar=self._near(ids, cosines))

    def _similar_texts(self, item: RawId, k: int) -> schemas.SimilarItems:
        row, texts = self.recommender.item_ids.row(item), self.text_embeddings
        if texts is None or row >= len(texts.items):
            raise WorkspaceError(
                f"run {self.run!r} has no text vectors of {self.explainer.title(row)!r} here"
            )
        unit = self._unit_texts
        cosines = unit @ unit[row]
        cosines[row] = -np.inf
        cosines[~texts.has_item] = -np.inf
        [rows], [best] = top_k(cosines[None], k)
        found = np.isfinite(best)
        ids = np.array([self.recommender.item_ids.id(int(other)) for other in rows[found]], object)
        return schemas.SimilarItems(
            item=item, title=self.explainer.title(row), similar=self._near(ids, best[found])
        )

    @cached_property
    def _unit_texts(self) -> Float32Array:
        assert self.text_embeddings is not None
        return unit_rows(self.text_embeddings.items)

    def likely_users_of(self, item: RawId, k: int) -> schemas.ItemUsers:
        """Return the users who do not have an item and would like it most."""
        row = self.recommender.item_ids.row(item)
        users, _ = self.recommender.likely_users(row, k)
        return schemas.ItemUsers(
            item=item, title=self.explainer.title(row), users=[self._user_card(int(user)) for user in users]
        )

    def cards(self, items: Sequence[RawId]) -> schemas.Items:
        """Return items as a list shows them; unknown ids are left out."""
        ids = self.recommender.item_ids
        return schemas.Items(items=[self._card(ids.row(raw)) for raw in map(ids.given, items) if raw in ids])

    def search_items(self, query: str, limit: int, where: str | None) -> schemas.Items:
        """Return items by id, title, profile or text, as ``Browser.search_items`` finds them."""
        return schemas.Items(
            items=[self._card(row) for row in self.browser.search_items(query, limit, where)]
        )

    def overview(self) -> schemas.Overview:
        """Return what a page can begin with."""
        return self._overview

    @cached_property
    def _overview(self) -> schemas.Overview:
        return schemas.Overview(
            users=[self._user_card(row, note) for row, note in self.browser.worth_a_look(self.base_lists)],
            columns=[
                schemas.ColumnAnswer(
                    name=one.name, kind=one.kind, values=list(one.values), low=one.low, high=one.high
                )
                for one in self.browser.columns
            ],
            texts=self.text_embeddings is not None,
            taste_examples=self.browser.taste_examples(),
            item_examples=self.browser.item_examples(),
        )

    def _card(self, row: int) -> schemas.ItemCard:
        return schemas.ItemCard(
            id=self.recommender.item_ids.id(row),
            title=self.explainer.title(row),
            about=self.browser.about(row),
            picture=self.browser.picture(row),
            columns=self.browser.facts(row),
            interactions=int(self.lists.popularity[row]),
        )

    def _user_card(self, row: int, note: str | None = None) -> schemas.UserCard:
        return schemas.UserCard(
            id=self.recommender.user_ids.id(row),
            title=self.user_titles[row],
            name=self.browser.user_names[row],
            about=self.browser.about_user(row),
            interactions=int(np.diff(self.recommender.seen.indptr[row : row + 2])[0]),
            note=note,
        )

    def search_users(self, query: str, limit: int) -> schemas.Users:
        """Return users whose id, text or profile contains ``query``; those whose id begins with it come first."""
        wanted, profiles, ids = query.casefold().strip(), self._folded_profiles, self.recommender.user_ids
        first: list[int] = []
        more: list[int] = []
        for row, folded in enumerate(self._folded_titles):
            if folded.startswith(wanted):
                first.append(row)
                if len(first) == limit:
                    break
            elif len(more) < limit and (wanted in folded or wanted in profiles.get(ids.id(row), "")):
                more.append(row)
        return schemas.Users(users=[self._user_card(row) for row in [*first, *more][:limit]])

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
            name=self.browser.user_names[row],
            description=self.browser.user_text(row),
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
            description=self.browser.description(row),
            profile=profile and profile.summarization,
            reasoning=profile and profile.reasoning,
            columns=self.browser.facts(row),
            picture=self.browser.picture(row),
            interactions=0 if cold else int(self._item_degrees[row]),
            cold=cold,
        )

    def explanation(self, user: RawId, item: RawId, k: int) -> schemas.ExplanationAnswer:
        """Explain the recommendation of an item to a user."""
        found = self.explainer.explain(user, item, k)
        return schemas.ExplanationAnswer(**found.as_dict(), sentences=plain_reasons(found))

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
            note=unknown_words(text),
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
        ids = self.recommender.item_ids
        if item not in ids:  # an item of the base run alone
            return str(item)
        return self.explainer.title(ids.row(item))

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
    def _folded_profiles(self) -> dict[RawId, str]:
        return {raw: text.casefold() for raw, text in self.browser.user_profiles.items()}

    @cached_property
    def _item_degrees(self) -> IntArray:
        degrees: IntArray = np.bincount(self.recommender.seen.indices, minlength=len(self.recommender.items))
        return degrees

    def _profiles_of(self, kind: str) -> dict[RawId, str]:
        """Return the profiles of a kind by id; of a very large catalogue some of them."""
        if self.profiles is None or not Path(self.profiles).exists():
            return {}
        with Store(self.profiles, create=False) as store:
            some = islice(store.profiles(kind), MAX_PROFILES)
            return {one.key: one.summarization for one in some if one.summarization}

    def _profile(self, kind: str, raw: RawId) -> Profile | None:
        if self.profiles is None or not Path(self.profiles).exists():
            return None
        with Store(self.profiles, create=False) as store:
            return store.profile(kind, raw)
