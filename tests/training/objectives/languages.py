"""Languages so small that every response can be written down, for objectives that are expectations over responses.

A response ends with the last letter or at the greatest length. The student's logits are one row for each prefix, zeros
or random; everything is in fp64.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch


@dataclass(frozen=True)
class Language:
    """Attributes:
    teacher: log-probabilities of the teacher for each prefix, [prefixes, letters].
    responses: all of them, padded with the first letter, [responses, length].
    prefixes: row of the prefix before each position, [responses, length].
    mask: [responses, length].
    """

    teacher: torch.Tensor
    responses: torch.Tensor
    prefixes: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, letters: int, length: int, teacher: torch.Tensor | None = None) -> Language:
        end = letters - 1
        prefixes = [prefix for size in range(length) for prefix in product(range(end), repeat=size)]
        rows = {prefix: row for row, prefix in enumerate(prefixes)}
        texts = [(*prefix, end) for prefix in prefixes] + list(product(range(end), repeat=length))
        generator = torch.Generator().manual_seed(5)
        drawn = torch.randn(len(prefixes), letters, generator=generator, dtype=torch.float64)
        if teacher is None:
            teacher = drawn.log_softmax(-1)
        shape = len(texts), length
        responses, before, mask = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
        for index, text in enumerate(texts):
            responses[index, : len(text)] = torch.tensor(text)
            before[index, : len(text)] = torch.tensor([rows[text[:position]] for position in range(len(text))])
            mask[index, : len(text)] = 1
        return cls(teacher, responses, before, mask)

    def logs(self, log_probabilities: torch.Tensor, which: torch.Tensor | None = None) -> torch.Tensor:
        """Of each token of the responses (or of those in ``which``), [responses, length]."""
        prefixes, responses = (part if which is None else part[which] for part in (self.prefixes, self.responses))
        return log_probabilities[prefixes].gather(-1, responses[..., None])[..., 0]

    def log_of(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Of each response as a whole, [responses]."""
        return torch.where(self.mask > 0, self.logs(log_probabilities), 0.0).sum(-1)

    def sequence_kl(self, logits: torch.Tensor) -> torch.Tensor:
        """KL(q || p) of whole responses, with gradient."""
        q, p = self.log_of(logits.log_softmax(-1)), self.log_of(self.teacher)
        return (q.exp() * (q - p)).sum()

    def single(self, logits: torch.Tensor) -> torch.Tensor:
        """KL(q || p) at each prefix, [prefixes]."""
        q = logits.log_softmax(-1)
        return (q.exp() * (q - self.teacher)).sum(-1)


def two_letters() -> Language:
    """The letters a and E, at most 2 tokens; the teacher has p(a) = 3/4 and p(a | a) = 2/3."""
    return Language.of(2, 2, torch.tensor([[3 / 4, 1 / 4], [2 / 3, 1 / 3]], dtype=torch.float64).log())
