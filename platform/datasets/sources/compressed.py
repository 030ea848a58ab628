"""The bytes of a data file, unpacked, and never silently fewer than were packed.

`chunks(path)` yields the content of a plain, gzip or zstandard file; the format is recognised by the first bytes, and a
name that claims another one is an error. Several gzip members or zstandard frames are read one after the other.
A file that ends before its end marker, is damaged, or has something else behind its end raises InputError with the
file and the byte. It yields at most 1 MiB at a time, and packed data is unpacked so little at once that it holds no
more than 128 MiB of what was made to swell. Members and frames are places where reading can begin. `whole(path)` is all
of it in one piece, which has a bound that is looked at while it is unpacked: a few bytes can be made to hold terabytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from ...core.errors import InputError

CHUNK_BYTES = 1 << 18
MAX_WHOLE_BYTES = 1 << 30  # of what is held in one piece
_MOST_BYTES = 1 << 20
_PACKED_BYTES = 1 << 12  # zstandard can pack 128 KiB in 4 bytes
_MAX_WINDOW = 1 << 31  # what `zstd --long=31` writes; the library's default refuses files it could read
_UNREADABLE = {b"PK\x03\x04": "a zip archive", b"BZh": "bzip2 data", b"\xfd7zXZ": "xz data"}


class _Decoder(Protocol):
    """What zlib and zstandard decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """`path` open for reading; InputError where there is no readable, non-empty file."""
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise InputError(f"{path}: the file is empty (0 bytes); fetch it again")
            file.seek(0)
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder, not a file") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error


def chunks(
    path: Path, start: int = 0, *, begins: Callable[[int, int], object] = lambda packed, unpacked: None
) -> Generator[bytes]:
    """The unpacked content of `path`, chunk by chunk.

    start: byte of the file to begin at; of a packed one, where a gzip member or a zstandard frame begins. begins:
    called for each of these with its byte in the file and the bytes that were unpacked before it.
    """
    with opened(path) as file:
        kind = compression(path, file.read(8))
        file.seek(start)
        if kind == "":
            while data := file.read(CHUNK_BYTES):
                yield data
        else:
            yield from _unpacked(file, path, kind, start, begins)


def whole(path: Path) -> bytes:
    """The unpacked content of `path` in one piece. Raises InputError for one that is larger than MAX_WHOLE_BYTES."""
    return b"".join(_bounded(path))


def whole_size(path: Path) -> int:
    """How many bytes `whole` gives; raises as it does."""
    return sum(map(len, _bounded(path)))


def _bounded(path: Path) -> Iterator[bytes]:
    held = 0
    for chunk in chunks(path):
        held += len(chunk)
        if held > MAX_WHOLE_BYTES:
            raise InputError(
                f"{path}: holds more than {MAX_WHOLE_BYTES >> 20} MiB, and a file of its kind is read in one piece; "
                "make it a .jsonl or .parquet file"
            )
        yield chunk


def swelling(path: Path) -> float:
    """How many bytes come of one of `path`, by its first MiB; 1 where it is not packed."""
    with opened(path) as file:
        start = file.read(1 << 20)
    kind = compression(path, start[:8])
    if not kind:
        return 1.0
    came = 0
    with suppress(InputError):  # of a larger file this is no whole one
        for chunk in _unpacked(BytesIO(start), path, kind, 0, lambda packed, unpacked: None):
            came += len(chunk)
    return max(1, came) / len(start)


def compression(path: Path, start: bytes) -> str:
    """ "gzip", "zstandard" or "" from the first bytes of a file, checked against its name."""
    for magic, what in _UNREADABLE.items():
        if start.startswith(magic):
            raise InputError(f"{path}: is {what}; unpack it, or pack it as .gz or .zst")
    kind = ""
    if start.startswith(b"\x1f\x8b"):
        kind = "gzip"
    elif start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50):
        kind = "zstandard"
    claimed = {".gz": "gzip", ".zst": "zstandard"}.get(path.suffix.lower(), "")
    if claimed and claimed != kind:
        raise InputError(f"{path}: byte 0: named {path.suffix}, but the content is not {claimed} data; fetch it again")
    return kind


def _unpacked(
    file: BinaryIO, path: Path, kind: str, start: int, begins: Callable[[int, int], object]
) -> Iterator[bytes]:
    import zstandard

    decoder: _Decoder | None = None
    position, parts, unpacked = start, 0, 0  # bytes of the packed file consumed, finished members or frames, bytes out
    while data := file.read(_PACKED_BYTES):
        while data:
            if decoder is None:
                if kind == "gzip" and parts and not data.strip(b"\0"):
                    position, data = position + len(data), b""  # zero padding behind the end is allowed by the format
                    break
                begins(position, unpacked)
                decoder = _gunzip() if kind == "gzip" else _unzstd()
            try:
                out = decoder.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                what = f"{kind} data is damaged" if not parts else f"damaged, or not {kind} data behind a complete part"
                raise InputError(f"{path}: near byte {position}: {what} ({error}); fetch the file again") from error
            left = decoder.unused_data if decoder.eof else b""
            position, data = position + len(data) - len(left), left
            if decoder.eof:
                decoder, parts = None, parts + 1
            if out:
                unpacked += len(out)
                yield from (out[i : i + _MOST_BYTES] for i in range(0, len(out), _MOST_BYTES))
    if decoder is not None:
        raise InputError(
            f"{path}: cut off at byte {position}: the {kind} data has no end ({unpacked} bytes could be unpacked); "
            "fetch the file again"
        )


def _gunzip() -> _Decoder:
    return zlib.decompressobj(wbits=31)


def _unzstd() -> _Decoder:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
