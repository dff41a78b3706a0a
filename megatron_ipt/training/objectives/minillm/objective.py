"""MiniLLM as an objective: ``training.distillation.objective: minillm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from megatron_ipt.training.objectives.objective import Batch, MetricSums
from megatron_ipt.training.objectives.on_policy import LOGS, METRICS, OnPolicy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from megatron_ipt.training.objectives.minillm.paper import Sampled
    from megatron_ipt.training.rollouts.choice import Choice
    from megatron_ipt.training.rollouts.rounds import Responses

_ADVANTAGES = "advantages"


class MiniLLM(OnPolicy):
    """In the form of the paper, a mean over responses of sums over their tokens; in the released form, over tokens."""

    metrics = (*METRICS, "reward", "importance", "clipped")

    def choices(self) -> list[Choice]:
        from megatron_ipt.training.rollouts.choice import Choice

        return [Choice(1.0, self.options.minillm.teacher_share)]

    def draws_with_teacher(self) -> bool:
        # The released form takes its rewards from there.
        return super().draws_with_teacher() or self.options.minillm.form == "released"

    def count_responses(self, mask: torch.Tensor) -> torch.Tensor:
        return mask.any(-1).sum() if self.options.minillm.form == "paper" else mask.sum()

    def extras(self, rows: npt.NDArray[np.int64], responses: Responses) -> dict[str, npt.NDArray[np.float32]]:
        """Of the released form the advantages, which are whitened over the whole step and so the same in any layout."""
        import torch

        from megatron_ipt.training.objectives.minillm.released import released_advantages, released_rewards

        own = self.options.minillm
        if own.form == "paper":
            return {}
        values = responses.rows(rows, self._setup.config.seq_length())
        logs, mask = torch.from_numpy(values["logs"]), torch.from_numpy(values["response_mask"])
        # The program pads responses up to the limit of new tokens, and whitens over these positions.
        rewards = released_rewards(logs[..., 1], logs[..., 0], mask, own.reward_scaling, own.reward_clip)
        aligned, places = _to_the_left(rewards, mask, self._own.max_new_tokens)
        advantages = released_advantages(aligned, _to_the_left(mask, mask, self._own.max_new_tokens)[0],
                                         own.gamma, own.whiten)  # fmt: skip
        found = torch.zeros_like(rewards)
        found[mask > 0] = advantages[places]
        return {_ADVANTAGES: found.numpy()}

    def response_loss(self, sampled: Sampled, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        import torch

        from megatron_ipt.training.objectives.minillm.paper import paper_loss
        from megatron_ipt.training.objectives.minillm.released import released_loss

        own, mask = self.options.minillm, sampled.mask
        if own.form == "paper":
            loss, reward, weights, clipped = paper_loss(sampled, own.importance, own.length_norm, own.clip)
        else:
            then, drawn_from = batch[LOGS][..., 0], batch[LOGS][..., 2]
            weights, reward = (then - drawn_from).exp(), torch.where(mask > 0, sampled.log_p - then, 0.0)
            loss, clipped = released_loss(
                sampled.log_q, then, batch[_ADVANTAGES], weights, sampled.single, mask, own.clip
            )
        tokens = mask.sum()
        return loss, {
            "reward": (reward.sum(), tokens),
            "importance": ((weights * mask).sum(), tokens),
            "clipped": (clipped.sum(), tokens),
        }


def _to_the_left(
    values: torch.Tensor, mask: torch.Tensor, width: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """``values`` of responses [rows, seq] without what stands before them, [rows, width], and the places in it of the
    tokens of the responses in the order of ``mask``."""
    rows, columns = mask.nonzero(as_tuple=True)
    places = rows, mask.cumsum(-1)[rows, columns].long() - 1
    aligned = values.new_zeros(len(values), width)
    aligned[places] = values[rows, columns]
    return aligned, places
