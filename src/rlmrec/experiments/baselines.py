"""The baselines beside every table: popularity and the graph filter, fitted when they are missing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rlmrec.data.dataset import Dataset
from rlmrec.errors import RlmrecError
from rlmrec.evaluation.compare import FinishedRun
from rlmrec.experiments.run import run
from rlmrec.experiments.spec import RunSpec
from rlmrec.models import BASELINES
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import Workspace

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

    A finished run of these names is taken as it is, whatever its options. A dataset of more than two million training
    interactions is not fitted without being asked: train such a run once.

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
            if (folder / "metrics.json").exists():
                found = FinishedRun.read(folder)
                if found.config["data"]["dataset"] == dataset.fingerprint:
                    runs.append(found)
                else:
                    notes.append(f"run {name} is of another dataset: train it again with --overwrite")
            elif len(dataset.train) > CHEAP:
                notes.append(
                    f"{name} is not fitted: {len(dataset.train):,} interactions take a while; run 'rlmrec train -w "
                    f"{place.path} --backbone {name}' once"
                )
            else:
                spec = RunSpec.resolve(name)
                texts, texts_name = default_texts(place, dataset, spec)
                metrics = run(spec, dataset, texts, folder, text_embeddings_name=texts_name)
                runs.append(FinishedRun(name, folder, metrics))
                notes.append(f"fitted {name} in {metrics['seconds']:.1f} s")
        except RlmrecError as error:
            notes.append(f"{name} is left out: {error}")
    return Baselines(tuple(runs), tuple(notes))


def default_texts(
    place: Workspace, dataset: Dataset, spec: RunSpec, name: str = DEFAULT_TEXT_EMBEDDINGS
) -> tuple[TextEmbeddings | None, str | None]:
    """Return the text embeddings that a run reads and their name; None and None if it reads none.

    Raises:
        WorkspaceError: the run needs text embeddings and there are none of this name.
    """
    if spec.needs_text or (spec.reads_text and name in place.text_embeddings_names()):
        return place.text_embeddings(dataset, name), name
    return None, None
