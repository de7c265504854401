"""What rlmrec experiment figure1, figure6 and theorem2 run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from rlmrec.cli.output import Output
from rlmrec.errors import ConfigError
from rlmrec.llm.client import LLM, OpenAIChat
from rlmrec.llm.local import LocalChat
from rlmrec.paper import case_study, rerank, theorem2
from rlmrec.workspace import Workspace

ANSWER_TOKENS = 110  # of the embedded model: twenty numbers and their commas


@dataclass(frozen=True)
class Request:
    """What was asked of an experiment that is no grid of training runs. None and () stand for the experiment's own.

    Args:
        place: the workspace.
        results: the folder of JSON lines; the experiment writes into its own folder there.
        output: where to print.
        only: theorem2: "information" and "n" → values to keep.
        seeds: theorem2: how many, from 1 on.
        run: figure1: the run whose lists are re-ranked.
        users: figure1: how many.
        candidates: figure1: length of the lists.
        shuffle: figure1: show the candidates in random order.
        model: figure1: "local", or a name at an endpoint.
        base_url: figure1: root of the endpoint.
        key_env: figure1: variable with its key.
        concurrency: figure1: requests at once.
        threads: figure1: CPU threads of the embedded model.
        base: figure6: the run without alignment.
        runs: figure6: the runs to hold against it.
    """

    place: Workspace
    results: Path
    output: Output
    only: dict[str, list[str]]
    seeds: int | None = None
    run: str | None = None
    users: int | None = None
    candidates: int | None = None
    shuffle: bool = False
    model: str | None = None
    base_url: str | None = None
    key_env: str | None = None
    concurrency: int | None = None
    threads: int | None = None
    base: str | None = None
    runs: Sequence[str] = ()

    def given(self) -> set[str]:
        """The options that were given."""
        own = ("place", "results", "output")
        return {
            name
            for name, value in vars(self).items()
            if name not in own and value not in (None, False, (), {})
        }


def figure1(request: Request) -> None:
    """Re-rank a run's lists by a language model."""
    if request.run is None:
        raise ConfigError("figure1 re-ranks the lists of a finished run: give --run NAME")
    given = {"users": request.users, "candidates": request.candidates}
    config = rerank.RerankConfig(
        shuffle=request.shuffle, **{name: value for name, value in given.items() if value is not None}
    )
    request.place.finished_run(request.run)  # says what is missing before a model is loaded
    llm = _language_model(request)
    with request.output.progress("figure1", config.users or 0) as update:
        rerank.run(
            request.place, request.run, llm, config, folder=request.results,
            on_user=lambda settled, total: update(settled, f"of {total} users"),
        )  # fmt: skip


def _language_model(request: Request) -> LLM:
    model = request.model or "local"
    if model != "local":
        return OpenAIChat(
            model, base_url=request.base_url, key_env=request.key_env or "OPENAI_API_KEY",
            concurrency=request.concurrency or 16,
        )  # fmt: skip
    if missing := LocalChat.missing():
        raise ConfigError(missing)
    return LocalChat(field_tokens={"ranking": ANSWER_TOKENS}, threads=request.threads)


def figure6(request: Request) -> None:
    """Compare runs on pairs of distant users."""
    if request.base is None or not request.runs:
        raise ConfigError("figure6 holds finished runs against a base: give --base RUN --runs RUN,RUN")
    runs = [name.strip() for listed in request.runs for name in listed.split(",")]
    case_study.run(request.place, request.base, runs, folder=request.results)


def theorem(request: Request) -> None:
    """Estimate the bound on Gaussians; needs no dataset."""
    chosen = _numbers(request.only)
    configs = (
        [theorem2.Theorem2Config(seed=seed) for seed in range(1, request.seeds + 1)] if request.seeds else []
    )
    for config in configs or [theorem2.Theorem2Config()]:
        information = tuple(i for i in config.information if i in chosen.get("information", [i]))
        sizes = tuple(n for n in config.sizes if n in chosen.get("n", [n]))
        if not information or not sizes:
            raise ConfigError(
                f"theorem2 has no such trial: information is one of {_listed(config.information)}, "
                f"n of {_listed(config.sizes)}"
            )
        config = config.model_copy(update={"information": information, "sizes": sizes})
        total = len(theorem2.CRITICS) * len(config.information) * len(config.sizes)
        with request.output.progress(f"theorem2, seed {config.seed}", total) as update:

            def on_row(
                row: theorem2.Row,
                number: int,
                lacking: int,
                update: Callable[..., None] = update,
                total: int = total,
            ) -> None:
                update(total - lacking + number, f"{row.critic} critic, I = {row.information:g}, N = {row.n}")

            theorem2.run(request.results, config, on_row)
            update(total)


def _numbers(only: dict[str, list[str]]) -> dict[str, list[float]]:
    unknown = set(only) - {"information", "n"}
    if unknown:
        raise ConfigError(f"--only {', '.join(sorted(unknown))}: expected information or n before =")
    try:
        return {name: [float(value) for value in values] for name, values in only.items()}
    except ValueError:
        raise ConfigError("--only information= and n= take numbers") from None


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


# Name → (function, the options of Request that it takes).
FUNCTIONS: dict[str, tuple[Callable[[Request], None], frozenset[str]]] = {
    "figure1": (
        figure1,
        frozenset(
            {
                "run",
                "users",
                "candidates",
                "shuffle",
                "model",
                "base_url",
                "key_env",
                "concurrency",
                "threads",
            }
        ),
    ),
    "figure6": (figure6, frozenset({"base", "runs"})),
    "theorem2": (theorem, frozenset({"only", "seeds"})),
}


def run_figure(name: str, request: Request, ignored: Sequence[str]) -> None:
    """Run ``name``.

    Args:
        name: of ``FUNCTIONS``.
        request: what was asked.
        ignored: options that were given and mean nothing here, but change no result, such as --jobs.

    Raises:
        ConfigError: an option was given that it does not have.
    """
    function, takes = FUNCTIONS[name]
    check_options(name, request.given() - takes)
    if ignored:
        request.output.say(f"[yellow]{name} runs in one process: {escape(', '.join(ignored))} is not used[/]")
    function(request)


def check_options(name: str, wrong: set[str]) -> None:
    """Refuse options that the experiment does not have.

    Raises:
        ConfigError: there are some.
    """
    if wrong:
        listed = ", ".join("--" + option.replace("_", "-") for option in sorted(wrong))
        raise ConfigError(f"{name} has no {listed}: see rlmrec experiment --help")
