"""Service: the catalogue in force, exchanged while requests run, and what changes it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rlmrec.errors import ConfigError, DataError, RlmrecError, UnknownIdError, WorkspaceError
from rlmrec.recommend.cold_start import ColdStart
from rlmrec.server.added_items import ColdItem, ColdItems
from rlmrec.server.catalogue import Catalogue
from rlmrec.text.encoder import TextEncoder, checked
from rlmrec.types import Float32Array

logger = logging.getLogger("rlmrec.server")

TITLE_LENGTH = 60


class Service:
    """Holds a catalogue; a change makes a new one and exchanges the reference.

    Whoever reads takes ``catalogue`` once and keeps it to the end of the request: an exchange meanwhile does
    not touch it. Several processes over one ``ColdItems`` see each other's changes through its counters
    (``follow``). All methods block; call them from a thread that may wait.

    Args:
        load: reads the run, without items by text; called once now and at every reload.
        store: items by text.
        encoder: makes the encoder whose vectors a cold start reads, when the first text comes.

    Raises:
        RlmrecError: whatever ``load`` raises; the run and the store must be usable at the beginning.
    """

    def __init__(
        self, load: Callable[[], Catalogue], store: ColdItems, encoder: Callable[[ColdStart], TextEncoder]
    ) -> None:
        self.store = store
        self._load = load
        self._make_encoder = encoder
        self._encoder: TextEncoder | None = None
        self._made_for = ""  # the name of the encoder that was asked for
        self._encoding = threading.Lock()
        self._changing = threading.Lock()
        self._state = store.state()
        self._trained = load()
        self.catalogue = self._trained
        if self._trained.cold is None and store.all():
            logger.warning("items by text are left out: run %r has no cold start", self._trained.run)
        self._exchange()

    def encode(self, text: str) -> Float32Array:
        """float32[d_s]: the vector of a text.

        Raises:
            WorkspaceError: no cold start, or the encoder is missing or another one.
            LLMError: the encoder's endpoint gives no vector.
        """
        cold = self.catalogue.cold
        if cold is None:
            run = self.catalogue.run
            raise WorkspaceError(f"run {run!r} cannot read texts yet: rlmrec cold fit --run {run}")
        with self._encoding:
            if self._encoder is None or self._made_for != cold.encoder:  # a reload may have brought another
                try:
                    self._encoder, self._made_for = self._make_encoder(cold), cold.encoder
                except RlmrecError as error:
                    raise WorkspaceError(f"no text encoder: {error}") from None
            name = self._encoder.name
            if name != cold.encoder:
                raise WorkspaceError(
                    f"the items' texts were encoded by {cold.encoder}, here is {name}: their vectors do not mix"
                )
            try:
                vectors = self._encoder.encode([text])
            except ConfigError as error:  # such as an endpoint's key, which is looked for when it is needed
                raise WorkspaceError(f"no text encoder: {error}") from None
            vector: Float32Array = checked(name, vectors, 1, cold.size)[0]
            return vector

    def add(self, raw: int | str, text: str, title: str | None, vector: Float32Array) -> ColdItem:
        """Keep an item and recommend it from now on.

        Args:
            raw: id that is not there yet, in the type of the others.
            text: of the item.
            title: None makes one of the text.
            vector: of the text, by ``encode``.

        Raises:
            DataError: the id is taken.
        """
        if title is None:
            title = text if len(text) <= TITLE_LENGTH else text[: TITLE_LENGTH - 1].rstrip() + "…"
        with self._changing:
            cold = self._trained.cold
            if cold is None:  # a reload since the text was encoded
                raise WorkspaceError(f"run {self._trained.run!r} cannot read texts any more")
            if raw in self._trained.recommender.item_ids:
                raise DataError(f"item {raw!r} is one of the trained ones")
            item = ColdItem(raw, title, text, cold.encoder, vector)
            self.store.add(item)
            self._exchange()
        return item

    def remove(self, raw: int | str) -> None:
        """Forget an item by text.

        Raises:
            UnknownIdError: there is no such item by text.
        """
        with self._changing:
            if raw in self._trained.recommender.item_ids:
                raise UnknownIdError(f"item {raw!r} is a trained one: only items added by text are removed")
            self.store.remove(raw)
            self._exchange()

    def reload(self, tell: bool = True) -> Catalogue:
        """Read the run again and answer from it; where that fails, the catalogue in force stays.

        Args:
            tell: the other processes, too.

        Raises:
            RlmrecError: it cannot be read.
        """
        with self._changing:
            return self._reload(tell)

    def follow(self) -> None:
        """Do what another process has done since the last call: its items, its reload."""
        if self.store.state() == self._state:
            return
        with self._changing:
            state = self.store.state()  # again: what was under way here may have been what changed it
            asked = state.reloads != self._state.reloads
            changed, self._state = (
                state != self._state,
                state,
            )  # what cannot be read is not tried again and again
            if asked:
                self._reload(tell=False)
            elif changed:
                self._exchange()

    def _reload(self, tell: bool) -> Catalogue:
        trained = self._load()
        before, self._trained = self._trained, trained
        try:
            if tell:
                self.store.ask_reload()
            self._exchange()
        except RlmrecError:
            self._trained = before
            raise
        logger.info("reloaded run %r: %s items", trained.run, f"{len(self.catalogue.recommender.items):,}")
        return self.catalogue

    def _exchange(self) -> None:
        """A catalogue of the trained items and those in the store takes the place of the one in force."""
        state = self.store.state()  # before the items: one that comes between is seen by the next ``follow``
        items = [] if self._trained.cold is None else self.store.all()
        self.catalogue = self._trained.with_items([self._with_vector(item) for item in items]).warm()
        self._state = state

    def _with_vector(self, item: ColdItem) -> ColdItem:
        """The item with a vector of the encoder that the cold start reads."""
        cold = self._trained.cold
        if cold is None or item.encoder == cold.encoder:
            return item
        return item._replace(encoder=cold.encoder, vector=self.encode(item.text))
