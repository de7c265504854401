"""Why do some effects of the paper not show on MovieLens-100K? One run a likely cause.

    python benchmarks/movielens_causes.py WORKSPACE --seeds 3 --store experiments/results/causes-movielens-100k.jsonl

Figure 4: Con keeps its small gain when the vectors of the items alone, or of the users alone, are shuffled.
    base, λ of Con       it is Con's λ (3e-5, base has 1e-5), not its alignment
    con, λ of base       the same, the other way round
    con, history alone   items' vectors permuted and users' vectors the means of *those*: no text, but two users who
                         watched the same still have like vectors
Figure 5: with a quarter of noise base loses twice of what Con loses.
    … 25 % noise         is it the alignment, or Con's λ? Both, with either λ
    … history alone      items' vectors permuted as above: no text, but the true histories without the noise
Table 3, cut at one moment: starting from the earlier half's tables is worse than starting at random.
    no drift             the timestamps of the users and items on both sides are permuted: the same cut of as many
                         interactions, but nobody's taste can have changed
    slow                 the later half at a fifth of the learning rate, so that the tables are not unlearned at once
    not trained          the earlier half's tables as they are, judged on the later half
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlmrec.data.interactions import Interactions
from rlmrec.data.split import split_by_time
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.experiments.run import InitialEmbeddings, run
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import of_period
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
from rlmrec.workspace import Workspace

ALIGNMENTS = ("none", "contrastive", "generative")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path, help="with timestamps and text vectors called default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--store", type=Path, required=True, help="append the results to this JSON-lines file"
    )
    parser.add_argument("--only", choices=("figure4", "figure5", "table3"))
    options = parser.parse_args()
    place = Workspace(options.workspace)
    dataset = place.dataset()
    text_embeddings = place.text_embeddings(dataset, "default")
    scratch = place.path / "causes"

    def train(name, seed, alignment, data, vectors, start=None, **overrides):
        spec = RunSpec.resolve("lightgcn", alignment, "movielens", seed, overrides)
        folder = scratch / f"{name}, seed {seed}".replace(" ", "-")
        return folder, run(spec, data, vectors, folder, start=start)

    def keep(of, name, seed, metrics):
        line = {"of": of, "name": name, "seed": seed}
        line |= {
            key: metrics[key] for key in ("valid", "test", "best_epoch", "epochs", "environment", "config")
        }
        with options.store.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        test, valid = metrics["test"], metrics["valid"]
        print(f"{of} · {name}, seed {seed}: valid R@20 {valid['recall@20']:.4f}, test R@20 {test['recall@20']:.4f}, "
              f"N@20 {test['ndcg@20']:.4f}", flush=True)  # fmt: skip

    for seed in range(1, options.seeds + 1):
        for figure, data, suffix in (
            ("figure4", dataset, ""),
            ("figure5", with_noise(dataset, seed), ", 25 % noise"),
        ):
            if options.only not in (None, figure):
                continue
            for variant, alignment, l2, vectors in (
                ("base", "none", 1e-5, None),
                ("base, λ of Con", "none", 3e-5, None),
                ("con", "contrastive", 3e-5, text_embeddings),
                ("con, λ of base", "contrastive", 1e-5, text_embeddings),
                ("con, history alone", "contrastive", 3e-5, history_alone(dataset, text_embeddings, seed)),
            ):
                name = variant + suffix
                keep(figure, name, seed, train(name, seed, alignment, data, vectors, l2=l2)[1])
        if options.only in (None, "table3"):
            for kind, source in (("", dataset), ("no drift, ", without_drift(dataset, seed))):
                earlier = of_period(source, text_embeddings, "earlier")
                later, _ = of_period(source, None, "later")
                keep("table3", f"{kind}none", seed, train(f"{kind}none", seed, "none", later, None)[1])
                for alignment in ALIGNMENTS:
                    folder, first = train(f"{kind}earlier {alignment}", seed, alignment, *earlier)
                    tables, name = InitialEmbeddings.of(folder), f"{kind}from {alignment}"
                    keep("table3", name, seed, train(name, seed, "none", later, None, tables)[1])
                    if kind:
                        continue
                    name = f"slow, from {alignment}"
                    slow = train(name, seed, "none", later, None, tables, learning_rate=1e-3, patience=15)[1]
                    keep("table3", name, seed, slow)
                    kept = Recommender.load(folder / "recommender")
                    scores = DotProduct(kept.users, kept.items)
                    as_it_is = {
                        split: evaluate(scores, later, split=split).metrics() for split in ("valid", "test")
                    }
                    keep("table3", f"not trained, from {alignment}", seed, {**first, **as_it_is})


def with_noise(dataset, seed):
    """The dataset of figure 5's trials of 25 %."""
    train = dataset.train.with_noise(0.25, np.random.default_rng(seed), avoid=(dataset.valid, dataset.test))
    return replace(dataset, train=train)


def history_alone(dataset, text_embeddings, seed):
    """Vectors of items that say nothing about them, and of users that say only which items they had."""
    order = np.random.default_rng(seed).permutation(dataset.n_items)
    items = text_embeddings.items[order]
    return TextEmbeddings(
        mean_over_training(items, dataset.train), items, {**text_embeddings.manifest, "permuted": seed}
    )


def without_drift(dataset, seed):
    """The dataset with the timestamps of those interactions permuted that table 3's cut at one moment keeps."""
    parts = [dataset.train, dataset.valid, dataset.test]
    sizes = np.cumsum([len(part) for part in parts])[:-1]
    users, items, timestamp = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "items", "timestamp")
    )
    whole = Interactions(users, items, dataset.n_users, dataset.n_items, timestamp=timestamp)
    kept = np.concatenate([half.id for half in split_by_time(whole, 0.5)])
    times = timestamp.copy()
    times[kept] = np.random.default_rng(seed).permutation(times[kept])
    train, valid, test = (
        replace(part, timestamp=part_times)
        for part, part_times in zip(parts, np.split(times, sizes), strict=True)
    )
    return replace(dataset, train=train, valid=valid, test=test)


if __name__ == "__main__":
    main()
