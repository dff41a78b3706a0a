"""Descriptions of the stages ``evaluation`` and ``judge``."""

from megatron_ipt.evaluation.config import EvaluationConfig
from megatron_ipt.evaluation.judge.config import JudgeConfig
from megatron_ipt.stages import CHAINS, CHECKPOINTS, MODEL, RESULTS, TOKENS, Resources, Stage

STAGE = Stage(
    name="evaluation",
    command="evaluate",
    help="Verify the exported model; measure losses and benchmarks.",
    report="megatron_ipt.evaluation.report:part",
    config=EvaluationConfig,
    code="megatron_ipt.evaluation.stage:run",
    reads=(CHECKPOINTS, TOKENS, MODEL),
    makes=(RESULTS,),
    files="megatron_ipt.evaluation.stage:fingerprints",
    extra="train",
    libraries=("torch", "megatron", "transformers"),
    resources=Resources(gpus="node"),
)

JUDGE = Stage(
    name="judge",
    command="judge-pairs",
    help="Measure the quality of the pairs for the report.",
    report="megatron_ipt.evaluation.judge.report:part",
    config=JudgeConfig,
    code="megatron_ipt.evaluation.judge.stage:run",
    reads=(CHAINS,),
    files="megatron_ipt.evaluation.judge.stage:fingerprints",
    check="megatron_ipt.evaluation.judge.stage:check",
    shows=("texts", "pairs", "answer_in_text", "own_text_first", "duplicate_questions", "gold_coverage"),
)
