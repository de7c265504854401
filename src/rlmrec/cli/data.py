"""rlmrec data …: from files to a dataset in the workspace. Each reader is a command, made of its signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption, command_line
from rlmrec.cli.output import Output
from rlmrec.data.lines import Progress
from rlmrec.data.readers import READERS, Reader
from rlmrec.errors import ConfigError, DataError, RlmrecError
from rlmrec.findings import by_number
from rlmrec.profiles import DOMAINS

if TYPE_CHECKING:
    from rlmrec.data.dataset import Dataset
    from rlmrec.findings import Finding
    from rlmrec.types import Float32Array
    from rlmrec.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Read interactions and texts, filter, split, and store them in the workspace.\n\n"
    "**Example:**  `rlmrec data table ratings.csv --items items.csv -w shop`",
)

ColumnOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="By default as when the dataset was made.")
]
FormatOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="As for 'rlmrec data table'; by default as when the dataset was made."),
]
QueryOption = Annotated[str | None, typer.Option(metavar="SQL", help="As for 'rlmrec data table'.")]
StrictOption = Annotated[
    bool,
    typer.Option(help="End with an error and write nothing if something in the data looks like a mistake."),
]
# Where the help of a command shows an option; those that are not here come first.
PANELS = {
    option: panel
    for panel, options in {
        "Columns of interactions": "user_column item_column rating_column timestamp_column review_column weight_column "
        "min_weight",
        "Items and users": "items items_query items_id_column title_column text_columns users users_query "
        "users_id_column",
        "How values are written": "delimiter decimal encoding timestamp_format item_separator",
        "Filters and split": "min_rating start end sample_users k_core split cold seed",
    }.items()
    for option in options.split()
}
# The options of every command whose source is filtered and split: name → type with help, default.
FILTERS: dict[str, tuple[Any, Any]] = {
    "min_rating": (Annotated[float | None, typer.Option(help="Keep ratings of at least this.")], None),
    "start": (
        Annotated[
            str | None,
            typer.Option("--from", help="Keep interactions of this day (2012-01-31, UTC) or later."),
        ],
        None,
    ),
    "end": (
        Annotated[str | None, typer.Option("--until", help="Keep interactions of this day or earlier.")],
        None,
    ),
    "sample_users": (
        Annotated[
            float | None,
            typer.Option(min=0, help="Users to keep at random: a share up to 1, or their number."),
        ],
        None,
    ),
    "k_core": (
        Annotated[int, typer.Option(min=1, help="Smallest number of interactions of each user and item.")],
        10,
    ),
    "split": (
        Annotated[
            str,
            typer.Option(
                help="Training, validation and test: 3:1:1 at random, 'hash 3:1:1', 'temporal 8:1:1', 'temporal "
                "2026-11-01 2026-11-15' or 'leave-last 1'; see docs/data.md."
            ),
        ],
        "3:1:1",
    ),
    "cold": (
        Annotated[
            str,
            typer.Option(
                help="Held-out interactions of users and items without training, as a split by time has: keep or drop."
            ),
        ],
        "keep",
    ),
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
        option: _keyword(option, kind, getattr(reader, option, default))
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
        if "progress" in signature:
            with _reading(output) as arguments["progress"]:
                source = reader.read(**arguments)
        else:
            with output.step("reading"):
                source = reader.read(**arguments)
        if source.is_split:
            _refuse_filters(context, filters)
            options = {}
        vectors, read = source.vectors, [source]
        del source  # its interactions go while the dataset is made: those of a large file take gigabytes
        with output.step("checking and splitting"):
            dataset = Dataset.from_source(read.pop(), **options)
        if values["strict"]:
            _refuse_findings(dataset.findings, output)
        dataset.provenance["commands"] = [command_line(context, "data")]
        _store(dataset, vectors, place, output)

    required = [parameter for parameter in own.values() if parameter.default is parameter.empty]
    arguments = [p for p in own.values() if _is_argument(p) and p not in required]
    first = [*required, *arguments]
    shared = {
        "workspace": _keyword("workspace", WorkspaceOption, DEFAULT_WORKSPACE),
        "strict": _keyword("strict", StrictOption, False),
        "as_json": _keyword("as_json", JsonOption, False),
    }
    parameters = [
        _keyword("context", typer.Context, inspect.Parameter.empty),
        *first,
        shared["workspace"],
        *(parameter for parameter in own.values() if parameter not in first),
        *filters.values(),
        shared["strict"],
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
    """Return a parameter of a command; an option gets its place in the help."""
    if name in PANELS:
        annotation.__metadata__[0].rich_help_panel = PANELS[name]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _typer_parameter(parameter: inspect.Parameter, help_text: str) -> inspect.Parameter:
    """Make an argument of a positional parameter of a reader, an option of a keyword-only one."""
    # A location is a path or a connection string, whose slashes a path would merge.
    kind = {Path | str: str, Path | str | None: str | None}.get(parameter.annotation, parameter.annotation)
    metavar = None if kind == parameter.annotation else "PATH"
    if parameter.name == "domain":
        help_text = f"{help_text} One of {', '.join(DOMAINS)}."
    if parameter.kind is not parameter.KEYWORD_ONLY:
        return _keyword(parameter.name, Annotated[kind, typer.Argument(help=help_text)], parameter.default)
    least = 0 if kind is int else None
    return _keyword(
        parameter.name,
        Annotated[kind, typer.Option(help=help_text, min=least, metavar=metavar)],
        parameter.default,
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
    from rlmrec.data.filters import bounds_of_period
    from rlmrec.data.split import SplitRule

    start, end = values.pop("start"), values.pop("end")
    try:
        SplitRule.parse(values["split"])  # before the file is read
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None
    return {**values, "period": bounds_of_period(start, end, ("--from", "--until"))}


def _refuse_filters(context: typer.Context, filters: dict[str, Any]) -> None:
    names = {"start": "from", "end": "until"}
    given = [
        f"--{names.get(name, name.replace('_', '-'))}"
        for name in filters
        if getattr(context.get_parameter_source(name), "name", None) != "DEFAULT"
    ]
    if given:
        raise ConfigError(f"{', '.join(given)}: not allowed with a ready-made split, which is kept as it is")


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


def _store(
    dataset: Dataset,
    vectors: tuple[Float32Array, Float32Array] | None,
    workspace: Workspace,
    output: Output,
) -> None:
    """Save the dataset and report on it, and on what in the workspace belongs to the dataset before it."""
    from rlmrec.data.dataset import SPLITS
    from rlmrec.text.embeddings import TextEmbeddings

    try:
        old = workspace.dataset()
        changed, other_texts = old.fingerprint != dataset.fingerprint, old.content != dataset.content
    except RlmrecError:
        changed = other_texts = False  # none there yet, or one that cannot be read and is replaced now
    dataset.save(workspace.dataset_path)
    if vectors is not None:
        manifest = {"encoder": "published", "users": "published", "dataset": dataset.fingerprint}
        TextEmbeddings(*vectors, manifest).save(workspace.text_embeddings_path())
        output.say(
            f"text vectors of the source, {vectors[0].shape[1]} dimensions: {workspace.text_embeddings_path()}"
        )
    has_vectors, has_runs = (any(workspace.path.glob(made)) for made in ("*/*.safetensors", "runs/[!.]*"))
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
    output.findings(dataset.findings)
    output.result(
        {
            "dataset": str(workspace.dataset_path),
            "users": dataset.n_users,
            "items": dataset.n_items,
            **{part: len(dataset.split(part)) for part in SPLITS},
            "cold": 0 if dataset.cold is None else len(dataset.cold),
            "fingerprint": dataset.fingerprint,
            "findings": [finding.plain() for finding in dataset.findings],
            **{
                key: dataset.provenance[key]
                for key in ("lines", "texts", "matched")
                if key in dataset.provenance
            },
        }
    )


def _refuse_findings(findings: Sequence[Finding], output: Output) -> None:
    """Print the findings and raise an error if one of them looks like a mistake."""
    mistakes = [finding for finding in findings if not finding.ordinary]
    if mistakes:
        output.findings(mistakes)
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in mistakes))
        raise DataError(
            f"--strict: {len(mistakes)} {by_number(len(mistakes), 'finding', 'findings')} in the data ({kinds}): "
            "nothing is written; correct the data or leave out --strict"
        )


def describe(dataset: Dataset, output: Output) -> None:
    """Print the sizes, texts and filters of a dataset as a table."""
    import numpy as np

    from rlmrec.data.dataset import SPLITS
    from rlmrec.data.metadata import listed_columns, text_columns, with_text

    degrees = dataset.train.user_degrees()
    rows = [
        ["users x items", f"{dataset.n_users:,} x {dataset.n_items:,}"],
        ["train / valid / test", " / ".join(f"{len(dataset.split(part)):,}" for part in SPLITS)],
        *([["held out, user without training", f"{len(dataset.cold):,}"]] if dataset.cold else []),
        ["density of training", f"{len(dataset.train) / (dataset.n_users * dataset.n_items):.2e}"],
        ["training items per user", f"median {np.median(degrees):.0f}, least {degrees.min()}"],
    ]
    for kind, table, size, unused in (
        ("item", dataset.item_texts, dataset.n_items, "not in prompts and vectors"),
        ("user", dataset.user_texts, dataset.n_users, "not in vectors of users"),
    ):
        names = text_columns(dataset, kind)
        shown = listed_columns(dataset, names) if kind == "item" else ", ".join(names)
        rows.append([f"{kind} texts", shown or "none"])
        if table is not None:
            others = [name for name in table.columns if name not in names]
            if others:
                rows.append([unused, ", ".join(others)])
            rows.append([f"{kind}s with a text", f"{with_text(dataset, kind):,} of {size:,}"])
    if "domain" in dataset.provenance:
        rows.append(["domain of the prompts", str(dataset.provenance["domain"])])
    steps = {
        **{
            f"interactions: {label}": count
            for label, count in dataset.provenance.get("interactions", {}).items()
        },
        **dataset.provenance.get("texts", {}),
    }
    rows += [[label, f"{count:,}"] for label, count in steps.items()]
    output.table(f"dataset {dataset.name}", ["", ""], rows, text_columns=2)
    _say_left_out(dataset, output)


def _say_left_out(dataset: Dataset, output: Output) -> None:
    """Print who was left out and why, in yellow where it is much."""
    from rlmrec.data.dataset import MUCH, left_out_line

    for kind, size in (("users", dataset.n_users), ("items", dataset.n_items)):
        reasons = dataset.filtered_out()[kind]
        line, share = left_out_line(reasons, size, kind)
        if share > MUCH:
            core = any("core" in reason for reason in reasons)
            remedy = "; --k-core 1 keeps everybody" if core else ""
            output.say(f"[yellow]{escape(line)}{remedy}[/]")
        elif line:
            output.say(escape(line))


@app.command("append")
def append_command(
    context: typer.Context,
    file: Annotated[
        str | None,
        typer.Argument(
            help="File or database of new interactions; leave it out to update items or users.",
            metavar="[PATH]",
        ),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    query: QueryOption = None,
    items: Annotated[
        str | None,
        typer.Option(
            help="File of items: texts of new ones, and new values such as prices of known ones.",
            metavar="PATH",
        ),
    ] = None,
    items_query: QueryOption = None,
    items_id_column: ColumnOption = None,
    users: Annotated[str | None, typer.Option(help="File of users, likewise.", metavar="PATH")] = None,
    users_query: QueryOption = None,
    users_id_column: ColumnOption = None,
    user_column: ColumnOption = None,
    item_column: ColumnOption = None,
    rating_column: ColumnOption = None,
    timestamp_column: ColumnOption = None,
    review_column: ColumnOption = None,
    title_column: ColumnOption = None,
    delimiter: FormatOption = None,
    decimal: FormatOption = None,
    encoding: FormatOption = None,
    timestamp_format: FormatOption = None,
    item_separator: FormatOption = None,
    strict: StrictOption = False,
    weight_column: FormatOption = None,
    min_weight: Annotated[
        float | None,
        typer.Option(help="As for 'rlmrec data table'; the weights of this table alone are added."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Append new interactions, users and items to the workspace's dataset.

    Ids keep their rows and held-out interactions stay held out, so that runs, vectors and profiles of before stay
    usable; only texts that are new or have changed are encoded or asked again. New interactions are split by the
    rule of the dataset. Repeating the command changes nothing.

    **Examples:**

    `rlmrec data append orders-2026-11-28.csv --items products.csv -w shop`

    `rlmrec data append --items stock.csv -w shop`   (prices and stock alone)
    """
    from rlmrec.data.append import append, columns_of
    from rlmrec.data.file_format import FileFormat
    from rlmrec.data.metadata import text_columns, title_origin
    from rlmrec.data.tables import read_described, read_interactions, without_table
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    items, users = (
        own if of is None else own or file for own, of in ((items, items_query), (users, users_query))
    )
    if file is None and items is None and users is None:
        raise ConfigError("nothing to append: give a file of interactions, --items FILE or --users FILE")
    for kind, path, column in (("item", items, items_id_column), ("user", users, users_id_column)):
        if path is None and column is not None:
            raise without_table(kind)
    with place.changing_dataset(), output.step("appending"):
        dataset = place.dataset()
        recorded = dataset.provenance.get("columns", {})
        given = {
            "user": user_column,
            "item": item_column,
            "rating": rating_column,
            "timestamp": timestamp_column,
            "review": review_column,
        }
        columns = columns_of(dataset)._replace(**{name: own for name, own in given.items() if own})
        items_id = items_id_column or recorded.get("items_id") or columns.item
        users_id = users_id_column or recorded.get("users_id") or columns.user
        written = {
            "delimiter": delimiter,
            "decimal": decimal,
            "encoding": encoding,
            "timestamp_format": timestamp_format,
            "item_separator": item_separator,
            "weight_column": weight_column,
            "min_weight": min_weight,
        }
        form = FileFormat(
            **dataset.provenance.get("format", {})
            | {name: own for name, own in written.items() if own is not None}
        )
        named = [name for name in (title_column or title_origin(dataset), *text_columns(dataset)) if name]
        appended = append(
            dataset,
            None if file is None else read_interactions(file, columns, form, query),
            columns,
            items=read_described(items, "item", items_id, form, items_query, named)
            if items is not None
            else None,
            users=read_described(users, "user", users_id, form, users_query) if users is not None else None,
            title=title_column,
            items_id=items_id,
            users_id=users_id,
        )
        grown = appended.dataset
        if strict:
            _refuse_findings(appended.findings, output)
        if grown is not dataset:
            if made_by := dataset.provenance.get("commands"):  # a dataset made otherwise has none to repeat
                grown.provenance["commands"] = [*made_by, command_line(context, "data")]
            grown.save(place.dataset_path)
    rows = [[label, f"{count:,}"] for label, count in appended.counts.items()]
    rows += [
        ["new users", f"{len(appended.new_users):,}"],
        ["new items", f"{len(appended.new_items):,}"],
        ["users x items", f"{grown.n_users:,} x {grown.n_items:,}"],
    ]
    output.table(f"appended to {grown.name}", ["", ""], rows)
    output.findings(appended.findings)
    if grown is dataset:
        output.say("nothing new: the dataset stays as it is")
    elif grown.fingerprint != dataset.fingerprint:
        output.say("next: 'rlmrec encode' for vectors of what is new, then 'rlmrec train'")
    elif appended.counts.get("known items with a changed text"):
        output.say(
            "next: 'rlmrec encode' for the texts that have changed, of which stored text embeddings have the former "
            "ones, then 'rlmrec train'"
        )
    output.result(
        {
            "dataset": str(place.dataset_path),
            "fingerprint": grown.fingerprint,
            "counts": appended.counts,
            "findings": [finding.plain() for finding in appended.findings],
            "new_users": len(appended.new_users),
            "new_items": len(appended.new_items),
            "changed": grown is not dataset,
        }
    )


for _name, _reader in READERS.items():
    app.command(_name)(make_command(_reader))
