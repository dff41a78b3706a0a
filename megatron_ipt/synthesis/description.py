"""The stage of this room, described for everything above it."""

from megatron_ipt.stages import CHAINS, DOCUMENTS, Action, Resources, Stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER

STAGE = Stage(
    name="synthesis",
    command="synthesize",
    help="Make instruction–response pairs from the documents.",
    report="megatron_ipt.synthesis.report:part",
    config=SynthesisConfig,
    code="megatron_ipt.synthesis.stage:run",
    reads_if_made=(DOCUMENTS,),
    makes=(CHAINS,),
    begins_with="synthesis.replay.inputs",
    files="megatron_ipt.synthesis.stage:fingerprints",
    check="megatron_ipt.synthesis.stage:check",
    units="megatron_ipt.synthesis.stage:units",
    resources=Resources(gpus="task", gpus_per_task="megatron_ipt.synthesis.stage:gpus_per_task", cores="workers"),
    cost="megatron_ipt.synthesis.cost:cost",
    keeps=(USAGE_FOLDER,),
    actions=(
        Action(
            "--forecast",
            "Ask about a sample of the texts and say what all of them will cost. No pair is made.",
            "megatron_ipt.synthesis.actions:forecast",
            render="megatron_ipt.synthesis.spending.forecast:forecast_text",
        ),
        Action(
            "--tune",
            "Find the number of requests in flight with which the engine is fastest, in minutes. No pair is made.",
            "megatron_ipt.synthesis.actions:tune",
            render="megatron_ipt.synthesis.speed.tune:tune_text",
        ),
        Action(
            "--retry-refused",
            "Ask again about texts that the engine refused; everything else is kept.",
            "megatron_ipt.synthesis.stage:reopen_refused",
            then_run=True,
        ),
    ),
    shows=("texts", "texts_with_pairs", "pairs", "pairs_per_text", "generated_tokens", "refused_texts", "dropped"),
)
