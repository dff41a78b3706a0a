"""Description of the stage ``composition``."""

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.stages import DOCUMENTS, TOKENS, Action, Resources, Stage

STAGE = Stage(
    name="composition",
    command="compose",
    help="Put paragraphs that share a task into one context.",
    report="megatron_ipt.composition.report:part",
    config=CompositionConfig,
    code="megatron_ipt.composition.stage:run",
    reads=(DOCUMENTS, TOKENS),
    makes=(TOKENS,),
    files="megatron_ipt.composition.stage:fingerprints",
    check="megatron_ipt.composition.stage:check",
    units="megatron_ipt.composition.stage:units",
    steps=("vectors", "neighbours", "alone", "scores"),
    completes="rows and their blend with documents",
    example="examples/picl.yaml",
    extra="composition",
    libraries=("faiss", "torch", "transformers"),
    resources=Resources(
        gpus="task",
        gpus_per_task="megatron_ipt.composition.cost:gpus_per_task",
        steps_on_cpu=("neighbours",),
    ),
    cost="megatron_ipt.composition.cost:cost",
    actions=(
        Action(
            "--show",
            "Show context N (from 0) with its neighbours, their documents and its gain. Needs the neighbours.",
            "megatron_ipt.composition.show:show",
            value="N",
            render="megatron_ipt.composition.show:text",
        ),
    ),
    shows=("paragraphs", "contexts", "rows", "row_tokens", "fill", "dropped"),
)
