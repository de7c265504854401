"""The spec of a final run: the options that another run chose, to be trained on everything."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlmrec.closed_form.base import chosen_options
from rlmrec.closed_form.graph_filter import CARRIED, GraphFilter, GraphFilterConfig
from rlmrec.config import make
from rlmrec.errors import ConfigError
from rlmrec.evaluation.compare import FinishedRun
from rlmrec.experiments.run import SEMANTIC_ONLY
from rlmrec.experiments.spec import RunSpec
from rlmrec.registry import is_path

# What a run of a graph filter means that chose nothing about popularity: it is older than that part.
_WITHOUT_POPULARITY = {"popularity_weight": 0.0}


def final_spec(folder: Path, named: Collection[str] = ()) -> RunSpec:
    """Return what a final run like the one in a folder is trained with: nothing is left open to validation.

    A trained run gives its number of epochs up to the best one, and what its alignment chose, such as the options of
    its teacher; a closed form gives the options that it chose.

    Args:
        folder: of a finished run.
        named: classes of the user's own that may be imported, as "file.py:Class". A run may come from somebody else
            (SECURITY.md), so it imports none by itself.

    Raises:
        WorkspaceError: there is no finished run.
        ConfigError: nothing was trained or fitted there, or the run has a class that is not named.
    """
    found = FinishedRun.read(folder)
    config: dict[str, Any] = {"backbone": {}, "alignment": {}, "training": {}, **found.config}
    if config["run"]["backbone"] == SEMANTIC_ONLY:
        raise ConfigError(f"{folder.name} ranks by text vectors alone: there is nothing to train")
    own = {"backbone": config["run"].get("backbone"), "alignment": config["run"].get("alignment")}
    own["teacher"] = config["alignment"].get("teacher")
    for part, path in own.items():
        if is_path(str(path)) and path not in named:
            option = f"--set teacher={path}" if part == "teacher" else f"--{part} {path}"
            raise ConfigError(
                f"{folder.name} was made with the {part} {str(path)!r}, a class that does not come with rlmrec, and "
                f"its code would run: if you trust it, add {option}"
            )
    spec = RunSpec.from_dict(config)
    if not spec.is_closed_form:
        epochs = int(found.metrics["best_epoch"]) + 1
        aligned, chosen = spec.alignment_config, dict(found.metrics.get("chosen", {}))
        if own["teacher"] == GraphFilter.NAME and "teacher_options" in chosen:
            chosen["teacher_options"] = _WITHOUT_POPULARITY | chosen["teacher_options"]
        return replace(
            spec,
            training=spec.training.model_copy(update={"epochs": epochs}),
            alignment_config=make(type(aligned), {**aligned.model_dump(), **chosen}),
        )
    options = spec.backbone_config
    chosen = chosen_options(found.metrics.get("fit", {}), options)
    if isinstance(options, GraphFilterConfig) and options.popularity_weight is None:
        chosen = _WITHOUT_POPULARITY | chosen
    if chosen.get("text_weight") == 0:  # the text stays with the model, as it finds the users of new items
        chosen["text_weight"] = CARRIED
    return replace(spec, backbone_config=type(options)(**{**options.model_dump(), **chosen}))
