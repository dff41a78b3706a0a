"""Description of the stage ``augment``."""

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.stages import AUGMENTED, CHAINS, Resources, Stage

STAGE = Stage(
    name="augment",
    command="augment",
    help="Format texts and pairs as pre-training documents.",
    report="megatron_ipt.augment.report:part",
    config=AugmentConfig,
    code="megatron_ipt.augment.stage:run",
    reads=(CHAINS,),
    makes=(AUGMENTED,),
    files="megatron_ipt.augment.stage:fingerprints",
    check="megatron_ipt.augment.templates:load_templates",
    units="megatron_ipt.augment.stage:units",
    resources=Resources(cores="workers"),
    cost="megatron_ipt.augment.cost:cost",
    shows=("documents", "texts", "pairs", "characters", "unmatched_options"),
)
