"""The quickstart on MovieLens-100K: profiles of films by a language model, and alignment with them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from rlmrec.cli.compare import show_metrics
from rlmrec.cli.encode import write_text_embeddings
from rlmrec.cli.quickstart.steps import keep, profile_live
from rlmrec.cli.recommend import show_recommendations
from rlmrec.cli.train import train_with_progress
from rlmrec.errors import DataError

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.workspace import Workspace

RUNS = {"base": "none", "con": "contrastive", "gen": "generative"}
FITTED = ("graph-filter", "popularity")


def run(
    place: Workspace,
    folder: Path | None,
    seed: int,
    options: dict[str, Any],
    overwrite: bool,
    output: Output,
) -> dict[str, Any]:
    """Run the pipeline; return what ``--json`` prints and the ``next`` commands."""
    from rlmrec.data.dataset import Dataset
    from rlmrec.data.movielens import read_movielens_100k
    from rlmrec.evaluation.compare import compare_groups, comparisons_as_dict, verdict
    from rlmrec.experiments.spec import RunSpec
    from rlmrec.recommend.lists import Lists
    from rlmrec.recommend.open import open_recommender

    output.say("[bold]1. ratings → dataset[/] (ratings of at least 3, 10-core, split 3:1:1)")
    source = read_movielens_100k(folder)
    dataset = Dataset.from_source(source, min_rating=3, k_core=10, seed=seed)
    keep(dataset, place, overwrite, output)

    output.say("[bold]2. titles and genres → profiles by a language model[/]")
    replay_profiles(place, dataset, output)
    profile_live(dataset, "movies", output)

    output.say("[bold]3. profiles → text vectors[/]")
    text_embeddings = encode_profiles(place, dataset, output)

    output.say(
        "[bold]4. train LightGCN alone (base), with RLMRec-Con and RLMRec-Gen; fit the graph filter[/]"
    )
    specs = {
        name: RunSpec.resolve("lightgcn", alignment, "movielens", seed, options)
        for name, alignment in RUNS.items()
    }
    specs |= {name: RunSpec.resolve(name, seed=seed) for name in FITTED}
    *runs, popularity = [
        train_with_progress(spec, dataset, text_embeddings, place.run(name), output, overwrite=overwrite)
        for name, spec in specs.items()
    ]

    output.say(
        "[bold]5. compare[/] (change against base in %; * is p < 0.05 over users, paired t-test after Holm)"
    )
    groups = [run.group() for run in runs]
    comparisons = compare_groups(groups)
    show_metrics([*groups, popularity.group()], output, comparisons)
    output.say(verdict(comparisons, "base"))

    output.say("[bold]6. recommend[/]")
    user = dataset.users.id(0)
    answer, _ = show_recommendations(
        Lists(open_recommender(place, "con", dataset), dataset), user, 10, output
    )
    return {
        "runs": {run.name: run.metrics for run in (*runs, popularity)},
        "comparisons": comparisons_as_dict(comparisons),
        "user": user,
        "items": answer,
        "next": [f"rlmrec recommend -w {quote(str(place.path))} --run con --user {user} -k 10"],
    }


def replay_profiles(place: Workspace, dataset: Dataset, output: Output) -> None:
    """Fill the workspace's store with the answers that come with the package, and audit it.

    They are the answers to ``rlmrec profile --model local --items --users --domain movies`` on the split of
    seed 0. With another seed viewers have other training movies, whose prompts have no stored answers: then only
    the movies have profiles.
    """
    from rlmrec.llm.replay import Replay
    from rlmrec.llm.store import Store
    from rlmrec.profiles.audit import audit
    from rlmrec.profiles.profiler import Profiler

    packaged = resources.files("rlmrec.profiles") / "movielens-100k.jsonl.gz"
    with resources.as_file(packaged) as file, Store(place.profiles_path) as store:
        llm = Replay(file)
        profiler = Profiler(llm, store, domain="movies")
        movies = profiler.run(dataset, "item").profiled
        viewers = profiler.run(dataset, "user").profiled if movies else 0  # their prompts quote the movies'
        checked = audit(store, dataset)
        output.say(
            f"   replayed what {llm.name} wrote on {llm.manifest['date']}: "
            f"{movies:,} of {dataset.n_items:,} movies, {viewers:,} of {dataset.n_users:,} viewers"
        )
        for kind, vocabulary in (("item", dataset.items), ("user", dataset.users)):
            profile = store.profile(kind, vocabulary.id(0))
            if profile is not None and profile.summarization:
                output.say(f'   {kind} {profile.key}: "{escape(profile.summarization)}"')
    if checked.n_violations:
        raise DataError(
            f"a held-out interaction reached a prompt: rlmrec audit -w {quote(str(place.path))} lists them"
        )
    output.say(f"   audit: {checked.interactions:,} training interactions are in the prompts, none held out")


def encode_profiles(place: Workspace, dataset: Dataset, output: Output) -> TextEmbeddings:
    """Encode the metadata and profile of each movie; a viewer's vector is the mean over their training movies.

    Of the ways to encode this small model's profiles this one did best on validation
    (benchmarks/movielens_profiles.py).
    """
    from rlmrec.llm.store import Store
    from rlmrec.profiles.select import metadata_of, node_texts, stored_profiles
    from rlmrec.text.local import LocalEncoder

    with Store(place.profiles_path) as store:
        profiles = stored_profiles(store, dataset, "item")
    texts = node_texts("llm+metadata", profiles.texts, metadata_of(dataset, "item"))
    output.say(f'   for example "{escape(str(texts.texts[0]))}"')
    text_embeddings, _ = write_text_embeddings(
        place, dataset, LocalEncoder(), texts.texts, None, output, manifest={"profiles": texts.source}
    )
    return text_embeddings
