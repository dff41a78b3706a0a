"""Loss and generations of a Hugging Face model, computed with transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.transformers.next_token import Chooser, StopStrings
from megatron_ipt.progress import Progress

_BATCH_TOKENS = 4096
_BATCH_PROMPTS = 16


class LanguageModel:
    """A Hugging Face model and its tokenizer, on a GPU if available.

    Args:
        tokenizer: as transformers loads it; by default the one in ``folder``.
    """

    def __init__(self, folder: Path, tokenizer: Any = None, dtype: torch.dtype = torch.float32):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        self.model.to(self.device).eval()

    @torch.no_grad()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, seq]`` ids to ``[batch, seq, vocabulary]`` logits in fp32, on the CPU."""
        return self.model(ids.to(self.device)).logits.float().cpu()

    @torch.no_grad()
    def loss(self, ids: npt.NDArray[np.int64], seq_length: int, label: str) -> dict[str, Any]:
        """Mean loss over a stream of ids, split into sequences as in training.

        Returns:
            ``{tokens, loss, perplexity, bits_per_byte}``: loss in nats per predicted token; bytes of the decoded text.
        """
        total, predicted = 0.0, 0
        starts = range(0, len(ids) - 1, seq_length)
        batch = max(1, _BATCH_TOKENS // seq_length)
        with Progress(label, len(ids) - 1, "tokens") as bar:
            for first in range(0, len(starts), batch):
                for group in _equal_lengths([ids[s : s + seq_length + 1] for s in starts[first : first + batch]]):
                    logits = self.model(group[:, :-1].to(self.device)).logits.float()
                    targets = group[:, 1:].to(self.device)
                    total += torch.nn.functional.cross_entropy(
                        logits.flatten(0, 1), targets.flatten(), reduction="sum"
                    ).item()
                    predicted += targets.numel()
                    bar.advance(targets.numel(), loss=total / predicted)
        loss = total / max(predicted, 1)
        text = self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        return {
            "tokens": predicted,
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": total / math.log(2) / max(len(text.encode("utf-8", "replace")), 1),
        }

    def generate(self, ids: list[int], max_new_tokens: int) -> str:
        """Greedy continuation of ``ids``, decoded."""
        return str(self.tokenizer.decode(self.continuation(ids, max_new_tokens), skip_special_tokens=True))

    @torch.no_grad()
    def continuation(self, ids: list[int], max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> list[int]:
        """Continuation of ``ids``, without them; greedy at temperature 0."""
        from transformers import LogitsProcessorList

        prompt = torch.tensor([ids], device=self.device)
        # Draws are made as an argmax.
        chooser = Chooser(torch, Sampling(max_new_tokens, temperature), torch.ones_like(prompt), [seed])
        output = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.eos_token_id,
            logits_processor=LogitsProcessorList([chooser]),
        )
        new: list[int] = output[0, len(ids) :].tolist()
        return new

    @torch.no_grad()
    def first_lines(self, prompts: list[list[int]], max_new_tokens: int, label: str) -> list[str]:
        """Greedy continuations up to the first line break, decoded, in the order of ``prompts``; in batches."""
        from transformers import StoppingCriteriaList

        found: dict[int, str] = {}
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        pad = self.tokenizer.eos_token_id
        with Progress(label, len(prompts), "answers") as bar:
            for start in range(0, len(order), _BATCH_PROMPTS):
                rows = order[start : start + _BATCH_PROMPTS]
                width = max(len(prompts[index]) for index in rows)
                padding = [width - len(prompts[index]) for index in rows]
                ids = [[pad] * missing + prompts[index] for index, missing in zip(rows, padding)]
                mask = [[0] * missing + [1] * (width - missing) for missing in padding]
                output = self.model.generate(
                    torch.tensor(ids, device=self.device),
                    attention_mask=torch.tensor(mask, device=self.device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=pad,
                    stopping_criteria=StoppingCriteriaList([StopStrings(torch, ("\n",), self.tokenizer, width)]),
                )
                for index, row in zip(rows, output[:, width:].tolist()):
                    text = self.tokenizer.decode(row, skip_special_tokens=True)
                    found[index] = text.split("\n", 1)[0].strip()
                bar.advance(len(rows))
        return [found[index] for index in range(len(prompts))]


def _equal_lengths(pieces: list[npt.NDArray[np.int64]]) -> list[torch.Tensor]:
    """Stacks pieces of equal length: full sequences together, a shorter last one separately."""
    by_length: dict[int, list[npt.NDArray[np.int64]]] = {}
    for piece in pieces:
        by_length.setdefault(len(piece), []).append(piece)
    return [torch.from_numpy(np.stack(group)) for group in by_length.values()]
