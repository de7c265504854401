"""Recommenders and text vectors on the Hugging Face Hub: upload with a model card, and download as data.

The hub is asked only where one of these functions is called. ``huggingface_hub`` does the transfers and the cache;
its environment variables (HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE) keep their meaning.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.files import is_full

logger = logging.getLogger("rlmrec.hub")

COMMIT = re.compile(r"[0-9a-f]{40}")
CARD = "README.md"


class Pushed(NamedTuple):
    """What ``push`` has made: the address and the commit of the upload."""

    url: str
    revision: str


def push(files: Sequence[Path], repo: str, card: str, public: bool = False) -> Pushed:
    """Upload files and a model card as one commit; the repository is made if there is none.

    Args:
        files: to upload, under their names.
        repo: OWNER/NAME.
        card: Markdown, by ``model_card``.
        public: everybody may read a repository that is made now. One that exists keeps who may read it.

    Raises:
        ConfigError: the client is not installed, or the name is wrong.
        RlmrecError: the hub refuses or cannot be reached.
    """
    with _hub_client(repo) as hub:
        api = hub.HfApi(library_name="rlmrec")
        with TemporaryDirectory() as temporary:
            for path in files:
                shutil.copy2(path, temporary)
            (Path(temporary) / CARD).write_text(card, encoding="utf-8")
            api.create_repo(repo, private=not public, exist_ok=True)
            done = api.upload_folder(repo_id=repo, folder_path=temporary, commit_message="Upload by rlmrec")
    return Pushed(f"{api.endpoint}/{repo}", done.oid)


def fetch(repo: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Download files of a repository into the hub's cache and return their folder; nothing else is downloaded.

    Args:
        repo: OWNER/NAME.
        files: their names.
        revision: commit, tag or branch; by default the newest. Unless it is a commit, the commit is logged.

    Raises:
        ConfigError: the client is not installed, or the name is wrong.
        RlmrecError: there is no such repository, revision or file, or the hub cannot be reached.
    """
    with _hub_client(repo) as hub:
        folder = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        raise RlmrecError(
            f"{repo} has no {', '.join(missing)}: it holds something else, or another revision does"
        )
    if not COMMIT.fullmatch(revision or ""):
        logger.warning(
            "%s is at commit %s: pass revision=%r to load the same again", repo, folder.name, folder.name
        )
    return folder


def model_card(
    title: str, facts: Mapping[str, Any], sections: Mapping[str, str], license: str | None = None
) -> str:
    """Return a model card: Markdown with the metadata that the hub reads.

    Args:
        title: heading.
        facts: rows of the table below it.
        sections: heading → Markdown.
        license: identifier of the license; None leaves it out, as only the owner of the data can choose one.
    """
    head = [
        "---",
        "library_name: rlmrec",
        "tags:",
        "- recommender-system",
        *([f"license: {license}"] * bool(license)),
    ]
    table = ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in facts.items())]
    parts = [f"## {name}\n\n{text}" for name, text in sections.items()]
    if license is None:
        parts.append(
            "## License\n\nNot chosen yet. It depends on the data: add `license:` to the head of this file."
        )
    return "\n\n".join(["\n".join([*head, "---"]), f"# {title}", "\n".join(table), *parts]) + "\n"


def _cell(value: Any) -> str:
    """Return a value for a table: names come from data and must not end the cell or begin HTML."""
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


@contextmanager
def _hub_client(repo: str) -> Iterator[Any]:
    """Import the hub's client, and report what it raises as one line."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise ConfigError("the hub needs its client: pip install 'rlmrec[hub]'") from None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ConfigError(f"repository {repo!r}: expected OWNER/NAME")
    try:
        yield hub
    except errors.HFValidationError as error:
        raise ConfigError(f"repository {repo!r}: {_line(error)}") from None
    except errors.RepositoryNotFoundError:
        raise RlmrecError(
            f"the hub has no repository {repo}, or it is private and HF_TOKEN does not open it ('hf auth login')"
        ) from None
    except errors.RevisionNotFoundError:
        raise RlmrecError(f"{repo} has no such revision: give a commit, tag or branch of it") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise RlmrecError(f"the hub gives no access to {repo}: {_line(error)}") from None
    except Exception as error:
        # Versions of the client use different packages for HTTP; the base of their errors has one name.
        connection = isinstance(error, OSError) or "HTTPError" in {
            kind.__name__ for kind in type(error).__mro__
        }
        if not connection or getattr(error, "filename", None) is not None or is_full(error):
            raise  # of a file here, not of the hub
        raise RlmrecError(f"the hub cannot be reached for {repo}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
