"""The words of the facts world, split for training and evaluation: invented people and places, and everyday things.

A person or place is two invented syllables, a thing is an adjective and a noun. Every syllable and word occurs in both
splits, but a *pair* belongs to exactly one of them, by a fixed rule that knows no seed; so every evaluation name is new
to a model trained on the training split, and yet made of tokens it knows.

Syllables have the form consonant-vowel-consonant. That makes the tokenizer's merges inside a name unambiguous (see
`mplat.datasets.tokenizer`): each name is two tokens. Names carry their leading space here, as they do in a sentence.
"""

from __future__ import annotations

from typing import Literal

from ...core.errors import UsageError, suggest

Kind = Literal["person", "place", "thing"]
Entities = dict[str, tuple[str, ...]]  # kind -> names, each with its leading space

PERSON_FIRST = tuple(
    "Bek Bel Bem Bik Bim Bir Ful Fud Fus Ged Gek Ger Gol Gon Gos Gud Gul Gur Lak Lar Lat Pik Pil Pir Pud Pur Pum "
    "Sel Sen Ses Sid Sil Sis Tok Tol Tos Val Vam Vas Zak Zam Zat Zem Zer Zet Zuk Zum Zus".split()
)
PERSON_SECOND = tuple(
    "dok dos dor fas fal fam gad gat gan gid gis gir gom gol gon lok lol lor mek mel mem mok mon mot nal nan nar "
    "ned nel nen rel rer ret rol rom ros tul tuk tut vid vil vin zek zes zet zin zir zis".split()
)
PLACE_FIRST = tuple(
    "Fid Fir Fis Kan Kar Kas Kim Kil Kis Lud Lur Lum Nok Non Nor Ril Rir Rit Sud Sul Sut Zon Zos Zot".split()
)
PLACE_SECOND = tuple(
    "bak bal bas bil bim bir fem fen fes kom kon kor nik nim nin num nul nur tik til tis vun vur vus".split()
)
ADJECTIVES = tuple(
    "red blue green white black old new small big long round heavy cold soft dark plain broken silver wooden "
    "golden".split()
)
NOUNS = tuple(
    "lamp coin book cup key box hat ring map bell chair knife rope drum stone clock boat brush mirror ladder".split()
)

SPLITS = ("eval", "train")


def _in_eval(i: int, j: int) -> bool:
    """True for one pair in twelve; each row and each column of the table of pairs has both kinds.

    Few are held out: a model learns which pairs occur, and the more are missing, the more it distrusts the missing.
    """
    return (i + 5 * j) % 12 == 0


def entities(split: str) -> Entities:
    """All names of a split by kind, in a fixed order.

    Raises UsageError for a split that is neither "eval" nor "train".
    """
    if split not in SPLITS:
        raise UsageError(f"facts world: unknown split {split!r}; {suggest(split, SPLITS)}")
    wanted = split == "eval"
    tables = {
        "person": (PERSON_FIRST, PERSON_SECOND, ""),
        "place": (PLACE_FIRST, PLACE_SECOND, ""),
        "thing": (ADJECTIVES, NOUNS, " "),
    }
    return {
        kind: tuple(
            f" {first}{joint}{second}"
            for i, first in enumerate(firsts)
            for j, second in enumerate(seconds)
            if _in_eval(i, j) == wanted
        )
        for kind, (firsts, seconds, joint) in tables.items()
    }
