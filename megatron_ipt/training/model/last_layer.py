"""The output layer apart from the rest of the model: applied only to the positions whose logits are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def stopped_before_output(module: Any) -> Iterator[None]:
    """Lets ``module`` return the last layer's output, as it does on all pipeline stages but the last."""
    whole = module.post_process
    module.post_process = False
    try:
        yield
    finally:
        module.post_process = whole


def output_logits(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [positions, vocabulary / tp] of ``hidden`` [positions, hidden size], on the last stage.

    Padding of the vocabulary is minus infinity. The output layer must not be sequence parallel.
    """
    shares = module.share_embeddings_and_output_weights
    weight = module.shared_embedding_or_output_weight() if shares else None
    logits: torch.Tensor = module.output_layer(hidden.unsqueeze(1), weight=weight)[0]
    return logits.squeeze(1)
