"""Atomic writing: the old content or the new, never half, and never somebody else's folder."""

import os

import pytest

from rlmrec.errors import WorkspaceError
from rlmrec.files import atomic_file, atomic_folder, read_json, write_json


class Killed(Exception):
    pass


def raise_after_writing(path):
    path.write_text("half")
    raise Killed


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"v": 1})
    with pytest.raises(Killed), atomic_file(path) as temporary:
        raise_after_writing(temporary)
    assert read_json(path) == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "d"
    for version in ("1", "2"):
        with atomic_folder(folder, "mark") as temporary:
            (temporary / "mark").write_text(version)
    with pytest.raises(Killed), atomic_folder(folder, "mark") as temporary:
        raise_after_writing(temporary / "mark")
    assert (folder / "mark").read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(WorkspaceError, match="holds no mark"), atomic_folder(tmp_path / "thesis", "mark"):
        pass
    assert (tmp_path / "thesis" / "chapter1.txt").exists()
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty", "mark") as temporary:
        (temporary / "mark").touch()


def test_the_umask_is_kept(tmp_path):
    old = os.umask(0o077)
    try:
        write_json(tmp_path / "private.json", 1)
    finally:
        os.umask(old)
    assert (tmp_path / "private.json").stat().st_mode & 0o777 == 0o600


def test_files_of_a_folder_are_like_any_other(tmp_path):
    old = os.umask(0o022)
    try:
        with atomic_folder(tmp_path / "folder", "mark") as temporary:
            (temporary / "mark").touch(0o600)  # as safetensors does
    finally:
        os.umask(old)
    assert (tmp_path / "folder" / "mark").stat().st_mode & 0o777 == 0o644


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(WorkspaceError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json")
    with pytest.raises(WorkspaceError, match="does not exist"):
        read_json(tmp_path / "y.json")
