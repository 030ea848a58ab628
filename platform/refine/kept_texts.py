"""What is kept as a corpus of its own: records as in The Pile, in the order of the corpus.

Chunks of one document that follow each other and are all kept are one record, so that of everything, all kept, the
documents themselves come back. Of a document that is kept whole the record's other fields are kept too; those of a part
are not, because they may speak of places in the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..datasets.readers.pile import OWN_SET

if TYPE_CHECKING:
    from ..datasets.readers.pile import Document
    from .chunks import Chunk


def kept_records(
    chunks: Sequence[Chunk], kept: Iterable[bool], documents: Sequence[Document]
) -> Iterator[dict[str, Any]]:
    """`{"text", "meta": {"pile_set_name", "document", "start", "stop"}}`; places are characters of the document. A
    document that names no set has no `pile_set_name`."""
    for (number, chosen), group in groupby(zip(chunks, kept, strict=True), key=lambda one: (one[0].document, one[1])):
        if not chosen:
            continue
        of, run = documents[number], [chunk for chunk, _ in group]
        named = {} if of.set_name == OWN_SET else {"pile_set_name": of.set_name}
        place = {"document": of.id, "start": run[0].start, "stop": run[-1].stop}
        text = "".join(chunk.text for chunk in run)
        others = (of.fields or {}) if len(text) == len(of.text) else {}
        yield {"text": text, **others, "meta": named | place}


def packed_lines(records: Iterable[dict[str, Any]]) -> bytes:
    """Records as JSON lines in one zstandard frame with a checksum."""
    import zstandard

    packer = zstandard.ZstdCompressor(level=10, write_checksum=True).compressobj()
    lines = (json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n" for record in records)
    return b"".join([*map(packer.compress, lines), packer.flush()])
