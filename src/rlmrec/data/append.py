"""Appending: new interactions, users and items join a dataset whose rows and held-out pairs stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from rlmrec.data.checks import check_ids, check_texts, check_values, spelling
from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.file_format import FileFormat
from rlmrec.data.interactions import Interactions, joined
from rlmrec.data.markup import without_markup
from rlmrec.data.metadata import TEXT_COLUMNS, text_columns, title_origin
from rlmrec.data.split import SplitRule, last_places, untrained
from rlmrec.data.table import Table
from rlmrec.data.tables import (
    Columns,
    align,
    assemble,
    check_tables,
    columns_of_text,
    is_listed,
    light_pairs,
    similar_title,
    telling_all,
    titled,
    unordered,
)
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import DataError
from rlmrec.findings import Finding, by_number
from rlmrec.types import BoolArray, IntArray

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

LONGEST_LINEAGE = 1000  # appends; of a dataset that is older, vectors and runs are made again


@dataclass(frozen=True)
class Appended:
    """A dataset after appending, and what joined it.

    Args:
        dataset: with the new interactions; the same object if there was nothing new.
        counts: what was read, what was new, and what was left out and why.
        new_users: raw ids of new users.
        new_items: raw ids of new items.
        findings: what is unusual about what was read, as ``Dataset.findings``; what the dataset had before is not
            told again.
    """

    dataset: Dataset
    counts: dict[str, int]
    new_users: list[RawId]
    new_items: list[RawId]
    findings: tuple[Finding, ...] = ()


def append(
    dataset: Dataset,
    orders: Table | IntoDataFrame | None = None,
    columns: Columns | None = None,
    items: Table | IntoDataFrame | None = None,
    users: Table | IntoDataFrame | None = None,
    title: str | None = None,
    items_id: str | None = None,
    users_id: str | None = None,
) -> Appended:
    """Append interactions to a dataset, and add or update the columns of items and users.

    Ids keep their rows, new ones come behind them, and every interaction keeps its split. New interactions go
    to the splits by the rule that the dataset was made with; one by chance uses the hash of the pair instead, and after
    leave-last those of a user with held-out interactions are for test. The dataset's lowest rating applies: a low one
    takes back an earlier interaction, and the held-out interactions of a user without training then are cold. Its
    k-core does not apply. Appending the same table twice changes nothing.

    Args:
        dataset: the dataset.
        orders: new interactions, a table or a data frame as for ``Dataset.from_frame``; None without any.
        columns: their columns; by default those that the dataset was made of.
        items: table or data frame of items, of which those that have interactions are taken; None without one.
        users: table of users, likewise.
        title: column of ``items`` with the titles; by default as when the dataset was made, if it is there.
        items_id, users_id: columns of the ids in ``items`` and ``users``; by default as when the dataset was made, or
            those of ``columns``.

    Raises:
        ColumnError: there is no column ``title``.
        DataError: ids of another type, a column that the dataset has is missing, or a value cannot be used.
    """
    names = dataset.provenance.get("columns") or {}
    columns = columns or columns_of(dataset)
    items_id = items_id or names.get("items_id") or columns.item
    users_id = users_id or names.get("users_id") or columns.user
    orders, items, users = _tables(dataset, orders, columns, (items, items_id), (users, users_id), title)
    counts: dict[str, int] = {}
    with telling_all(
        [] if orders is None else [orders], columns, [("item", items, items_id), ("user", users, users_id)]
    ):
        new, low_rated, taken_back, all_users, all_items = _read(dataset, orders, columns, counts)
    gone = taken_back.keys()

    def remaining(part: Interactions) -> Interactions:
        part = replace(part, n_users=len(all_users), n_items=len(all_items))
        return part.take(~np.isin(part.keys(), gone)) if len(gone) else part

    parts = {name: remaining(dataset.split(name)) for name in SPLITS}
    usual = title_origin(dataset)
    if title is None and items is not None and usual in items.frame.columns:
        title = usual
    cold = dataset.cold and remaining(dataset.cold)
    place = _places(dataset, parts, new, all_users, all_items)
    for number, name in enumerate(parts):
        parts[name] = joined([parts[name], new.take(place == number)])
    if (place == 3).any():
        cold = new.take(place == 3) if cold is None else joined([cold, new.take(place == 3)])
    if len(gone):  # who has nothing left to train on is not evaluated
        trained = parts["train"].user_degrees() > 0
        for name in ("valid", "test"):
            part = parts[name]
            lost = part.take(~trained[part.users])
            cold = lost if cold is None else joined([cold, lost])
            parts[name] = part.take(trained[part.users])
    counts |= {f"to {name}": int((place == number).sum()) for number, name in enumerate((*parts, "cold"))}
    item_texts, changed = _updated(dataset.item_texts, all_items, items, items_id, title, counts)
    user_texts, changed_users = _updated(dataset.user_texts, all_users, users, users_id, None, counts)
    described = [] if item_texts is None else _changed_texts(dataset, item_texts)
    if items is not None:
        others = changed[: dataset.n_items].copy()
        others[described] = False
        counts["known items with a changed text"] = int(changed[described].sum())
        counts["known items with other changes only"] = int(others.sum())
    if users is not None:
        counts["known users with changes"] = int(changed_users[: dataset.n_users].sum())
    findings = check_tables(
        [] if orders is None else [orders],
        columns,
        [(items, all_items, items_id), (users, all_users, users_id)],
    )
    findings += _findings(dataset, new, all_users, all_items)
    if item_texts is not None and len(all_items) > dataset.n_items:
        fresh = Vocabulary(all_items.ids[dataset.n_items :], "item")
        findings += check_texts(item_texts[dataset.n_items :], fresh, given=items is not None)
    if item_texts is not None and described:
        changed_ids = Vocabulary([all_items.id(row) for row in described], "item")
        of_changed = check_texts(item_texts[described], changed_ids)
        findings += [finding for finding in of_changed if finding.kind in ("missing text", "garbled")]
    if not len(new) and not len(gone) and not changed.any() and not changed_users.any():
        if low_rated is not None and (dataset.low_rated is None or len(low_rated) > len(dataset.low_rated)):
            dataset = replace(dataset, low_rated=low_rated)
        return Appended(dataset, counts, [], [], tuple(findings))
    ancestor = {
        "fingerprint": dataset.fingerprint,
        "content": dataset.content,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": len(dataset.everything()),
        "changed": described,
    }
    provenance = {**dataset.provenance, "lineage": [*dataset.lineage, ancestor][-LONGEST_LINEAGE:]}
    if len(gone):
        trained_on = taken_back.take(np.isin(gone, replace(dataset.train, n_items=len(all_items)).keys()))
        provenance["taken back"] = [*dataset.taken_back, *np.asarray(trained_on.id).tolist()]
    for kind, before, after, read in (
        ("item", dataset.item_texts, item_texts, items),
        ("user", dataset.user_texts, user_texts, users),
    ):
        if before is None and after is not None and read is not None:
            provenance[TEXT_COLUMNS[kind]] = columns_of_text(after, read.frame)
    grown = Dataset(
        dataset.name, parts["train"], parts["valid"], parts["test"], all_users, all_items,
        item_texts, user_texts, provenance, cold=cold or None, left_out=dataset.left_out, low_rated=low_rated,
    )  # fmt: skip
    new_users, new_items = all_users.ids[dataset.n_users :], all_items.ids[dataset.n_items :]
    findings += _below_core(dataset, grown) + _left_out_before(dataset, new_users)
    return Appended(grown, counts, new_users, new_items, tuple(findings))


def columns_of(dataset: Dataset) -> Columns:
    """Return the columns of the interactions that a dataset was made of."""
    names = dataset.provenance.get("columns") or {}
    usual = Columns()
    return Columns(
        names.get("user") or usual.user,
        names.get("item") or usual.item,
        *(names.get(name) for name in ("rating", "timestamp", "review")),
    )


def _tables(
    dataset: Dataset,
    orders: Table | IntoDataFrame | None,
    columns: Columns,
    items: tuple[Table | IntoDataFrame | None, str],
    users: tuple[Table | IntoDataFrame | None, str],
    title: str | None,
) -> tuple[Table | None, Table | None, Table | None]:
    """Read what is a data frame; values are written as when the dataset was made."""
    if all(given is None or isinstance(given, Table) for given in (orders, items[0], users[0])):
        return orders, items[0], users[0]  # type: ignore[return-value]  # mypy does not follow all()
    from rlmrec.data.frames import described, read_orders  # Narwhals is imported only here

    form = FileFormat(**dataset.provenance.get("format", {}))
    if orders is not None and not isinstance(orders, Table):
        orders = read_orders(orders, "orders", columns, form)
    named = [name for name in (title or title_origin(dataset), *text_columns(dataset)) if name]
    of_items, of_users = (
        given
        if given is None or isinstance(given, Table)
        else described(given, kind, id_column, form, named if kind == "item" else ())
        for kind, (given, id_column) in (("item", items), ("user", users))
    )
    return orders, of_items, of_users


def _findings(dataset: Dataset, new: Interactions, users: Vocabulary, items: Vocabulary) -> list[Finding]:
    """Find what is unusual about new interactions and about new ids, beside the known ids that they resemble."""
    rated = (dataset.provenance.get("options") or {}).get("min_rating") is not None
    findings = check_values([new], users, items, rated)
    for ids, size, degrees in (
        (users, dataset.n_users, new.user_degrees()),
        (items, dataset.n_items, new.item_degrees()),
    ):
        if len(ids) > size and ids.is_text:
            plain = spelling(pl.Series(ids.ids, dtype=pl.String))
            alike = np.flatnonzero(plain.is_in(plain[size:].implode()).to_numpy())
            findings += check_ids(
                Vocabulary([ids.id(row) for row in alike.tolist()], ids.kind), [degrees[alike]]
            )
    return findings


def _below_core(dataset: Dataset, grown: Dataset) -> list[Finding]:
    """Find the new users and items with fewer interactions than the k-core that the dataset was made with."""
    k = (dataset.provenance.get("options") or {}).get("k_core", 1)
    everything = grown.everything()
    findings = []
    for ids, size, degrees in (
        (grown.users, dataset.n_users, everything.user_degrees()),
        (grown.items, dataset.n_items, everything.item_degrees()),
    ):
        few = size + np.flatnonzero(degrees[size:] < k)
        if len(few):
            findings.append(
                Finding(
                    "below-k-core",
                    f"of {len(ids) - size:,} new {ids.kind}s {by_number(len(few), 'has', 'have')} fewer than {k} "
                    f"interactions; when the dataset was made, --k-core {k} left such {ids.kind}s out",
                    len(few),
                    f"{ids.id(int(few[0]))!r} with {degrees[few[0]]}",
                    "append keeps them, as it applies no k-core; to apply it again, give the command that made the "
                    f"dataset (such as 'rlmrec data table') all interactions and --k-core {k}",
                    ordinary=True,
                )
            )
    return findings


def _left_out_before(dataset: Dataset, new_users: list[RawId]) -> list[Finding]:
    """Find the new users whom a filter left out when the dataset was made, with what they had then."""
    if dataset.left_out is None or not new_users:
        return []
    back = dataset.left_out.filter(pl.col("id").is_in([str(raw) for raw in new_users]))
    if back.is_empty():
        return []
    return [
        Finding(
            "left out before",
            by_number(len(back), "new user was", "new users were")
            + " left out when the dataset was made, and what they had then is not known",
            len(back),
            f"{back['id'][0]!r} ({back['reason'][0]})",
            "it may be recommended to them; to count it, make the dataset again of all interactions, by the command "
            "that made it (such as 'rlmrec data table')",
            ordinary=True,
        )
    ]


class _Read(NamedTuple):
    """What a table brings to a dataset, over its grown vocabularies.

    Args:
        new: pairs that the dataset does not have.
        low_rated: all pairs that are rated low, those of before among them; None without any.
        taken_back: pairs of the dataset whose latest rating is low now.
        users, items: the grown vocabularies.
    """

    new: Interactions
    low_rated: Interactions | None
    taken_back: Interactions
    users: Vocabulary
    items: Vocabulary


def _read(dataset: Dataset, orders: Table | None, columns: Columns, counts: dict[str, int]) -> _Read:
    """Compare a table of interactions with the dataset."""
    everything = dataset.everything()
    if orders is None:
        nothing = everything.take(np.empty(0, np.int64))
        return _Read(nothing, dataset.low_rated, nothing, dataset.users, dataset.items)
    [read], users, items = assemble([orders], *columns)
    counts["read"] = len(read) + (0 if orders.light is None else len(orders.light.frame))
    optional = everything.columns().keys() - {"users", "items", "id"}
    missing = optional - read.columns().keys()
    if missing:
        raise DataError(
            f"{orders.path}: the dataset has a {', '.join(sorted(missing))} of each interaction: name the column "
            f"({', '.join(f'--{name}-column' for name in sorted(missing))})"
        )
    unused: dict[str, Any] = dict.fromkeys({"rating", "timestamp", "review"} - optional)
    read = replace(read, **unused)
    least = (dataset.provenance.get("options") or {}).get("min_rating")
    high, low = read.by_latest_rating(least)
    unrated = 0 if least is None or read.rating is None else int(np.isnan(read.rating).sum())
    counts["repeated in the table"] = len(read) - unrated - len(high) - len(low)
    all_users = _extended(dataset.users, users, np.unique(high.users), str(orders.path))
    all_items = _extended(dataset.items, items, np.unique(high.items), str(orders.path))
    user_rows, item_rows = _known_rows(all_users, users), _known_rows(all_items, items)

    def of_dataset(part: Interactions) -> Interactions:
        """Number the rows as the dataset does; leave out the users and items that it does not have."""
        part = part.take((user_rows[part.users] >= 0) & (item_rows[part.items] >= 0))
        return replace(
            part,
            users=user_rows[part.users],
            items=item_rows[part.items],
            n_users=len(all_users),
            n_items=len(all_items),
        )

    everything = replace(everything, n_users=len(all_users), n_items=len(all_items))
    new = of_dataset(high)
    known = np.isin(new.keys(), everything.keys())
    taken_back = _taken_back(everything, of_dataset(low))
    if least is not None and read.rating is not None:
        counts[f"rated below {least:g} and left out"] = len(low) + unrated
        counts["earlier ratings that they take back"] = len(taken_back)
    counts["known already"] = int(known.sum())
    new = new.take(~known)
    counts["new"] = len(new)
    first = 1 + max(int(np.max(np.asarray(everything.id), initial=-1)), *dataset.taken_back, -1)
    new = replace(new, id=np.arange(first, first + len(new)))
    low_rated = dataset.low_rated and replace(
        dataset.low_rated, n_users=len(all_users), n_items=len(all_items)
    )
    light = light_pairs([orders], columns, all_users, all_items)
    known_keys = everything.keys()
    positive = np.concatenate([known_keys[~np.isin(known_keys, taken_back.keys())], new.keys()])
    given = replace(of_dataset(read), rating=None, timestamp=None, review=None)
    both = joined([part for part in (low_rated, given, light) if part is not None]).merged()
    low_rated = both.take(~np.isin(both.keys(), positive)) or None
    return _Read(new, low_rated, taken_back, all_users, all_items)


def _taken_back(everything: Interactions, low: Interactions) -> Interactions:
    """Return the interactions whose pair is rated low now, and not before the time of the interaction."""
    order = np.argsort(low.keys())
    keys = low.keys()[order]
    found = everything.take(np.isin(everything.keys(), keys))
    if found.timestamp is None or low.timestamp is None:
        return found
    return found.take(low.timestamp[order][np.searchsorted(keys, found.keys())] >= found.timestamp)


def _known_rows(ids: Vocabulary, read: Vocabulary) -> IntArray:
    """Return the row of each id of a table in the vocabulary of the dataset, −1 for an id that it does not have."""
    found = [str(raw) for raw in read.ids] if ids.is_text and not read.is_text else read.ids
    return np.array([ids.row(raw) if raw in ids else -1 for raw in found], np.int64)


def _extended(old: Vocabulary, read: Vocabulary, used: IntArray, path: str) -> Vocabulary:
    """Return the vocabulary of the dataset with the new ids of a table that are used behind the old ones."""
    ids: Sequence[RawId] = read.ids
    if old.is_text and not read.is_text:
        ids = [str(raw) for raw in ids]  # a table without types whose ids all look like numbers
    elif read.is_text and not old.is_text:
        odd = next((raw for raw in ids if old.parse(str(raw)) is None), None)
        if odd is None:
            raise DataError(
                f"{path}: {old.kind} ids are text ({ids[0]!r}), those of the dataset are integers: convert them, in "
                "pandas by .astype(int)"
            )
        raise DataError(f"{path}: got the {old.kind} id {odd!r}, {old.kind} ids of the dataset are integers")
    new = [ids[row] for row in used.tolist() if ids[row] not in old]
    return old if not new else Vocabulary([*old.ids, *new], old.kind)


def _places(
    dataset: Dataset,
    parts: dict[str, Interactions],
    new: Interactions,
    users: Vocabulary,
    items: Vocabulary,
) -> IntArray:
    """Return int64[n], the split of each new interaction: 0 training, 1 validation, 2 test, 3 cold."""
    if not len(new):
        return np.empty(0, np.int64)
    train = parts["train"]
    held_out = parts["valid"].user_degrees() + parts["test"].user_degrees() > 0
    rule = _rule(dataset)
    if rule is None:
        return np.zeros(len(new), np.int64)
    if rule.kind == "leave-last":
        both = joined([train, new])
        place = last_places(both, rule.last)[len(train) :]
        place[held_out[new.users]] = 2
    else:
        place = rule.places(new, users, items)
    if rule.kind == "hash":
        both = joined([train, new])
        of_both = np.concatenate([np.zeros(len(train), np.int64), place])
        of_both[untrained(both, of_both)] = 0
        place = of_both[len(train) :]
    trained = train.user_degrees() + new.take(place == 0).user_degrees() > 0
    place[(place > 0) & ~trained[new.users]] = 3
    return place


def _rule(dataset: Dataset) -> SplitRule | None:
    """Return the rule for new pairs of a dataset; None for a ready-made split."""
    if "split" in dataset.provenance:
        return SplitRule.parse(dataset.provenance["split"])
    shares = (dataset.provenance.get("options") or {}).get("split")
    return None if shares is None else SplitRule("hash", tuple(shares))


def _updated(
    old: pl.DataFrame | None,
    ids: Vocabulary,
    table: Table | None,
    id_column: str,
    title: str | None,
    counts: dict[str, int],
) -> tuple[pl.DataFrame | None, BoolArray]:
    """Return the columns of all users or items, with the values of a table over the old ones, and the changed rows."""
    size = len(ids)
    if table is None:
        if old is None or len(old) == size:
            return old, np.zeros(size, bool)
        grown = pl.concat([old, pl.DataFrame(schema=old.schema).clear(size - len(old))])
        return grown, np.arange(size) >= len(old)
    given = without_markup(align(table, ids, id_column))
    if title is None and old is not None and "title" in old.columns:
        similar = similar_title(given)
        title = None if similar in old.columns else similar  # else it is a column of its own
    if title is not None:
        given = titled(given, title)
    listed = is_listed(table, ids, id_column)
    counts[unordered(ids.kind)] = len(table.frame) - int(listed.sum())
    before = old if old is not None else pl.DataFrame({"": [None] * size}).select([])
    columns: dict[str, pl.Series] = {}
    for name in dict.fromkeys([*before.columns, *given.columns]):
        stored = (
            before[name].extend(pl.Series([None] * (size - len(before)), dtype=before[name].dtype))
            if name in before.columns
            else pl.Series([None] * size, dtype=pl.String)
        )
        fresh = given[name].cast(stored.dtype) if name in given.columns else stored
        columns[name] = fresh.zip_with(listed, stored).alias(name)
    grown = pl.DataFrame(columns)
    if old is None:
        changed = listed.to_numpy()
    else:
        changed = np.arange(size) >= len(old)
        same = grown[: len(old)].select(
            pl.col(name).eq_missing(old[name]) if name in old.columns else pl.col(name).is_null()
            for name in grown.columns
        )
        changed[: len(old)] = ~same.select(pl.all_horizontal(pl.all())).to_series().to_numpy()
    return grown, changed


def _changed_texts(dataset: Dataset, texts: pl.DataFrame) -> list[int]:
    """Return the rows of the items whose text is another one now; a price or a stock is no text."""
    if dataset.item_texts is None:
        return list(range(dataset.n_items))
    names = text_columns(dataset)
    old, new = dataset.item_texts.select(names), texts[: dataset.n_items].select(names)
    same: Any = old.select(pl.col(name).eq_missing(new[name]) for name in names)
    return np.flatnonzero(~same.select(pl.all_horizontal(pl.all())).to_series().to_numpy()).tolist()
