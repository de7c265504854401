"""Checks for your own backbones, alignments, closed forms and text encoders, and a dataset with a known answer.

``blocks`` makes a dataset whose right answer is known. ``check_backbone``, ``check_alignment``, ``check_closed_form``
and ``check_text_encoder`` raise ``AssertionError`` with what is missing or wrong, one line for each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from inspect import getattr_static
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch

from rlmrec.alignment.base import Alignment
from rlmrec.backbones.base import Backbone, BackboneConfig
from rlmrec.batch import Batch
from rlmrec.closed_form import load_state
from rlmrec.closed_form.base import ClosedForm, ClosedFormModel, Texts, fitted
from rlmrec.config import Config, make
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.split import split_by_ratio
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.graph import Graph
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.text.encoder import TextEncoder, as_text_encoder, checked

T = TypeVar("T")


def blocks(
    n_blocks: int = 3,
    users: int = 20,
    items: int = 15,
    density: float = 0.5,
    text_size: int = 8,
    seed: int = 0,
) -> tuple[Dataset, TextEmbeddings]:
    """Make a dataset of groups: users of a group interact only with that group's items.

    A recommender that has learned anything ranks the items of the user's own group first. The text vectors of a
    group point in one direction, with noise.

    Args:
        n_blocks: number of groups.
        users: users of each group.
        items: items of each group.
        density: probability of each interaction within a group.
        text_size: d_s, at least ``n_blocks``.
        seed: seed of everything random.
    """
    rng = np.random.default_rng(seed)
    n_users, n_items = n_blocks * users, n_blocks * items
    same = np.arange(n_users)[:, None] // users == np.arange(n_items)[None, :] // items
    chosen = same & (rng.random(same.shape) < density)
    # The first item of each group belongs to all of its users, so that nobody is without an interaction.
    chosen[np.arange(n_users), (np.arange(n_users) // users) * items] = True
    rows, columns = np.nonzero(chosen)
    parts = split_by_ratio(Interactions(rows, columns, n_users, n_items), (3, 1, 1), rng)
    dataset = Dataset(
        "blocks",
        *parts,
        Vocabulary((f"u{i}" for i in range(n_users)), "user"),
        Vocabulary((f"i{i}" for i in range(n_items)), "item"),
    )
    directions = np.eye(n_blocks, text_size, dtype=np.float32)

    def texts(count: int) -> np.ndarray:
        noise = 0.1 * rng.standard_normal((n_blocks * count, text_size), np.float32)
        vectors: np.ndarray = directions.repeat(count, axis=0) + noise
        return vectors

    return dataset, TextEmbeddings(texts(users), texts(items), {"dataset": dataset.fingerprint})


def sample_batch(dataset: Dataset, size: int = 16, seed: int = 0) -> Batch:
    """Draw a batch of training triples in which users and items repeat."""
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(dataset.train), size=size)
    users, positives = dataset.train.users[picked], dataset.train.items[picked]
    return Batch(*map(torch.from_numpy, (users, positives, rng.integers(dataset.n_items, size=size))))


def check_backbone(
    backbone: Backbone | type[Backbone], dataset: Dataset, text_embeddings: TextEmbeddings | None = None
) -> None:
    """Check what every backbone must do: shapes, determinism, use of x and of rng, gradients.

    Parameters, buffers and mode are unchanged afterwards.

    Args:
        backbone: a class, which is made by its ``create``, or a backbone for ``dataset``.
        dataset: for example ``blocks()[0]``.
        text_embeddings: its text vectors, where a class needs them.

    Raises:
        AssertionError: what is missing or wrong.
    """
    kind = backbone if isinstance(backbone, type) else type(backbone)
    _expect_class(kind, Backbone, BackboneConfig, "encode(x, graph), which returns final users and items")
    if isinstance(backbone, type):
        backbone = _made(lambda: kind.create(dataset.n_users, dataset.n_items, None, text_embeddings))
    graph = Graph.from_interactions(dataset.train, backbone.self_loops)
    batch = sample_batch(dataset)
    mode, buffers = backbone.training, {name: b.clone() for name, b in backbone.named_buffers()}
    backbone.eval()
    x = backbone.initial()
    n_nodes = dataset.n_users + dataset.n_items
    _expect(x.shape[0] == n_nodes and x.dim() == 2, f"initial() is {tuple(x.shape)}, expected ({n_nodes}, d)")
    users, items = backbone.encode(x, graph)
    for part, got, size in (("users", users, dataset.n_users), ("items", items, dataset.n_items)):
        expected = (size, backbone.output_size)
        _expect(
            tuple(got.shape) == expected, f"encode() gives {part} of {tuple(got.shape)}, expected {expected}"
        )
    again = backbone.encode(x, graph)
    _expect(torch.equal(users, again[0]) and torch.equal(items, again[1]), "encode() is not deterministic")
    with torch.no_grad():
        moved = backbone.encode(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), graph)
    _expect(
        not torch.allclose(users, moved[0]),
        "encode() returns the same users for different x: does it use stored embeddings instead of x?",
    )
    _expect(
        not torch.allclose(items, moved[1]),
        "encode() returns the same items for different x: does it use stored embeddings instead of x?",
    )

    backbone.train()
    terms = backbone.objective(x, graph, batch, torch.Generator().manual_seed(1)).terms
    _expect(bool(terms), "objective() returns no terms")
    for name, term in terms.items():
        _expect(
            term.dim() == 0 and bool(torch.isfinite(term)),
            f"term {name!r} is {term}, expected a finite scalar",
        )
    backbone.zero_grad()
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    silent = [name for name, p in backbone.named_parameters() if p.grad is None or not bool(p.grad.any())]
    _expect(not silent, f"no gradient reaches {', '.join(silent)}")
    backbone.zero_grad()
    _restore_buffers(backbone, buffers)  # a model that counts its calls must not differ between the two
    again_terms = backbone.objective(x, graph, batch, torch.Generator().manual_seed(1)).terms
    for name, term in terms.items():
        _expect(
            name in again_terms and torch.equal(term, again_terms[name]),
            f"term {name!r} differs for equal rng: all randomness must come from rng, which nn.Dropout does not use "
            "(docs/own-parts.md)",
        )
    _restore_buffers(backbone, buffers)
    backbone.train(mode)


def _restore_buffers(module: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(values[name])


def check_alignment(
    alignment: Alignment | type[Alignment],
    backbone: Backbone,
    dataset: Dataset,
    text_embeddings: TextEmbeddings | None = None,
) -> None:
    """Check what every alignment must do: shapes, finite named terms, gradients to its parameters and to x.

    Args:
        alignment: a class, which is made by its ``create``, or an alignment for ``backbone``.
        backbone: a backbone for ``dataset``.
        dataset: for example ``blocks()[0]``.
        text_embeddings: its text vectors, for example ``blocks()[1]``; only a class needs them.

    Raises:
        AssertionError: what is missing or wrong.
    """
    kind = alignment if isinstance(alignment, type) else type(alignment)
    if kind is not Alignment:
        _expect_class(kind, Alignment, Config, "loss(users, items, batch, masked), which returns named terms")
    if isinstance(alignment, type):
        texts = text_embeddings if kind.needs_text else None
        more = [dataset] if kind.needs_dataset else []
        alignment = _made(lambda: kind.create(texts, backbone, None, *more))
    graph = Graph.from_interactions(dataset.train, backbone.self_loops)
    batch = sample_batch(dataset)
    # A leaf of its own, so that its gradient is the alignment's alone.
    x = backbone.initial().detach().requires_grad_()
    corrupted, masked = alignment.corrupt(x, torch.Generator().manual_seed(0))
    _expect(
        corrupted.shape == x.shape, f"corrupt() gives {tuple(corrupted.shape)}, expected {tuple(x.shape)}"
    )
    again = alignment.corrupt(x, torch.Generator().manual_seed(0))[0]
    _expect(
        torch.equal(again, corrupted), "corrupt() differs for equal rng: all randomness must come from rng"
    )
    if masked is not None:
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[masked] = False
        _expect(
            torch.equal(corrupted[kept], x[kept]), "corrupt() changes rows that it does not name as masked"
        )
    out = backbone.objective(corrupted, graph, batch, torch.Generator().manual_seed(1))
    terms = _made(lambda: alignment.terms(out.users, out.items, batch, masked))
    for name, term in terms.items():
        _expect(
            term.dim() == 0 and bool(torch.isfinite(term)),
            f"term {name!r} is {term}, expected a finite scalar",
        )
        _expect(name not in out.terms, f"term {name!r} is also a term of the backbone")
    if kind is Alignment:
        return
    _expect(bool(terms), "loss() returns no terms: expected a mapping of name to scalar")
    alignment.zero_grad()
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    _expect(x.grad is not None and bool(x.grad.any()), "no gradient of the alignment reaches the embeddings")
    silent = [name for name, p in alignment.named_parameters() if p.grad is None]
    _expect(not silent, f"no gradient reaches {', '.join(silent)}")
    alignment.zero_grad()


def check_closed_form(
    kind: type[ClosedForm], dataset: Dataset, text_embeddings: TextEmbeddings | None = None
) -> None:
    """Check what every closed form must do: shapes, equal results of equal seeds, folding in, saving and loading.

    It is fitted with the defaults of its options, twice, and once to the final dataset, which holds nothing out.

    Args:
        kind: the class.
        dataset: for example ``blocks()[0]``.
        text_embeddings: its text vectors, for a class that reads them.

    Raises:
        AssertionError: what is missing or wrong.
    """
    _expect_class(kind, ClosedForm, Config, "fit(dataset, texts, config, seed)", "rule(state)")
    users = np.arange(dataset.n_users)
    texts = None if text_embeddings is None else Texts.of(text_embeddings, dataset)

    def scores_of(data: Dataset, texts: Texts | None, config: Any) -> tuple[ClosedFormModel, np.ndarray]:
        model = _made(lambda: fitted(kind, data, texts, config))
        expected = {"fingerprint": data.fingerprint, "is_final": data.is_final}
        for name, value in expected.items():
            found = getattr(model, name)
            _expect(found == value, f"{name} of the model is {found!r}, expected dataset.{name}, {value!r}")
        scores = model.score(users)
        shape = (data.n_users, data.n_items)
        _expect(scores.shape == shape, f"score() gives {scores.shape}, expected {shape}")
        _expect(bool(np.isfinite(scores).all()), "score() gives numbers that are not finite")
        return model, scores

    model, scores = scores_of(dataset, texts, None)
    close = 1e-3 * max(1e-12, float(np.abs(scores).max()))
    _expect(
        np.array_equal(scores_of(dataset, texts, _made(lambda: make(kind.Config, {})))[1], scores),
        "a second fit with the same seed, and with the defaults of Config, gives other scores",
    )
    final = dataset.final()
    try:
        scores_of(final, None if text_embeddings is None else Texts.of(text_embeddings, final), None)
    except DataError as error:
        message = f"fit() fails on dataset.final(), which has no validation split: {error}"
        raise AssertionError(message) from error
    record = json.loads(json.dumps(model.record, default=float))

    histories = dataset.train.csr()
    own = None
    if texts is not None and texts.users is not None and model.rule.reads_texts:
        has_text = np.ones(len(users), bool) if texts.has_user is None else texts.has_user
        own = np.where(has_text[:, None], texts.users, np.float32(0))
    folded = model.score_parts(model.rule.parts(histories, own, users))
    _expect(
        folded.shape == scores.shape and bool((np.abs(folded - scores) <= close).all()),
        "rule.parts() gives known users other scores than score(): a new user must get what training gives",
    )
    liked = histories[[0]].indices[::-1].astype(np.int64)
    new = model.score_parts(model.fold_in(liked))
    _expect(bool(np.isfinite(new).all()), "a new user with liked items gets scores that are not finite")
    shares = model.rule.split(liked, np.ones(len(liked), np.float32), None)
    expected = (len(liked) + 1, model.users.shape[1])
    _expect(shares.shape == expected, f"rule.split() gives {shares.shape}, expected {expected}")
    explained = np.array([model.explain(item, liked).score for item in range(dataset.n_items)])
    _expect(bool((np.abs(explained - new[0]) <= close).all()), "explain() gives other scores than fold_in()")

    restored = load_state(model.state(), record, kind)
    _expect(np.array_equal(restored.score(users), scores), "a model restored from state() gives other scores")
    again = restored.score_parts(restored.fold_in(liked))
    _expect(
        bool((np.abs(again - new) <= close).all()),
        "rule() restores another rule: a new user gets other scores from it",
    )
    recommender = Recommender.of_model(dataset, model, user_texts=own)
    with TemporaryDirectory() as folder:
        recommender.save(folder)
        loaded = Recommender.load(folder)
    _expect(
        bool((np.abs(loaded.score_rows(users) - scores) <= close).all()),
        "a recommender that was saved and loaded gives other scores",
    )
    rows, _ = loaded.recommend_rows(users, 5)
    seen = histories.toarray() > 0
    _expect(not (seen[users[:, None], rows] & (rows >= 0)).any(), "a user is recommended items of training")


def check_text_encoder(encoder: TextEncoder, tolerance: float = 1e-4) -> None:
    """Check what every text encoder must do: name and dim, shapes, order, no NaN, and no influence of other texts.

    Args:
        encoder: the encoder to check; it encodes some forty short texts, one of them empty.
        tolerance: allowed difference when a text is encoded together with others (padding causes one), relative
            to the largest number.

    Raises:
        AssertionError: what is missing or wrong.
    """
    missing = [
        f"{type(encoder).__name__} has no {what}"
        for name, what in (
            ("name", "name: a text that changes when the vectors change"),
            ("dim", "dim: the number of dimensions, or None until the first vectors"),
            ("encode", "encode(texts): an array (n, dim)"),
        )
        if not hasattr(encoder, name)
    ]
    _expect(not missing, "\n".join(missing))
    encoder = as_text_encoder(encoder)
    _expect(
        isinstance(encoder.name, str) and bool(encoder.name),
        f"name is {encoder.name!r}: expected a text that changes when the vectors change",
    )
    texts = ["a film about outer space", "x", "", "ein Buch über Käse, 本 und 🎬", "words and words " * 20]
    texts += [f"number {row}" for row in range(10)]
    vectors = _vectors(encoder, texts)
    _expect(
        encoder.dim == vectors.shape[1],
        f"dim is {encoder.dim} after vectors of {vectors.shape[1]} dimensions",
    )
    close = tolerance * max(1e-12, float(np.abs(vectors).max()))
    _expect(bool((np.abs(vectors[0] - vectors[4]) > close).any()), "different texts get the same vector")
    # Encoders may sort texts by length to pad less; the vectors must come back in the given order.
    turned = _vectors(encoder, texts[::-1])[::-1]
    _expect(
        bool((np.abs(vectors - turned) <= close).all()),
        "the vectors depend on the order of the texts: each must be in the place of its text",
    )
    alone = np.concatenate([_vectors(encoder, [text]) for text in texts[:3]])
    _expect(
        bool((np.abs(vectors[:3] - alone) <= close).all()),
        "a text's vector depends on the texts beside it",
    )
    empty = np.asarray(encoder.encode([]))
    _expect(len(empty) == 0, f"encode([]) gives an array of shape {empty.shape}, expected one without rows")
    flags = np.asarray(encoder.is_truncated(texts))
    _expect(
        flags.shape == (len(texts),) and flags.dtype == bool,
        f"is_truncated() gives {flags.dtype}{flags.shape}, expected one bool per text",
    )
    seen = np.full(vectors.shape, np.nan, np.float32)

    def sink(rows: Sequence[int], part: np.ndarray) -> None:
        _expect(bool(np.isnan(seen[list(rows)]).all()), "stream() returns a text's vector twice")
        seen[list(rows)] = part

    encoder.stream(texts, sink)
    _expect(
        bool((np.abs(vectors - seen) <= close).all()),
        "stream() returns other vectors than encode(), or not all",
    )


def _expect_class(kind: type, base: type, config: type, *methods: str) -> None:
    """Check the class itself, and list everything that is missing, one problem per line."""
    name, problems = kind.__name__, []
    _expect(issubclass(kind, base), f"{name} is not a subclass of rlmrec.{base.__name__}")
    for method in methods:
        attribute = method.partition("(")[0]
        if getattr_static(kind, attribute) is getattr_static(base, attribute):
            problems.append(f"{name} does not implement {method}")
    found: Any = getattr(kind, "Config", None)
    if not (isinstance(found, type) and issubclass(found, config)):
        problems.append(
            f"{name}.Config is {found!r}: expected a subclass of {config.__module__}.{config.__name__}"
        )
    label: Any = getattr(kind, "label", None)
    if not (isinstance(label, str) and label):
        problems.append(f"{name}.label is {label!r}: expected a short text for tables")
    _expect(not problems, "\n".join(problems))


def _made(make: Callable[[], T]) -> T:
    try:
        return make()
    except ConfigError as error:
        raise AssertionError(str(error)) from error


def _vectors(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    try:
        return checked(encoder.name, encoder.encode(texts), len(texts), None)
    except DataError as error:
        raise AssertionError(str(error)) from None


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
