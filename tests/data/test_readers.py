"""The registry of readers."""

import inspect

import pytest

from rlmrec.data.readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_a_declaration_has_the_signature_and_the_docstring_of_its_reader(name):
    reader = READERS[name]
    declared, real = (
        inspect.signature(function, eval_str=True).parameters
        for function in (reader.declaration, reader.read)
    )
    assert declared == real
    assert inspect.getdoc(reader.declaration) == inspect.getdoc(reader.read)
