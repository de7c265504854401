"""The script that makes the dataset gene-ontology, on two small databases of the same form."""

import runpy
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from rlmrec.data.dataset import Dataset
from rlmrec.profiles.select import metadata_of

MAKE = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "gene_ontology.py"))["make"]
GENES = """
CREATE TABLE genes (_id, gene_id); CREATE TABLE gene_info (_id, gene_name, symbol);
CREATE TABLE go_bp (_id, go_id, evidence); CREATE TABLE go_mf (_id, go_id, evidence);
CREATE TABLE go_cc (_id, go_id, evidence);
INSERT INTO genes VALUES (1, '10'), (2, '9'), (3, '11');
INSERT INTO gene_info VALUES (1, 'a kinase', 'AK'), (2, 'a receptor', 'AR'), (3, 'unknown', 'U');
INSERT INTO go_bp VALUES (1, 'GO:1', 'IDA'), (1, 'GO:1', 'TAS'), (2, 'GO:1', 'IEA'), (3, 'GO:1', 'ND');
INSERT INTO go_mf VALUES (2, 'GO:2', 'IPI'), (2, 'GO:3', 'IMP'), (1, 'GO:2', 'ISS');
INSERT INTO go_cc VALUES (1, 'GO:2', 'HDA');
"""
TERMS = """
CREATE TABLE go_ontology (ontology, term_type); CREATE TABLE go_term (go_id, term, ontology, definition);
INSERT INTO go_ontology VALUES ('BP', 'biological_process'), ('MF', 'molecular_function');
INSERT INTO go_term VALUES ('GO:1', 'growth', 'BP', 'Getting larger.'), ('GO:2', 'binding', 'MF', NULL);
"""


def database(path, script):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def test_what_was_derived_is_left_out_and_both_sides_have_texts(tmp_path, call):
    genes, terms = database(tmp_path / "genes", GENES), database(tmp_path / "terms", TERMS)
    counts = MAKE(genes, terms, tmp_path)
    assert "8 annotations, 3 of them derived and left out; terms without an entry: 1, e.g. GO:3" in counts
    assert "3 pairs of 2 genes and 2 terms" in counts
    pairs = pl.read_csv(tmp_path / "gene-ontology.csv").rows()
    assert pairs == [(9, "GO:2"), (10, "GO:1"), (10, "GO:2")], "each pair once"

    tables = ("--users", tmp_path / "users.jsonl", "--items", tmp_path / "items.jsonl")
    code, _, err = call("data", "table", tmp_path / "gene-ontology.csv", *tables, "-w", tmp_path / "w")
    assert code == 0, err
    dataset = Dataset.load(tmp_path / "w" / "dataset")
    assert dataset.name == "gene-ontology"
    texts = {kind: {str(text) for text in metadata_of(dataset, kind)} for kind in ("user", "item")}
    assert texts["user"] == {"a receptor. Symbol: AR.", "a kinase. Symbol: AK."}
    assert texts["item"] == {
        "growth. Ontology: biological process. Description: Getting larger.",
        "binding. Ontology: molecular function.",
    }


def test_databases_in_the_wrong_order_are_refused(tmp_path):
    genes, terms = database(tmp_path / "genes", GENES), database(tmp_path / "terms", TERMS)
    with pytest.raises(SystemExit, match=r"Expected org\.Hs\.eg\.sqlite and GO\.sqlite"):
        MAKE(terms, genes, tmp_path)
