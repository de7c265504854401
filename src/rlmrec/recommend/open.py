"""Opening what a workspace holds for a run: its recommender, cold-start model and explanations."""

from __future__ import annotations

import scipy.sparse as sp

from rlmrec.data.dataset import Dataset
from rlmrec.errors import WorkspaceError
from rlmrec.recommend.cold_start import (
    ColdStart,
    RuleColdStart,
    TextModel,
    has_cold_start,
    has_rule_for_texts,
)
from rlmrec.recommend.explain import Explainer
from rlmrec.recommend.index import Index, has_index
from rlmrec.recommend.recommender import Recommender
from rlmrec.workspace import Workspace


def open_recommender(workspace: Workspace, run: str, dataset: Dataset, mmap: bool = False) -> Recommender:
    """Load the recommender of a finished run, with its index if it has one.

    A run of before ``rlmrec data append`` knows what was appended: nothing that is known is recommended, and new users
    are folded in from what they have. New items wait for the next training.

    Args:
        workspace: that holds the run.
        run: its name.
        dataset: the dataset that it must have been trained on.
        mmap: map the arrays, so that processes share their memory.

    Raises:
        WorkspaceError: there is no such run, its folder is damaged, or it was trained on another dataset.
    """
    folder = workspace.recommender_path(run)
    recommender = Recommender.load(folder, mmap=mmap)
    if not dataset.descends_from(recommender.manifest.get("fingerprint")):
        raise WorkspaceError(
            f"run {run!r} was trained on another dataset: train it again with --overwrite, or go on with 'rlmrec "
            "publish', whose server keeps the dataset that its run was trained on"
        )
    if recommender.manifest["fingerprint"] != dataset.fingerprint or recommender.known is recommender.seen:
        recommender = _up_to_date(recommender, dataset)
    if has_index(folder):
        return recommender.with_index(Index.load(folder, recommender.items, mmap))
    return recommender


def _up_to_date(recommender: Recommender, dataset: Dataset) -> Recommender:
    """Return a recommender with the dataset's users, all of whose interactions are known."""
    n_items, n_users = len(recommender.items), len(recommender.users)
    known = sp.csr_array(dataset.everything().csr()[:, :n_items])
    recommender = recommender.with_known(sp.csr_array(known[:n_users]))
    new = dataset.users.ids[n_users:]
    return recommender.with_users(new, sp.csr_array(known[n_users:])) if new else recommender


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
        raise WorkspaceError(
            f"run {run!r} reads no texts: fit graph-filter with text embeddings ('rlmrec encode', then "
            "'rlmrec train'), or create a cold-start model with 'rlmrec cold fit'"
        )
    return ColdStart.load(workspace.recommender_path(run), recommender)


def open_explainer(workspace: Workspace, run: str, dataset: Dataset) -> Explainer:
    """Make an explainer of a finished run's recommendations, with the workspace's profiles."""
    return Explainer(open_recommender(workspace, run, dataset), dataset, workspace.profiles_path)
