"""Settings of a server, and the application that one worker process makes from them."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from rlmrec.errors import ConfigError
from rlmrec.recommend.cold_start import TextModel
from rlmrec.recommend.open import find_cold_start, open_recommender
from rlmrec.server.added_items import AddedItems
from rlmrec.server.api import create_app
from rlmrec.server.catalogue import Catalogue
from rlmrec.server.middleware import Limits
from rlmrec.server.service import Service
from rlmrec.text.encoder import TextEncoder
from rlmrec.workspace import Workspace


@dataclass(frozen=True)
class Settings:
    """The settings of a server: plain values, which can be sent to new processes.

    Args:
        workspace: its folder.
        run: name of the run to serve.
        base: name of the run to compare with, or None.
        token_env: environment variable with the bearer token, or None.
        in_flight: maximum number of requests in progress in one worker.
        encoder: encoder of texts, as --encoder names it; None for the recorded one.
        base_url: root of the encoder's endpoint, if it has one; never taken from the run.
        key_env: environment variable with the endpoint's key; never taken from the run.
        allowed_hosts: names that the Host header may have; None allows all.
    """

    workspace: Path
    run: str
    base: str | None = None
    token_env: str | None = None
    in_flight: int = 64
    encoder: str | None = None
    base_url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    allowed_hosts: frozenset[str] | None = None

    def added_items(self) -> AddedItems:
        """Return the store of added items."""
        return AddedItems(Workspace(self.workspace).added_items_path)

    def load(self) -> Catalogue:
        """Load the run from the workspace, without added items."""
        workspace = Workspace(self.workspace)
        dataset = workspace.dataset()
        recommender = open_recommender(workspace, self.run, dataset, mmap=True)
        base = None
        cold = find_cold_start(workspace, self.run, recommender)
        if self.base is not None:
            base = open_recommender(workspace, self.base, dataset, mmap=True)
        return Catalogue(self.run, dataset, recommender, cold, self.base, base, workspace.profiles_path)

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
    service = Service(settings.load, settings.added_items(), partial(_make_encoder, settings))
    return create_app(
        service, settings.token(), Limits(in_flight=settings.in_flight, hosts=settings.allowed_hosts)
    )


def _make_encoder(settings: Settings, cold: TextModel) -> TextEncoder:
    from rlmrec.text.registry import encoder_of  # slow to import, and many servers never get a text

    folder = Workspace(settings.workspace).encoders_path
    return encoder_of(cold.manifest, settings.encoder, folder, settings.base_url, settings.key_env)
