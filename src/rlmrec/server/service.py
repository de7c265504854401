"""Service: holds the current catalogue and replaces it while requests run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from rlmrec.errors import (
    ConfigError,
    DataError,
    EndpointError,
    RlmrecError,
    UnavailableError,
    UnknownIdError,
    WorkspaceError,
)
from rlmrec.recommend.cold_start import TextModel
from rlmrec.server.added_items import AddedItem, Counters, ItemStore
from rlmrec.server.catalogue import Catalogue, Texts
from rlmrec.server.runs import Runs
from rlmrec.text.encoder import TextEncoder, checked
from rlmrec.types import Float32Array

logger = logging.getLogger("rlmrec.server")

TITLE_LENGTH = 60
WARM_UP = "a first text"
UNKNOWN = -1  # a counter that was not read yet
# A database or an endpoint that does not answer at the moment: ``follow`` tries again.
TRANSIENT = (UnavailableError, EndpointError)


class Service:
    """Holds a catalogue. A change makes a new catalogue and replaces the reference.

    A request takes ``catalogue`` once and keeps it to its end, so a replacement does not affect it. Processes
    that share one store of added items see each other's changes through its counters (``follow``). All methods
    block; call them from a thread that may wait.

    Args:
        load: loads the run, without added items; called now and by every reload.
        store: the added items.
        encoder: makes the text encoder of a cold-start model; called by ``warm_texts`` or the first text.
        warm: load the encoder before the first text; without, ``warm_texts`` does nothing.
        runs: other runs that a request may name; None allows none.

    Raises:
        RlmrecError: the run or the store cannot be loaded; whatever ``load`` raises. A database that only does not
            answer is no reason not to start: its items are added as soon as it does.
    """

    def __init__(
        self,
        load: Callable[[], Catalogue],
        store: ItemStore,
        encoder: Callable[[TextModel], TextEncoder],
        warm: bool = True,
        runs: Runs | None = None,
    ) -> None:
        self.store = store
        self.runs = runs
        self._load = load
        self._make_encoder = encoder
        # By the name in the cold-start model: that of the served run, and that of another run which was asked last.
        self._encoders: dict[str, TextEncoder] = {}
        self._warm = warm
        self._loading = False
        self._failed_for: str | None = None  # the encoder's name, if warming up failed
        self._encoding = threading.Lock()
        self._changing = threading.Lock()
        self._counters = Counters(UNKNOWN, UNKNOWN)  # those that the catalogue was made from
        with suppress(
            UnavailableError
        ):  # before the run, so that ``follow`` sees a reload requested meanwhile
            self._counters = Counters(UNKNOWN, store.counters().reloads)
        self._trained = load()
        self.catalogue = self._trained
        try:
            if self._trained.cold is None and store.all():
                logger.warning("added items are left out: run %r has no cold-start model", self._trained.run)
            self._replace()
        except UnavailableError as error:
            logger.error("started without added items: %s", error)
            self.catalogue = self._trained.warm()

    @property
    def texts(self) -> Texts:
        """The state of the text encoder: none without a cold-start model, waiting until a text loads the encoder."""
        cold = self.catalogue.cold
        if cold is None:
            return "none"
        if self._loading:
            return "loading"
        if cold.encoder in self._encoders:
            return "ready"
        if self._failed_for == cold.encoder:
            return "failed"
        return "waiting" if not self._warm else "loading"

    def warm_texts(self) -> None:
        """Load the encoder and encode a text, so that the first text of a user does not wait for it.

        Does nothing without a cold-start model, if the encoder is loaded, or if loading it has failed before.
        """
        cold = self.catalogue.cold
        if cold is None or not self._warm or self.texts in ("ready", "failed"):
            return
        self._loading, start = True, time.perf_counter()
        try:
            self._encode(WARM_UP, cold)
            logger.info("the text encoder is ready after %.1f s", time.perf_counter() - start)
        except Exception as error:
            self._failed_for = cold.encoder
            if not isinstance(error, RlmrecError):
                raise
            logger.warning("texts cannot be encoded: %s", error)
        finally:
            self._loading = False

    def of_run(self, run: str | None) -> Catalogue:
        """Return the catalogue of a run; None is the one that is served, with the added items.

        Raises:
            UnknownIdError: there is no such run, or this server answers from the published run alone.
            RlmrecError: it cannot be loaded.
        """
        if run is None or run == self.catalogue.run:
            return self.catalogue
        if self.runs is None:
            raise UnknownIdError(
                "this server answers from the published run alone: start it with --run to switch"
            )
        return self.runs.open(run)

    def encode(self, text: str, cold: TextModel | None = None) -> Float32Array:
        """Return the vector float32[d_s] of a text, for a cold-start model; by default that of the run that is served.

        Raises:
            WorkspaceError: there is no cold-start model, or its encoder is missing or has changed.
            LLMError: the encoder's endpoint does not answer.
        """
        return self._encode(text, cold or self.catalogue.cold_start())

    def _encode(self, text: str, cold: TextModel) -> Float32Array:
        with self._encoding:
            encoder = self._encoders.get(cold.encoder)
            if encoder is None:  # a reload may change the encoder, and another run may have another one
                try:
                    encoder = self._make_encoder(cold)
                except RlmrecError as error:
                    raise WorkspaceError(f"no text encoder: {error}") from None
                served = self.catalogue.cold
                kept = {} if served is None else {served.encoder: self._encoders.get(served.encoder)}
                self._encoders = {
                    **{name: one for name, one in kept.items() if one is not None}, cold.encoder: encoder
                }  # fmt: skip
            name = encoder.name
            if name != cold.encoder:
                raise WorkspaceError(
                    f"the items' texts were encoded by {cold.encoder}, but the encoder is {name}: their vectors do "
                    "not mix"
                )
            try:
                vectors = encoder.encode([text])
            except ConfigError as error:  # such as the missing key of an endpoint, which is only read here
                raise WorkspaceError(f"no text encoder: {error}") from None
            vector: Float32Array = checked(name, vectors, 1, cold.size)[0]
            return vector

    def add(self, raw: int | str, text: str, title: str | None, vector: Float32Array) -> AddedItem:
        """Store an item and recommend it from now on.

        Args:
            raw: a new id of the same type as the others.
            text: of the item.
            title: of the item; None uses the beginning of the text.
            vector: of the text, by ``encode``.

        Raises:
            DataError: the id exists.
            WorkspaceError: there is no cold-start model any more.
        """
        if title is None:
            title = text if len(text) <= TITLE_LENGTH else text[: TITLE_LENGTH - 1].rstrip() + "…"
        with self._changing:
            cold = self._trained.cold_start()  # a reload since ``encode`` may have removed it
            if raw in self._trained.recommender.item_ids:
                raise DataError(f"item {raw!r} is in the trained catalogue")
            item = AddedItem(raw, title, text, cold.encoder, vector)
            self.store.add(item)
            self._show_stored()
        return item

    def remove(self, raw: int | str) -> None:
        """Remove an added item.

        Raises:
            UnknownIdError: no such item was added.
        """
        with self._changing:
            if raw in self._trained.recommender.item_ids:
                raise UnknownIdError(
                    f"item {raw!r} is in the trained catalogue: only items added by text can be removed"
                )
            self.store.remove(raw)
            self._show_stored()

    def reload(self) -> Catalogue:
        """Load the run again, in all processes, and answer from it; if that fails, the current catalogue stays.

        Raises:
            RlmrecError: the run cannot be loaded.
        """
        with self._changing:
            reloads = (
                self.store.counters().reloads
            )  # before the run, so that ``follow`` sees requests meanwhile
            catalogue = self._reload(self.store.request_reload)
            self._counters = self._counters._replace(reloads=reloads + 1)
            return catalogue

    def follow(self) -> None:
        """Apply the changes and reloads of other processes since the last call.

        Raises:
            UnavailableError: the store does not answer; the next call tries again.
            EndpointError: an item's text cannot be encoded at the moment; the next call tries again.
            RlmrecError: the run or an item cannot be loaded, which is not tried again.
        """
        if self.store.counters() == self._counters:
            return
        with self._changing:
            before, now = self._counters, self.store.counters()  # read again: a change here may have ended
            try:
                if now.reloads != before.reloads:
                    self._counters = before._replace(reloads=now.reloads)
                    self._reload()
                elif now.changes != before.changes:
                    self._counters = now
                    self._replace()
            except TRANSIENT:
                self._counters = before
                raise

    def _reload(self, announce: Callable[[], None] = lambda: None) -> Catalogue:
        trained = self._load()
        if self.runs is not None:
            self.runs.forget()
        before, self._trained = self._trained, trained
        try:
            announce()
            self._replace()
        except RlmrecError:
            self._trained = before
            raise
        logger.info("reloaded run %r: %s items", trained.run, f"{len(self.catalogue.recommender.items):,}")
        return self.catalogue

    def _show_stored(self) -> None:
        """Replace the catalogue after a change that is stored; if that cannot be done now, ``follow`` does it."""
        try:
            self._replace()
        except TRANSIENT as error:
            logger.warning("a change is stored, but not in the lists yet: %s", error)

    def _replace(self) -> None:
        """Replace the catalogue by one of the trained items and those in the store."""
        changes = (
            self.store.counters().changes
        )  # before the items, so that ``follow`` sees one added in between
        items = [] if self._trained.cold is None else self.store.all()
        self.catalogue = self._trained.with_items([self._with_vector(item) for item in items]).warm()
        self._counters = self._counters._replace(changes=changes)

    def _with_vector(self, item: AddedItem) -> AddedItem:
        """Return the item with a vector of the cold-start model's encoder."""
        cold = self._trained.cold
        if cold is None or item.encoder == cold.encoder:
            return item
        return item._replace(encoder=cold.encoder, vector=self._encode(item.text, cold))
