"""Descriptions of the stages ``row_scoring`` and ``row_selection``."""

from megatron_ipt.row_selection.config import RowScoringConfig, RowSelectionConfig
from megatron_ipt.stages import ROW_SCORES, TOKENS, Action, Resources, Stage

SCORING = Stage(
    name="row_scoring",
    command="score-rows",
    help="Score rows of training tokens with one or more models.",
    report="megatron_ipt.selection.findings.report:scoring_part",
    config=RowScoringConfig,
    code="megatron_ipt.row_selection.score:run",
    reads=(TOKENS,),
    makes=(ROW_SCORES,),
    files="megatron_ipt.row_selection.score:fingerprints",
    check="megatron_ipt.row_selection.score:check",
    units="megatron_ipt.row_selection.score:units",
    unit_option="--scorer",
    unit_group="scorers",
    example="examples/miniplm_rows.yaml",
    resources=Resources(gpus="task", gpus_per_task="megatron_ipt.row_selection.score:gpus_per_task"),
    cost="megatron_ipt.row_selection.cost:scoring_cost",
    shows=("rows", "tokens", "unscored"),
)

SELECTION = Stage(
    name="row_selection",
    command="select-rows",
    help="Keep the rows of training tokens with the best scores.",
    report="megatron_ipt.selection.findings.report:part",
    config=RowSelectionConfig,
    code="megatron_ipt.row_selection.stage:run",
    reads=(TOKENS,),
    reads_if_made=(ROW_SCORES,),
    makes=(TOKENS,),
    example="examples/miniplm_rows.yaml",
    files="megatron_ipt.selection.stage:fingerprints",
    check="megatron_ipt.selection.stage:check",
    resources=Resources(time="04:00:00"),
    cost="megatron_ipt.row_selection.cost:cost",
    actions=(
        Action(
            "--dry-run",
            "Show what would be kept by source. Nothing is written.",
            "megatron_ipt.row_selection.stage:dry_run",
            render="megatron_ipt.selection.findings.text:decision_text",
        ),
        Action(
            "--show",
            "Show rows at the top, at the cut and at the bottom of a finished selection, with their scores.",
            "megatron_ipt.selection.stage:show",
            render="megatron_ipt.selection.findings.text:samples_text",
        ),
    ),
    shows=("kept", "left_out_rows", "kept_tokens"),
)
