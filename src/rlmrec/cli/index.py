"""rlmrec index: an approximate index for a large catalogue."""

from __future__ import annotations

from typing import Annotated

import typer

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, RunOption, WorkspaceOption


def index(
    run: RunOption,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    recall: Annotated[
        float, typer.Option(help="Recall of the exact 20 best items that the index must reach.")
    ] = 0.95,
    force: Annotated[
        bool, typer.Option("--force", help="Build and keep it even if exact search is faster.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the clusters and of the sample.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Build an approximate index for a large catalogue, which recommendations then use.

    Below 200,000 items, exact search is fast enough and nothing is built without `--force`. For larger catalogues both
    are timed on users of the run, and an index that is not faster than exact search is not kept. Above 10 million items
    the index keeps short codes instead of vectors (product quantisation), and the best candidates are scored again
    exactly.

    **Example:**  `rlmrec index -w shop --run con --recall 0.98`
    """
    from rlmrec.cli.output import Output
    from rlmrec.recommend.index import EXACT_BELOW, estimate_bytes, has_index, remove_index
    from rlmrec.recommend.open import open_recommender
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    recommender = open_recommender(place, run, place.dataset(), with_index=False)
    recommender.check_index()
    n_items = len(recommender.items)
    if n_items < EXACT_BELOW and not force:
        in_use = (
            f"the index of {run}, built with --force, stays in use"
            if has_index(place.recommender_path(run))
            else "exact search is used"
        )
        output.say(f"{n_items:,} items: {in_use}, no index is needed below {EXACT_BELOW:,} (--force)")
        output.result({"run": run, "built": False, "items": n_items})
        return
    size = estimate_bytes(n_items, recommender.items.shape[1])
    output.say(f"the index will take about {size / 2**20:,.0f} MiB, on disk and in memory")
    built = recommender.build_index(recall, seed)
    output.say(
        f"{built.manifest['kind']} over {n_items:,} items in {built.manifest['seconds']:.1f} s: recall@20 "
        f"{built.recall:.4f} against exact search, {built.manifest['probes']} clusters/query"
        + (
            f", {built.manifest['depth']} candidates scored again for each item"
            if "depth" in built.manifest
            else ""
        )
    )
    times = built.manifest["milliseconds"]
    output.say(
        f"one user takes {times['index']:g} ms with the index, {times['exact']:g} ms by exact search (medians)"
    )
    kept = built.is_faster or force
    if kept:
        built.save(place.recommender_path(run))
    else:
        remove_index(place.recommender_path(run))  # an earlier one would still be used
        output.say("exact search is faster for this run, so no index is kept (--force keeps it)")
    output.result({"run": run, "built": kept, **built.manifest})
