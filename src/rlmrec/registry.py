"""Registry: classes by name, imported when they are first used, and a user's own by "package.module:Class"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from rlmrec.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes of one kind by name. Listing the names imports none of them, so that --help needs no PyTorch.

    Args:
        kind: what the classes are, for messages: "backbone".
        base: the path "package.module:Class" of their base class.
        classes: name → path "package.module:Class".
    """

    def __init__(self, kind: str, base: str, classes: Mapping[str, str]) -> None:
        self.kind = kind
        self._base = base
        self._classes = dict(classes)

    def __getitem__(self, name: str) -> type[T]:
        found: type[T] = _imported(self._classes[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes  # Mapping's own would import the class

    def resolve(self, name: str) -> type[T]:
        """Return the class called ``name``, or the one at the path "package.module:Class".

        Raises:
            ConfigError: no such name or path, or a class of another kind.
        """
        if not isinstance(name, str):
            raise ConfigError(f"{self.kind} {name!r}: expected a name, which is a string")
        if name in self._classes:
            return self[name]
        if ":" not in name:
            raise ConfigError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, self._classes)}: expected one of "
                f"{', '.join(self._classes)} or package.module:Class"
            )
        try:
            found = _imported(name)
        except (
            ImportError,
            AttributeError,
            SyntaxError,
            TypeError,
            ValueError,
        ) as error:  # the last two: not a path
            raise ConfigError(f"{self.kind} {name!r} cannot be imported: {error}") from None
        base = _imported(self._base)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ConfigError(f"{self.kind} {name!r} is not a subclass of rlmrec.{base.__name__}")
        return found

    def exported(self, name: str) -> type[T]:
        """Return one of the classes, or their base, by its own name: what a package's ``__getattr__`` needs.

        Raises:
            AttributeError: no class of that name.
        """
        for path in (self._base, *self._classes.values()):
            if path.endswith(f":{name}"):
                found: type[T] = _imported(path)
                return found
        raise AttributeError(f"no {self.kind} class {name!r}")


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
