"""A custom objective: z-loss, which keeps the normalizer Z of the softmax near 1, so that logits do not drift.

    training:
      objectives:
        next_token: {}
        z_loss: {objective: "examples/extensions/z_loss.py:ZLoss", weight: 1e-4}

PaLM (arXiv:2204.02311, section 5) adds it with this weight to the cross-entropy. It reads the logits, of which each
tensor-parallel rank has a part of the vocabulary; ``log_sum_exp`` sums over all of them.
"""

from megatron_ipt.training.objectives.objective import LOGITS, Objective


class ZLoss(Objective):
    """Sum of log² Z over the tokens of the loss mask; also logs the mean of log Z."""

    needs = frozenset({LOGITS})
    metrics = ("log_z",)

    def loss(self, outputs, batch):
        # Here, because it imports torch: the recipe is checked by a process that does not need it.
        from megatron_ipt.training.objectives.vocabulary import log_sum_exp

        log_z, mask = log_sum_exp(outputs.logits), batch["loss_mask"]
        return (log_z.square() * mask).sum(), {"log_z": ((log_z.detach() * mask).sum(), mask.sum())}
