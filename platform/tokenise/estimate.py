"""What a token folder will cost, from a look at the first texts of some files: none is read to its end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import InputError
from ..datasets.sources.compressed import chunks, swelling
from ..datasets.tokens.encoding import Encoder
from ..datasets.tokens.folder import token_dtype
from ..datasets.tokens.hub_texts import HUB
from ..datasets.tokens.reading import LINES, TABLE, Document, Fields, check_kind, records
from ..datasets.tokens.tokenizer import open_tokenizer
from .tokenise_run import TokenisePlan

_OPERATIONS_PER_BYTE = 14_000  # which take as long as tokenising a byte, for --address auto
_FILES, _CHARACTERS = 4, 1 << 20  # that are looked at, and of each
_LOOKED_AT = 64 << 20  # bytes of a packed file, for the end of a frame


@dataclass(frozen=True)
class Estimate:
    """Of all local files together. text_bytes: of the unpacked files. seconds: of one process."""

    shards: int
    file_bytes: int
    text_bytes: int
    tokens: int
    folder_bytes: int
    seconds: float


def operations(plan: TokenisePlan) -> float:
    """How much work it is; without end for the hub's data sets, whose size is not known."""
    if any(file.startswith(HUB) for file in plan.files):
        return float("inf")
    return float(_OPERATIONS_PER_BYTE * sum(map(_text_bytes, plan.files)))


def estimate(plan: TokenisePlan) -> Estimate:
    """Raises InputError where a file is damaged at its start, or the first files hold no text."""
    local = [file for file in plan.files if not file.startswith(HUB)]
    sizes = [_text_bytes(file) for file in local]
    tokens_per_byte, bytes_per_second = _sample(plan, local[:: -(-len(local) // _FILES) or 1])
    tokens = int(sum(sizes) * tokens_per_byte)
    return Estimate(
        shards=_shards(local, sizes, plan.step) + len(plan.files) - len(local),
        file_bytes=sum(plan.sizes),
        text_bytes=sum(sizes),
        tokens=tokens,
        folder_bytes=tokens * token_dtype(plan.tokenizer.size).itemsize,
        seconds=sum(sizes) / bytes_per_second,
    )


def one_piece(plan: TokenisePlan) -> list[str]:
    """Files that one worker must read alone, although they are longer than a part."""
    local = [file for file in plan.files if not file.startswith(HUB)]
    return [file for file in local if _form(file) == "whole" and _text_bytes(file) > plan.step]


def one_frame(plan: TokenisePlan) -> list[str]:
    """Packed files longer than a part in whose beginning no frame ends: every worker unpacks all of such a file."""
    local = [Path(file) for file in plan.files if not file.startswith(HUB)]
    packed = [file for file in local if file.suffix in (".gz", ".zst") and _form(str(file)) == "lines"]
    return [str(file) for file in packed if _text_bytes(str(file)) > plan.step and not _has_frames(file)]


def _has_frames(file: Path) -> bool:
    begins: list[int] = []
    read = 0
    for chunk in chunks(file, begins=lambda packed, unpacked: begins.append(unpacked)):
        read += len(chunk)
        if begins[-1] or read > _LOOKED_AT:
            break
    return begins[-1] > 0


def _text_bytes(file: str) -> int:
    """What a file holds unpacked, about."""
    return int(Path(file).stat().st_size * swelling(Path(file)))


def _form(file: str) -> str:
    found = check_kind(Path(file))
    return "lines" if found in LINES else "groups" if found == TABLE else "whole"


def _shards(files: list[str], sizes: list[int], step: int) -> int:
    """Parts that the work is cut into: spans as `spans.survey` cuts them, short ones together."""
    count = held = 0
    for file, size in zip(files, sizes, strict=True):
        pieces = {"lines": -(-size // step), "groups": _groups(file, step), "whole": 1}[_form(file)]
        for _ in range(pieces):
            held += size // max(1, pieces)
            if held >= step or pieces > 1:
                count, held = count + 1, 0
    return count + (held > 0)


def _groups(file: str, step: int) -> int:
    if _form(file) != "groups":
        return 0
    try:
        about = pq.ParquetFile(file).metadata
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error}); fetch the file again") from error
    held = count = 0
    for group in range(about.num_row_groups):
        held += about.row_group(group).total_byte_size
        if held >= step:
            count, held = count + 1, 0
    return count + (held > 0)


def _sample(plan: TokenisePlan, files: list[str]) -> tuple[float, float]:
    """Tokens for each byte of file, and bytes of file for each second of a processor, by the first texts of `files`."""
    fields = Fields(plan.config.field, plan.config.set_field)
    encoder = Encoder(open_tokenizer(plan.config.tokenizer)[0])
    began = time.process_time()
    texts = [text for file in files for text in _first(records(Path(file), fields))]
    flat, _ = encoder.ids(texts)
    seconds = max(1e-6, time.process_time() - began)
    read = sum(len(text.encode()) for text in texts)
    if files and not read:
        raise InputError(f"{', '.join(files)}: no text was found at the beginning")
    return (len(flat) + len(texts)) / max(1, read), max(1, read) / seconds


def _first(found: Iterable[tuple[int, object]]) -> Iterator[str]:
    characters = 0
    for _, document in found:
        if isinstance(document, Document):
            yield document.text
            characters += len(document.text)
            if characters >= _CHARACTERS:
                return
