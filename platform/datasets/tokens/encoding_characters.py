"""The class of every code point (letter, number, white space, other) as the `tokenizers` library sees it.

Which characters are letters depends on the version of Unicode, and the library's is not Python's. The library is asked,
a page of 256 code points at a time when a text has the first of them.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from .encoding_loops import FOREIGN, LETTER, NUMBER, OTHER, SPACE, UNKNOWN

PAGE = 256
_PATTERNS = {LETTER: r"\p{L}+", NUMBER: r"\p{N}+", SPACE: r"\s+"}

#: First and last of ranges in which no character combines with another one and none has a canonical decomposition that
#: NFC does not put together again (Unicode Standard Annex 15, quick check): a text of these alone is in NFC.
NFC_KEEPS = (
    (0x0000, 0x02FF),
    (0x0388, 0x03FF),  # Greek
    (0x0400, 0x0482),  # Cyrillic
    (0x2010, 0x205E),  # dashes, quotation marks
    (0x20A0, 0x20CF),  # currencies
    (0x3041, 0x3096),  # hiragana
    (0x30A1, 0x30FA),  # katakana
    (0x4E00, 0x9FFF),  # ideographs
    (0xAC00, 0xD7A3),  # hangul syllables
)


class Characters:
    """`classes` (code points) uint8: `UNKNOWN` until `learn` is called, `FOREIGN` where NFC may change a text."""

    def __init__(self, nfc: bool) -> None:
        self.classes = np.full(0x110000, UNKNOWN, np.uint8)
        if nfc:
            kept = np.zeros(self.classes.size, bool)
            for first, last in NFC_KEEPS:
                kept[first : last + 1] = True
            self.classes[~kept] = FOREIGN

    def learn(self, code_point: int) -> None:
        """Finds the classes of the page of a code point, which is no surrogate."""
        first = code_point // PAGE * PAGE
        page = "".join(map(chr, range(first, first + PAGE)))
        found = np.full(PAGE, OTHER, np.uint8)
        for kind, pattern in _PATTERNS.items():
            matched = np.ones(PAGE, bool)
            for _, (start, end) in Split(Regex(pattern), "removed").pre_tokenize_str(page):
                matched[start:end] = False
            found[matched] = kind
        classes = self.classes[first : first + PAGE]
        classes[classes == UNKNOWN] = found[classes == UNKNOWN]
