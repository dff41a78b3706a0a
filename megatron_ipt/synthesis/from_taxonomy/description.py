"""The stage that makes pairs from a taxonomy, described for everything above it."""

from megatron_ipt.stages import CHAINS, Action, Resources, Stage
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER

STAGE = Stage(
    name="taxonomy",
    command="taxonomy",
    help="Make instruction–response pairs from a taxonomy.",
    report="megatron_ipt.synthesis.from_taxonomy.report:part",
    config=TaxonomyConfig,
    code="megatron_ipt.synthesis.from_taxonomy.stage:run",
    makes=(CHAINS,),
    begins_with="taxonomy.file",
    files="megatron_ipt.synthesis.from_taxonomy.stage:fingerprints",
    check="megatron_ipt.synthesis.from_taxonomy.stage:check",
    units="megatron_ipt.synthesis.from_taxonomy.stage:units",
    unit="disciplines",
    unit_option="--discipline",
    example="examples/glan.yaml",
    completes="counts, manifest and tree.jsonl",
    resources=Resources(gpus="task", gpus_per_task="megatron_ipt.synthesis.from_taxonomy.stage:gpus_per_task"),
    cost="megatron_ipt.synthesis.from_taxonomy.cost:cost",
    keeps=(USAGE_FOLDER, f"{USAGE_FOLDER}-answers"),
    actions=(
        Action(
            "--plan",
            "Say how many calls, tokens, hours and how much money the taxonomy takes. Nothing is asked.",
            "megatron_ipt.synthesis.from_taxonomy.stage:show_plan",
            render="megatron_ipt.synthesis.from_taxonomy.plan:plan_text",
        ),
        Action(
            "--retry-refused",
            "Ask again what the engine refused; everything else is kept.",
            "megatron_ipt.synthesis.from_taxonomy.stage:reopen_refused",
            then_run=True,
        ),
    ),
    shows=("disciplines", "subjects", "questions", "pairs", "lost", "refused_calls"),
)
