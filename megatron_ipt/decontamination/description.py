"""The stage of this room, described for everything above it."""

from megatron_ipt.decontamination.config import DecontaminateConfig
from megatron_ipt.stages import CHAINS, DOCUMENTS, Resources, Stage

STAGE = Stage(
    name="decontaminate",
    command="decontaminate-data",
    help="Remove test questions from pairs and documents.",
    report="megatron_ipt.decontamination.report:part",
    config=DecontaminateConfig,
    code="megatron_ipt.decontamination.stage:run",
    remakes=(DOCUMENTS, CHAINS),
    files="megatron_ipt.decontamination.stage:fingerprints",
    check="megatron_ipt.decontamination.stage:check",
    units="megatron_ipt.decontamination.stage:units",
    completes="near-duplicates, counts and manifest",
    resources=Resources(cores="workers"),
    cost="megatron_ipt.decontamination.cost:cost",
    shows=("documents", "texts", "pairs", "dropped"),
)
