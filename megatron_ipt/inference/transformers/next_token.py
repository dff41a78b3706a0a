"""Choice of the next token in transformers' ``generate``: every row by its own random numbers, whatever its batch.

transformers draws from one generator for the whole batch, so an answer would depend on which other requests happened
to be in it. Here each row has a generator seeded by its request, and the draw is made as an argmax: of ``log p - log
e`` with ``e`` exponentially distributed, the largest is at token ``i`` with probability ``p_i`` (the Gumbel-max trick).
Rows may therefore be batched in any way and give the same answer up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from megatron_ipt.inference.engine import Completion, Request
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.tokenizer import PromptTokenizer


class Chooser:
    """A logits processor: scores in which the largest is the token to take.

    Args:
        torch: the module.
        sampling: of every row.
        mask: [rows, tokens] of the prompts, 0 where they are padded on the left.
        seeds: one per row.
    """

    def __init__(self, torch: Any, sampling: Sampling, mask: Any, seeds: Sequence[int]):
        self._torch = torch
        self._sampling = sampling
        self._mask = mask
        self._generators = []
        if sampling.temperature > 0:
            self._generators = [torch.Generator(mask.device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """New scores [rows, vocabulary] for ids [rows, tokens so far] and their logits."""
        torch, sampling = self._torch, self._sampling
        if sampling.repetition_penalty is not None:
            scores = self._penalize(input_ids, scores, sampling.repetition_penalty)
        if not self._generators:
            return scores
        logits = self._keep_likely(scores.float() / sampling.temperature)
        noise = torch.stack(
            [torch.empty_like(row).exponential_(generator=own) for row, own in zip(logits, self._generators)]
        )
        # A draw of exactly 0 would win whatever its token's probability.
        return logits - noise.clamp_min(torch.finfo(noise.dtype).tiny).log()

    def _penalize(self, input_ids: Any, scores: Any, penalty: float) -> Any:
        """Logits of tokens seen in prompt or answer divided by ``penalty`` where above 0, multiplied where below
        (Keskar et al., arXiv:1909.05858). Padding does not count as seen."""
        torch = self._torch
        answered = input_ids.shape[1] - self._mask.shape[1]
        seen = torch.cat([self._mask, self._mask.new_ones(len(self._mask), answered)], dim=1)
        counts = torch.zeros_like(scores, dtype=seen.dtype).scatter_add_(1, input_ids, seen)
        return torch.where(counts > 0, torch.where(scores > 0, scores / penalty, scores * penalty), scores)

    def _keep_likely(self, logits: Any) -> Any:
        """``logits`` with minus infinity for tokens that top_k, top_p or min_p leave out."""
        torch, sampling = self._torch, self._sampling
        if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
            least = logits.topk(sampling.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if sampling.top_p < 1:
            ordered, places = logits.sort(descending=True)
            shares = ordered.softmax(-1)
            # A token is left out when those above it reach top_p already.
            left_out = shares.cumsum(-1) - shares >= sampling.top_p
            logits = logits.masked_fill(left_out.scatter(1, places, left_out), -torch.inf)
        if sampling.min_p is not None:
            shares = logits.softmax(-1)
            logits = logits.masked_fill(shares < sampling.min_p * shares.amax(-1, keepdim=True), -torch.inf)
        return logits


class StopStrings:
    """A stopping criterion: rows whose answer holds one of the stop strings are done.

    Args:
        torch: the module.
        stop: the strings.
        tokenizer: of the model.
        prompt: tokens before the answer.
    """

    def __init__(self, torch: Any, stop: Sequence[str], tokenizer: PromptTokenizer, prompt: int):
        self._torch = torch
        self._stop = tuple(stop)
        self._tokenizer = tokenizer
        self._prompt = prompt
        # A string that ends at the newest token begins at most as many tokens earlier as it has bytes.
        self._tail = max(len(text.encode()) for text in stop) + 1

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Which rows of ids [rows, tokens so far] are done: booleans [rows]."""
        start = max(self._prompt, input_ids.shape[1] - self._tail)
        texts = [self._tokenizer.decode(row) for row in input_ids[:, start:].tolist()]
        done = [any(stop in text for stop in self._stop) for text in texts]
        return self._torch.tensor(done, device=input_ids.device)


class LongEnough:
    """A stopping criterion: rows whose request has enough of its answer are done.

    Rows are looked at when their request's ``check_tokens`` divide the tokens generated so far, a number that does not
    depend on what else is in the batch.

    Args:
        torch: the module.
        requests: one per row.
        tokenizer: of the model.
        prompt: tokens before the answer.

    Attributes:
        asked: whether any request wants to be asked.
    """

    def __init__(self, torch: Any, requests: Sequence[Request], tokenizer: PromptTokenizer, prompt: int):
        self._torch = torch
        self._requests = requests
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._stopped = [False] * len(requests)
        self.asked = any(request.enough is not None for request in requests)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Which rows of ids [rows, tokens so far] are done: booleans [rows]."""
        generated = input_ids.shape[1] - self._prompt
        for row, request in enumerate(self._requests):
            if request.enough is None or self._stopped[row] or generated % request.check_tokens:
                continue
            ids = input_ids[row, self._prompt :].tolist()
            # An answer that has ended is padded with EOS.
            if self._tokenizer.eos_id not in ids:
                self._stopped[row] = request.enough(self._tokenizer.decode(ids))
        return self._torch.tensor(self._stopped, device=input_ids.device)

    def judged(self, row: int, completion: Completion) -> Completion:
        """The completion of a row, finished where its request has enough of it."""
        enough = self._requests[row].enough
        if self._stopped[row] or (enough is not None and not completion.finished and enough(completion.text)):
            return replace(completion, finished=True, enough=True)
        return completion
