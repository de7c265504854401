"""Encoding: from texts to vectors, resumable and in bounded memory, and from a dataset's texts to TextEmbeddings."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import MEANS, own_texts, unused_user_texts
from rlmrec.engine import Engine, bound
from rlmrec.errors import ConfigError, DataError, RequestError, RlmrecError
from rlmrec.text.cache import VectorCache, key
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
from rlmrec.text.encoder import (
    CHUNK,
    DerivedEncoder,
    Sink,
    TextEncoder,
    as_text_encoder,
    checked,
    list_of_texts,
)
from rlmrec.text.given import GivenTexts, texts_by_row
from rlmrec.text.registry import encoder_spec, make_encoder
from rlmrec.types import AnyArray, BoolArray, Float32Array

USER_VECTORS = ("texts", "mean")
REFUSALS_LISTED = 1000  # most refused texts that a manifest names


class Encoded(NamedTuple):
    """State of an encoding run: distinct texts in all, done, from the cache, and truncated by the model."""

    total: int
    done: int
    cached: int
    truncated: int


OnProgress = Callable[[Encoded], None]


def encode_texts(
    encoder: TextEncoder,
    texts: Sequence[str],
    cache: VectorCache | None = None,
    on_progress: OnProgress | None = None,
    engine: Engine | None = None,
) -> tuple[Float32Array, BoolArray]:
    """Encode texts. Equal texts are encoded once, texts of about the same length together.

    The longest come first: if memory does not suffice, that shows at once and not after an hour.

    Args:
        encoder: any ``TextEncoder``.
        texts: n of them.
        cache: stored vectors; texts with a vector there are not encoded again.
        on_progress: called after every batch.
        engine: encodes; by default this process. Ray's workers get the same batches of texts.

    Returns:
        float32[n, d_s] in the order of ``texts``, zeros for a text in ``encoder.refused``; and bool[n], which were
        longer than the model reads (all False of an encoder that cannot tell).

    Raises:
        DataError: the encoder returned something else than one finite vector for each text, or these are no texts.
        RequestError: the encoder's endpoint refuses every text.
        WorkspaceError: another process writes to the cache.
        ConfigError: the engine is Ray, and the encoder asks an endpoint.

    Example:
        >>> class Letters:
        ...     name, dim = "letters 1", 26
        ...     def encode(self, texts):
        ...         return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts])
        >>> vectors, truncated = encode_texts(Letters(), ["Abba", "Beach", "Abba"])
        >>> vectors.shape, vectors[0, :2].tolist(), truncated.any()
        ((3, 26), [2.0, 2.0], np.False_)
    """
    texts = list_of_texts(texts)
    distinct = list(dict.fromkeys(texts))
    with cache.writing() if cache is not None else nullcontext():
        vectors, truncated = _encoded(
            as_text_encoder(encoder), distinct, cache, on_progress, engine or Engine()
        )
    if len(distinct) == len(texts):
        return vectors, truncated
    place = {text: row for row, text in enumerate(distinct)}
    rows = [place[text] for text in texts]
    return vectors[rows], truncated[rows]


def _encoded(
    encoder: TextEncoder,
    texts: list[str],
    cache: VectorCache | None,
    on_progress: OnProgress | None,
    engine: Engine,
) -> tuple[Float32Array, BoolArray]:
    """Encode distinct texts; those of a derived encoder by its parts, whose vectors are what is cached."""
    if not isinstance(encoder, DerivedEncoder):
        work = _Work(encoder, texts, cache, on_progress, engine)
        work.run()
        return work.vectors, work.truncated
    found = []
    for place, part in enumerate(encoder.parts):

        def report(so_far: Encoded, before: int = place, last: int = len(encoder.parts) - 1) -> None:
            # A text is done when the last part has encoded it.
            if on_progress is not None:
                on_progress(so_far if before == last else so_far._replace(done=0))

        found.append(_encoded(part, texts, cache, report, engine))
    truncated = np.zeros(len(texts), bool)
    for _, of_part in found:
        truncated |= of_part
    return encoder.join([vectors for vectors, _ in found]), truncated


class _Work:
    """One pass over distinct texts, and the array that it fills."""

    def __init__(
        self,
        encoder: TextEncoder,
        texts: list[str],
        cache: VectorCache | None,
        on_progress: OnProgress | None,
        engine: Engine,
    ) -> None:
        self.encoder, self.texts, self.cache, self.on_progress = encoder, texts, cache, on_progress
        self.engine = engine
        self.keys = [] if cache is None else [key(encoder.name, text) for text in texts]
        self.vectors: Float32Array = np.empty((0, encoder.dim or 0), np.float32)
        self.truncated = np.zeros(len(texts), bool)
        self.have = np.zeros(len(texts), bool)
        self.cached = 0

    def run(self) -> None:
        if self.cache is not None:
            for row, vector, truncated in self.cache.read(self.keys):
                self._keep([row], vector[None], np.array([truncated]))
        self.cached = int(self.have.sum())
        self._report()
        pending = sorted(np.flatnonzero(~self.have).tolist(), key=lambda row: -len(self.texts[row]))
        if not pending:
            return
        self._stream(
            [self.texts[row] for row in pending],
            lambda rows, vectors: self._take([pending[row] for row in rows], vectors),
        )
        refused = self.encoder.refused
        left = [self.texts[row] for row in np.flatnonzero(~self.have) if self.texts[row] not in refused]
        if left:
            raise DataError(
                f"{self.encoder.name} left {len(left)} of {len(self.texts)} texts without a vector"
            )
        if not self.have.any():
            raise RequestError(f"{self.encoder.name} refuses every text: {refused[self.texts[0]]}")

    def _stream(self, texts: list[str], sink: Sink) -> None:
        """Encode distinct texts, by the encoder's own ``stream`` or by the workers of an engine."""
        if type(self.engine) is Engine:
            self.encoder.stream(texts, sink)
            return
        if type(self.encoder).stream is not TextEncoder.stream:
            raise ConfigError(
                f"{self.encoder.name} sends many requests at once and needs no engine: leave out --engine"
            )
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        for number, vectors in self.engine.map(bound(_vectors, self.encoder), chunks):
            sink(range(CHUNK * number, CHUNK * number + len(chunks[number])), vectors)

    def _take(self, rows: list[int], vectors: Any) -> None:
        """Check vectors of the encoder, commit them to the cache, and keep them."""
        dim = self.vectors.shape[1] if self.have.any() else self.encoder.dim
        vectors = checked(self.encoder.name, vectors, len(rows), dim)
        truncated = np.asarray(self.encoder.is_truncated([self.texts[row] for row in rows]), bool)
        if self.cache is not None:
            self.cache.write([self.keys[row] for row in rows], vectors, truncated.tolist())
        self._keep(rows, vectors, truncated)
        self._report()

    def _keep(self, rows: list[int], vectors: Float32Array, truncated: BoolArray) -> None:
        if not len(self.vectors):
            self.vectors = np.zeros((len(self.texts), vectors.shape[1]), np.float32)
        self.vectors[rows] = vectors
        self.truncated[rows] = truncated
        self.have[rows] = True

    def _report(self) -> None:
        if self.on_progress is not None:
            done, truncated = int(self.have.sum()), int(self.truncated.sum())
            self.on_progress(Encoded(len(self.texts), done, self.cached, truncated))


def _vectors(encoder: TextEncoder, texts: list[str]) -> AnyArray:
    return encoder.encode(texts)


def encode_dataset(
    dataset: Dataset,
    encoder: TextEncoder | str = "local",
    items: GivenTexts | None = None,
    users: GivenTexts | None = None,
    *,
    user_vectors: str | None = None,
    fill_users: bool = True,
    whiten: float | None = None,
    encoders: Path | str | None = None,
    cache: VectorCache | None = None,
    on_progress: OnProgress | None = None,
    manifest: dict[str, Any] | None = None,
    engine: Engine | None = None,
) -> TextEmbeddings:
    """Encode the texts of a dataset's items and users.

    Args:
        dataset: dataset with items, users and training interactions.
        encoder: any ``TextEncoder``, or the name of one as for ``make_encoder``: "local" is the embedded one.
        items: the items' texts: a mapping from id to text, a pandas Series that is indexed by id, or a list of one text
            for each of ``dataset.items.ids``. A column of a table that is not indexed by id is refused: its order may
            be another one. An item without a text (None, NaN, blanks) has no vector. By default the metadata of the
            dataset's items.
        users: the users' texts, likewise.
        user_vectors: what a user's vector is. "texts": of ``users``, or of the texts that the dataset has of its users;
            "mean": the mean over their training items that have a vector. By default "texts" if ``users`` are given,
            else "mean", with a warning if the dataset has texts of users.
        fill_users: whether a user without a text gets that mean as well, or no vector.
        whiten: power of the whitening, see ``TextEmbeddings.whitened``; None leaves the vectors as they are.
        encoders: folder where what was learned from the texts is stored, by which ``encoder_of`` encodes new ones
            (``Workspace.encoders_path``); None stores nothing.
        cache: stored vectors; texts with a vector there are not encoded again.
        on_progress: called after every batch.
        manifest: further entries of the manifest.
        engine: encodes; by default this process.

    Raises:
        ConfigError: ``dataset`` is something else, or it has none of the texts that are asked for.
        DataError: another number of texts, no text at all, or an encoder that returns something else than vectors.

    Example:
        >>> from rlmrec.testing import blocks
        >>> class Letters:
        ...     name, dim = "letters 1", 26
        ...     def encode(self, texts):
        ...         return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts])
        >>> dataset, _ = blocks(items=2)
        >>> made = encode_dataset(dataset, Letters(), ["Emma", "Ulysses", "Dune", None, "Ada", "Solaris"])
        >>> made.size, made.has_item.tolist()
        (26, [True, True, True, False, True, True])
    """
    Dataset.check(dataset)
    if isinstance(encoder, str):
        manifest = {"made_by": encoder_spec(encoder), **(manifest or {})}
        encoder = make_encoder(encoder)
    encoder = as_text_encoder(encoder)
    if user_vectors not in (None, *USER_VECTORS):
        raise ConfigError(f"user_vectors {user_vectors!r}: expected one of {', '.join(USER_VECTORS)}")
    if users is not None and user_vectors == "mean":
        raise ConfigError("user_vectors 'mean' does not use users: leave one of them out")
    if users is None and user_vectors is None and (unused := unused_user_texts(dataset)):
        warnings.warn(f'{unused}; user_vectors="texts" uses them', stacklevel=2)
    if users is None and user_vectors == "texts":
        users = own_texts(dataset, "user")
    items = texts_by_row(own_texts(dataset, "item") if items is None else items, dataset.items)
    own = [None] * dataset.n_users if users is None else texts_by_row(users, dataset.users)
    every = [*items, *own]
    has = np.array([text is not None for text in every], bool)
    if not has.any():
        raise DataError(f"not one text of {dataset.name} to encode: give texts of items or users")
    present = [text for text in every if text is not None]
    encoder = encoder.fitted_to(present)
    vectors, truncated = encode_texts(encoder, present, cache, on_progress, engine)
    more = dict(manifest or {})
    if encoders is not None and more.get("made_by") is not None:
        more["made_by"] = {**more["made_by"], **encoder.stored(Path(encoders))}

    def spread(mask: BoolArray, found: Float32Array) -> Float32Array:
        rows = np.zeros((len(mask), vectors.shape[1]), np.float32)
        rows[mask] = found
        return rows

    refused = [row for row in np.flatnonzero(has).tolist() if every[row] in encoder.refused]
    kept = ~np.isin(np.flatnonzero(has), refused) | vectors.any(axis=1)
    has[has] = kept
    has_item, own_text = has[: dataset.n_items], has[dataset.n_items :]
    n_texts = int(has_item.sum())
    of_items = spread(has_item, vectors[kept][:n_texts])
    of_users = spread(own_text, vectors[kept][n_texts:])
    has_user = own_text.copy()
    if users is None or fill_users:
        averaged = ~own_text & (dataset.train.csr() @ has_item.astype(np.int64) > 0)
        of_users[averaged] = mean_over_training(of_items, dataset.train, has_item)[averaged]
        has_user |= averaged
    digest = hashlib.sha256()
    for text in every:
        digest.update(b"\1" if text is None else text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    text_embeddings = TextEmbeddings(
        of_users,
        of_items,
        {
            "encoder": encoder.name,
            "revision": encoder.revision,
            "dimensions": int(vectors.shape[1]),
            "users": MEANS if users is None else "texts",
            "texts_sha256": digest.hexdigest(),
            "dataset": dataset.fingerprint,
            "texts_cut": int(truncated.sum()),
            "items_without_vector": int((~has_item).sum()),
            "users_without_vector": int((~has_user).sum()),
            "users_by_mean": int((has_user & ~own_text).sum()),
            **more,
            **({"texts_refused": _refusals(dataset, refused, every, encoder)} if refused else {}),
        },
        has_user,
        has_item,
    )
    return text_embeddings if whiten is None else text_embeddings.whitened(whiten, own_text, encoders)


def _refusals(
    dataset: Dataset, rows: list[int], texts: Sequence[str | None], encoder: TextEncoder
) -> dict[str, Any]:
    """Return how many texts were refused, and of which nodes, with the server's reason, for the manifest."""
    nodes = []
    for row in rows[:REFUSALS_LISTED]:
        kind, ids, place = (
            ("item", dataset.items, row)
            if row < dataset.n_items
            else ("user", dataset.users, row - dataset.n_items)
        )
        nodes.append({"kind": kind, "id": ids.id(place), "reason": encoder.refused[texts[row] or ""]})
    return {"count": len(rows), "nodes": nodes}


def save_if_changed(path: Path, text_embeddings: TextEmbeddings) -> bool:
    """Save text embeddings, unless the file holds the same ones; return whether it does."""
    try:
        stored = TextEmbeddings.load(path)
        if stored.manifest == text_embeddings.manifest and stored.digest == text_embeddings.digest:
            return True
    except RlmrecError:
        pass  # absent or damaged: written below
    text_embeddings.save(path)
    return False
