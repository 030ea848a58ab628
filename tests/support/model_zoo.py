"""Small random models shared by the model tests; not a test file."""

from __future__ import annotations

import torch
from mplat.models import LanguageModel, ModelConfig, build
from mplat.models import mixer as mixers

#: every registered architecture, for the contract they all keep
ARCHITECTURES = tuple(mixers.names())
#: those that are a recurrence and nothing else, with all state sites
STATE_SPACE = ("mamba", "mamba2")


def nano(arch: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: object) -> LanguageModel:
    """Two layers, width 24, vocabulary 40, other options as in the size nano.

    Stirred, so that no part is near zero as some are at the start.
    """
    values: dict[str, object] = {"vocab_size": 40, "d_model": 24, "n_layers": 2, "state_size": 5, "head_dim": 8}
    own = {k: v for k, v in mixers.get(arch).sizes.get("nano", {}).items() if k not in values}
    values |= {"arch": arch, "n_groups": 2 if "n_groups" in mixers.get(arch).config_fields else 1} | own | changes
    model = build(ModelConfig.from_dict(values), seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.02 if "A_log" in name else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model.backbone.embeddings.weight.mul_(4)
    return model.to(dtype).eval()


def tokens(rows: int, width: int, *, seed: int = 0, vocab: int = 40) -> torch.Tensor:
    return torch.randint(0, vocab, (rows, width), generator=torch.Generator().manual_seed(seed))
