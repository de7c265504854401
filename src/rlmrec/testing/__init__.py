"""Our own tests as an import: a new backbone or alignment is checked in a dozen lines.

``blocks`` makes a dataset whose right answer is known; ``check_backbone``, ``check_alignment`` and
``check_text_encoder`` raise ``AssertionError`` with what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rlmrec.alignment.base import Alignment
from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.split import split_by_ratio
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError
from rlmrec.graph import Graph
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.text.encoder import TextEncoder, checked


def blocks(
    n_blocks: int = 3,
    users: int = 20,
    items: int = 15,
    density: float = 0.5,
    text_size: int = 8,
    seed: int = 0,
) -> tuple[Dataset, TextEmbeddings]:
    """A dataset of groups: users of a group interact with that group's items alone.

    A recommender that has learned anything ranks the own group's items first; the text vectors of a group
    point in one direction, with noise.

    Args:
        n_blocks: number of groups.
        users: users of each group.
        items: items of each group.
        density: probability of each interaction within a group.
        text_size: d_s, at least ``n_blocks``.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    n_users, n_items = n_blocks * users, n_blocks * items
    same = np.arange(n_users)[:, None] // users == np.arange(n_items)[None, :] // items
    chosen = same & (rng.random(same.shape) < density)
    chosen[np.arange(n_users), (np.arange(n_users) // users) * items] = True  # nobody is left out
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
    """A batch of training triples in which users and items repeat."""
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(dataset.train), size=size)
    users, positives = dataset.train.users[picked], dataset.train.items[picked]
    return Batch(*map(torch.from_numpy, (users, positives, rng.integers(dataset.n_items, size=size))))


def check_backbone(backbone: Backbone, dataset: Dataset) -> None:
    """Check what every backbone owes: shapes, determinism, use of x and of rng, gradients.

    Parameters, buffers and mode are afterwards what they were.

    Args:
        backbone: sized for ``dataset``.
        dataset: for example ``blocks()[0]``.

    Raises:
        AssertionError: what is wrong.
    """
    graph = Graph.from_interactions(dataset.train, backbone.self_loops)
    batch = sample_batch(dataset)
    mode, buffers = backbone.training, {name: b.clone() for name, b in backbone.named_buffers()}
    backbone.eval()
    x = backbone.initial()
    n_nodes = dataset.n_users + dataset.n_items
    _expect(x.shape[0] == n_nodes and x.dim() == 2, f"initial() is {tuple(x.shape)}, expected ({n_nodes}, d)")
    users, items = backbone.encode(x, graph)
    for kind, got, size in (("users", users, dataset.n_users), ("items", items, dataset.n_items)):
        expected = (size, backbone.output_size)
        _expect(
            tuple(got.shape) == expected, f"encode() gives {kind} of {tuple(got.shape)}, expected {expected}"
        )
    again = backbone.encode(x, graph)
    _expect(torch.equal(users, again[0]) and torch.equal(items, again[1]), "encode() is not deterministic")
    with torch.no_grad():
        moved = backbone.encode(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), graph)
    _expect(
        not torch.allclose(users, moved[0]),
        "encode() gives the same users whatever x is: does it read its own tables?",
    )
    _expect(
        not torch.allclose(items, moved[1]),
        "encode() gives the same items whatever x is: does it read its own tables?",
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
    _restore_buffers(backbone, buffers)  # what a model counts must not tell the two calls apart
    again_terms = backbone.objective(x, graph, batch, torch.Generator().manual_seed(1)).terms
    for name, term in terms.items():
        _expect(
            name in again_terms and torch.equal(term, again_terms[name]),
            f"term {name!r} differs for equal rng: all randomness must come from rng",
        )
    _restore_buffers(backbone, buffers)
    backbone.train(mode)


def _restore_buffers(module: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(values[name])


def check_alignment(alignment: Alignment, backbone: Backbone, dataset: Dataset) -> None:
    """Check what every alignment owes: shapes, finite named terms, gradients to its parameters and to x.

    Args:
        alignment: made for ``backbone``'s sizes and ``dataset``'s text vectors.
        backbone: sized for ``dataset``.
        dataset: for example ``blocks()[0]``.

    Raises:
        AssertionError: what is wrong.
    """
    graph = Graph.from_interactions(dataset.train, backbone.self_loops)
    batch = sample_batch(dataset)
    x = backbone.initial().detach().requires_grad_()
    corrupted, masked = alignment.corrupt(x, torch.Generator().manual_seed(0))
    _expect(
        corrupted.shape == x.shape, f"corrupt() gives {tuple(corrupted.shape)}, expected {tuple(x.shape)}"
    )
    if masked is not None:
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[masked] = False
        _expect(
            torch.equal(corrupted[kept], x[kept]), "corrupt() changes rows that it does not name as masked"
        )
    out = backbone.objective(corrupted, graph, batch, torch.Generator().manual_seed(1))
    terms = alignment.loss(out.users, out.items, batch, masked)
    for name, term in terms.items():
        _expect(
            term.dim() == 0 and bool(torch.isfinite(term)),
            f"term {name!r} is {term}, expected a finite scalar",
        )
        _expect(name not in out.terms, f"term {name!r} is also a term of the backbone")
    if not terms:
        return
    alignment.zero_grad()
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    _expect(x.grad is not None and bool(x.grad.any()), "no gradient of the alignment reaches the embeddings")
    silent = [name for name, p in alignment.named_parameters() if p.grad is None]
    _expect(not silent, f"no gradient reaches {', '.join(silent)}")
    alignment.zero_grad()


def check_text_encoder(encoder: TextEncoder, tolerance: float = 1e-4) -> None:
    """Check what every text encoder owes: names, shapes, the order of the texts, no memory, no NaN.

    Args:
        encoder: a real one is asked some forty short texts, one of them empty.
        tolerance: how much a number may differ when a text is encoded in other company (padding does that),
            relative to the largest one.

    Raises:
        AssertionError: what is wrong.
    """
    _expect(
        isinstance(encoder, TextEncoder) and isinstance(encoder.name, str) and bool(encoder.name),
        "an encoder has a name, a dim and encode(texts)",
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
    turned = _vectors(encoder, texts[::-1])[::-1]
    _expect(
        bool((np.abs(vectors - turned) <= close).all()),
        "the vectors depend on the order of the texts: each must stand where its text stands",
    )
    alone = np.concatenate([_vectors(encoder, [text]) for text in texts[:3]])
    _expect(
        bool((np.abs(vectors[:3] - alone) <= close).all()),
        "a text's vector depends on the texts beside it",
    )
    empty = np.asarray(encoder.encode([]))
    _expect(len(empty) == 0, f"encode([]) gives an array of shape {empty.shape}, expected one without rows")
    is_cut = getattr(encoder, "is_cut", None)
    if is_cut is not None:
        flags = np.asarray(is_cut(texts))
        _expect(
            flags.shape == (len(texts),) and flags.dtype == bool,
            f"is_cut() gives {flags.dtype}{flags.shape}, expected one bool a text",
        )
    stream = getattr(encoder, "stream", None)
    if stream is not None:
        seen = np.full(vectors.shape, np.nan, np.float32)

        def sink(rows: Sequence[int], part: np.ndarray) -> None:
            _expect(bool(np.isnan(seen[list(rows)]).all()), "stream() hands a text's vector over twice")
            seen[list(rows)] = part

        stream(texts, sink)
        _expect(
            bool((np.abs(vectors - seen) <= close).all()),
            "stream() hands over other vectors than encode(), or not all",
        )


def _vectors(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    try:
        return checked(encoder.name, encoder.encode(texts), len(texts), None)
    except DataError as error:
        raise AssertionError(str(error)) from None


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
