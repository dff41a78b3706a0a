"""The stage of this room, described for everything above it."""

from megatron_ipt.stages import CHECKPOINTS, TOKENS, Resources, Stage
from megatron_ipt.training.config import TrainingConfig

STAGE = Stage(
    name="training",
    command="train",
    help="Train with Megatron-Core.",
    report="megatron_ipt.training.report:part",
    config=TrainingConfig,
    code="megatron_ipt.training.stage:run",
    reads=(TOKENS,),
    makes=(CHECKPOINTS,),
    files="megatron_ipt.training.stage:fingerprints",
    check="megatron_ipt.training.stage:check",
    extra="train",
    libraries=("torch", "megatron"),
    resources=Resources(gpus="node", whole_nodes=True, time="1-00:00:00", needs="megatron_ipt.training.progress:needs"),
    cost="megatron_ipt.training.cost.model:cost",
    demand="megatron_ipt.training.cost.model:demand",
    progress="megatron_ipt.training.progress:progress",
    shows=("steps", "tokens", "parameters", "final_loss", "interventions"),
)
