"""Description of the stage ``evaluation``."""

from megatron_ipt.evaluation.config import EvaluationConfig
from megatron_ipt.stages import CHECKPOINTS, MODEL, RESULTS, TOKENS, Resources, Stage

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
