"""Descriptions of the stages ``proxy``, ``fitting``, ``scoring`` and ``selection``."""

from megatron_ipt.selection.config import ScoringConfig, SelectionConfig
from megatron_ipt.selection.fitting.config import FittingConfig
from megatron_ipt.selection.proxy.config import ProxyConfig
from megatron_ipt.stages import DOCUMENTS, PROXY_SCORES, SCORER, SCORES, Action, Resources, Stage

PROXY = Stage(
    name="proxy",
    command="proxy",
    help="Score a sample by what it does for a target (PDS).",
    report="megatron_ipt.selection.proxy.report:part",
    config=ProxyConfig,
    code="megatron_ipt.selection.proxy.stage:run",
    reads=(DOCUMENTS,),
    makes=(PROXY_SCORES,),
    files="megatron_ipt.selection.proxy.stage:fingerprints",
    check="megatron_ipt.selection.proxy.stage:check",
    example="examples/pds.yaml",
    extra="train",
    libraries=("torch", "transformers"),
    resources=Resources(gpus="task", gpus_per_task="megatron_ipt.selection.proxy.stage:gpus_per_task", time="24:00:00"),
    cost="megatron_ipt.selection.proxy.cost:cost",
    shows=("documents", "target_documents", "runs", "target_loss_before", "target_loss_after", "dropped"),
)

FITTING = Stage(
    name="fitting",
    command="fit-scorer",
    help="Fit a scorer to what a proxy run says (PDS).",
    report="megatron_ipt.selection.fitting.report:part",
    config=FittingConfig,
    code="megatron_ipt.selection.fitting.stage:run",
    reads=(PROXY_SCORES,),
    makes=(SCORER,),
    files="megatron_ipt.selection.fitting.stage:fingerprints",
    check="megatron_ipt.selection.fitting.stage:check",
    example="examples/pds.yaml",
    extra="train",
    libraries=("torch", "transformers"),
    resources=Resources(gpus="task", gpus_per_task="megatron_ipt.selection.fitting.stage:gpus_per_task"),
    cost="megatron_ipt.selection.fitting.cost:cost",
    result="scorer",
    shows=("documents", "held_out_documents", "spearman"),
)

SCORING = Stage(
    name="scoring",
    command="score",
    help="Score the training documents with one or more models.",
    report="megatron_ipt.selection.findings.report:scoring_part",
    config=ScoringConfig,
    code="megatron_ipt.selection.score:run",
    reads=(DOCUMENTS,),
    reads_if_made=(SCORER,),
    makes=(SCORES,),
    files="megatron_ipt.selection.identity:fingerprints",
    check="megatron_ipt.selection.score:check",
    units="megatron_ipt.selection.score:units",
    unit_option="--scorer",
    unit_group="scorers",
    example="examples/miniplm.yaml",
    resources=Resources(gpus="task", gpus_per_task="megatron_ipt.selection.score:gpus_per_task"),
    cost="megatron_ipt.selection.cost:scoring_cost",
    shows=("rows", "tokens", "unscored"),
)

SELECTION = Stage(
    name="selection",
    command="select",
    help="Keep the documents with the best scores.",
    report="megatron_ipt.selection.findings.report:part",
    config=SelectionConfig,
    code="megatron_ipt.selection.stage:run",
    reads=(DOCUMENTS,),
    reads_if_made=(SCORES,),
    makes=(DOCUMENTS,),
    example="examples/miniplm.yaml",
    files="megatron_ipt.selection.stage:fingerprints",
    check="megatron_ipt.selection.stage:check",
    resources=Resources(cores="workers", time="04:00:00"),
    cost="megatron_ipt.selection.cost:cost",
    actions=(
        Action(
            "--dry-run",
            "Show what would be kept by domain, source and length. Nothing is written.",
            "megatron_ipt.selection.stage:dry_run",
            render="megatron_ipt.selection.findings.text:decision_text",
        ),
        Action(
            "--show",
            "Show texts at the top, at the cut and at the bottom of a finished selection, with their scores.",
            "megatron_ipt.selection.stage:show",
            render="megatron_ipt.selection.findings.text:samples_text",
        ),
    ),
    shows=("kept", "left_out_documents", "kept_tokens", "documents", "synthesis_documents", "raw_documents"),
)
