"""The program that :mod:`~megatron_ipt.convert.verify` runs: compares the logits of both models for the same tokens.

``python -m megatron_ipt.convert.compare_logits CHECKPOINT FOLDER ANSWER [TEXT]``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.extensions import load_registered_extensions

_BATCH, _LENGTH = 2, 64


def main(checkpoint: Path, folder: Path, answer: Path, text: Path | None) -> None:
    """Compares, and writes the result as JSON to ``answer`` if everything succeeded."""
    tokens, theirs, their_layers = _transformers(folder, text)
    ours, our_layers = _megatron(checkpoint, tokens)
    result = {
        "tokens": tokens.numel(),
        "max_abs_difference": (ours - theirs).abs().max().item(),
        "logit_spread": theirs.std().item(),
        "argmax_agreement": (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item(),
        "layers": [
            ((one - other).abs().max() / other.std().clamp(min=1e-12)).item()
            for one, other in zip(our_layers, their_layers)
        ],
    }
    answer.write_text(json.dumps(result))


@torch.inference_mode()
def _transformers(folder: Path, text: Path | None) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    tokens = _tokens(folder, text, model.config.vocab_size)
    layers = _watch(model.model.layers)
    return tokens, model(tokens).logits.float(), layers


@torch.inference_mode()
def _megatron(checkpoint: Path, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    from megatron_ipt.training.checkpoint_model import CheckpointModel

    with CheckpointModel(checkpoint) as model:
        layers = _watch(model.module.decoder.layers)
        logits = model.logits(tokens).cpu()
    # Megatron-Core's first dimension is the sequence.
    return logits, [layer.transpose(0, 1).cpu() for layer in layers]


def _watch(layers: Iterable[Any]) -> list[torch.Tensor]:
    """A list that collects the output of each layer."""
    seen: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).float())

    for layer in layers:
        layer.register_forward_hook(keep)
    return seen


def _tokens(folder: Path, text: Path | None, vocab_size: int) -> torch.Tensor:
    if text is None:
        return torch.randint(0, vocab_size, (_BATCH, _LENGTH), generator=torch.Generator().manual_seed(0))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    with open(text, encoding="utf-8", errors="replace") as stream:
        ids = tokenizer(stream.read(100_000))["input_ids"][: 8 * _BATCH * _LENGTH]
    if len(ids) < 2:
        raise SystemExit(f"{text}: contains no text to predict")
    length = min(_LENGTH, len(ids))
    return torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)


if __name__ == "__main__":
    load_registered_extensions()
    paths = [Path(argument) for argument in sys.argv[1:]]
    main(paths[0], paths[1], paths[2], paths[3] if len(paths) > 3 else None)
