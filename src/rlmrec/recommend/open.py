"""Opening what a workspace holds for a run: its recommender, cold-start model and explanations."""

from __future__ import annotations

import scipy.sparse as sp

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.evaluation.ranking import Scorer, WithUnknownItems
from rlmrec.files import read_json
from rlmrec.recommend.cold_start import (
    ColdStart,
    RuleColdStart,
    TextModel,
    has_cold_start,
    has_rule_for_texts,
    why_no_fit,
)
from rlmrec.recommend.explain import Explainer
from rlmrec.recommend.index import Index, has_index
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import Workspace


def open_scorer(workspace: Workspace, run: str, dataset: Dataset) -> tuple[Scorer, int]:
    """Open a finished run to be evaluated on the dataset; of one of before ``rlmrec data append`` see below.

    New users are folded in from their training interactions alone, and new items are in nobody's list.

    Args:
        workspace: that holds the run.
        run: its name.
        dataset: the dataset that it was trained on, or one that was made of that by appending.

    Returns:
        the scores of the dataset's items, and the number of items that the run does not know.

    Raises:
        ConfigError: the run was trained on the held-out interactions too.
        WorkspaceError: as ``open_recommender``.
    """
    recommender = _load(workspace, run, dataset)
    refuse_final(recommender, run)
    if recommender.manifest["fingerprint"] != dataset.fingerprint:
        recommender = _up_to_date(recommender, dataset, held_out=False)
    unknown = dataset.n_items - len(recommender.items)
    scores = recommender.scorer()
    return (WithUnknownItems(scores, dataset.n_items) if unknown else scores), unknown


def refuse_final(recommender: Recommender, run: str) -> None:
    """Refuse a run that is to be evaluated and was trained on the held-out interactions too.

    Raises:
        ConfigError: it was trained with --final.
    """
    if recommender.manifest.get("config", {}).get("data", {}).get("final"):
        raise ConfigError(
            f"run {run!r} was trained on everything (--final): no interaction is left to evaluate it on; "
            "evaluate the run whose options it took"
        )


def open_recommender(
    workspace: Workspace, run: str, dataset: Dataset, mmap: bool = False, with_index: bool = True
) -> Recommender:
    """Load the recommender of a finished run, with its index if it has one.

    A run of before ``rlmrec data append`` knows what was appended: nothing that is known is recommended, low ratings
    included, and new users are folded in from what they have. New items wait for the next training.

    Args:
        workspace: that holds the run.
        run: its name.
        dataset: the dataset that it must have been trained on.
        mmap: map the arrays, so that processes share their memory.
        with_index: False leaves out the index, which may be damaged where it is built again.

    Raises:
        WorkspaceError: there is no such run, its folder is damaged, or it was trained on another dataset.
    """
    recommender = _load(workspace, run, dataset, mmap)
    if recommender.manifest["fingerprint"] != dataset.fingerprint or recommender.known is recommender.seen:
        recommender = _up_to_date(recommender, dataset, held_out=True)
    folder = workspace.recommender_path(run)
    if with_index and has_index(folder):
        return recommender.with_index(Index.load(folder, recommender.items, mmap))
    return recommender


def _load(workspace: Workspace, run: str, dataset: Dataset, mmap: bool = False) -> Recommender:
    """Load the recommender of a run of this dataset or of one that it was made of by appending."""
    recommender = Recommender.load(workspace.recommender_path(run), mmap=mmap)
    if not dataset.descends_from(recommender.manifest.get("fingerprint")):
        raise WorkspaceError(
            f"run {run!r} was trained on another dataset: train it again with --overwrite, or go on with 'rlmrec "
            "publish', whose server keeps the dataset that its run was trained on"
        )
    return recommender


def _up_to_date(recommender: Recommender, dataset: Dataset, held_out: bool) -> Recommender:
    """Return a recommender of a dataset of before with the dataset's users and what is known of them.

    Args:
        recommender: the recommender.
        dataset: the dataset.
        held_out: whether held-out interactions and low ratings are known, too, or those of training alone.
    """
    n_items, n_users = len(recommender.items), len(recommender.users)
    if new := dataset.users.ids[n_users:]:
        interactions = dataset.everything() if held_out else dataset.train
        recommender = recommender.with_users(new, sp.csr_array(interactions.csr()[n_users:, :n_items]))
    known = dataset.known() if held_out else dataset.train.csr()
    return recommender.with_known(sp.csr_array(known[:, :n_items]))


def find_cold_start(workspace: Workspace, run: str, recommender: Recommender) -> TextModel | None:
    """Load what maps texts for a finished run; None if there is nothing yet.

    Raises:
        WorkspaceError: the cold-start model is damaged, or was fitted to other embeddings.
    """
    if has_rule_for_texts(recommender) or has_cold_start(workspace.recommender_path(run)):
        return open_cold_start(workspace, run, recommender)
    return None


def open_cold_start(workspace: Workspace, run: str, recommender: Recommender) -> TextModel:
    """Load the cold-start model of a finished run; a closed-form run that was fitted with texts needs none.

    Raises:
        WorkspaceError: there is none yet, it is damaged, or it was fitted to other embeddings.
    """
    if has_rule_for_texts(recommender):
        return RuleColdStart(recommender)
    if recommender.parts is not None and not has_cold_start(workspace.recommender_path(run)):
        or_fit = "" if why_no_fit(recommender) else ", or create a cold-start model with 'rlmrec cold fit'"
        raise WorkspaceError(
            f"run {run!r} reads no texts: fit graph-filter with text embeddings ('rlmrec encode', then "
            f"'rlmrec train'){or_fit}"
        )
    return ColdStart.load(workspace.recommender_path(run), recommender)


def open_text_embeddings(
    workspace: Workspace, run: str, dataset: Dataset, vectors: Workspace | None = None
) -> TextEmbeddings | None:
    """Load the text embeddings that a run was trained with; None if it was trained without any.

    Args:
        workspace: that holds the run.
        run: its name.
        dataset: that the vectors belong to.
        vectors: the workspace that holds them; the run's by default. A release has none of its own.

    Raises:
        WorkspaceError: there is no such run, the workspace has other text embeddings by now or none, or the file is
            damaged.
        DataError: the text embeddings are those of another dataset, such as the one before ``rlmrec data append``.
    """
    metrics = read_json(workspace.finished_run(run) / "metrics.json")
    config = metrics.get("config", {}) if isinstance(metrics, dict) else {}
    name = config.get("names", {}).get("semantics")
    digest = config.get("data", {}).get("texts")
    if name is None or digest is None:
        return None
    text_embeddings = (vectors or workspace).text_embeddings(dataset, name)
    if text_embeddings.digest != digest:
        raise WorkspaceError(
            f"the text embeddings {name!r} are not those that run {run!r} was trained with: train it again with "
            "--overwrite"
        )
    return text_embeddings


def open_explainer(workspace: Workspace, run: str, dataset: Dataset) -> Explainer:
    """Make an explainer of a finished run's recommendations, with the workspace's profiles."""
    return Explainer(open_recommender(workspace, run, dataset), dataset, workspace.profiles_path)
