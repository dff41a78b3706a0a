"""The stage of this room, described for everything above it."""

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.stages import AUGMENTED, CHAINS, Resources, Stage

STAGE = Stage(
    name="augment",
    command="augment",
    help="Lay texts and their pairs out as pre-training documents.",
    report="megatron_ipt.augment.report:part",
    config=AugmentConfig,
    code="megatron_ipt.augment.stage:run",
    reads=(CHAINS,),
    makes=(AUGMENTED,),
    files="megatron_ipt.augment.stage:fingerprints",
    check="megatron_ipt.augment.templates:load_templates",
    units="megatron_ipt.augment.stage:units",
    resources=Resources(cores="workers"),
    shows=("documents", "texts", "pairs", "characters", "unmatched_options"),
)
