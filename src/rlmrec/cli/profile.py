"""rlmrec profile: from texts to profiles."""

from __future__ import annotations

import hashlib
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    AddressOption,
    EngineOption,
    JsonOption,
    PartsInOption,
    PartsOutOption,
    RequestsAMinute,
    TokensAMinute,
    WorkspaceOption,
    is_given,
)
from rlmrec.cli.output import Output
from rlmrec.errors import ConfigError
from rlmrec.profiles import DOMAINS

if TYPE_CHECKING:
    from rlmrec.data.dataset import Dataset
    from rlmrec.llm.base import LLM
    from rlmrec.profiles.batch import BatchRead
    from rlmrec.profiles.profiler import Profiler
    from rlmrec.profiles.progress import Estimate, ProfilingProgress


PARTLY_FAILED = 3


# Option → the modes that use it; options that are missing here are used by all modes.
USED_BY = {
    "base_url": "endpoint",
    "key_env": "endpoint",
    "concurrency": "endpoint",
    "rpm": "endpoint",
    "tpm": "endpoint",
    "timeout": "endpoint",
    "max_tokens": "endpoint, replay, batch-out, batch-in, parts-in",
    "temperature": "endpoint, local, replay, batch-out, batch-in, parts-in",
    "reasoning_model": "endpoint, batch-out, batch-in",
    "threads": "local",
    "limit": "endpoint, local, replay, batch-out",
    "retry_failed": "endpoint, local, replay, batch-out",
    "price_in": "endpoint, local, replay",
    "price_out": "endpoint, local, replay",
    "max_cost": "endpoint, local, replay",
    "engine": "endpoint",
    "address": "endpoint",
}
MODES = {
    "local": "the embedded model (--model local, the default); choose another with --model",
    "endpoint": "a model at an endpoint",
    "replay": "--replay",
    "batch-out": "--batch-out",
    "batch-in": "--batch-in",
    "parts-in": "--parts-in",
}


def profile(
    context: typer.Context,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    items: Annotated[bool, typer.Option("--items", help="Profile the items.")] = False,
    users: Annotated[
        bool, typer.Option("--users", help="Profile the users; their prompts quote the items' profiles.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            help="Name of the model at the endpoint; 'local' is the embedded model (no key, no network)."
        ),
    ] = "local",
    base_url: Annotated[
        str | None, typer.Option(help="Root of an OpenAI-compatible endpoint. Default: OpenAI's.")
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable with the API key, which is never written anywhere.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to the endpoint at once.")] = 16,
    rpm: RequestsAMinute = None,
    tpm: TokensAMinute = None,
    domain: Annotated[str | None, typer.Option(help=f"Wording of the prompts: {', '.join(DOMAINS)}.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Folder with your own prompts: item.md, user.md.")
    ] = None,
    reviews: Annotated[int, typer.Option(min=1, help="Most reviews in an item's prompt.")] = 5,
    sample: Annotated[int, typer.Option(min=1, help="Most items in a user's prompt.")] = 10,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a prompt, estimated.")] = 3000,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 600,
    temperature: Annotated[float, typer.Option(min=0, help="Temperature of the model.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling of reviews and items.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that one try may take.")] = 60.0,
    reasoning_model: Annotated[
        bool,
        typer.Option(
            "--reasoning-model",
            help="The model takes max_completion_tokens and no temperature. Live requests detect that, "
            "a batch file cannot.",
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the embedded model.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most nodes to profile in this run.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Request again where answers were unusable.")
    ] = False,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help='Profile users although items have no profile yet; prompts give "None" for these.',
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Count requests, tokens and cost and show three prompts; send nothing."
        ),
    ] = False,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="Price of a million tokens of prompts.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(min=0, help="Price of a million tokens of answers.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Stop before the requests of this run cost more.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Take all answers from this store or export; --model chooses one of several models in it."
        ),
    ] = None,
    batch_out: Annotated[
        Path | None, typer.Option(help="Write the requests as a provider's batch file; send nothing.")
    ] = None,
    batch_in: Annotated[Path | None, typer.Option(help="Read a provider's answers to a batch file.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Write all answers to this file for --replay (.jsonl or .jsonl.gz)."),
    ] = None,
    parts_in: PartsInOption = None,
    parts_out: PartsOutOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write profiles with a language model: which users an item is for, and what a user likes.

    Every answer is stored at once, so a run can be killed and started again without paying twice. The exit code
    is 3 if some nodes could not be profiled or the run stopped early. Options that the chosen model or mode does
    not use are refused.

    **Examples:**

    `rlmrec profile -w movies --items --domain movies --limit 20`

    `rlmrec profile -w shop --items --model gpt-4o-mini --price-in 0.15 --price-out 0.6 --dry-run`

    `rlmrec profile -w shop --items --users --base-url http://localhost:11434/v1 --model qwen3:8b`
    """
    from rlmrec.data.metadata import text_columns
    from rlmrec.engine import RayEngine, open_engine
    from rlmrec.llm.client import OpenAIChat
    from rlmrec.llm.local import LocalChat
    from rlmrec.llm.replay import Replay
    from rlmrec.llm.spread import SpreadChat
    from rlmrec.llm.store import Store, store_to_read
    from rlmrec.profiles.batch import read_batch, write_batch
    from rlmrec.profiles.profiler import Profiler
    from rlmrec.profiles.progress import Price
    from rlmrec.profiles.prompts import PromptOptions
    from rlmrec.profiles.template import KINDS
    from rlmrec.workspace import Workspace

    if not (items or users):
        raise ConfigError("nothing to profile: give --items, --users or both")
    if (batch_out or batch_in) and items and users:
        raise ConfigError(
            "a batch file holds one kind: give --items or --users; users' prompts quote the items'"
        )
    given = {name for name in context.params if is_given(context, name)}
    mode = _mode(model, given)
    for option in sorted(given):
        if mode not in USED_BY.get(option, mode).split(", "):
            raise ConfigError(f"{_named(option)} is not used by {MODES[mode]}: leave it out")
    if (price_in is None) != (price_out is None):
        raise ConfigError("give both prices or none: --price-in and --price-out")
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    llm: LLM
    if replay is not None:
        options = {"temperature": temperature, "max_tokens": max_tokens}
        picked: dict[str, Any] = {name: options[name] for name in options if name in given}
        name = LocalChat().name if model == "local" else model
        llm = Replay(replay, model=name if "model" in given else None, some_options=picked)
    elif model == "local":
        llm = LocalChat(threads=threads, temperature=temperature)
        if (missing := LocalChat.missing()) and not dry_run:
            raise ConfigError(missing)
    else:
        llm = OpenAIChat(
            model, base_url=base_url, key_env=key_env, temperature=temperature, max_tokens=max_tokens,
            timeout=timeout, concurrency=concurrency, reasoning=reasoning_model, rpm=rpm, tpm=tpm,
        )  # fmt: skip
    kinds = [kind for kind, wanted in zip(KINDS, (items, users), strict=True) if wanted]
    results: dict[str, Any] = {}
    incomplete = False
    with (
        (store_to_read if dry_run else Store)(place.profiles_path) as store,
        open_engine(*(("local", None) if dry_run else (engine, address)), say=output.say) as opened,
    ):
        if isinstance(opened, RayEngine) and isinstance(llm, OpenAIChat):
            llm = SpreadChat(llm, opened)
        if parts_in is not None:
            taken = store.take_parts(parts_in)
            output.say(
                f"took {taken.new:,} answers from {escape(str(parts_in))}, {taken.known:,} were there already"
            )
        profiler = Profiler(
            llm, store, domain=domain or _domain(dataset), folder=prompts,
            options=PromptOptions(reviews=reviews, items=sample, tokens=prompt_tokens, seed=seed),
            price=None if price_in is None or price_out is None else Price(price_in, price_out),
            max_cost=max_cost, allow_partial=allow_partial,
        )  # fmt: skip
        for kind in kinds:
            if dry_run:
                estimate = profiler.estimate(dataset, kind, limit=limit, retry_failed=retry_failed)
                if kind == "item":
                    output.say(
                        f"columns of items in the prompts: {escape(', '.join(text_columns(dataset)) or 'none')}"
                    )
                _show_estimate(estimate, output)
                results[kind] = _plain_estimate(estimate)
            elif batch_out is not None:
                count = write_batch(
                    profiler, dataset, kind, batch_out, limit=limit, retry_failed=retry_failed
                )
                output.say(f"wrote {count:,} requests to {batch_out}; read the answers with --batch-in FILE")
                results[kind] = {"requests": count}
            elif batch_in is not None:
                read = read_batch(profiler, dataset, kind, batch_in)
                _show_batch(read, output)
                results[kind] = {
                    **_plain(read.progress),
                    "answers": read.answers,
                    "refused": read.refused,
                    "rejected": read.rejected,
                    "unanswered": read.unanswered,
                    "malformed": read.malformed,
                }
                incomplete |= read.progress.profiled < read.progress.total
            elif parts_in is not None:
                progress = profiler.settle(dataset, kind)
                _show(progress, output, replayed=True)
                _say_left(progress.total - progress.done, output)
                results[kind] = {**_plain(progress), "answers": taken.new}
                incomplete |= progress.profiled < progress.total
            else:
                progress = _run(profiler, dataset, kind, limit, retry_failed, output)
                results[kind] = _plain(progress)
                incomplete |= progress.n_failed > 0 or progress.stopped is not None
                if progress.stopped is not None:
                    break
        if export is not None and not dry_run:
            count = store.export(export, _provenance(profiler, kinds))
            output.say(f"wrote {count:,} answers to {export} ({export.stat().st_size / 1e6:.1f} MB)")
        if parts_out is not None and not dry_run:
            output.say(f"wrote {store.write_parts(parts_out):,} answers into {escape(str(parts_out))}")
    output.result(results)
    if incomplete:
        raise typer.Exit(PARTLY_FAILED)


def _mode(model: str, given: set[str]) -> str:
    """Return which of ``MODES`` the options choose.

    Raises:
        ConfigError: options of two modes at once.
    """
    chosen = [name for name in ("replay", "batch_out", "batch_in", "parts_in") if name in given]
    if len(chosen) > 1 or ("dry_run" in given and chosen not in ([], ["replay"])):
        both = [_named(name) for name in (*chosen, *{"dry_run"} & given)][:2]
        raise ConfigError(f"{both[0]} and {both[1]} exclude each other: leave one of them out")
    if chosen in (["batch_out"], ["batch_in"]) and model == "local":
        raise ConfigError(
            f"{_named(chosen[0])} is for a model at an endpoint, the embedded one has no batch files: give "
            "--model NAME as well"
        )
    if "base_url" in given and not chosen and model == "local":
        raise ConfigError("--base-url is for a model at an endpoint: give --model NAME as well")
    return chosen[0].replace("_", "-") if chosen else "local" if model == "local" else "endpoint"


def _named(option: str) -> str:
    return "--" + option.replace("_", "-")


def _domain(dataset: Dataset) -> str:
    """Return the domain in the provenance of the dataset; "general" if there is none."""
    noted = dataset.provenance.get("domain")
    return noted if noted in DOMAINS else "general"


def _run(
    profiler: Profiler, dataset: Dataset, kind: str, limit: int | None, retry_failed: bool, output: Output
) -> ProfilingProgress:
    from rlmrec.llm.replay import Replay

    total = dataset.n_items if kind == "item" else dataset.n_users
    with output.progress(f"profiling {kind}s", total) as update:
        profiler.on_progress = lambda progress: update(progress.done, _note(progress))
        progress = profiler.run(dataset, kind, limit=limit, retry_failed=retry_failed)
    _show(progress, output, replayed=isinstance(profiler.llm, Replay))
    return progress


def _note(progress: ProfilingProgress) -> str:
    parts = [f"{progress.n_failed} failed", f"{progress.kept} done before"]
    if progress.cached:
        parts.append(f"{progress.cached} from stored answers")
    if progress.repeated:
        parts.append(f"{progress.repeated} tries repeated")
    parts.append(f"{_short(progress.usage.prompt)}+{_short(progress.usage.completion)} tokens")
    if progress.cost is not None:
        parts.append(f"cost {progress.cost:.4g}")
    if progress.rate:
        parts.append(f"{progress.rate:.3g}/s")
    return " · ".join(parts)


def _short(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.1f}k" if count >= 1e3 else str(count)


def _show(progress: ProfilingProgress, output: Output, replayed: bool = False) -> None:
    left = progress.total - progress.done
    line = (
        f"{progress.kind}s: {progress.profiled:,} of {progress.total:,} profiled, "
        f"{progress.n_failed:,} failed, {left:,} left; {progress.asked:,} requests, "
        f"{progress.usage.prompt:,} + {progress.usage.completion:,} tokens"
    )
    if progress.cost is not None:
        line += f", cost {progress.cost:.4g}"
    output.say(f"{line}, {progress.seconds:.1f} s")
    if progress.estimated:
        output.say(
            f"  [yellow]the endpoint did not count the tokens of {progress.estimated:,} answers[/]: theirs, and "
            "their cost, are estimated from the texts"
        )
    if progress.failed:
        listed = ", ".join(f"{escape(what)} {count:,}" for what, count in progress.failed.most_common())
        output.say(f"  [yellow]failed[/]: {listed}")
        for what, _ in progress.failed.most_common():
            output.say(f"    {escape(what)}, mostly: {escape(progress.reason(what))}")
    for label, counts in (
        ("answers repaired", progress.repaired),
        ("prompts shortened to the budget of tokens", progress.truncations),
    ):
        if counts:
            listed = ", ".join(f"{escape(what)} {count:,}" for what, count in counts.most_common())
            output.say(f"  {label}: {listed}")
    if progress.stopped:
        output.say(f"  [bold red]stopped[/]: {escape(progress.stopped)}")
    output.findings(progress.findings)
    if progress.n_unanswered and not replayed:
        output.say(f"  {progress.n_unanswered:,} requests without an answer are sent again by the next run")
    if progress.n_failed > progress.n_unanswered and not replayed:
        output.say("  --retry-failed requests unusable answers again; the raw answers are in the store")


def _show_estimate(estimate: Estimate, output: Output) -> None:
    cost = "unknown (give --price-in and --price-out)" if estimate.cost is None else f"{estimate.cost:.4g}"
    output.say(
        f"[bold]{estimate.kind}s[/]: {estimate.requests:,} requests of {estimate.total:,} "
        f"({estimate.kept:,} need none), about {estimate.usage.prompt:,} prompt tokens and "
        f"{estimate.usage.completion:,} answer tokens, cost {cost}"
    )
    for what, count in estimate.truncations.most_common():
        output.say(f"  {count:,} prompts shortened to the budget: {escape(what)}")
    for number, prompt in enumerate(estimate.samples, 1):
        if number == 1:
            output.say(f"[dim]system prompt[/]\n{escape(prompt.system)}")
        output.say(
            f"[dim]prompt {number}, {prompt.kind} {escape(repr(prompt.key))}[/]\n{escape(prompt.text)}"
        )


def _show_batch(read: BatchRead, output: Output) -> None:
    output.say(
        f"read {read.answers:,} answers, {read.known:,} known before, {read.refused:,} refused by a filter, "
        f"{read.rejected:,} rejected, {read.unanswered:,} without an answer"
    )
    if read.malformed:
        output.say(
            "  [yellow]skipped lines that are not JSON objects with a custom_id[/]: "
            + ", ".join(map(str, read.malformed))
        )
    _show(read.progress, output)
    _say_left(read.progress.total - read.progress.done + read.progress.n_unanswered, output)


def _say_left(left: int, output: Output) -> None:
    if left:
        output.say(f"  {left:,} still need an answer: write the next file with --batch-out FILE")


def _plain(progress: ProfilingProgress) -> dict[str, Any]:
    return {
        "total": progress.total,
        "profiled": progress.profiled,
        "failed": dict(progress.failed),
        "reasons": {kind: progress.reason(kind) for kind in progress.failed},
        "kept": progress.kept,
        "cached": progress.cached,
        "requests": progress.asked,
        "usage": progress.usage._asdict(),
        "estimated": progress.estimated,
        "cost": progress.cost,
        "repeated": progress.repeated,
        "repaired": dict(progress.repaired),
        "cuts": dict(progress.truncations),
        "stopped": progress.stopped,
        "findings": [finding.plain() for finding in progress.findings],
        "seconds": round(progress.seconds, 3),
    }


def _plain_estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "total": estimate.total,
        "kept": estimate.kept,
        "requests": estimate.requests,
        "usage": estimate.usage._asdict(),
        "cost": estimate.cost,
        "cuts": dict(estimate.truncations),
        "samples": [prompt.text for prompt in estimate.samples],
    }


def _provenance(profiler: Profiler, kinds: list[str]) -> dict[str, Any]:
    """Return how exported answers were made, for their manifest."""
    from rlmrec.http_client import without_secrets
    from rlmrec.profiles.template import load_template

    templates = {
        kind: load_template(kind, profiler.domain, folder=profiler.folder, small=profiler.small).source
        for kind in kinds
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["rlmrec", *map(without_secrets, sys.argv[1:])]),
        "domain": profiler.domain,
        "prompt_options": asdict(profiler.options),
        "prompts_sha256": {
            kind: hashlib.sha256(source.encode()).hexdigest() for kind, source in templates.items()
        },
    }
