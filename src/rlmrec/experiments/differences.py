"""Options in which runs differ, those at their defaults included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlmrec.alignment import ALIGNMENTS
from rlmrec.config import Config
from rlmrec.evaluation.compare import RunGroup
from rlmrec.models import MODELS
from rlmrec.training.config import TrainConfig

NONE = "–"  # the value of an option that a run does not have
_NAMES = ("alignment_label", "backbone_label", "semantics")  # for people
_Option = tuple[str, str]  # part of the configuration, name


def differing_options(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Return the options in which runs differ, apart from the alignment and its own options.

    An alignment's own options are compared where all runs have the same alignment. A run that does not record an
    option of its backbone, alignment or training has it at its default. An option that a run does not have (a
    backbone without layers, a base without texts) is not a difference by itself.

    Returns:
        option → its value in each group, "–" for none. Its name is qualified, as in "alignment.temperature", where two
        parts of the runs have one of that name.
    """
    alignments, backbones = (
        {group.runs[0].config["run"].get(part) for group in groups} for part in ("alignment", "backbone")
    )
    parts = ["run", "backbone", "training", *["alignment"] * (len(alignments) == 1)]
    of_groups = [_options(group, parts) for group in groups]
    if len(alignments) == len(backbones) == 1:  # then a run without texts is a difference
        of_groups = [{("data", "texts"): "none", **options} for options in of_groups]
    names = list(dict.fromkeys(option for options in of_groups for option in options))
    found: dict[str, list[str]] = {}
    for part, name in names:
        values = [
            options[part, name]
            if (part, name) in options
            else _default(group.runs[0].config, part, name, len(backbones) == 1)
            for group, options in zip(groups, of_groups, strict=True)
        ]
        if len({value for value in values if value is not None}) > 1:
            qualified = sum(other == name for _, other in names) > 1
            key = f"{part}.{name}" if qualified else name
            found[key] = [NONE if value is None else value for value in values]
    return found


def in_words(options: Mapping[str, Sequence[str]]) -> str:
    """Return options that differ in words: "epochs 15 | 40; layers 2 | 3"; "" for none."""
    return "; ".join(f"{option} {' | '.join(values)}" for option, values in options.items())


def _options(group: RunGroup, parts: Sequence[str]) -> dict[_Option, str]:
    """Return the options that the runs of a group record: (part, name) → value."""
    config = group.runs[0].config
    options = {(part, name): str(value) for part in parts for name, value in (config.get(part) or {}).items()}
    for name in ("alignment", "preset"):  # a preset's options are all recorded, so its name adds nothing
        options.pop(("run", name), None)
    options["run", "seed"] = ", ".join(map(str, group.seeds))
    data = {name: value for name, value in config["data"].items() if name != "dataset" and value is not None}
    options |= {("data", name): str(value) for name, value in data.items()}
    if ("data", "texts") in options:
        name = data.get("semantics") or config.get("names", {}).get("semantics")
        digest = options["data", "texts"]
        options["data", "texts"] = f"{name} ({digest[:6]})" if name else digest
    return {option: value for option, value in options.items() if option[1] not in _NAMES}


def _default(config: Mapping[str, Any], part: str, name: str, same_backbone: bool) -> str | None:
    """Return what a run has that does not record an option; None if it has no such option.

    The class of a user's own is not imported for this, as a run may come from somebody else: its default has no value.
    """
    own = config["run"].get(part)
    kind: type[Config] | None = None
    if part == "training" and config.get("training"):
        kind = TrainConfig
    elif part == "data" and name == "start" and config.get("training"):
        return "none"
    elif part in ("backbone", "alignment") and own is not None:
        known = (MODELS if part == "backbone" else ALIGNMENTS).known(own)
        if known is None:
            return "the default" if same_backbone or part == "alignment" else None
        kind = known.Config
    if kind is None or name not in kind.model_fields:
        return None
    return str(kind.model_fields[name].get_default(call_default_factory=True))
