"""Settings of a training on the student's own responses. Importing this module must not import torch: every command
reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class OnPolicyConfig:
    """Responses of the student. GKD replaces those of the data (fraction); minillm and dpkd draw them in rounds, beside
    the data."""

    fraction: float = key(
        0.0,
        "Share of the rows whose response the student draws anew, at every step (GKD's lambda). The rows are those of "
        "the data, with a prompt.",
        minimum=0,
        maximum=1,
    )
    prompts: str | None = key(
        None,
        "minillm, dpkd: output folder of a tuning stage, whose prompts are used; empty for the data of this run, which "
        "then are rows with a loss mask.",
    )
    rollouts: int = key(256, "minillm, dpkd: prompts that are answered in a round.", minimum=1)
    inner_epochs: int = key(4, "minillm, dpkd: passes over the responses of a round.", minimum=1)
    batch_size: int | None = key(
        None, "minillm, dpkd: responses of an optimizer step, beside the data; global_batch_size if empty.", minimum=1
    )
    max_new_tokens: int = key(256, "Maximum tokens of a response.", minimum=1)
    max_prompt_tokens: int | None = key(
        None, "Longer prompts are left out; what max_new_tokens leaves of the sequence if empty.", minimum=1
    )
    temperature: float = key(
        1.0, "Of the draws, not of the loss; 0 takes the likeliest token. minillm needs 1.", minimum=0
    )
    generation_batch_size: int = key(64, "Responses that a rank draws at a time.", minimum=1)


CANNOT_DRAW = {
    "context_parallel_size": "a single token cannot be split over ranks",
    "expert_model_parallel_size": "data-parallel ranks would have to step together, and their texts end at other times",
    "virtual_pipeline_model_parallel_size": "Megatron-Core does not decode with interleaved stages",
}
"""Keys of ``training.parallel`` that have to be 1 or empty where a model draws responses, and why."""


@dataclass
class MiniLLMConfig:
    """MiniLLM: policy gradient of the reverse KL of whole responses."""

    form: str = key(
        "paper",
        "paper: as derived there. released: as the authors' program computes it.",
        choices=("paper", "released"),
    )
    teacher_share: float = key(
        0.2, "Alpha of alpha p + (1 - alpha) q, from which tokens are drawn; p is the teacher.", minimum=0, maximum=1
    )
    importance: str = key(
        "token",
        "paper: weight for having drawn from the mixture. token: the token's own factor (the paper); prefix: the "
        "product up to it; exact: without bias; none.",
        choices=("token", "prefix", "exact", "none"),
    )
    length_norm: bool = key(True, "Divide the sum of later rewards by their number (the paper: by one less).")
    clip: float | None = key(0.2, "Bound of the weight above 1 (released: on both sides); none if empty.", minimum=0)
    reward_scaling: float = key(0.5, "released: rewards are divided by it.", minimum=1e-6)
    reward_clip: float = key(100.0, "released: bound of rewards on both sides.", minimum=0)
    gamma: float = key(0.95, "released: discount of later rewards.", minimum=0, maximum=1)
    whiten: str = key(
        "all",
        "released: mean and deviation of advantages over all positions, padding included, over responses, or none.",
        choices=("all", "response", "none"),
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.teacher_share == 1 and self.importance != "none":
            yield "teacher_share", "at 1 the weights q / p of the tokens have no bound; use a value below 1"
        if self.form == "paper" and self.importance == "exact" and self.clip is not None:
            yield "clip", "importance exact is without bias, which clipping would bring back; set clip: null"
        if self.form == "released" and self.clip is None:
            yield "clip", "form released bounds its ratio on both sides; give a number, e.g. 0.2"


@dataclass
class DPKDConfig:
    """DPKD: the teacher's output is preferred to the student's."""

    form: str = key(
        "sequence",
        "sequence: whole responses of both, drawn in rounds (equation 9). token: the likeliest token of both at each "
        "position of the data, as the authors' program has it.",
        choices=("sequence", "token"),
    )
    beta: float = key(0.1, "Factor of the reward.", minimum=0)
    length_norm: bool = key(True, "sequence: divide by the lengths of the responses.")
