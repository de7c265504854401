"""The model card of a recommender: what it was made of, its metrics, how to load it, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlmrec.hub import model_card

if TYPE_CHECKING:
    from rlmrec.recommend.recommender import Recommender

SHOWN = ("recall@20", "ndcg@20", "hit_rate@20", "coverage@20")
LOAD = """```python
from rlmrec import Recommender

recommender = Recommender.from_pretrained("{repo}")
ids, scores = recommender.recommend(recommender.user_ids.id(0), k=10)
ids, scores = recommender.recommend_from_items([{item!r}], k=10)   # a new user who likes this item
```

This needs `pip install 'rlmrec[hub]'` and runs without PyTorch. Give `revision=` a commit to load the same again."""
LIMITS = (
    "It knows the users and items that it was trained on, and recommends no others. It recommends more of what people "
    "with similar interactions have, so it repeats the biases of its data: popular items are favoured, and rare tastes "
    "are served worse. The metrics say how well it finds held-out interactions, not whether people like the lists. The "
    "files hold the ids and the interactions of all users."
)


def card(
    recommender: Recommender,
    repo: str,
    license: str | None = None,
    metrics: Mapping[str, float] | None = None,
    command: str | None = None,
) -> str:
    """Return the model card of a recommender; the arguments are those of ``Recommender.push_to_hub``."""
    run = recommender.manifest.get("config", {}).get("run", {})
    encoder = recommender.manifest.get("texts", {}).get("encoder")
    facts: dict[str, Any] = {
        "recommender": run.get("backbone", "unknown"),
        **({"alignment": run["alignment"]} if run.get("alignment", "none") != "none" else {}),
        **({"texts encoded by": encoder} if encoder else {}),
        "dataset": recommender.manifest.get("dataset", "unknown"),
        "users": len(recommender.users),
        "items": len(recommender.items),
        "interactions": int(recommender.seen.nnz),
        "embedding size": recommender.users.shape[1],
    }
    measured = "Not given. A run that was trained on all interactions (`--final`) has none."
    if metrics:
        shown = [name for name in SHOWN if name in metrics] or list(metrics)
        rows = [f"| {name} | {metrics[name]:.4f} |" for name in shown]
        measured = "\n".join(
            ["On held-out test interactions, all items ranked:\n", "| | |", "|---|---|", *rows]
        )
    if command:
        measured += f"\n\nTrained and measured by:\n\n```\n{command}\n```"
    load = LOAD.format(repo=repo, item=recommender.item_ids.id(0))
    sections = {"Metrics": measured, "Load": load, "Limits": LIMITS}
    return model_card(f"Recommender {repo}", facts, sections, license)
