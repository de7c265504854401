"""RunSpec: which backbone, which alignment, which options. Presets and --set resolved to config classes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from rlmrec.alignment import ALIGNMENTS
from rlmrec.backbones import BACKBONES
from rlmrec.config import Config, make
from rlmrec.errors import ConfigError
from rlmrec.training.trainer import TrainConfig

PRESETS = ("general", "movielens", "amazon", "yelp", "steam")
DEFAULT_PRESET = "general"


class UnknownOptionError(ConfigError):
    """An option that neither the backbone nor the alignment nor the trainer has."""


class NoOptions(Config):
    """Of a component that has none."""


@dataclass(frozen=True)
class RunSpec:
    """A training run, fully resolved: the same spec, dataset, vectors and machine give the same numbers.

    Args:
        backbone: a name of ``BACKBONES``, or "package.module:Class" of your own.
        alignment: a name of ``ALIGNMENTS``.
        backbone_config: the backbone's options.
        alignment_config: the alignment's options.
        training: the trainer's options.
        seed: of initialisation and training.
        preset: where the options came from, for the record.
    """

    backbone: str
    alignment: str
    backbone_config: Config
    alignment_config: Config
    training: TrainConfig
    seed: int
    preset: str

    @classmethod
    def resolve(
        cls,
        backbone: str = "lightgcn",
        alignment: str = "none",
        preset: str = DEFAULT_PRESET,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> RunSpec:
        """Take the preset's options for this backbone and alignment, then ``options`` over them.

        Raises:
            UnknownOptionError: an option that neither backbone, alignment nor trainer has.
            ConfigError: an unknown name, or a value that an option cannot have.
        """
        backbone_config = getattr(BACKBONES.resolve(backbone), "Config", NoOptions)
        alignment_config = getattr(ALIGNMENTS.resolve(alignment), "Config", NoOptions)
        homes: dict[str, type[Config]] = {
            "backbone": backbone_config,
            "alignment": alignment_config,
            "training": TrainConfig,
        }
        values: dict[str, dict[str, Any]] = {home: {} for home in homes}
        for name, value in {**preset_options(preset, backbone, alignment), **(options or {})}.items():
            home = next((home for home, kind in homes.items() if name in kind.model_fields), None)
            if home is None:
                known = ", ".join(sorted(field for kind in homes.values() for field in kind.model_fields))
                raise UnknownOptionError(
                    f"unknown option {name!r} for {backbone} with alignment {alignment}: known are {known}"
                )
            values[home][name] = value
        return cls(
            backbone,
            alignment,
            make(backbone_config, values["backbone"]),
            make(alignment_config, values["alignment"]),
            make(TrainConfig, values["training"]),
            seed,
            preset,
        )

    @property
    def needs_text(self) -> bool:
        """Whether the alignment or the backbone reads text vectors."""
        return self.alignment != "none" or BACKBONES.resolve(self.backbone).needs_text

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain values: what ``config.toml`` holds."""
        return {
            "run": {
                "backbone": self.backbone,
                "alignment": self.alignment,
                "preset": self.preset,
                "seed": self.seed,
            },
            "backbone": self.backbone_config.model_dump(),
            "alignment": self.alignment_config.model_dump(),
            "training": self.training.model_dump(),
        }


def describe_options(spec: RunSpec) -> list[dict[str, Any]]:
    """What ``options`` can set in a run such as ``spec``, from the configuration classes' own fields.

    Returns:
        for each option its name, type and bounds in words, value in ``spec``, default, meaning, and "of":
        whose it is.
    """
    parts = {
        f"backbone {spec.backbone}": spec.backbone_config,
        f"alignment {spec.alignment}": spec.alignment_config,
        "training": spec.training,
    }
    return [
        {
            "name": name,
            "type": _type(field),
            "value": getattr(config, name),
            "default": field.default,
            "meaning": field.description or "",
            "of": part,
        }
        for part, config in parts.items()
        for name, field in type(config).model_fields.items()
    ]


def _type(field: FieldInfo) -> str:
    """ "float > 0", "int ≥ 1", "all-users or batch"."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(map(str, get_args(field.annotation)))
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in signs.items()
        if hasattr(bound, name)
    ]
    return " ".join([getattr(field.annotation, "__name__", str(field.annotation)), ", ".join(bounds)]).strip()


def preset_options(preset: str, backbone: str, alignment: str) -> dict[str, Any]:
    """The options that a preset has for a backbone with an alignment; none for a backbone of your own.

    Args:
        preset: a name of ``PRESETS``, or the path of a TOML file with tables such as [lightgcn.contrastive].
        backbone: its name.
        alignment: its name.

    Raises:
        ConfigError: no such preset, or a file that says nothing of this backbone with this alignment.
    """
    if preset.endswith(".toml"):
        tables = read_toml(Path(preset))
        found = (
            tables.get(backbone, {}).get(alignment) if isinstance(tables.get(backbone, {}), dict) else None
        )
        if not isinstance(found, dict):
            has = [f"[{one}.{of}]" for one, by in tables.items() if isinstance(by, dict) for of in by]
            raise ConfigError(
                f"{preset} has no table [{backbone}.{alignment}] but {', '.join(has) or 'none at all'}: add it, or "
                "ask for these alone (rlmrec experiment … --only backbone=…,… --only alignment=…,…)"
            )
        return found
    if preset not in PRESETS:
        raise ConfigError(
            f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}, or a file's path ending in .toml"
        )
    text = (resources.files("rlmrec.experiments") / "presets" / f"{preset}.toml").read_text(encoding="utf-8")
    options: dict[str, Any] = tomllib.loads(text).get(backbone, {}).get(alignment, {})
    return options


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file of the user's says.

    Raises:
        ConfigError: there is no such file, or it is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``["layers=2", "negatives=batch"]`` → ``{"layers": 2, "negatives": "batch"}``.

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
        except tomllib.TOMLDecodeError:
            options[name.strip()] = text.strip()
    return options
