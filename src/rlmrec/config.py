"""What every configuration class shares: frozen, validated, unknown keys refused."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rlmrec.errors import ConfigError


class Config(BaseModel):
    """Base of the configuration classes; each stands on top of the file that it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def make(kind: type[C], values: dict[str, Any]) -> C:
    """Build a configuration from a mapping.

    Raises:
        ConfigError: an unknown key or a bad value, named with what was expected.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"]) or kind.__name__
            if problem["type"] == "extra_forbidden":
                known = ", ".join(kind.model_fields)
                problems.append(f"unknown option {name!r}; {kind.__name__} has {known}")
            else:
                problems.append(f"{name} = {problem['input']!r}: {problem['msg'].lower()}")
        raise ConfigError("; ".join(problems)) from None
