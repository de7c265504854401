"""Registry: the built-in parts of one kind by name, and a user's own parts by path."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar, cast

from rlmrec.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Name → class, for one kind of part. A class is imported when it is first looked up.

    A user's own class goes by its path: "my.py:Mine" (a file) or "package.module:Mine". Its code is imported
    by ``resolve`` alone, which only ever gets names that a user has given in a command, a file or a call. Names
    from stored runs go through ``known``, which imports nothing of the user's: a folder copied from somebody
    else must not run code.

    Args:
        kind: of the parts, for messages, such as "backbone".
        base: path of the class that all of them extend, or the paths of several; None where any class will do.
        paths: name → path, one line per part.
    """

    def __init__(self, kind: str, base: str | tuple[str, ...] | None, paths: Mapping[str, str]) -> None:
        self.kind = kind
        self._bases = (base,) if isinstance(base, str) else base or ()
        self._paths = dict(paths)
        self._own: dict[str, type[T]] = {}

    def __getitem__(self, name: str) -> type[T]:
        return cast("type[T]", _imported(self._paths[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:  # Mapping's own would import the class
        return name in self._paths

    @property
    def choices(self) -> str:
        """The names and the two forms of a path, for messages and help texts."""
        return f"{', '.join(self)}, or your own class: file.py:Class or package.module:Class"

    def resolve(self, name: str) -> type[T]:
        """Return the class called ``name``, or import the one at the path ``name``.

        Raises:
            ConfigError: no such name, or a path without a class of this kind.
        """
        if not isinstance(name, str):
            raise ConfigError(f"{self.kind} {name!r} is not a name: expected a string")
        if name in self:
            return self[name]
        if not is_path(name):
            raise ConfigError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, self)}: expected one of {self.choices}"
            )
        if name not in self._own:
            self._own[name] = self._own_class(name)
        return self._own[name]

    def exported(self, name: str) -> type[T]:
        """Return a built-in class, or their base, by its own name: for a package's ``__getattr__``.

        Raises:
            AttributeError: no class of that name.
        """
        for path in (*self._bases, *self._paths.values()):
            if path.endswith(f":{name}"):
                return cast("type[T]", _imported(path))
        raise AttributeError(f"no {self.kind} class {name!r}")

    def known(self, name: str) -> type[T] | None:
        """Return the class if it is built in or was imported before; None otherwise."""
        return self[name] if name in self else self._own.get(name)

    @property
    def paths(self) -> Mapping[str, str]:
        """Name → path of the built-in classes."""
        return dict(self._paths)

    def name_of(self, kind: type) -> str | None:
        """Return the name of a built-in class; None for a user's own."""
        path = f"{kind.__module__}:{kind.__qualname__}"
        return next((name for name, of in self._paths.items() if of == path), None)

    def _is_part(self, found: Any) -> bool:
        """Return whether it is a class of this kind. The bases are imported in turn, as PyTorch's is slow."""
        if not isinstance(found, type):
            return False
        return not self._bases or any(issubclass(found, _imported(path)) for path in self._bases)

    def _own_class(self, name: str) -> type[T]:
        module_name, _, attribute = name.rpartition(":")
        # Before the path is extended: these try to import packages that may lie beside the user's file.
        for dependency in ("scipy.sparse", "scipy.linalg", "polars"):
            import_module(dependency)
        for base in self._bases:
            _imported(base)
        try:
            module = _module(module_name)
        except Exception as error:  # the user's code may raise anything
            raise ConfigError(
                f"{self.kind} {name!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        found: Any = getattr(module, attribute, None)
        if not self._is_part(found):
            here = [
                key for key, value in vars(module).items()
                if self._is_part(value) and value.__module__ == module.__name__
            ]  # fmt: skip
            bases = " or ".join(f"rlmrec.{path.rpartition(':')[2]}" for path in reversed(self._bases))
            expected = f"a subclass of {bases}" if bases else "a class"
            problem = f"has no {attribute}" if found is None else f"has a {attribute} that is not {expected}"
            raise ConfigError(
                f"{self.kind} {name!r}: {module_name} {problem}; such classes in it: {', '.join(here) or 'none'}"
            )
        return cast("type[T]", found)


def is_path(name: str) -> bool:
    """Return whether a name is the path of a user's own class: "file.py:Class" or "package.module:Class"."""
    module, _, attribute = name.rpartition(":")
    is_module = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    return is_module and attribute.isidentifier()


def short_name(name: str) -> str:
    """Return the name of a built-in part as it is, of a user's own part the name of its class."""
    return name.rpartition(":")[2] if is_path(name) else name


def construct(kind: type[T], *arguments: Any) -> T:
    """Call a class, with a clear error where it takes other arguments.

    Raises:
        ConfigError: the constructor's signature does not take them.
    """
    try:
        signature(kind).bind(*arguments)
    except TypeError as error:
        got = ", ".join(type(argument).__name__ for argument in arguments)
        raise ConfigError(
            f"{kind.__name__} takes other arguments than ({got}): {error}; change its __init__, or override create"
        ) from None
    return kind(*arguments)


def _imported(path: str) -> Any:
    module, _, attribute = path.rpartition(":")
    return getattr(import_module(module), attribute)


def _module(name: str) -> ModuleType:
    """Import a file or a module. Only now is its folder appended to ``sys.path``, so nothing of ours is shadowed."""
    if not name.endswith(".py"):
        _extend_path(os.getcwd())
        return import_module(name)
    file = Path(name).resolve()
    if not file.is_file():
        raise ConfigError(f"{name} does not exist")
    # Two files of the same name are two modules.
    unique = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = spec_from_file_location(unique, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{name} is not a Python file")
    module = module_from_spec(spec)
    _extend_path(str(file.parent))
    sys.modules[unique] = module  # before it runs: pydantic looks up annotations there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


def _extend_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


class Labelled:
    """Base of the classes that tables name: a subclass without a ``label`` of its own gets its class name as label."""

    label: ClassVar[str]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "label" not in vars(cls):
            cls.label = cls.__name__
