"""The stage of this room, described for everything above it."""

from megatron_ipt.corpus.config import CorpusConfig
from megatron_ipt.stages import DOCUMENTS, Stage

STAGE = Stage(
    name="corpus",
    command="corpus",
    help="Read raw text into sharded documents with id and split.",
    report="megatron_ipt.corpus.report:part",
    config=CorpusConfig,
    code="megatron_ipt.corpus.stage:run",
    makes=(DOCUMENTS,),
    begins_with="corpus.inputs",
    files="megatron_ipt.corpus.stage:fingerprints",
    check="megatron_ipt.corpus.stage:check",
    cost="megatron_ipt.corpus.cost:cost",
    shows=("documents", "synthesis_documents", "raw_documents", "characters", "rejected"),
)
