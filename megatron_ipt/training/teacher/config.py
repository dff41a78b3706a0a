"""The ``training.distillation`` section. Importing this module must not import torch: every command reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.models import divisibility
from megatron_ipt.training.objectives.table import TEACHER_OBJECTIVES
from megatron_ipt.training.rollouts.config import CANNOT_DRAW, DPKDConfig, MiniLLMConfig, OnPolicyConfig


@dataclass
class TeacherConfig:
    """The frozen model that is learned from. All ranks share its work, in groups of their own."""

    path: str | None = key(
        None, "Hugging Face folder (safetensors), or a checkpoint: an iter_* or release folder, or one that holds it."
    )
    tokenizer: str | None = key(
        None, "Folder of its tokenizer; that of a Hugging Face folder, or of the run of a checkpoint, if empty."
    )
    tensor_model_parallel_size: int = key(1, "Ranks that split each of its layers.", minimum=1)
    pipeline_model_parallel_size: int = key(1, "Ranks that hold consecutive layers of it.", minimum=1)
    precision: str = key("auto", "auto: that of the training, bf16 if it is fp8.", choices=("auto", "fp32", "bf16"))

    def model_ranks(self) -> int:
        """Ranks that hold one copy of it."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size


@dataclass
class DistillationConfig:
    """Learning from the probabilities of a teacher: alpha x divergence + (1 - alpha) x next-token loss, each a mean
    over the tokens of the global batch. Off without a teacher."""

    teacher: TeacherConfig = key(TeacherConfig, "The model that is learned from.")
    objective: str = key(
        "forward_kl",
        "Divergence between teacher p and student q: forward_kl KL(p|q), reverse_kl KL(q|p), jsd (see beta), or the KL "
        "to a mixture (see skew).",
        choices=TEACHER_OBJECTIVES,
    )
    alpha: float = key(1.0, "Weight of the divergence; the next-token loss has the rest.", minimum=0, maximum=1)
    temperature: float = key(1.0, "Divides the logits of both; gradients are not multiplied by its square.", minimum=0)
    beta: float = key(
        0.5, "jsd: beta KL(p|m) + (1 - beta) KL(q|m) with m = beta p + (1 - beta) q.", minimum=0, maximum=1
    )
    skew: float = key(
        0.1,
        "skew_forward_kl: KL(p | skew p + (1 - skew) q); skew_reverse_kl: KL(q | (1 - skew) p + skew q).",
        minimum=0,
        maximum=1,
    )

    on_policy: OnPolicyConfig = key(OnPolicyConfig, "Learning from responses that the student draws.")
    minillm: MiniLLMConfig = key(MiniLLMConfig, "Of objective minillm.")
    dpkd: DPKDConfig = key(DPKDConfig, "Of objective dpkd.")

    @property
    def is_on(self) -> bool:
        return self.teacher.path is not None

    @property
    def draws_in_rounds(self) -> bool:
        """Whether responses are drawn in rounds, beside the data."""
        return self.objective == "minillm" or (self.objective == "dpkd" and self.dpkd.form == "sequence")

    def problems_in_run(self, config: Any) -> Iterator[tuple[str, str]]:
        """What does not fit the ``training`` section ``config``: (key of that section, what)."""
        own, batch = self.on_policy, self.on_policy.batch_size or config.global_batch_size
        if not (self.draws_in_rounds or own.fraction):
            return
        for name, why in CANNOT_DRAW.items():
            if (getattr(config.parallel, name) or 1) > 1:
                yield f"parallel.{name}", f"{getattr(config.parallel, name)}, but the student draws responses: {why}"
        if config.precision == "fp8":
            yield "precision", "fp8, whose kernels need more than a token at a time; responses are drawn in bf16"
        if not self.draws_in_rounds:
            return
        per_unit = 2 if self.objective == "dpkd" else 1
        if config.batch_ramp.start is not None:
            yield "batch_ramp.start", "not with responses drawn in rounds, whose steps are alike"
        if config.micro_batch_size % per_unit:
            yield "micro_batch_size", f"{config.micro_batch_size} is odd; dpkd compares two responses of a micro-batch"
        if batch % config.micro_batch_size:
            yield (
                "distillation.on_policy.batch_size",
                f"{batch} is not divisible by micro_batch_size={config.micro_batch_size}; nearest that are: "
                f"{divisibility.multiples(batch, config.micro_batch_size)}",
            )
        elif own.rollouts % (batch // per_unit):
            yield (
                "distillation.on_policy.rollouts",
                f"{own.rollouts} is not divisible by {batch // per_unit}, the prompts of a step; nearest that are: "
                f"{divisibility.multiples(own.rollouts, batch // per_unit)}",
            )
        if config.model.is_readable() and own.max_new_tokens >= config.seq_length():
            yield (
                "distillation.on_policy.max_new_tokens",
                f"{own.max_new_tokens} leaves no room for a prompt in data.seq_length={config.seq_length()}",
            )

    def _problems_on_policy(self) -> Iterator[tuple[str, str]]:
        own = self.on_policy
        if self.objective in ("minillm", "dpkd"):
            if self.temperature != 1:
                yield "temperature", f"must be 1 with objective {self.objective}, which is found {self.temperature:g}"
            if own.fraction:
                yield "on_policy.fraction", f"not with objective {self.objective}, which draws its responses in rounds"
        if self.objective == "minillm" and own.temperature != 1:
            yield (
                "on_policy.temperature",
                f"{own.temperature:g}, but minillm's gradient is an expectation over draws at 1; importance weights do "
                "not know of another temperature",
            )
        if own.fraction and self.alpha < 1:
            yield (
                "alpha",
                f"{self.alpha:g} would train the next-token loss on what the student itself has written; with "
                "on_policy.fraction it must be 1",
            )
        if self.objective == "dpkd" and self.dpkd.form == "sequence" and not own.temperature:
            yield "on_policy.temperature", "at 0 there is one response of each model; use a value above 0"

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.temperature:
            yield "temperature", "must be above 0"
        yield from self._problems_on_policy()
        if self.objective == "jsd" and self.beta in (0, 1):
            instead = "forward_kl" if self.beta == 0 else "reverse_kl"
            yield (
                "beta",
                f"at {self.beta:g} the divergence of any two models is 0; use a value between 0 and 1, or objective "
                f"{instead}, which jsd approaches there if it is divided by {'beta' if self.beta == 0 else '1 - beta'}",
            )
        if self.skew == 1:
            yield "skew", "at 1 the divergence of any two models is 0; use a value below 1"
