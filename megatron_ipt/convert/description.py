"""The stage of this room, described for everything above it."""

from megatron_ipt.convert.config import ExportConfig
from megatron_ipt.stages import CHECKPOINTS, MODEL, TOKENS, Stage

STAGE = Stage(
    name="export",
    command="export",
    help="Write the trained model as a Hugging Face folder.",
    report="megatron_ipt.convert.report:part",
    config=ExportConfig,
    code="megatron_ipt.convert.stage:run",
    reads=(CHECKPOINTS, TOKENS),
    makes=(MODEL,),
    extra="train",
    libraries=("torch", "megatron"),
    cost="megatron_ipt.convert.cost:cost",
    result="model",
    shows=("parameters", "bytes"),
)
