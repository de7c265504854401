"""rlmrec data …: from files to a dataset in the workspace. Each reader is a command, made of its signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from rlmrec.cli.output import Output
from rlmrec.data.lines import Progress
from rlmrec.data.readers import READERS, Reader
from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.profiles import DOMAINS

if TYPE_CHECKING:
    from rlmrec.data.dataset import Dataset
    from rlmrec.data.source import Source
    from rlmrec.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Read interactions and texts, filter, split, and store them in the workspace.\n\n"
    "**Example:**  `rlmrec data table ratings.csv --items items.csv -w shop`",
)

DAY = 86400.0  # seconds; the day after the last one of the calendar has no date
# The options of every command whose source is filtered and split: name → type with help, default.
FILTERS: dict[str, tuple[Any, Any]] = {
    "min_rating": (Annotated[float | None, typer.Option(help="Keep ratings of at least this.")], None),
    "start": (
        Annotated[
            str | None,
            typer.Option("--from", help="Keep interactions of this day (UTC, 2012-01-31) and later."),
        ],
        None,
    ),
    "end": (
        Annotated[str | None, typer.Option("--until", help="Keep interactions of this day and earlier.")],
        None,
    ),
    "sample_users": (
        Annotated[
            float | None,
            typer.Option(min=0, help="Users to keep, at random: a share up to 1, or their number."),
        ],
        None,
    ),
    "k_core": (
        Annotated[int, typer.Option(min=1, help="Each user and item keeps at least this many interactions.")],
        10,
    ),
    "split": (Annotated[str, typer.Option(help="Ratio of training, validation and test.")], "3:1:1"),
    "seed": (Annotated[int, typer.Option(min=0, help="Seed of the sampling and the split.")], 0),
}


def make_command(reader: Reader) -> Callable[..., None]:
    """Make the command of a reader: its own parameters, the workspace, the filters and --json."""
    declaration = reader.declaration
    summary, help_texts = _documented(declaration)
    signature = inspect.signature(declaration, eval_str=True).parameters
    own = {
        name: _typer_parameter(parameter, help_texts.get(name, ""))
        for name, parameter in signature.items()
        if name != "progress"
    }
    filters = {
        option: _keyword(option, kind, reader.min_rating if option == "min_rating" else default)
        for option, (kind, default) in ({} if reader.is_split else FILTERS).items()
        if reader.rated or option != "min_rating"
    }

    def command(**values: Any) -> None:
        from rlmrec.data.dataset import Dataset
        from rlmrec.workspace import Workspace

        context, place, output = values["context"], Workspace(values["workspace"]), Output(values["as_json"])
        if values.get("domain") not in (None, *DOMAINS):
            raise ConfigError(f"--domain {values['domain']!r}: expected one of {', '.join(DOMAINS)}")
        options = _filter_options({option: values[option] for option in filters})
        arguments = {parameter: values[parameter] for parameter in own}
        with _reading(output) as progress:
            if "progress" in signature:
                arguments["progress"] = progress
            source = reader.read(**arguments)
            if source.is_split:
                _refuse_filters(context, filters)
                options = {}
            dataset = Dataset.from_source(source, **options)
        _store(dataset, source, place, output)

    required = [parameter for parameter in own.values() if parameter.default is parameter.empty]
    arguments = [p for p in own.values() if _is_argument(p) and p not in required]
    first = [*required, *arguments]
    shared = {
        "workspace": _keyword("workspace", WorkspaceOption, DEFAULT_WORKSPACE),
        "as_json": _keyword("as_json", JsonOption, False),
    }
    parameters = [
        _keyword("context", typer.Context, inspect.Parameter.empty),
        *first,
        shared["workspace"],
        *(parameter for parameter in own.values() if parameter not in first),
        *filters.values(),
        shared["as_json"],
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    examples = "\n\n".join(f"`rlmrec data {example}`" for example in reader.examples)
    command.__doc__ = f"{summary}\n\n**Example:**  {examples}"
    return command


def _is_argument(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter of a command is an argument and not an option."""
    return isinstance(parameter.annotation.__metadata__[0], typer.models.ArgumentInfo)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _typer_parameter(parameter: inspect.Parameter, help_text: str) -> inspect.Parameter:
    """Make an argument of a positional parameter of a reader, an option of a keyword-only one."""
    kind = {Path | str: Path, Path | str | None: Path | None}.get(parameter.annotation, parameter.annotation)
    if parameter.name == "domain":
        help_text = f"{help_text} One of {', '.join(DOMAINS)}."
    if parameter.kind is not parameter.KEYWORD_ONLY:
        return _keyword(parameter.name, Annotated[kind, typer.Argument(help=help_text)], parameter.default)
    least = 0 if kind is int else None
    return _keyword(
        parameter.name, Annotated[kind, typer.Option(help=help_text, min=least)], parameter.default
    )


def _documented(read: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Split a docstring into its description and the help text of each argument."""
    summary, _, rest = (inspect.getdoc(read) or "").partition("\n\nArgs:\n")
    arguments = re.split(r"\n\n", rest)[0]
    found = re.findall(r"^    (\w+): (.+(?:\n {8,}.+)*)", arguments, re.MULTILINE)
    return summary, {name: " ".join(text.split()) for name, text in found}


def _filter_options(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the options of a command to those of ``Dataset.from_source``."""
    if not values:
        return {}
    start, end, split = values.pop("start"), values.pop("end"), values.pop("split")
    return {**values, "period": _period(start, end), "split": _ratio(split)}


def _refuse_filters(context: typer.Context, filters: dict[str, Any]) -> None:
    names = {"start": "from", "end": "until"}
    given = [
        f"--{names.get(name, name.replace('_', '-'))}"
        for name in filters
        if getattr(context.get_parameter_source(name), "name", None) != "DEFAULT"
    ]
    if given:
        raise ConfigError(f"{', '.join(given)}: not allowed with a ready-made split, which is kept as it is")


def _period(start: str | None, end: str | None) -> tuple[float | None, float | None] | None:
    """Return the bounds of the period in seconds, from the start of the one day to the end of the other."""
    first, last = _day("--from", start), _day("--until", end)
    if first is not None and last is not None and first > last:
        raise ConfigError(f"--from {start} is after --until {end}")
    if first is None and last is None:
        return None
    return (
        None if first is None else _midnight(first),
        None if last is None else _midnight(last) + DAY,
    )


def _day(option: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r}: expected a day such as 2012-01-31") from None


def _midnight(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()


@contextmanager
def _reading(output: Output) -> Iterator[Progress]:
    """Progress bars over the bytes of one file after the other."""
    with ExitStack() as bars:
        shown = ""
        update: Any = None

        def progress(what: str, done: int, size: int) -> None:
            nonlocal shown, update
            if what != shown:
                bars.close()  # a terminal shows one at a time
                shown, update = what, bars.enter_context(output.progress(f"{what}, MiB", -(-size >> 20)))
            update(-(-done >> 20))

        yield progress


def _ratio(text: str) -> tuple[float, float, float]:
    try:
        train, valid, test = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"--split {text!r}: expected three numbers such as 3:1:1") from None
    return train, valid, test


def _store(dataset: Dataset, source: Source, workspace: Workspace, output: Output) -> None:
    """Save the dataset and report on it, and on what in the workspace belongs to the dataset before it."""
    from rlmrec.data.dataset import SPLITS
    from rlmrec.text.embeddings import TextEmbeddings

    try:
        old = workspace.dataset()
        changed, other_texts = old.fingerprint != dataset.fingerprint, old.content != dataset.content
    except RlmrecError:
        changed = other_texts = False  # none there yet, or one that cannot be read and is replaced now
    dataset.save(workspace.dataset_path)
    if source.vectors is not None:
        manifest = {"encoder": "published", "users": "published", "dataset": dataset.fingerprint}
        TextEmbeddings(*source.vectors, manifest).save(workspace.text_embeddings_path())
        output.say(
            f"text vectors of the source, {source.vectors[0].shape[1]} dimensions: {workspace.text_embeddings_path()}"
        )
    for note in dataset.notes:
        output.say(f"[yellow]note[/]: {escape(note)}")
    has_vectors, has_runs = (any(workspace.path.glob(made)) for made in ("*/*.safetensors", "runs/*"))
    if changed and (has_vectors or has_runs):
        output.say(
            "[yellow]the dataset has changed: text vectors and runs of the old one will be refused[/]; "
            "run 'rlmrec encode' and 'rlmrec train --overwrite' again"
        )
    elif other_texts and has_vectors:
        output.say(
            "[yellow]the texts of the dataset have changed[/]: run 'rlmrec encode' again for vectors of them"
        )
    if other_texts and workspace.profiles_path.exists():
        output.say(
            f"[yellow]the profiles in {escape(str(workspace.profiles_path))} were written for the old dataset and will "
            "be refused[/]: run 'rlmrec profile' again as before, which re-sends only "
            "prompts that changed, and then encode"
        )
    describe(dataset, output)
    output.result(
        {
            "dataset": str(workspace.dataset_path),
            "users": dataset.n_users,
            "items": dataset.n_items,
            **{part: len(dataset.split(part)) for part in SPLITS},
            "fingerprint": dataset.fingerprint,
            **{
                key: dataset.provenance[key]
                for key in ("lines", "texts", "matched")
                if key in dataset.provenance
            },
        }
    )


def describe(dataset: Dataset, output: Output) -> None:
    """Print the sizes, texts and filters of a dataset as a table."""
    import numpy as np
    import polars as pl

    from rlmrec.data.dataset import SPLITS

    degrees = dataset.train.user_degrees()
    rows = [
        ["users x items", f"{dataset.n_users:,} x {dataset.n_items:,}"],
        ["train / valid / test", " / ".join(f"{len(dataset.split(part)):,}" for part in SPLITS)],
        ["density of training", f"{len(dataset.train) / (dataset.n_users * dataset.n_items):.2e}"],
        ["training items per user", f"median {np.median(degrees):.0f}, least {degrees.min()}"],
        ["item texts", ", ".join(dataset.item_texts.columns) if dataset.item_texts is not None else "none"],
    ]
    if dataset.item_texts is not None:
        with_text = int(dataset.item_texts.select(pl.any_horizontal(pl.all().is_not_null())).sum().item())
        rows.append(["items with a text", f"{with_text:,} of {dataset.n_items:,}"])
    if "domain" in dataset.provenance:
        rows.append(["domain of the prompts", str(dataset.provenance["domain"])])
    steps = {
        **{
            f"interactions {label}": count
            for label, count in dataset.provenance.get("interactions", {}).items()
        },
        **dataset.provenance.get("texts", {}),
    }
    rows += [[label, f"{count:,}"] for label, count in steps.items()]
    output.table(f"dataset {dataset.name}", ["", ""], rows)


for _name, _reader in READERS.items():
    app.command(_name)(make_command(_reader))
