"""Settings of a server, and the application that one worker process makes from them."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from rlmrec.data.dataset import Dataset, DatasetWithoutPairs
from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.recommend.cold_start import TextModel
from rlmrec.recommend.open import find_cold_start, open_recommender, open_text_embeddings
from rlmrec.recommend.publish import Release, first_usable
from rlmrec.server.added_items import ItemStore, item_store
from rlmrec.server.api import create_app
from rlmrec.server.catalogue import Catalogue
from rlmrec.server.middleware import Limits
from rlmrec.server.runs import Runs
from rlmrec.server.service import Service
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.text.encoder import TextEncoder
from rlmrec.workspace import Workspace

logger = logging.getLogger("rlmrec.server")

MAX_TEXTS = 512 << 20  # bytes of text vectors that a worker loads


@dataclass(frozen=True)
class Settings:
    """The settings of a server: plain values, which can be sent to new processes.

    Args:
        workspace: its folder.
        run: name of the run to serve; None serves the published one.
        base: name of the run to compare with, or None.
        token_env: environment variable with the bearer token, or None.
        in_flight: maximum number of requests in progress in one worker.
        encoder: encoder of texts, as --encoder names it; None for the recorded one.
        base_url: root of the encoder's endpoint, if it has one; never taken from the run.
        key_env: environment variable with the endpoint's key; never taken from the run.
        allowed_hosts: names that the Host header may have; None allows all.
        warm_up: load the text encoder at the start; an endpoint has nothing to load.
        picture_hosts: names of the hosts that the page may load pictures from.
        added: Postgres database with the added items, ``postgresql://…``; None for a file of the workspace.
    """

    workspace: Path
    run: str | None
    base: str | None = None
    token_env: str | None = None
    in_flight: int = 64
    encoder: str | None = None
    base_url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    allowed_hosts: frozenset[str] | None = None
    warm_up: bool = True
    picture_hosts: frozenset[str] = frozenset()
    added: str | None = None

    def added_items(self) -> ItemStore:
        """Return the store of added items."""
        return item_store(Workspace(self.workspace), self.added)

    def load(self) -> Catalogue:
        """Load the run from the workspace, without added items.

        A published release that is damaged, or a base run that does not fit to a release, is reported and left out: a
        server that starts again must answer.
        """
        workspace = Workspace(self.workspace)
        if self.run is not None:
            return self._catalogue(workspace, self.run)

        def load(release: Release) -> Catalogue:
            return replace(self._catalogue(release.workspace, release.run, True), release=release.name)

        def failed(release: Release, error: RlmrecError) -> None:
            logger.error("release %s cannot be served, the one before it is: %s", release.name, error)

        return first_usable(workspace, load, failed)

    def _catalogue(self, place: Workspace, run: str, lenient: bool = False) -> Catalogue:
        """Load a run of a workspace or of a release; ``lenient`` leaves out a base run that cannot be used."""
        workspace, place = Workspace(self.workspace), place.before_overwriting(run)
        dataset = DatasetWithoutPairs.load(place.dataset_path)
        recommender = open_recommender(place, run, dataset, mmap=True)
        cold = find_cold_start(place, run, recommender)
        base = None
        if self.base is not None:
            try:
                base = open_recommender(
                    workspace.before_overwriting(self.base), self.base, dataset, mmap=True
                )
            except RlmrecError as error:
                if not lenient:
                    raise
                logger.error("no base run to compare with: %s", error)
        base_run = self.base if base is not None else None
        return Catalogue(
            run, dataset, recommender, cold, base_run, base, workspace.profiles_path,
            model_made=(place.recommender_path(run) / "recommender.json").stat().st_mtime,
            data_made=(place.dataset_path / "dataset.json").stat().st_mtime,
            load_texts=partial(_load_texts, workspace, place, run, dataset),
            picture_hosts=self.picture_hosts,
        )  # fmt: skip

    def service(self) -> Service:
        """Load the run and return the service that answers from it."""
        # A text for an endpoint may cost something, and nothing has to be loaded for it.
        warm = self.warm_up and "openai:" not in (self.encoder or "")
        return Service(self.load, self.added_items(), partial(_make_encoder, self), warm, self.runs())

    def runs(self) -> Runs | None:
        """Return the other runs that requests may name; None for a server of the published run."""
        if self.run is None:
            return None
        return Runs(self.workspace, replace(self, base=None)._of_workspace)

    def _of_workspace(self, run: str) -> Catalogue:
        return self._catalogue(Workspace(self.workspace), run)

    def token(self) -> str | None:
        """Return the bearer token; None without ``token_env``.

        Raises:
            ConfigError: the environment variable is not set or empty.
        """
        if self.token_env is None:
            return None
        token = os.environ.get(self.token_env, "").strip()
        if not token:
            raise ConfigError(f"--token-env {self.token_env}: this environment variable is not set")
        return token


def application(settings: Settings) -> FastAPI:
    """Create the application of one worker process."""
    # A product with one user's vector is too small to split: BLAS threads would only disturb each other.
    threadpool_limits(1, user_api="blas")
    log = logging.getLogger("rlmrec")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s:  %(message)s"))
        log.addHandler(handler)
    limits = Limits(
        in_flight=settings.in_flight, hosts=settings.allowed_hosts, picture_hosts=settings.picture_hosts
    )
    return create_app(settings.service(), settings.token(), limits)


def _make_encoder(settings: Settings, cold: TextModel) -> TextEncoder:
    from rlmrec.text.registry import encoder_of  # slow to import, and many servers never get a text

    folder = Workspace(settings.workspace).encoders_path
    return encoder_of(cold.manifest, settings.encoder, folder, settings.base_url, settings.key_env)


def _load_texts(vectors: Workspace, place: Workspace, run: str, dataset: Dataset) -> TextEmbeddings | None:
    """Load the text embeddings of a run; None if there are none that fit, or more than a server should hold."""
    try:
        found = vectors.text_embeddings_names()
        if any(vectors.text_embeddings_path(name).stat().st_size > MAX_TEXTS for name in found):
            logger.warning(
                "similar texts are not compared: the text vectors take more than %d MiB", MAX_TEXTS >> 20
            )
            return None
        return open_text_embeddings(place, run, dataset, vectors)
    except RlmrecError as error:
        logger.warning("similar texts are not compared: %s", error)
        return None
