"""Config: the base of all configuration classes: frozen, validated, without unknown keys."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rlmrec.errors import ConfigError, did_you_mean, expectation
from rlmrec.findings import by_number


class Config(BaseModel):
    """Base of the configuration classes. Each is defined in the file of the class that it configures.

    Args:
        options: the options by name.

    Raises:
        ConfigError: an unknown option or a bad value, named with what was expected.

    Attributes:
        later_options: options that were added after runs had been stored. ``stored`` leaves them out at their
            defaults, so that the runs and trials of before are found again.
    """

    later_options: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise _refused(type(self), error) from None

    def stored(self) -> dict[str, Any]:
        """Return the options as a run's ``config.toml`` and the ids of trials hold them."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump().items()
            if name not in self.later_options or value != fields[name].default
        }


class NoOptions(Config):
    """Configuration of a part without options."""


C = TypeVar("C", bound=Config)


def as_config(kind: type[C], config: Config | Mapping[str, Any] | None, options: Mapping[str, Any]) -> C:
    """Return the configuration that a constructor's ``config`` and keyword options describe.

    Args:
        kind: the class of the configuration.
        config: an instance of it, or a mapping of options; None for the defaults.
        options: keyword options; they override those of ``config``.

    Raises:
        ConfigError: an unknown option, a bad value, or a configuration of another class.
    """
    if isinstance(config, kind):
        return make(type(config), {**config.model_dump(), **options}) if options else config
    if isinstance(config, Config) and issubclass(kind, type(config)):
        # The options of a base class, such as ``BackboneConfig(embedding_size=64)``: the others have their defaults.
        return make(kind, {**config.model_dump(), **options})
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(
            f"config has type {type(config).__name__}: expected {kind.__name__} or a mapping of options"
        )
    return make(kind, {**(config or {}), **options})


def make(kind: type[C], values: Mapping[str, Any]) -> C:
    """Validate a mapping of options and return the configuration.

    Raises:
        ConfigError: an unknown key or a bad value, named with what was expected.
    """
    return kind(**values)


def _refused(kind: type[Config], error: ValidationError) -> ConfigError:
    """Say in this package's words what pydantic refuses."""
    problems, unknown = [], []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]) or kind.__name__
        if problem["type"] == "extra_forbidden":
            unknown.append(f"{name!r}{did_you_mean(name, kind.model_fields)}")
        else:
            problems.append(f"{name} = {problem['input']!r}: {expectation(problem['msg']).lower()}")
    if unknown:
        known = ", ".join(kind.model_fields)
        options = by_number(len(unknown), "option", "options")
        problems.append(
            f"unknown {options} {', '.join(unknown)}: expected {f'one of {known}' if known else 'none'}"
        )
    return ConfigError("; ".join(problems))


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parse ``--set``: ``["layers=2", "alignment.weight=0.1"]`` → ``{"layers": 2, "alignment.weight": 0.1}``.

    Raises:
        ConfigError: an entry without "=".
    """
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {setting!r}: expected name=value, for example --set layers=2")
        try:
            options[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            options[name.strip()] = text.strip()
    return options
