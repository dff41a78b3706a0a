"""Stage ``report``: one self-contained HTML page about a run.

Reads what the other stages left (manifests, metrics, samples, results) and writes ``report.html``, which opens from a
file and asks the network for nothing. Stages that are not there are left out. The page depends on those files alone,
so writing it again gives the same bytes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from megatron_ipt import readable
from megatron_ipt.errors import StageError, UserError
from megatron_ipt.files import atomic_open, read_json
from megatron_ipt.manifest import StageContext, read_manifest
from megatron_ipt.report import figures, measured
from megatron_ipt.report.charts import Chart, draw
from megatron_ipt.report.config import ReportConfig
from megatron_ipt.report.figures import Metrics, Run
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.training.loop.metrics import METRICS_FILE, read_metrics

PAGE = "report.html"
_REQUIRED = ("jinja2", "matplotlib")


def run(config: ReportConfig, context: StageContext) -> dict[str, Any]:
    """Writes ``report.html``; returns its size and what it shows.

    Raises:
        UserError: the extra ``report`` is not installed.
        StageError: no stage has begun.
    """
    missing = [package for package in _REQUIRED if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"report: {' and '.join(missing)} not installed; `pip install megatron-ipt[report]` brings what it needs"
        )
    record = read_run(context.recipe_name, context.inputs)
    if not record.manifests:
        folders = ", ".join(str(folder) for folder in context.inputs.values())
        raise StageError(f"report: no stage has begun in {folders}; run the recipe first")
    page = render(record, config.samples).encode()
    with atomic_open(context.directory / PAGE) as stream:
        stream.write(page)
    return {
        "bytes": len(page),
        "stages": len(record.manifests),
        "samples": min(config.samples, len(record.samples)),
    }


def read_run(name: str, folders: Mapping[str, Path]) -> Run:
    """What the stages in ``folders`` left behind; absent ones are absent in the result."""
    manifests = {stage: read_manifest(folder) for stage, folder in folders.items()}
    metrics = folders.get("training", Path()) / METRICS_FILE
    return Run(
        name=name,
        manifests={stage: manifest for stage, manifest in manifests.items() if manifest is not None},
        metrics=Metrics.of(read_metrics(metrics) if "training" in folders else ()),
        samples=_read(folders, "augment", "samples.json", []),
        dataset=_read(folders, "tokens", DATASET, {}),
        results=_read(folders, "evaluation", "results.json", {}),
        curves=_read(folders, "evaluation", "curves.json", {}),
    )


def render(run: Run, samples: int) -> str:
    """The page as HTML."""
    import jinja2
    from markupsafe import Markup

    def chart(chart: Chart, width: int, height: int) -> Markup:
        return Markup(draw(chart, width, height))

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(figures=figures, measured=measured, draw=chart, style=Markup(_asset("style.css")))
    formats = ("exact", "compact", "number", "percent", "plural", "size", "time")
    environment.filters.update({name: getattr(readable, name) for name in formats})
    return environment.get_template("page.html.j2").render(run=run, most_samples=samples)


def _read(folders: Mapping[str, Path], stage: str, name: str, default: Any) -> Any:
    path = folders[stage] / name if stage in folders else None
    return read_json(path) if path is not None and path.exists() else default


def _asset(name: str) -> str:
    return resources.files("megatron_ipt.report").joinpath(name).read_text("utf-8")
