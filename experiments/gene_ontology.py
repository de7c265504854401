"""Make the dataset gene-ontology: human genes (users) and the terms of the Gene Ontology they have (items).

    python experiments/gene_ontology.py org.Hs.eg.sqlite GO.sqlite FOLDER

Both databases come with Bioconductor's packages org.Hs.eg.db and GO.db, in Debian r-bioc-org.hs.eg.db and
r-bioc-go.db: site-library/PACKAGE/extdata under /usr/lib/R. Nothing is downloaded.

A pair counts if an experiment, an author or a curator says so. Left out is what was derived by a computer or from
similar genes: names tell which genes are similar, so that texts would find these pairs too easily. A gene's text
is its symbol and full name; a term's text is its name, ontology and definition.
"""

from __future__ import annotations

import argparse
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl

# Codes of evidence, see geneontology.org: derived electronically, by descent, by similarity or by a
# computer's analysis; ND says that nothing is known.
DERIVED = {"IEA", "IBA", "IBD", "IKR", "IRD", "ISS", "ISO", "ISA", "ISM", "IGC", "RCA", "ND"}
CHARACTERS = 1200  # of a definition
GENES = "SELECT CAST(gene_id AS INTEGER), symbol, gene_name FROM genes JOIN gene_info USING (_id)"
PAIRS = " UNION ALL ".join(
    f"SELECT CAST(gene_id AS INTEGER), go_id, evidence FROM genes JOIN {table} USING (_id)"
    for table in ("go_bp", "go_mf", "go_cc")
)
TERMS = "SELECT go_id, term, term_type, definition FROM go_term JOIN go_ontology USING (ontology)"


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what ``query`` finds in the database ``path``."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()
    except sqlite3.Error as error:
        raise SystemExit(
            f"{path}: {error}. Expected org.Hs.eg.sqlite and GO.sqlite of Bioconductor, in this order."
        ) from None


def make(genes: Path, terms: Path, folder: Path) -> str:
    """Write gene-ontology.csv, users.jsonl and items.jsonl into ``folder`` and return the counts."""
    described = {
        term: {"title": name, "ontology": kind.replace("_", " "), "description": (text or "")[:CHARACTERS]}
        for term, name, kind, text in rows(terms, TERMS)
    }
    evidence: Counter[str] = Counter()
    pairs, unknown = set(), set()
    for gene, term, code in rows(genes, PAIRS):
        evidence[code] += 1
        if code in DERIVED:
            continue
        if term in described:
            pairs.add((gene, term))
        else:
            unknown.add(term)
    named = {gene: {"symbol": symbol, "name": name} for gene, symbol, name in rows(genes, GENES)}
    users, items = ({pair[side] for pair in pairs} for side in (0, 1))

    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(sorted(pairs), ["user_id", "item_id"], orient="row").write_csv(folder / "gene-ontology.csv")
    _write(folder / "users.jsonl", ({"user_id": gene, **named[gene]} for gene in sorted(users)))
    _write(folder / "items.jsonl", ({"item_id": term, **described[term]} for term in sorted(items)))

    left_out = sum(evidence[code] for code in DERIVED)
    without = f", e.g. {min(unknown)}" if unknown else ""
    return (
        f"{sum(evidence.values()):,} annotations, {left_out:,} of them derived and left out; terms without an "
        f"entry: {len(unknown)}{without}; {len(pairs):,} pairs of {len(users):,} genes and {len(items):,} terms"
    )


def _write(path: Path, records: Iterable[dict[str, str | int]]) -> None:
    pl.DataFrame(list(records)).write_ndjson(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("genes", type=Path, help="org.Hs.eg.sqlite")
    parser.add_argument("terms", type=Path, help="GO.sqlite")
    parser.add_argument("folder", type=Path, help="where to write the three files")
    given = parser.parse_args()
    print(make(given.genes, given.terms, given.folder))
