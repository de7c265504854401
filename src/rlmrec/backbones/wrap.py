"""wrap: a PyTorch recommender of your own as a Backbone, without an edit to it (Section 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rlmrec.backbones.base import Backbone, Objective
from rlmrec.batch import Batch
from rlmrec.errors import ConfigError
from rlmrec.graph import Graph

Encode = Callable[[Any, Graph], tuple[Tensor, Tensor]]
ObjectiveOf = Callable[[Any, Graph, Batch, torch.Generator], Objective]


def wrap(
    model: nn.Module,
    tables: tuple[str, str] | str = ("user.weight", "item.weight"),
    *,
    encode: Encode,
    objective: ObjectiveOf | None = None,
    n_users: int | None = None,
    output_size: int | None = None,
    self_loops: bool = False,
    uses_negatives: bool = True,
) -> Wrapped:
    """Make a model a Backbone: its embedding tables become x, to be masked and aligned like any other.

    Args:
        model: yours; its parameters are trained in place.
        tables: the names of its parameters that hold the initial embeddings of users (U, d) and of items
            (I, d), as ``model.named_parameters()`` lists them; or one name, if one table has both, users
            first.
        encode: ``encode(model, graph)`` → final embeddings of users (U, d') and items (I, d');
            deterministic when the model is in ``eval()``. ``graph.edge_index`` has the edges for models
            that want them so.
        objective: ``objective(model, graph, batch, rng)`` → ``Objective``, for a model with a loss of its
            own; BPR on ``encode`` by default.
        n_users: U, needed when one table has both.
        output_size: d', if it is not d.
        self_loops: whether its graph is that of A + I.
        uses_negatives: whether its loss reads the batch's negatives.

    Raises:
        ConfigError: no PyTorch model, a name that is not one of its parameters, or tables of shapes that cannot be; and
            when called, if ``encode`` or ``objective`` returns something else.

    Example:
        >>> backbone = wrap(model, ("user.weight", "item.weight"), encode=lambda model, graph: model())
        >>> check_backbone(backbone, dataset)  # rlmrec.testing: raises if the model ignores x
        >>> train(backbone, Contrastive(text_embeddings, backbone.output_size), dataset)
    """
    return Wrapped(model, tables, encode, objective, n_users, output_size, self_loops, uses_negatives)


class Wrapped(Backbone):
    """What ``wrap`` gives. For one call the model's tables are swapped for x, then they are back."""

    def __init__(
        self,
        model: nn.Module,
        tables: tuple[str, str] | str,
        encode: Encode,
        objective: ObjectiveOf | None,
        n_users: int | None,
        output_size: int | None,
        self_loops: bool,
        uses_negatives: bool,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model is a {type(model).__name__}: expected a torch.nn.Module")
        for name, function in (("encode", encode), ("objective", objective)):
            if not callable(function) and (name == "encode" or function is not None):
                raise ConfigError(
                    f"{name} is a {type(function).__name__}: expected a function, see rlmrec.wrap"
                )
        nn.Module.__init__(self)  # not Backbone's: the tables are the model's own
        self.model = model
        self.tables = (tables,) if isinstance(tables, str) else tuple(tables)
        self._encode, self._objective = encode, objective
        self.self_loops, self.uses_negatives = self_loops, uses_negatives
        self.n_users, self.n_items, size = self._sizes(n_users)
        self.output_size = output_size or size

    def _sizes(self, n_users: int | None) -> tuple[int, int, int]:
        parameters = dict(self.model.named_parameters())
        for name in self.tables:
            if name not in parameters:
                known = ", ".join(f"{n} {tuple(p.shape)}" for n, p in parameters.items())
                raise ConfigError(
                    f"the model has no parameter {name!r}: its parameters are {known or 'none'}"
                )
        shapes = [tuple(parameters[name].shape) for name in self.tables]
        named = " and ".join(f"{n} {shape}" for n, shape in zip(self.tables, shapes, strict=True))
        if len(set(self.tables)) != len(self.tables) or not 1 <= len(self.tables) <= 2:
            raise ConfigError(f"tables are {named}: expected one of users and one of items, or one of both")
        if any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) != 1:
            raise ConfigError(f"tables have the shapes {named}: expected (U, d) and (I, d), or (U + I, d)")
        n_rows, size = sum(shape[0] for shape in shapes), shapes[0][1]
        if len(shapes) == 2:
            if n_users not in (None, shapes[0][0]):
                raise ConfigError(f"n_users = {n_users}, but the first table is {named}")
            n_users = shapes[0][0]
        elif n_users is None or not 0 < n_users < n_rows:
            raise ConfigError(
                f"one table, {named}, has users and items: give n_users, from 1 to {n_rows - 1}"
            )
        return n_users, n_rows - n_users, size

    def initial(self) -> Tensor:
        """x, the model's own tables, (N, d)."""
        return torch.cat([self.model.get_parameter(name) for name in self.tables])

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """What the model makes of x, (U, d') and (I, d')."""
        return self._checked(self._call(x, graph, self._encode, graph))

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """The model's own, or BPR on ``encode``."""
        if self._objective is None:
            return super().objective(x, graph, batch, rng)
        out = self._call(x, graph, self._objective, graph, batch, rng)
        if not isinstance(out, Objective):
            raise ConfigError(
                f"objective gives {type(out).__name__}: expected Objective(users, items, terms)"
            )
        self._checked((out.users, out.items))
        return out

    def _call(self, x: Tensor, graph: Graph, function: Callable[..., Any], *arguments: Any) -> Any:
        # functional_call takes a tensor of any shape in a parameter's place without a word.
        if (graph.n_users, graph.n_items) != (self.n_users, self.n_items):
            raise ConfigError(
                f"the model's tables are for {self.n_users} users and {self.n_items} items, "
                f"the graph has {graph.n_users} and {graph.n_items}"
            )
        own = self.initial()
        if x.shape != own.shape:
            raise ConfigError(f"x is {tuple(x.shape)}, the model's tables together {tuple(own.shape)}")
        parts = graph.split(x) if len(self.tables) == 2 else (x,)
        dense = [_Dense.apply(part) for part in parts]  # type: ignore[no-untyped-call]
        swapped = {f"model.{name}": part for name, part in zip(self.tables, dense, strict=True)}
        return torch.func.functional_call(_Call(self.model), swapped, (function, *arguments))


class _Dense(torch.autograd.Function):
    """x with a dense gradient, which Adam and the other terms need, though nn.Embedding(sparse=True) reads it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return gradient.to_dense() if gradient.is_sparse else gradient


class _Call(nn.Module):
    """Any function of a model as a forward pass, which is all that functional_call can call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.model, *arguments)
