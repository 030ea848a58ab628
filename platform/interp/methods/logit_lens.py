"""Logit lens: what the model would say if it stopped after a block (nostalgebraist, 2020).

The residual stream after each block goes through the model's own final norm and head. After the last block that is what
the model says. How far a block is from there is KL(final || lens) in nats, as in Belrose et al. (arXiv 2303.08112).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.lending import label
from ..engine.columns import column
from ..engine.places import places
from .arguments import integer
from .asked import check_finite, chosen_layers, evaluating, prompt_positions
from .corruption import token_row
from .metric import make_metric
from .table import text_metadata, token_labels
from .typed_tensors import floats, ints

if TYPE_CHECKING:
    from ...models import LanguageModel

SCHEMA = pa.schema([
    column("site", pa.string(), "site of the residual stream, relative to the block"),
    column("layer", pa.int32(), "block"),
    column("position", pa.int32(), "token position"),
    column("token", pa.string(), "the prompt's token there"),
    column("top_tokens", pa.list_(pa.string()), "the most probable next tokens, most probable first"),
    column("top_ids", pa.list_(pa.int32()), "their ids"),
    column("top_probs", pa.list_(pa.float64()), "their probabilities"),
    column("answer_rank", pa.int32(), "1 plus the number of tokens more probable than the answer"),
    column("answer_prob", pa.float64(), "probability of the answer"),
    column("kl", pa.float64(), "KL divergence of the lens from what the model says there, KL(final || lens), in nats"),
])  # fmt: skip

_SITES = ("resid_pre", "resid_mid", "resid_post")


@torch.no_grad()
def logit_lens(
    model: LanguageModel,
    tokens: Tensor,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    answer: int | None = None,
    top: int = 5,
) -> pa.Table:
    """What the residual stream says after every block at every position of the prompt tokens (T).

    site: of the residual stream ("resid_post", "resid_pre", "resid_mid"). answer: token id, the same at all positions;
    None: what the model says after the last token. top: how many of the most probable tokens are listed.

    Returns a table of `SCHEMA` by layer and position; its metadata holds the answer. Raises UsageError for sites,
    layers or positions that the model lacks, and for `top` outside 1 to the size of the vocabulary.
    """
    text = token_row(model, tokens, "tokens")
    if site not in _SITES:
        raise UsageError(f"logit_lens: site {site!r} is not the residual stream; choose one of {', '.join(_SITES)}")
    if integer(top, "top, the number of tokens listed,", 1) > model.config.vocab_size:
        raise UsageError(f"logit_lens: top is {top}; the vocabulary has {model.config.vocab_size} tokens")
    where = prompt_positions(positions, len(text))
    sites = places(model, chosen_layers(model, layers), [site], one_axis=False)
    with evaluating(model), model.capture(*(place.name for place in sites)) as acts:
        logits = model(text[None])
    check_finite(model, logits)
    judge = make_metric("prob", answer, logits[0, -1], logits[:, -1])
    target = judge.answer
    final = torch.log_softmax(logits[0, where].double(), -1)
    texts = token_labels(model, ints(text))
    rows: list[dict[str, Any]] = []
    for place in sites:  # one block at a time: (T, V) numbers
        lens = torch.log_softmax(model.unembed(acts[place.name][:, where])[0].double(), -1)
        kl = (
            torch.nn.functional.kl_div(lens, final, reduction="none", log_target=True).sum(-1).clamp(min=0.0)
        )  # -1e-17 is 0
        best = lens.topk(top, dim=-1)
        rank = 1 + (lens > lens[:, target, None]).sum(-1)
        for i, t in enumerate(where):
            rows.append({
                "site": site, "layer": place.layer, "position": t, "token": texts[t],
                "top_tokens": token_labels(model, ints(best.indices[i])), "top_ids": ints(best.indices[i]),
                "top_probs": floats(best.values[i].exp()), "answer_rank": int(rank[i]),
                "answer_prob": float(lens[i, target].exp()), "kl": float(kl[i]),
            })  # fmt: skip
    about = {"answer": target, "answer_given": judge.given, "length": len(text), "model": label(model)}
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(text_metadata(about)))
