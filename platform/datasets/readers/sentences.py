"""Cutting running text into real sentences, without losing a character.

`split_sentences(text)` promises that joining the pieces gives the text back: white space after a sentence stays with
it. A cut is made where closing punctuation (and any quotes, brackets or citation marks behind it) is followed by white
space and something that can open a sentence, and at blank lines (a single line break is white space: in Wikipedia
extracts it is often what is left of a subscript). Abbreviations, initials, dotted acronyms, decimals
and ordinals of days do not end a sentence unless what follows makes it near certain.

It is a rule set for edited English prose. It knows no other language's abbreviations, and it does not repair text.
"""

from __future__ import annotations

import re

#: a passage that is no plain row of sentences, for examples
EXAMPLE = " Rome is old.  Milan is\u2028not. In 1950 Rome had 3 dogs, 2 cats and a na\u00efve caf\u00e9."

# A title or a Latin short form: a capital letter after it goes on with the same sentence, whatever the word.
_NEVER_LAST = frozenset(
    """
    mr mrs ms messrs mme mlle dr drs prof rev hon fr msgr gen col lt maj capt cpt cmdr cdr adm sgt cpl pvt brig
    gov pres sen rep amb supt insp st ste mt vs viz eg ie e.g i.e cf eds trans univ h.m.s u.s.s
    """.split()
)
# Words that announce a number: "no. 5", "vol. 3", "ca. 1900". Before anything else their dot is a full stop.
_BEFORE_NUMBER = frozenset("no nos vol vols pp p fig figs ch sec art op c ca approx pt ext est r s v".split())
# Words that are written with a dot and may also end a sentence: cut only before a word that opens sentences.
_SOMETIMES_LAST = frozenset(
    """
    inc co corp ltd llc plc bros jr sr etc al ph.d m.d b.a m.a b.sc m.sc d.c u.s u.k u.n e.u a.m p.m b.c a.d b.c.e c.e
    esq ave blvd mass calif conn fla ill mich minn okla pa tex va wash wis ore ariz ark colo ga ind kan ky la md mo neb
    nev jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun
    """.split()
)
_OPENERS = frozenset(
    """
    the a an this that these those it its he she they we you i his her their our there here in on at by for from with
    to of as when while where after before during since until although though because if however but and or so yet
    both each some many most several all one two three another other such no not only also even then thus therefore
    moreover furthermore meanwhile according among under over between within without despite unlike like today who
    what which how why once upon following its part despite additionally currently later
    """.split()
)
# Possessive quantifiers and the look-behind keep this linear, whatever the text.
_CANDIDATE = re.compile(
    r"""
    (?<![.!?\u2026]) (?P<mark>[.!?\u2026]++)                          # closing punctuation,
    (?P<close>(?:["'\u201d\u2019\u00bb)\]}]|\[[^\[\]\s]{1,12}\])*+)   # closing quotes, brackets, [12]
    (?P<gap>\s++)                                                     # white space,
    (?=(?P<next>\S))                                                  # and something behind it
    | [\u3002\uff01\uff1f][\u300d\u300f\u201d\uff09]*+\s*+            # full-width marks need no white space
    | [\u0964\u061f\u06d4]\s++                                        # danda, Arabic and Urdu marks
    | \n[^\S\n]*+\n\s*+                                               # a blank line ends whatever it ends
    """,
    re.VERBOSE,
)
_OPENING_MARKS = "([{\"'\u201c\u2018\u00ab"
_NEXT_WORD = re.compile(r"[(\[{\"'\u201c\u2018\u00ab]*+([^\W_]++)")
_WORD_BREAKS = frozenset(_OPENING_MARKS + "/-\u2013\u2014")
_LONGEST_ABBREVIATION = 12
_CLOSING_QUOTES = ("'", '"', "\u2019", "\u201d", "\u00bb")
_MONTH = re.compile(r"(?:January|February|March|April|May|June|July|August|September|October|November|December)\b")


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences of `text`, each with the white space behind it; `"".join` of them is `text`.

    A text of white space only is one piece; the empty text has none.
    """
    pieces: list[str] = []
    start = 0
    for match in _CANDIDATE.finditer(text):
        end = match.end()
        if match["mark"] is not None:
            if not _ends_sentence(text, start, match):
                continue
        elif end >= len(text) or not text[start:end].strip():
            continue
        pieces.append(text[start:end])
        start = end
    if start < len(text):
        pieces.append(text[start:])
    return tuple(pieces)


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the punctuation of `match` closes the sentence that began at `start`."""
    if match["gap"].count("\n") > 1:
        return True
    following, close = match["next"], match["close"]
    if following.islower() or following in ",;:.!?)]}%":
        return False
    if following == "(" and close[-1:] in _CLOSING_QUOTES:
        return False  # a quoted title and its year: "Over Here!" (1974)
    if match["mark"] != ".":
        return True
    first = end = match.start("mark")
    while first > start and end - first <= _LONGEST_ABBREVIATION:
        if text[first - 1] in _WORD_BREAKS or text[first - 1].isspace():
            break
        first -= 1
    last = text[first:end].lower()
    if last in _BEFORE_NUMBER and following.isdigit():
        return False
    if _may_open(text, match.end()):
        return last not in _NEVER_LAST
    if last in _NEVER_LAST or last in _SOMETIMES_LAST:
        return bool(close) and last not in _NEVER_LAST
    if "." in last and all(len(part) == 1 for part in last.split(".")):
        return False  # a dotted acronym: "U.S. Army"
    if len(last) == 1 and last.isalpha():
        return False  # an initial: "J. R. R. Tolkien"
    # "3 May" written "3. May", or "1. FC Köln": a day or a rank, not the number that ends a sentence
    rank = last.isdigit() and len(last) <= 2
    return not (rank and (first == start or _MONTH.match(text, match.end())))


def _may_open(text: str, position: int) -> bool:
    """Whether the word at `position` is a capitalised word that commonly opens a sentence, and no initial."""
    word = _NEXT_WORD.match(text, position)
    if word is None or not word[1][0].isupper() or word[1].lower() not in _OPENERS:
        return False
    return len(word[1]) > 1 or not text.startswith(".", word.end())
