"""Raw ids on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlmrec.errors import UnknownIdError

if TYPE_CHECKING:
    from rlmrec.data.vocabulary import RawId, Vocabulary


def parse_ids(vocabulary: Vocabulary, texts: Sequence[str]) -> list[RawId]:
    """Convert typed ids to the type of the dataset's ids.

    Raises:
        UnknownIdError: text where ids are integers. Whether an id exists is checked where it is used.
    """
    parsed = []
    for text in texts:
        raw = vocabulary.parse(text.strip())
        if raw is None:
            kind = vocabulary.kind
            raise UnknownIdError(
                f"unknown {kind} {text!r}: {kind} ids are integers here, e.g. {vocabulary.id(0)}"
            )
        parsed.append(raw)
    return parsed


def parse_id_lists(vocabulary: Vocabulary, texts: Sequence[str]) -> list[RawId]:
    """Convert texts that hold one id or several separated by commas; an existing id may contain a comma."""
    ids = ([text] if vocabulary.parse(text) in vocabulary else text.split(",") for text in texts)
    return parse_ids(vocabulary, [one for several in ids for one in several])
