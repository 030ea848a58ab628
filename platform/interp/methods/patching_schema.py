"""The tables of the step `patching`, and how a report shows them."""

from __future__ import annotations

import pyarrow as pa

from ..engine.columns import column
from ..engine.view import BarPart, Column, TablePart, View

_STATUS = column("status", pa.string(), "ok; not_applicable: the candidate is all of its sites and has no complement, "
                 "the model has no candidates, or no questions are left")  # fmt: skip
_CANDIDATE = [
    column("candidate", pa.string(), "what is replaced, see the step `circuits`"),
    column("kind", pa.string(), "what sort of candidate; named: asked for by name"),
]

EFFECTS_SCHEMA = pa.schema([
    *_CANDIDATE,
    column("layer", pa.int32(), "block; null for several"),
    column("size", pa.int32(), "numbers per token"),
    column("rank", pa.int32(), "among all candidates of `circuits`; null for named ones"),
    column("how", pa.string(), "necessity: zero, mean, resample or corrupted values are put in its place in the clean "
           "prompt; sufficiency: patched: its clean values are put into the corrupted prompt; rest: everything else of "
           "its sites gets corrupted values"),
    column("effect", pa.float64(), "mean change of the metric: against the clean prompt, for patched against the "
           "corrupted one"),
    column("low", pa.float64(), "lower bound of its interval over questions; null for fewer than two"),
    column("high", pa.float64(), "upper bound"),
    column("p_prompts", pa.float64(), "two-sided p-value of no change over questions"),
    column("share", pa.float64(), "of the difference of clean and corrupted prompts: lost (necessity), brought back "
           "(patched), or kept (rest)"),
    column("control_share", pa.float64(), "the same of random controls of equal size, mean; null where there are none"),
    column("control_sd", pa.float64(), "standard deviation over controls; null for fewer than two"),
    column("n_controls", pa.int32(), "controls drawn"),
    column("difference", pa.float64(), "effect less the controls' mean effect, question by question"),
    column("difference_low", pa.float64(), "lower bound of its interval"),
    column("difference_high", pa.float64(), "upper bound"),
    column("p", pa.float64(), "the larger of two p-values: of that difference over questions, and of the candidate "
           "being one more control; null for fewer than two controls"),
    column("p_holm", pa.float64(), "p corrected for all candidates tested in the same way"),
    column("verdict", pa.string(), "by p_holm: stronger than random, weaker than random, or no difference shown"),
    column("n_prompts", pa.int32(), "questions counted"),
    _STATUS,
])  # fmt: skip
HORIZONS_SCHEMA = pa.schema([
    *_CANDIDATE,
    column("how", pa.string(), "corrupted (necessity) or patched (sufficiency)"),
    column("horizon", pa.string(), "tokens from the end of the fact to the last one of the prompt, from - to"),
    column("distance", pa.float64(), "their mean over the questions"),
    column("share", pa.float64(), "of the difference of clean and corrupted prompts at this distance"),
    column("low", pa.float64(), "lower bound of its interval over questions; null for fewer than two"),
    column("high", pa.float64(), "upper bound"),
    column("n_prompts", pa.int32(), "questions counted"),
    _STATUS,
])  # fmt: skip
CLASSES_SCHEMA = pa.schema([
    *_CANDIDATE,
    column("of_kind", pa.string(), "questions of this category and number of hops; null: of all"),
    column("change", pa.float64(), "mean change of the metric when it is replaced by its mean"),
    column("low", pa.float64(), "lower bound of its interval over questions; null for fewer than two"),
    column("high", pa.float64(), "upper bound"),
    column("control_change", pa.float64(), "the same of random controls of equal size; null where there are none"),
    column("difference", pa.float64(), "change less that of the controls"),
    column("p", pa.float64(), "two-sided, of the difference over questions; null where there are no controls"),
    column("p_holm", pa.float64(), "corrected for all candidates on the same questions"),
    column("accuracy", pa.float64(), "share of questions whose answer is the most probable token, replaced"),
    column("accuracy_clean", pa.float64(), "the same with nothing replaced"),
    column("accuracy_controls", pa.float64(), "with controls replaced"),
    column("n_prompts", pa.int32(), "questions counted"),
    _STATUS,
])  # fmt: skip


def _three(part: str, of: str) -> list[pa.Field]:
    return [
        column(f"first_{part}", pa.float64(), f"{of} with the first replaced"),
        column(f"second_{part}", pa.float64(), f"{of} with the second replaced"),
        column(f"both_{part}", pa.float64(), f"{of} with both replaced"),
        column(f"interaction_{part}", pa.float64(), "what both lose less the sum of what each loses"),
        column(f"low_{part}", pa.float64(), "lower bound of its interval over questions; null for fewer than two"),
        column(f"high_{part}", pa.float64(), "upper bound"),
        column(f"p_{part}", pa.float64(), "two-sided, over questions, corrected for all pairs replaced in this way"),
    ]


PAIRS_SCHEMA = pa.schema([
    column("first", pa.string(), "one candidate"),
    column("second", pa.string(), "another that shares nothing with it"),
    column("how", pa.string(), "what is put in their places: zero and mean take away, corrupted says something else"),
    *_three("lost", "share of questions whose answer is no longer said"),
    *_three("share", "share lost of the difference of clean and corrupted prompts"),
    column("verdict", pa.string(), "by the answers where their p-value shows something, else by the metric: redundant "
           "(more than half of what both lose is lost only with both replaced: each stands in for the other), partly "
           "redundant (less than half), in series (both lose less than the sum: they are on one path), or no "
           "interaction shown"),
    column("n_prompts", pa.int32(), "questions counted"),
    _STATUS,
])  # fmt: skip

_WORDS = {
    "zero": "zeroed", "mean": "set to its mean", "resample": "another prompt's values", "corrupted": "corrupted values",
    "patched": "patched into the corrupted prompt", "rest": "all else of its sites corrupted",
}  # fmt: skip
VIEW = View(
    "Necessity and sufficiency: what candidates carry, measured by replacing them",
    "Candidates were ranked on one half of the questions and are measured on the other. A share is of the difference "
    "between a prompt and the same prompt with another answer stated: lost where the candidate's values are replaced, "
    "brought back where its clean values are patched in. Beside each: random controls of equal size. Only where the "
    "verdict is a stronger effect does a candidate do more than those; that something can be read out of it shows "
    "nothing.",
    (
        BarPart(part="effects", x="candidate", y="share", group="how", only={"status": "ok"}, words=_WORDS,
                title="Share of the answer that is lost, kept or brought back", label="share"),
        TablePart(
            part="effects",
            title="Beside random controls of equal size",
            only={"status": "ok"},
            sort=("how", "-share"),
            columns=(
                Column("candidate"), Column("how"), Column("size"), Column("share"),
                Column("control_share", "controls", absent="–"),
                Column("effect", "change", "low", "high", form="signed"), Column("p_holm", "p", form="p", absent="–"),
                Column("verdict", absent="–"), Column("n_prompts", "prompts"),
            ),
            words=_WORDS,
        ),
        TablePart(
            part="classes",
            title="What setting it to its mean does, by kind of question",
            explains="Detection is not execution: what was ranked first, and as many random others, taken away.",
            only={"status": "ok"},
            columns=(
                Column("candidate"), Column("of_kind", "questions", absent="all"),
                Column("change", "change", "low", "high", form="signed"),
                Column("control_change", "controls", form="signed", absent="–"),
                Column("p_holm", "p", form="p", absent="–"), Column("accuracy", "right"),
                Column("accuracy_controls", "right, controls", absent="–"), Column("accuracy_clean", "right, clean"),
                Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="horizons",
            title="By distance of the fact",
            only={"status": "ok"},
            columns=(Column("candidate"), Column("how"), Column("horizon", "tokens"),
                     Column("share", "share", "low", "high"), Column("n_prompts", "prompts")),
            words=_WORDS,
        ),
        TablePart(
            part="pairs",
            title="Two at once",
            only={"status": "ok"},
            sort=("how", "-interaction_lost"),
            columns=(Column("first"), Column("second"), Column("how"), Column("first_lost", "answers lost, first"),
                     Column("second_lost", "second"), Column("both_lost", "both"),
                     Column("p_lost", "p", form="p", absent="–"), Column("first_share", "share, first"),
                     Column("second_share", "second"), Column("both_share", "both"),
                     Column("p_share", "p", form="p", absent="–"), Column("verdict", absent="–")),
            words=_WORDS,
        ),
    ),
)  # fmt: skip
