"""RunSpec: a training run as data: backbone, alignment, and all options from presets and ``--set``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from rlmrec.alignment import ALIGNMENTS
from rlmrec.config import Config, NoOptions, make
from rlmrec.errors import ConfigError, did_you_mean
from rlmrec.experiments import DEFAULT_PRESET
from rlmrec.models import MODELS, is_closed_form
from rlmrec.registry import is_path, short_name
from rlmrec.training.config import TrainConfig

PRESETS = ("general", "movielens", "amazon", "yelp", "steam")
# The parts of a run that have options. "alignment.weight" names an option of one of them.
PARTS = ("backbone", "alignment", "training")


class UnknownOptionError(ConfigError):
    """An option that neither the backbone nor the alignment nor the trainer has."""


@dataclass(frozen=True)
class RunSpec:
    """A training run, fully resolved: the same spec, dataset, vectors and machine give the same numbers.

    Args:
        backbone: a name of ``MODELS``, or the path of your own class.
        alignment: a name of ``ALIGNMENTS``, or the path of your own class.
        backbone_config: the backbone's options.
        alignment_config: the alignment's options.
        training: the trainer's options; the defaults, which nothing reads, where nothing is trained.
        seed: seed of initialisation and training.
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

        Options are named "weight", or "alignment.weight" where several parts of the run have one of that name.

        Raises:
            UnknownOptionError: an option that no part of the run has.
            ConfigError: an unknown name, an option that several parts have, or a value that an option cannot have.
        """
        kinds = config_classes(backbone, alignment)
        values: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for given in (preset_options(preset, backbone, alignment), options or {}):
            for name, value in flat_options(given).items():
                part, option = _part_of(name, kinds, backbone, alignment)
                values[part][option] = value
        return cls.from_dict(
            {"run": {"backbone": backbone, "alignment": alignment, "seed": seed, "preset": preset}, **values}
        )

    @property
    def is_closed_form(self) -> bool:
        """Whether the backbone is computed instead of trained."""
        return is_closed_form(MODELS.resolve(self.backbone))

    @property
    def reads_text(self) -> bool:
        """Whether text vectors change the result; where they are not needed, it is also fitted without any."""
        kind = MODELS.resolve(self.backbone)
        if is_closed_form(kind):  # has no alignment, whose class would import PyTorch
            return kind.needs_text or kind.uses_text(self.backbone_config)
        return self.needs_text or ALIGNMENTS.resolve(self.alignment).uses_text(self.alignment_config)

    @property
    def needs_text(self) -> bool:
        """Whether the alignment or the backbone cannot do without text vectors."""
        kind = MODELS.resolve(self.backbone)
        return kind.needs_text or (not is_closed_form(kind) and ALIGNMENTS.resolve(self.alignment).needs_text)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values: what ``config.toml`` holds.

        Labels are there for classes of the user's own alone: reports show them without importing the class.
        """
        return {
            "run": {
                "backbone": self.backbone,
                "alignment": self.alignment,
                "preset": self.preset,
                "seed": self.seed,
                **own_labels(self.backbone, self.alignment),
            },
            "backbone": self.backbone_config.stored(),
            "alignment": self.alignment_config.stored(),
            "training": {} if self.is_closed_form else self.training.stored(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Return the spec that ``as_dict`` describes; it imports the classes."""
        run = values["run"]
        kinds = config_classes(run["backbone"], run["alignment"])
        return cls(
            run["backbone"], run["alignment"],
            make(kinds["backbone"], values["backbone"]), make(kinds["alignment"], values["alignment"]),
            make(TrainConfig, values["training"]), run["seed"], run["preset"],
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process can import a class from a user's file by its path alone, not by its module's name.
        return RunSpec.from_dict, (self.as_dict(),)


def config_classes(backbone: str, alignment: str) -> dict[str, type[Config]]:
    """Return the classes of the options of each part of a run.

    Raises:
        ConfigError: an unknown name, or an alignment of a backbone that is not trained.
    """
    kind = MODELS.resolve(backbone)
    if is_closed_form(kind):
        if alignment != "none":
            raise ConfigError(
                f"{backbone} is computed in closed form, so there is no training that alignment {alignment!r} could "
                "join: leave out the alignment, or name a trained backbone such as --backbone lightgcn"
            )
        return {"backbone": kind.Config, "alignment": NoOptions, "training": NoOptions}
    return {
        "backbone": MODELS.resolve(backbone).Config,
        "alignment": ALIGNMENTS.resolve(alignment).Config,
        "training": TrainConfig,
    }


def own_labels(backbone: str, alignment: str) -> dict[str, str]:
    """Return the labels of the user's own classes that differ from the classes' names."""
    backbone_kind = MODELS.known(backbone) if is_path(backbone) else None
    alignment_kind = ALIGNMENTS.known(alignment) if is_path(alignment) else None
    return {
        key: found.label
        for key, name, found in (
            ("backbone_label", backbone, backbone_kind),
            ("alignment_label", alignment, alignment_kind),
        )
        if found is not None and found.label != short_name(name)
    }


def flat_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the tables of parts flattened: {"alignment": {"weight": 1}} → {"alignment.weight": 1}."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if name in PARTS and isinstance(value, Mapping):
            flat |= {f"{name}.{option}": one for option, one in value.items()}
        else:
            flat[name] = value
    return flat


def option_names(backbone: str, alignment: str) -> set[str]:
    """Return the options of a run, each by its name and by its part and name."""
    kinds = config_classes(backbone, alignment)
    own = {(part, name) for part, kind in kinds.items() for name in kind.model_fields}
    return {name for _, name in own} | {f"{part}.{name}" for part, name in own}


def _part_of(name: str, kinds: Mapping[str, type[Config]], backbone: str, alignment: str) -> tuple[str, str]:
    """Return the part of a run that has an option, and the option's name there."""
    first, dot, rest = name.partition(".")
    option = rest if dot and first in PARTS else name
    parts = [
        part for part, kind in kinds.items()
        if option in kind.model_fields and (option == name or part == first)
    ]  # fmt: skip
    if len(parts) > 1:
        qualified = " or ".join(f"{part}.{option}" for part in parts)
        raise ConfigError(
            f"option {name!r} is one of several: {backbone} with alignment {alignment} has {qualified}; write which"
        )
    if not parts:
        known = sorted({field for kind in kinds.values() for field in kind.model_fields})
        message = (
            f"unknown option {name!r}{did_you_mean(name, known)} for {backbone} with alignment {alignment}: "
            f"known are {', '.join(known)}"
        )
        if kinds["training"] is NoOptions and option in TrainConfig.model_fields:
            message += "; nothing is trained here: to train, name a backbone such as --backbone lightgcn"
        raise UnknownOptionError(message)
    return parts[0], option


def describe_options(spec: RunSpec) -> list[dict[str, Any]]:
    """Describe what ``options`` can set in a run such as ``spec``, from the fields of the configuration classes.

    Returns:
        for each option its name as ``--set`` takes it, type and bounds in words, value in ``spec``, default,
        meaning, and "of": the part that has it.
    """
    parts = {
        f"backbone {spec.backbone}": spec.backbone_config,
        f"alignment {spec.alignment}": spec.alignment_config,
        **({} if spec.is_closed_form else {"training": spec.training}),
    }
    names = [name for config in parts.values() for name in type(config).model_fields]
    return [
        {
            "name": name if names.count(name) == 1 else f"{part.partition(' ')[0]}.{name}",
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
    """Describe a field's type and bounds: "float > 0", "int ≥ 1", "all-users or batch"."""
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
    """Return the options that a preset has for a backbone with an alignment; none for a backbone of your own.

    With an alignment that a built-in preset does not know, they are the backbone's options without alignment.

    Args:
        preset: a name of ``PRESETS``, or the path of a TOML file with tables such as [lightgcn.contrastive].
        backbone: its name or path.
        alignment: its name or path.

    Raises:
        ConfigError: no such preset, or a file without a table for this backbone with this alignment.
    """
    if preset.endswith(".toml"):
        tables = read_toml(Path(preset))
        found = (
            tables.get(backbone, {}).get(alignment) if isinstance(tables.get(backbone, {}), dict) else None
        )
        if not isinstance(found, dict):
            has = ", ".join(_headers(tables))
            raise ConfigError(
                f"{preset} has no table [{backbone}.{alignment}] but {f'the tables {has}' if has else 'no tables'}: "
                "add it, with the options in it, or run only what the file has (rlmrec experiment … --only "
                "backbone=…,… --only alignment=…,…)"
            )
        return found
    if preset not in PRESETS:
        raise ConfigError(
            f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}, or a file's path ending in .toml"
        )
    text = (resources.files("rlmrec.experiments") / "presets" / f"{preset}.toml").read_text(encoding="utf-8")
    every: dict[str, dict[str, Any]] = tomllib.loads(text)
    tables = every.get(backbone, {})
    if any(alignment in of_backbone for of_backbone in every.values()):
        return dict(tables.get(alignment, {}))
    # An alignment that the preset does not know.
    # Options are qualified where the alignment has one of the same name.
    shared = ALIGNMENTS.resolve(alignment).Config.model_fields.keys()
    own = MODELS.resolve(backbone).Config.model_fields.keys()
    return {
        f"{'backbone' if name in own else 'training'}.{name}" if name in shared else name: value
        for name, value in tables.get("none", {}).items()
    }


def _headers(tables: Mapping[str, Any]) -> Iterator[str]:
    """Yield the headers of the tables of a preset file that hold options, such as "[lightgcn.none]"."""
    for one, by in tables.items():
        if isinstance(by, dict):
            inner = [f"[{one}.{of}]" for of, options in by.items() if isinstance(options, dict)]
            yield from inner if len(inner) == len(by) > 0 else [f"[{one}]", *inner]


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of the user's.

    Raises:
        ConfigError: there is no such file, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
