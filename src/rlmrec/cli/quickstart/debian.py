"""The quickstart on Debian's packages: which packages will a piece of software need, and what does its text add?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from rlmrec.cli.compare import show_seconds
from rlmrec.cli.encode import write_text_embeddings
from rlmrec.cli.quickstart.steps import keep, profile_live
from rlmrec.cli.train import train_with_progress

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.evaluation.compare import FinishedRun
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.text.encoder import TextEncoder
    from rlmrec.workspace import Workspace

SHOWN = ("ndcg@20", "recall@20")
SHORT = 3  # training packages of a project with a short history
SENTENCE = "A command line tool that converts images to PDF files, written in Python"
# Name of a run → backbone, alignment, whether it reads the texts.
RUNS = {
    "popularity": ("popularity", "none", False),
    "lightgcn": ("lightgcn", "none", False),
    "lightgcn-con": ("lightgcn", "contrastive", True),
    "graph-filter": ("graph-filter", "none", False),
    "graph-filter-text": ("graph-filter", "none", True),
}
# Chosen on the validation split; the learning rate is high and the patience short, so that training ends soon.
OPTIONS = {"learning_rate": 1e-2, "layers": 2, "l2": 1e-5, "patience": 3}
PRICE = (0.15, 0.60)  # dollars for a million tokens of prompts and of answers, as small hosted models cost


def run(
    place: Workspace, seed: int, options: dict[str, Any], overwrite: bool, output: Output
) -> dict[str, Any]:
    """Run the pipeline; return what ``--json`` prints and the ``next`` commands."""
    from rlmrec.data.dataset import Dataset
    from rlmrec.data.debian import read_debian_packages

    output.say("[bold]1. data[/]: which packages does a piece of software need? (5-core, split 3:1:1)")
    dataset = Dataset.from_source(read_debian_packages(), k_core=5, seed=seed)
    keep(dataset, place, overwrite, output)

    output.say("[bold]2. profiles by a language model[/]: one by a small embedded model, to see it work")
    with ThreadPoolExecutor(1) as pool:
        # Its libraries take seconds to load, in which the language model, of one thread, leaves a core idle.
        loading = pool.submit(load_encoder)
        profile_live(dataset, "general", output, count=1)
        show_cost(place, dataset, output)
        encoder = loading.result()

    output.say("[bold]3. text vectors[/] of names and descriptions, by the embedded encoder")
    text_embeddings = encode_descriptions(place, dataset, encoder, output)

    from rlmrec.evaluation.compare import compare_groups, comparisons_as_dict
    from rlmrec.experiments.spec import RunSpec

    output.say("[bold]4. train and fit[/]: without and with text")
    runs = {}
    for name, (backbone, alignment, reads) in RUNS.items():
        given = OPTIONS | options if backbone == "lightgcn" else {}
        spec = RunSpec.resolve(backbone, alignment, "general", seed, given)
        texts = text_embeddings if reads else None
        runs[name] = train_with_progress(spec, dataset, texts, place.run(name), output, overwrite=overwrite)

    output.say("[bold]5. compare[/] on the packages that were held out for testing")
    show_table(runs, dataset, output)
    comparisons = compare_groups([runs["graph-filter"].group(), runs["graph-filter-text"].group()])
    of_text = comparisons["graph-filter-text"]["ndcg@20"].users
    output.say(
        f"Text changes NDCG@20 of the graph filter by {100 * of_text.relative:+.1f} % (p = {of_text.p_holm:.1g}, "
        "paired t-test over projects)."
    )

    output.say("[bold]6. a new project, described in a sentence[/]")
    items = recommend_to(SENTENCE, place, dataset, text_embeddings, encoder, output)
    folder = quote(str(place.path))
    return {
        "runs": {name: run.metrics for name, run in runs.items()},
        "comparisons": comparisons_as_dict(comparisons),
        "sentence": SENTENCE,
        "items": items,
        "next": [
            f'rlmrec cold user -w {folder} --run graph-filter-text -k 10 --text "your own sentence"',
            f"rlmrec recommend -w {folder} --run graph-filter-text --user {quote(str(dataset.users.id(0)))} -k 10",
            f"rlmrec serve -w {folder} --run graph-filter-text --base graph-filter    (a page in the browser)",
        ],
    }


def show_cost(place: Workspace, dataset: Dataset, output: Output) -> None:
    """Say what profiles of everything would cost at a hosted model."""
    from rlmrec.llm.client import OpenAIChat
    from rlmrec.llm.store import store_to_read
    from rlmrec.profiles.profiler import Profiler
    from rlmrec.profiles.progress import Price

    with store_to_read(place.profiles_path) as store:
        profiler = Profiler(OpenAIChat("any"), store, price=Price(*PRICE))
        estimates = [profiler.estimate(dataset, kind) for kind in ("item", "user")]
    cost = sum(estimate.cost or 0.0 for estimate in estimates)
    requests = sum(estimate.requests for estimate in estimates)
    output.say(
        f"   all {requests:,} profiles, of packages and projects, would cost ${cost:.2f} where a million tokens cost\n"
        f"   ${PRICE[0]:.2f} (read) and ${PRICE[1]:.2f} (written). Here both have a text already: no profiles needed."
    )


def load_encoder() -> TextEncoder:
    """Load the embedded encoder."""
    from rlmrec.text.local import LocalEncoder

    return LocalEncoder()


def encode_descriptions(
    place: Workspace, dataset: Dataset, encoder: TextEncoder, output: Output
) -> TextEmbeddings:
    """Encode name and description of each package and each project; most vectors come with the data."""
    from rlmrec.data.debian import packaged_vectors
    from rlmrec.profiles.select import metadata_of
    from rlmrec.text.cache import VectorCache, key
    from rlmrec.text.registry import encoder_spec

    texts = {kind: metadata_of(dataset, kind) for kind in ("item", "user")}
    name, *packaged = packaged_vectors()
    if name == encoder.name:
        with VectorCache(place.vectors_path) as cache, cache.writing():
            for of_kind, vectors in zip(texts.values(), packaged, strict=True):
                cache.write([key(name, str(text)) for text in of_kind], vectors, [False] * len(vectors))
        output.say("   the vectors come with the data: encoding takes minutes on two cores, and only once")
    text_embeddings, _ = write_text_embeddings(
        place,
        dataset,
        encoder,
        texts["item"],
        texts["user"],
        output,
        manifest={"made_by": encoder_spec("local")},
    )
    return text_embeddings


def show_table(runs: dict[str, FinishedRun], dataset: Dataset, output: Output) -> None:
    """Print NDCG@20 and Recall@20 of all projects and of those with a short history, and seconds."""
    import numpy as np

    short = np.bincount(dataset.train.users, minlength=dataset.n_users) <= SHORT
    rows = []
    for name, run in runs.items():
        table = run.per_user()
        chosen = table.filter(short[table["user"].to_numpy()])
        values = [float(part[metric].to_numpy().mean()) for part in (table, chosen) for metric in SHOWN]
        rows.append([name, *(f"{value:.4f}" for value in values), show_seconds(run.group().seconds)])
    output.table(
        "test split, all packages ranked",
        ["recommender", "NDCG@20", "Recall@20", "NDCG@20, short", "Recall@20, short", "seconds"],
        rows,
    )
    output.say(
        "Recall@20: share of a project's held-out packages among its first 20.\n"
        "NDCG@20: the same, but a package higher in the list counts more.\n"
        f"short: the {int(short.sum()):,} of {dataset.n_users:,} projects with at most {SHORT} training packages.\n"
        "seconds: to train; the graph filters also choose their options in that time."
    )


def recommend_to(
    sentence: str,
    place: Workspace,
    dataset: Dataset,
    text_embeddings: TextEmbeddings,
    encoder: TextEncoder,
    output: Output,
) -> list[dict[str, Any]]:
    """Print what a project with this description gets, with similar projects that have it as the reason."""
    from rlmrec.cli.cold import show_new_user
    from rlmrec.recommend.open import open_cold_start, open_recommender

    recommender = open_recommender(place, "graph-filter-text", dataset)
    cold = open_cold_start(place, "graph-filter-text", recommender)
    vector = encoder.encode([sentence])[0]
    output.say(escape(f'   "{sentence}"'))
    return show_new_user(recommender, cold, dataset, vector, text_embeddings, 10, output)
