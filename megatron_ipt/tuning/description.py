"""Description of the stage ``tuning``."""

from megatron_ipt.stages import CHAINS, TOKENS, Stage
from megatron_ipt.tuning.config import TuningConfig

STAGE = Stage(
    name="tuning",
    command="tuning-data",
    help="Pack tasks or chats into sequences with a loss mask.",
    report="megatron_ipt.tuning.report:part",
    config=TuningConfig,
    code="megatron_ipt.tuning.stage:run",
    reads_if_made=(CHAINS,),
    makes=(TOKENS,),
    begins_with="tuning.datasets",
    files="megatron_ipt.tuning.stage:fingerprints",
    cost="megatron_ipt.tuning.cost:cost",
)
