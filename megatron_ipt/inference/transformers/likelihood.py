"""Log-likelihoods of a batch of texts under a model of transformers.

Texts are padded on the right, where causal attention never sees it. Logits are in the model's precision, their
log-softmax in fp32, sums over a text in fp64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megatron_ipt.inference.scoring import Score, ScoreRequest

_ROWS = 1024
"""Tokens whose log-probabilities are computed at once."""


def score_batch(model: Any, requests: Sequence[ScoreRequest], pad: int) -> list[Score]:
    """Scores of ``requests``, each with at least one counted token, in one forward pass.

    Args:
        model: ``AutoModelForCausalLM`` in evaluation mode.
        pad: id that fills up shorter texts.
    """
    import torch

    device = model.device
    width = max(len(request.ids) for request in requests)
    ids = torch.tensor([[*request.ids] + [pad] * (width - len(request.ids)) for request in requests], device=device)
    mask = torch.tensor(
        [[1] * len(request.ids) + [0] * (width - len(request.ids)) for request in requests], device=device
    )
    counted = [(row, place) for row, request in enumerate(requests) for place in request.counted]
    rows, places = torch.tensor(counted, device=device).unbind(1)
    found: list[float] = []
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, place in zip(rows.split(_ROWS), places.split(_ROWS)):
            likelihoods = torch.log_softmax(logits[row, place - 1].float(), dim=-1)
            found += likelihoods.gather(1, ids[row, place, None])[:, 0].tolist()
    values = iter(found)
    return [request.score([next(values) for _ in request.counted]) for request in requests]
