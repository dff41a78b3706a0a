"""What the stage tells the cluster room: how far it is, and what its nodes must have."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_ipt.files import read_json
from megatron_ipt.manifest import StageContext, read_manifest
from megatron_ipt.models.families import padded_vocabulary
from megatron_ipt.stages import TOKENS, Needs, Progress
from megatron_ipt.stages.readable import compact
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cost.model import CHECKPOINT_BYTES
from megatron_ipt.training.loop.metrics import METRICS_FILE, read_metrics

_RECENT = 50
"""Steps over which the speed is averaged."""
_CHECKPOINTS = 2
"""One that is kept, and one that is being written."""


@dataclass(frozen=True)
class _Figures:
    """As ``status --json`` shows them.

    Attributes:
        step: last one that was logged.
        steps: of the whole run; None if unknown.
        tokens: trained on so far.
        loss: of the last step that was not skipped; None before it.
        tokens_per_second: over the last steps.
    """

    step: int
    steps: int | None
    tokens: int
    loss: float | None
    tokens_per_second: float


def progress(config: TrainingConfig, context: StageContext) -> Progress | None:
    """Progress from ``metrics.jsonl``; None before the first step."""
    records = [record for record in read_metrics(context.directory / METRICS_FILE) if "loss" in record]
    if not records:
        return None
    last = records[-1]
    recent = [record["tokens_per_second"] for record in records[-_RECENT:]]
    speed = len(recent) / sum(1 / max(rate, 1e-9) for rate in recent)
    per_step = config.global_batch_size * config.seq_length()
    # What the training was started with, which the recipe may no longer say.
    settings = (read_manifest(context.directory) or {}).get("settings", {})
    steps, tokens = settings.get("steps", config.steps), settings.get("tokens", config.tokens)
    steps = steps or (-(-tokens // per_step) if tokens else None)
    loss = next((record["loss"] for record in reversed(records) if record["loss"] is not None), None)
    figures = _Figures(last["step"], steps, int(last["tokens"]), loss, speed)
    of_steps = f" of {steps:,}" if steps else ""
    facts = (
        f"step {figures.step:,}{of_steps}",
        f"{compact(figures.tokens)} tokens",
        *([] if loss is None else [f"loss {loss:.4f}"]),
        f"{compact(figures.tokens_per_second)} tokens/s",
    )
    left = (steps - figures.step) * per_step / speed if steps else None
    return Progress(facts, asdict(figures), left)


def needs(config: TrainingConfig, context: StageContext) -> Needs:
    """The dataset, a teacher, and space for two checkpoints."""
    teacher = config.distillation.teacher.path
    dataset = context.inputs[TOKENS] / DATASET
    gigabytes = 0.0
    if dataset.exists():
        vocabulary = padded_vocabulary(int(read_json(dataset)["vocab_size"]), config.model.make_vocab_size_divisible_by)
        gigabytes = _CHECKPOINTS * CHECKPOINT_BYTES["bf16"] * config.model.shape().parameters(vocabulary) / 1e9
    return Needs((dataset, *([Path(teacher)] if teacher else [])), gigabytes, "two checkpoints")
