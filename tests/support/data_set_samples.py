"""A sample of every data set in its original and in its Hugging Face schema, written out by hand. Not a test file.

The two are the same questions: what a reader makes of one must equal what it makes of the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

OLD = " Rome is old.  Milan is\u2028not. In 1950 Rome had 3 dogs, 2 cats and a na\u00efve caf\u00e9."


class Sample(NamedTuple):
    """original: the values of an original file. rows: the same as rows of the hub."""

    original: list[Any]
    rows: list[dict[str, Any]]
    suffix: str = ".json"  # of the original file
    name: str = "dev"  # of both files, without a suffix


def _squad(version: str, *qas: dict[str, Any]) -> dict[str, Any]:
    return {"version": version, "data": [{"title": "Rome", "paragraphs": [{"context": OLD, "qas": list(qas)}]}]}


def _squad_row(question_id: str, question: str, texts: list[str], starts: list[int]) -> dict[str, Any]:
    answers = {"text": texts, "answer_start": starts}
    return {"id": question_id, "title": "Rome", "context": OLD, "question": question, "answers": answers}


SPANS = [{"text": "Rome", "answer_start": 1}, {"text": "3 dogs", "answer_start": OLD.index("3 dogs")}]
TOKENS = (
    "Rome - Wikipedia <H1> Rome </H1> <P> Rome is old . It has 3 dogs . </P> "
    "<Table> <Tr> <Th> Cats </Th> <Td> 2 </Td> </Tr> </Table>"
).split()
MARKUP = [token.startswith("<") for token in TOKENS]
LONG = {"start_token": 6, "end_token": 17, "start_byte": -1, "end_byte": -1, "candidate_index": 0}
NO_LONG = {"start_token": -1, "end_token": -1, "start_byte": -1, "end_byte": -1, "candidate_index": -1}
SHORT = {"start_token": 13, "end_token": 15, "start_byte": -1, "end_byte": -1}
CANDIDATE = {"start_token": 6, "end_token": 17, "start_byte": -1, "end_byte": -1, "top_level": True}


def _date(day: str = "", month: str = "", year: str = "") -> dict[str, str]:
    return {"day": day, "month": month, "year": year}


DROP_ANSWERS = [
    {"number": "", "date": _date("8", "March", "2010"), "spans": []},
    {"number": "3", "date": _date(), "spans": []},
    {"number": "", "date": _date(), "spans": ["Rome", "3 dogs"]},
]
SAMPLES: dict[str, Sample] = {
    "squad": Sample(
        [
            _squad(
                "1.1",
                {"id": "s1", "question": " What is old?", "answers": SPANS},
                {"id": "s2", "question": "Dogs?", "answers": SPANS[1:]},
            )
        ],
        [
            _squad_row("s1", " What is old?", ["Rome", "3 dogs"], [1, OLD.index("3 dogs")]),
            _squad_row("s2", "Dogs?", ["3 dogs"], [OLD.index("3 dogs")]),
        ],
    ),
    "squad_v2": Sample(
        [
            _squad(
                "v2.0",
                {"id": "v1", "question": "What is old?", "answers": SPANS, "is_impossible": False},
                {
                    "id": "v2",
                    "question": "How many birds?",
                    "answers": [],
                    "is_impossible": True,
                    "plausible_answers": SPANS[1:],
                },
            )
        ],
        [
            _squad_row("v1", "What is old?", ["Rome", "3 dogs"], [1, OLD.index("3 dogs")]),
            _squad_row("v2", "How many birds?", [], []),
        ],
    ),
    "hotpotqa": Sample(
        [
            {
                "_id": "h1",
                "question": "Which?",
                "answer": "Rome",
                "type": "bridge",
                "level": "hard",
                "supporting_facts": [["B", 1], ["A", 0], ["Elsewhere", 4]],
                "context": [["A", ["Rome is old. ", " It is."]], ["B", ["Milan.", " Not\u2028old."]], ["C", []]],
            }
        ],
        [
            {
                "id": "h1",
                "question": "Which?",
                "answer": "Rome",
                "type": "bridge",
                "level": "hard",
                "supporting_facts": {"title": ["B", "A", "Elsewhere"], "sent_id": [1, 0, 4]},
                "context": {
                    "title": ["A", "B", "C"],
                    "sentences": [["Rome is old. ", " It is."], ["Milan.", " Not\u2028old."], []],
                },
            }
        ],
        suffix=".jsonl",
    ),
    "triviaqa": Sample(
        [
            {
                "Data": [
                    {
                        "QuestionId": "t1",
                        "Question": "Which city?",
                        "Answer": {
                            "Value": "Rome",
                            "Aliases": ["Roma", "Rome."],
                            "NormalizedAliases": ["rome", "roma", "urbs"],
                        },
                    }
                ],
                "Domain": "Wikipedia",
                "Split": "dev",
                "VerifiedEval": False,
                "Version": 1.0,
            }
        ],
        [
            {
                "question_id": "t1",
                "question": "Which city?",
                "question_source": "",
                "entity_pages": {"title": []},
                "search_results": {"title": []},
                "answer": {
                    "value": "Rome",
                    "aliases": ["Roma", "Rome."],
                    "normalized_aliases": ["rome", "roma", "urbs"],
                    "normalized_value": "rome",
                },
            }
        ],
    ),
    "musique": Sample(
        [
            {
                "id": "2hop__1_2",
                "paragraphs": [
                    {"idx": 5, "title": "A", "paragraph_text": OLD, "is_supporting": True},
                    {"idx": 7, "title": "B", "paragraph_text": "Nothing. ", "is_supporting": False},
                    {"idx": 9, "title": "C", "paragraph_text": "Dogs bark. Rome has them.", "is_supporting": True},
                ],
                "question": "How many dogs has the old city?",
                "question_decomposition": [
                    {"id": 11, "question": "Which city is old?", "answer": "Rome", "paragraph_support_idx": 9},
                    {"id": 12, "question": "#1 >> dogs", "answer": "3 dogs", "paragraph_support_idx": 5},
                ],
                "answer": "3 dogs",
                "answer_aliases": ["3", "three dogs"],
                "answerable": True,
            }
        ],
        [
            {
                "id": "2hop__1_2",
                "paragraphs": {
                    "idx": [0, 1, 2],
                    "title": ["A", "B", "C"],
                    "paragraph_text": [OLD, "Nothing. ", "Dogs bark. Rome has them."],
                    "is_supporting": [True, False, True],
                },
                "question": "How many dogs has the old city?",
                "question_decomposition": [
                    {"id": 11, "question": "Which city is old?", "answer": "Rome", "paragraph_support_idx": 2},
                    {"id": 12, "question": "#1 >> dogs", "answer": "3 dogs", "paragraph_support_idx": 0},
                ],
                "answer": "3 dogs",
                "answer_aliases": ["3", "three dogs"],
                "answerable": True,
            }
        ],
        suffix=".jsonl",
    ),
    "drop": Sample(
        [
            {
                "history_1": {
                    "passage": OLD,
                    "qa_pairs": [
                        {
                            "question": "When?",
                            "query_id": "d1",
                            "answer": DROP_ANSWERS[0],
                            "validated_answers": DROP_ANSWERS[1:],
                        },
                        {"question": "How many?", "query_id": "d2", "answer": DROP_ANSWERS[1]},
                    ],
                    "wiki_url": "x",
                }
            }
        ],
        [
            {
                "section_id": "history_1",
                "query_id": "d1",
                "passage": OLD,
                "question": "When?",
                "answer": {**DROP_ANSWERS[0], "worker_id": "", "hit_id": ""},
                "validated_answers": {
                    "number": ["3", ""],
                    "date": [_date(), _date()],
                    "spans": [[], ["Rome", "3 dogs"]],
                    "worker_id": ["", ""],
                    "hit_id": ["", ""],
                },
            },
            {
                "section_id": "history_1",
                "query_id": "d2",
                "passage": OLD,
                "question": "How many?",
                "answer": {**DROP_ANSWERS[1], "worker_id": "", "hit_id": ""},
                "validated_answers": {"number": [], "date": [], "spans": [], "worker_id": [], "hit_id": []},
            },
        ],
    ),
    "natural_questions": Sample(
        [
            {
                "example_id": -17,
                "question_text": "how many dogs has rome",
                "question_tokens": ["how", "many", "dogs", "has", "rome"],
                "document_title": "Rome",
                "document_url": "https://example.org/Rome",
                "document_html": "<html>",
                "document_tokens": [
                    {"token": token, "html_token": markup, "start_byte": 0, "end_byte": 1}
                    for token, markup in zip(TOKENS, MARKUP, strict=True)
                ],
                "long_answer_candidates": [CANDIDATE],
                "annotations": [
                    {"annotation_id": 1, "long_answer": LONG, "short_answers": [SHORT], "yes_no_answer": "NONE"},
                    {"annotation_id": 2, "long_answer": NO_LONG, "short_answers": [], "yes_no_answer": "NONE"},
                    {"annotation_id": 3, "long_answer": LONG, "short_answers": [], "yes_no_answer": "YES"},
                ],
            }
        ],
        [
            {
                "id": "-17",
                "question": {"text": "how many dogs has rome", "tokens": []},
                "document": {
                    "title": "Rome",
                    "url": "https://example.org/Rome",
                    "html": "<html>",
                    "tokens": {
                        "token": TOKENS,
                        "is_html": MARKUP,
                        "start_byte": [0] * len(TOKENS),
                        "end_byte": [1] * len(TOKENS),
                    },
                },
                "long_answer_candidates": {key: [value] for key, value in CANDIDATE.items()},
                "annotations": {
                    "id": ["1", "2", "3"],
                    "long_answer": [LONG, NO_LONG, LONG],
                    "short_answers": [
                        {**{key: [value] for key, value in SHORT.items()}, "text": ["3 dogs"]},
                        {**{key: [] for key in SHORT}, "text": []},
                        {**{key: [] for key in SHORT}, "text": []},
                    ],
                    "yes_no_answer": [-1, -1, 1],
                },
            }
        ],
    ),
}
