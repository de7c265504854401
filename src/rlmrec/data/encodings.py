"""Text files in any usual encoding, packed or not, as one stream of UTF-8 bytes."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlmrec.errors import ConfigError, DataError
from rlmrec.files import bounded_lines, open_unpacked
from rlmrec.findings import Finding

_CHUNK = 1 << 20
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NAMES = {
    "utf-8-sig": "UTF-8", "utf-8": "UTF-8", "cp1252": "Windows-1252", "iso8859-1": "Latin-1",
    "utf-16": "UTF-16", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16",
}  # fmt: skip
_UTF8_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_UNUSED_IN_1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_LETTER = rb"[A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\xff]"
# What texts in Windows-1252 hardly ever have: symbols between two letters, a capital such as Š inside a word, and four
# letters with accents in a row. Files of MS-DOS and of old Macs and those in other alphabets have them when read so.
_ODD_IN_1252 = re.compile(
    rb"(?<=" + _LETTER + rb")(?:[\x80\x82-\x84\x86-\x89\x8b\x93\x94\x98\x9b\xa1-\xac\xaf-\xb3\xb5\xb6\xb8-\xbf](?="
    + _LETTER + rb")|[\x8a\x8c\x8e\x9f](?=[a-z]))|[\xa1-\xff]{4,}"
)  # fmt: skip
_WORD = re.compile(rb"[^\s,;|\"]*[\x80-\xff][^\s,;|\"]*")


@dataclass(frozen=True)
class TextFile:
    """A text file, plain or packed by gzip or zstd, and its encoding.

    Args:
        path: the file.
        encoding: name of a Python codec; "utf-8-sig" for UTF-8, whose byte order mark is skipped.
        guessed: a word as it is read in a guessed encoding other than UTF-8, for the user to check.
    """

    path: Path
    encoding: str = "utf-8-sig"
    guessed: str | None = None

    @classmethod
    def of(cls, path: Path, encoding: str | None = None) -> TextFile:
        """Return the file with the given encoding, or guess it: UTF-8, UTF-16 or Windows-1252.

        Raises:
            ConfigError: there is no such encoding.
            DataError: the encoding cannot be guessed, or the file is damaged.
        """
        if encoding is None:
            return _guess(path)
        name = codec_name(encoding)
        return cls(path, "utf-8-sig" if name == "utf-8" else name)

    @property
    def name(self) -> str:
        """What people call the encoding."""
        return _NAMES.get(self.encoding, self.encoding)

    def open(self) -> BinaryIO:
        """Open the file as UTF-8 without a byte order mark; reading raises ``DataError`` for undecodable text."""
        stream = open_unpacked(self.path)
        return io.BufferedReader(_Recoded(stream, self), _CHUNK)

    @property
    def is_plain(self) -> bool:
        """Whether the bytes are UTF-8 already, apart from a byte order mark and packing."""
        return self.encoding == "utf-8-sig"

    def undecodable(self) -> DataError:
        """Return the error that names the first line whose bytes are not of this encoding."""
        line = 0
        with open_unpacked(self.path) as stream:
            decoder = codecs.getincrementaldecoder(self.encoding)()
            for line, text in enumerate(bounded_lines(stream, self.path), start=1):
                try:
                    decoder.decode(text)
                except UnicodeDecodeError as error:
                    return DataError(
                        f"{self.path} cannot be read: line {line} is not {self.name} ({error.reason}): repair it, or "
                        "name the encoding of the file (--encoding)"
                    )
        return DataError(
            f"{self.path} cannot be read: its last line, {line}, is not {self.name}: repair it, or name the encoding "
            "of the file (--encoding)"
        )

    def findings(self) -> list[Finding]:
        """Return what the encoding was taken for where it was guessed and is not UTF-8."""
        if self.guessed is None:
            return []
        return [
            Finding(
                "encoding",
                f"{self.path.name} is read as {self.name}",
                example=repr(self.guessed),
                remedy="if that looks wrong, name the encoding (--encoding)",
                ordinary=True,
            )
        ]


def codec_name(encoding: str) -> str:
    """Return Python's name of an encoding of texts.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        codec = codecs.lookup(encoding)
        "".encode(codec.name)  # refuses codecs between bytes, such as hex
    except (LookupError, ValueError):
        raise ConfigError(
            f"encoding {encoding!r}: expected one that Python knows, such as utf-8, utf-16, windows-1252 or latin-1"
        ) from None
    return codec.name


class _Recoded(io.RawIOBase):
    """The text of a stream, encoded as UTF-8."""

    def __init__(self, stream: BinaryIO, file: TextFile) -> None:
        self._stream, self._file = stream, file
        self._decoder = codecs.getincrementaldecoder(file.encoding)()
        self._waiting = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting and not self._ended:
            chunk = self._stream.read(_CHUNK)
            self._ended = not chunk
            try:
                text = self._decoder.decode(chunk, final=self._ended)
            except UnicodeError:
                raise self._file.undecodable() from None
            self._waiting = text.encode("utf-8", "replace")  # UTF-16 can hold half a pair
        count = min(len(self._waiting), len(buffer))
        buffer[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _guess(path: Path) -> TextFile:
    """Guess the encoding of a file by its byte order mark, its zero bytes, and whether it is UTF-8."""
    with open_unpacked(path) as stream:
        start = stream.read(4096)
    if start.startswith(b"PK\x03\x04"):
        raise DataError(
            f"{path} is a zip archive and no text: rename it to .xlsx if it is an Excel file, else unpack it"
        )
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return TextFile(
                path, encoding, guessed=_first_word(path, encoding) if encoding == "utf-16" else None
            )
    # Of Latin letters in UTF-16, one byte of two is zero.
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        half, other = start[offset::2], start[1 - offset :: 2]
        if len(half) > 4 and half.count(0) > 0.7 * len(half) and other.count(0) < 0.1 * len(half):
            return TextFile(path, encoding, guessed=_first_word(path, encoding))
    return TextFile(path) if _is_utf8(path) else _eight_bits(path)


def _chunks(path: Path) -> Iterator[bytes]:
    with open_unpacked(path) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in _chunks(path):
            if decoder.getstate()[0] or not chunk.isascii():
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _eight_bits(path: Path) -> TextFile:
    """Return the file as Windows-1252, unless it is rather UTF-8 with damaged places or has words of no language."""
    in_sequences = high = odd = 0
    unused, example = False, b""
    for chunk in _chunks(path):
        high += len(chunk) - len(chunk.translate(None, bytes(range(128, 256))))
        in_sequences += sum(map(len, _UTF8_SEQUENCE.findall(chunk)))
        unused = unused or _UNUSED_IN_1252.search(chunk) is not None
        odd += sum(map(len, _ODD_IN_1252.findall(chunk)))
        if not example and (word := _WORD.search(chunk)):
            example = word.group()[:40]
    if in_sequences >= high - in_sequences:
        raise TextFile(path).undecodable()
    guessed = example.decode("cp1252", "replace")
    if unused or 4 * odd >= high:
        read = "" if unused else f" (as which it has {guessed!r})"
        raise DataError(
            f"{path} is neither UTF-8 nor UTF-16 nor Windows-1252{read}: name its encoding (--encoding), for example "
            "cp850, mac-roman, cp1250, cp1251 or gbk, or cp1252 if it is Windows-1252 after all"
        )
    return TextFile(path, "cp1252", guessed=guessed)


def _first_word(path: Path, encoding: str) -> str:
    with TextFile(path, encoding).open() as stream:
        text = stream.read(200).decode("utf-8", "replace").split(maxsplit=1)
    return text[0][:40] if text else ""
