"""Every error that rlmrec raises on purpose.

A message names what was got, what was expected and what to do. The command line prints it as one line;
anything that is not an ``RlmrecError`` is a defect and shows its traceback.
"""


class RlmrecError(Exception):
    """Base of all errors below: catch it to catch them all."""


class DataError(RlmrecError):
    """Input that cannot be used: a file, a row, a column, a matrix, a vector."""


class ConfigError(RlmrecError):
    """An option that does not exist or has no valid value. The command line exits with 2."""


class ColumnError(DataError, ConfigError):
    """A column that was asked for by name and that the file does not have. The command line exits with 2."""


class WorkspaceError(RlmrecError):
    """An artefact that a step needs is missing, damaged or belongs to another dataset."""


class UnknownIdError(RlmrecError):
    """A raw user or item id that the dataset does not hold."""
