"""Steps that the quickstarts share."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import TYPE_CHECKING

from rich.markup import escape

from rlmrec.errors import ConfigError

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.workspace import Workspace

SHOWN = 240  # characters of a profile


def keep(dataset: Dataset, place: Workspace, overwrite: bool, output: Output) -> None:
    """Store the dataset in the workspace and describe it.

    Raises:
        ConfigError: the workspace holds another dataset.
    """
    from rlmrec.cli.data import describe

    if place.dataset_path.exists() and not overwrite and place.dataset().fingerprint != dataset.fingerprint:
        raise ConfigError(
            f"{place.path} holds another dataset: choose another --workspace, or --overwrite it"
        )
    dataset.save(place.dataset_path)
    describe(dataset, output)


def profile_live(dataset: Dataset, domain: str, output: Output, count: int = 3) -> None:
    """Profile a few items with the embedded model now, to show it at work."""
    from rlmrec.data.metadata import item_labels
    from rlmrec.llm.local import LocalChat
    from rlmrec.llm.store import Store
    from rlmrec.profiles.profiler import Profiler

    if missing := LocalChat.missing():
        output.say(f"   [yellow]nothing asked live[/]: {escape(missing)}")
        return
    with TemporaryDirectory(prefix="rlmrec-") as folder, Store(Path(folder) / "live.sqlite") as store:
        llm = LocalChat(threads=1)  # several wait for each other ten times as long when a core is busy
        progress = Profiler(llm, store, domain=domain).run(dataset, "item", limit=count)
        output.say(f"   asked {llm.name} live, {progress.seconds:.1f} s with loading it:")
        titles = item_labels(dataset)
        for profile in store.profiles("item"):
            title = titles[dataset.items.row(profile.key)]
            said = shorten(profile.summarization or str(profile.error), SHOWN, placeholder=" …")
            output.say(f'   {escape(title)}: "{escape(said)}"')
