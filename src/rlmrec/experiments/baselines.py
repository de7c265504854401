"""The baselines beside every table: popularity and the graph filter, fitted when they are missing."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass

from rlmrec.closed_form import RECOMMENDERS
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.evaluation.compare import FinishedRun
from rlmrec.experiments.run import run
from rlmrec.experiments.spec import RunSpec
from rlmrec.models import BASELINES
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS, NO_TEXT_EMBEDDINGS
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import Workspace

TEXT_WEIGHTS = ("text_weight", "user_text_weight", "smoothing", "text_ridge")  # 0 where no text is used
CHEAP = 2_000_000  # training interactions, which take the graph filter about a minute


@dataclass(frozen=True)
class Baselines:
    """The baselines of a dataset.

    Args:
        runs: finished runs.
        notes: why others are missing, and which were fitted now.
    """

    runs: tuple[FinishedRun, ...]
    notes: tuple[str, ...]


def find_baselines(place: Workspace, dataset: Dataset, besides: Collection[str] = ()) -> Baselines:
    """Return the runs ``popularity`` and ``graph-filter`` of a workspace; fit those that are missing.

    A finished run of these names is taken as it is, whatever its options; a note says if its text embeddings are no
    longer those that a fit would take. A dataset of more than two million training
    interactions is not fitted without being asked: train such a run once. A run that this function has fitted is fitted
    again where it is of another dataset; one of the user's stays, and a note says so.

    Args:
        place: the workspace.
        dataset: its dataset.
        besides: names of runs that are shown already.
    """
    runs, notes = [], []
    for name in BASELINES:
        folder = place.run(name)
        if name in besides:
            continue
        try:
            found = FinishedRun.read(folder) if (folder / "metrics.json").exists() else None
            if found is not None and found.config["data"]["dataset"] == dataset.fingerprint:
                runs.append(found)
                if why := _other_texts(place, dataset, found):
                    fit = f"rlmrec train -w {shlex.quote(str(place.path))} --backbone {name}"
                    if found.config["data"].get("texts") is not None:
                        notes.append(f"run {name} {why}: to fit it again, {fit} --overwrite")
                    elif not (place.run(f"{name}-text") / "metrics.json").exists():
                        notes.append(f"run {name} {why}: for one with text, {fit} --name {name}-text")
            elif found is not None and not found.config.get("names", {}).get("baseline"):
                notes.append(f"run {name} is of another dataset: train it again with --overwrite")
            elif len(dataset.train) > CHEAP:
                again = " --overwrite" * (found is not None)
                notes.append(
                    f"{name} is not fitted: {len(dataset.train):,} interactions take a while; run 'rlmrec train -w "
                    f"{place.path} --backbone {name}{again}' once"
                )
            else:
                spec = RunSpec.resolve(name)
                texts, texts_name = default_texts(place, dataset, spec)
                metrics = run(
                    spec, dataset, texts, folder,
                    overwrite=found is not None, text_embeddings_name=texts_name, baseline=True,
                )  # fmt: skip
                runs.append(FinishedRun(name, folder, metrics))
                again = "" if found is None else " again, as the dataset has changed,"
                notes.append(f"fitted {name}{again} in {metrics['seconds']:.1f} s")
        except RlmrecError as error:
            notes.append(f"{name} is left out: {error}")
    return Baselines(tuple(runs), tuple(notes))


def _other_texts(place: Workspace, dataset: Dataset, found: FinishedRun) -> str:
    """Return how the texts of a baseline differ from those that a fit would take now, in words; "" if they do not."""
    backbone = found.config["run"]["backbone"]
    if backbone not in RECOMMENDERS:  # a run of the user's, of a class that is not to be imported
        return ""
    then = found.config["data"].get("texts")
    name = found.config.get("names", {}).get("semantics", DEFAULT_TEXT_EMBEDDINGS)
    try:
        reads_text = RunSpec.from_dict(found.config).reads_text
        if not reads_text or name not in place.text_embeddings_names():
            return ""
        if then is None:
            return f"was fitted without text, and there are the text embeddings {name!r} now"
        now = place.text_embeddings(dataset, name).digest
    except RlmrecError as error:
        return f"cannot be compared with what a fit would read now ({error})"
    return "" if then == now else f"was fitted with the text embeddings {name!r} of before they were replaced"


def with_texts(name: str, run: FinishedRun) -> str:
    """Return a name with the text embeddings that a closed form was fitted with, where it can read any.

    Example:
        "graph-filter (text: default)", "graph-filter (no text)"
    """
    config = run.config
    backbone = config["run"].get("backbone")
    if backbone not in RECOMMENDERS or not RECOMMENDERS[backbone].reads_text:
        return name
    data = config["data"]
    if data.get("texts") is None:
        return f"{name} (no text)"
    texts = data.get("semantics") or config.get("names", {}).get("semantics") or data["texts"][:6]
    options = {**(config.get("backbone") or {}), **run.metrics.get("fit", {}).get("chosen", {})}
    weights = [options[one] for one in TEXT_WEIGHTS if one in options]
    unused = ", weight 0" * (bool(weights) and not any(weight != 0 for weight in weights))
    return f"{name} (text: {texts}{unused})"


def default_texts(
    place: Workspace, dataset: Dataset, spec: RunSpec, name: str = DEFAULT_TEXT_EMBEDDINGS
) -> tuple[TextEmbeddings | None, str | None]:
    """Return the text embeddings that a run reads and their name; None and None if it reads none.

    Raises:
        ConfigError: the run needs text embeddings and is to have none.
        WorkspaceError: the run needs text embeddings and there are none of this name.
    """
    if name == NO_TEXT_EMBEDDINGS:
        if spec.needs_text:
            raise ConfigError(
                f"{spec.backbone} with {spec.alignment} needs text embeddings, got {NO_TEXT_EMBEDDINGS!r}: name some "
                "that 'rlmrec encode' has made"
            )
        return None, None
    if spec.needs_text or (spec.reads_text and name in place.text_embeddings_names()):
        return place.text_embeddings(dataset, name), name
    return None, None
