"""The stage of this room, described for everything above it."""

from megatron_ipt.report.config import ReportConfig
from megatron_ipt.stages import EVERYTHING, Stage

STAGE = Stage(
    name="report",
    command="report",
    help="Write one HTML page about the run.",
    config=ReportConfig,
    code="megatron_ipt.report.stage:run",
    reads_if_made=(EVERYTHING,),
    cost="megatron_ipt.stages.costs:negligible",
    result="report.html",
)
