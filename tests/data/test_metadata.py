"""Metadata profiles by example."""

import polars as pl
import pytest

from rlmrec.data.metadata import metadata_texts
from rlmrec.errors import ColumnError


def test_title_year_and_labelled_columns():
    table = pl.DataFrame({"title": ["Toy Story"], "year": ["1995"], "genres": ["Animation, Comedy"]})
    assert metadata_texts(table) == ["Toy Story (1995). Genres: Animation, Comedy."]


def test_empty_cells_are_left_out_and_rows_without_text_are_none():
    table = pl.DataFrame(
        {"title": ["A!", None, None], "genres": [None, "Drama", " "], "tags": [["x", "y"], [], None]}
    )
    assert metadata_texts(table) == ["A! Tags: x, y.", "Genres: Drama.", None]


def test_one_column_is_the_text_itself():
    table = pl.DataFrame({"summarization": ["Fans of tacos."], "other": ["x"]})
    assert metadata_texts(table, ["summarization"]) == ["Fans of tacos."]


def test_white_space_and_line_breaks_are_folded():
    assert metadata_texts(pl.DataFrame({"title": ["a\n\t b"]})) == ["a b."]


def test_unknown_columns_are_named():
    with pytest.raises(ColumnError, match=r"\['plot'\] not found: the texts have title"):
        metadata_texts(pl.DataFrame({"title": ["a"]}), ["plot"])
