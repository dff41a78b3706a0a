"""The ``training.distillation`` section. Importing this module must not import torch: every command reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key
from megatron_ipt.training.objectives.table import TEACHER_OBJECTIVES
from megatron_ipt.training.rollouts.config import DPKDConfig, MiniLLMConfig, OnPolicyConfig


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
