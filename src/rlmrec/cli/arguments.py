"""The arguments that several commands share, defined once. This module is light: every --help imports it."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from rlmrec.alignment import ALIGNMENTS
from rlmrec.engine import ENGINES
from rlmrec.models import MODELS

DEFAULT_WORKSPACE = Path("workspace")

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder of the project's dataset, text embeddings and runs.")
]
RunOption = Annotated[str, typer.Option(help="Name of a finished run.")]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        help="Encoder of the text, as for 'rlmrec encode'; by default the recorded one. Needed for a model, an "
        "endpoint or a class of your own: a stored file never chooses them."
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        help='Only items for which this SQL condition over their columns is true: "in_stock = true and category = '
        "'Kitchen'\"."
    ),
]
BaseUrlOption = Annotated[
    str | None, typer.Option(help="Root of an OpenAI-compatible endpoint; OpenAI's by default.")
]
KeyEnvOption = Annotated[str, typer.Option(help="Environment variable with the endpoint's key.")]
AddedItemsOption = Annotated[
    str | None,
    typer.Option(
        metavar="POSTGRES",
        help="Postgres database with the items added by text, postgresql://…, for servers on several machines; by "
        "default a file of the workspace. The password may be in PGPASSWORD or ~/.pgpass.",
    ),
]
RequestsAMinute = Annotated[
    float | None,
    typer.Option("--rpm", min=0.01, help="Most requests to the endpoint in a minute, evenly spaced."),
]
TokensAMinute = Annotated[
    float | None,
    typer.Option(
        "--tpm", min=1, help="Most tokens in a minute, by an estimate of each request and its longest answer."
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(help=f"{MODELS.choices}. By default graph-filter; with an alignment, lightgcn."),
]
BaselinesOption = Annotated[
    bool,
    typer.Option(
        "--baselines/--no-baselines",
        help="Show popularity and the graph filter too; they are fitted as the runs popularity and graph-filter, "
        "and again when the dataset has changed.",
    ),
]
AlignmentOption = Annotated[str, typer.Option(help=f"{ALIGNMENTS.choices}.")]
PresetOption = Annotated[
    str,
    typer.Option(
        help="Set of options: general, movielens, the paper's amazon, yelp or steam, or a TOML file."
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Override an option; repeat for several. "
        "alignment.NAME, backbone.NAME or training.NAME where several have one of that name.",
    ),
]
TextEmbeddingsOption = Annotated[
    str,
    typer.Option(
        "--text-embeddings", metavar="NAME", help="Text embeddings, by the --name of 'rlmrec encode'."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of initialisation and training.")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Maximum number of epochs.")]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda or mps. Closed forms such as graph-filter use the CPU.")
]
DevicesOption = Annotated[
    str,
    typer.Option(
        help="cpu, cuda or mps. With --jobs, cuda spreads the trials over all devices of this machine, and "
        "cuda:0,cuda:2 over those two."
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing run and start again.")
]
JobsOption = Annotated[
    int, typer.Option(min=1, help="Trials that run at the same time, each in a process of its own.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads of each trial; by default all cores divided by the trials at the same time."
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        metavar="ENGINE",
        help=f"{', '.join(ENGINES)}. ray spreads the work over the workers of Ray (extra ray), here or on a cluster.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="With --engine ray: HOST:PORT of a running cluster, or auto. By default Ray is started on this machine."
    ),
]
PartsInOption = Annotated[
    Path | None,
    typer.Option(
        help="Take what a folder of Parquet parts holds, such as --parts-out wrote on another machine."
    ),
]
PartsOutOption = Annotated[
    Path | None,
    typer.Option(
        help="At the end, write everything stored into this folder as Parquet parts for --parts-in."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON line on stdout; all other output goes to stderr.")
]


def is_given(context: typer.Context, option: str) -> bool:
    """Return whether an option, by the name of its parameter, was set by the user."""
    source = context.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"


def command_line(context: typer.Context, *group: str, without: Collection[str] = ()) -> str:
    """Return the command that was given, without the workspace, --json and passwords in addresses.

    Args:
        context: of the command.
        group: the command's group, such as "data".
        without: further options that are left out, by the names of their parameters.
    """
    words = ["rlmrec", *group, str(context.info_name)]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        if not is_given(context, name) or name in ("workspace", "as_json", *without):
            continue
        option, *_ = parameter.opts
        if parameter.param_type_name == "argument":
            words.append(_without_password(str(value)))
        elif isinstance(value, bool):
            words.append(option if value else parameter.secondary_opts[0])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [option, _without_password(str(one))]
    return shlex.join(words)


def _without_password(value: str) -> str:
    if value.startswith(("http://", "https://")):
        from rlmrec.http_client import without_secrets

        return without_secrets(value)
    from rlmrec.data.databases import shown

    return shown(value)
