"""The stage of this room, described for everything above it."""

from megatron_ipt.stages import AUGMENTED, DOCUMENTS, TOKENS, Resources, Stage
from megatron_ipt.tokens.config import TokensConfig

STAGE = Stage(
    name="tokens",
    command="tokenize",
    help="Tokenize and interleave into Megatron indexed datasets.",
    report="megatron_ipt.tokens.report:part",
    config=TokensConfig,
    code="megatron_ipt.tokens.stage:run",
    reads_if_made=(DOCUMENTS, AUGMENTED),
    makes=(TOKENS,),
    begins_with="tokens.sources.NAME.inputs",
    files="megatron_ipt.tokens.stage:fingerprints",
    check="megatron_ipt.tokens.stage:check",
    units="megatron_ipt.tokens.stage:units",
    completes="one dataset of every split",
    resources=Resources(cores="workers"),
    cost="megatron_ipt.tokens.cost:cost",
    shows=("train", "valid", "test", "empty_documents", "rejected"),
)
