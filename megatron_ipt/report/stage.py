"""Stage ``report``: one self-contained HTML page about a run.

Reads what the other stages left and writes ``report.html``, which opens from a file and asks the network for nothing.
What is shown of a stage is described by its room (:mod:`megatron_ipt.stages.page`). The page depends on what the
stages left alone, so writing it again gives the same bytes.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
from importlib import resources
from typing import Any

from megatron_ipt.errors import StageError, UserError
from megatron_ipt.files import atomic_open
from megatron_ipt.manifest import StageContext
from megatron_ipt.report import widths
from megatron_ipt.report.charts import draw
from megatron_ipt.report.config import ReportConfig
from megatron_ipt.report.layout import Page, lay_out, read_records
from megatron_ipt.stages import all_stages, readable
from megatron_ipt.stages.page import Chart, Element

PAGE = "report.html"
_REQUIRED = ("jinja2", "matplotlib")
_FORMATS = ("exact", "number", "percent", "plural", "time")
_FITTING = ("bars_of", "longest_of", "pieces_of", "preview_of")


def run(config: ReportConfig, context: StageContext) -> dict[str, Any]:
    """Writes ``report.html``; returns its size and what it shows.

    Raises:
        UserError: the extra ``report`` is not installed.
        StageError: no stage has begun, or a stage's part of the page cannot be shown.
    """
    missing = [package for package in _REQUIRED if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"report: {' and '.join(missing)} not installed; `pip install megatron-ipt[report]` installs everything "
            "it needs"
        )
    stages = [stage for stage in all_stages() if stage.name in context.inputs]
    records = read_records(stages, context.inputs)
    if not records:
        folders = ", ".join(str(folder) for folder in context.inputs.values())
        raise StageError(f"report: no stage has begun in {folders}; run the recipe first")
    page = lay_out(context.recipe_name, records, config.samples)
    content = render(page).encode()
    with atomic_open(context.directory / PAGE) as stream:
        stream.write(content)
    return {"bytes": len(content), "stages": len(records), "samples": page.samples}


def render(page: Page) -> str:
    """The page as HTML."""
    import jinja2
    from markupsafe import Markup, escape

    numbers = itertools.count(1)

    def chart(chart: Chart, width: int, height: int) -> Markup:
        return Markup(draw(chart, width, height, f"chart {next(numbers)}"))

    def prose(text: str) -> Markup:
        runs = (f"<code>{escape(run)}</code>" if code else escape(run) for run, code in widths.runs_of(text))
        return Markup("".join(runs))

    def show(element: Element) -> Markup:
        macro = getattr(elements.module, macro_name(type(element)))
        return Markup(macro(element))

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(draw=chart, show=show, style=Markup(_asset("style.css")))
    environment.globals.update({name: getattr(widths, name) for name in _FITTING})
    environment.filters.update({name: getattr(readable, name) for name in _FORMATS})
    environment.filters["prose"] = prose
    elements = environment.get_template("elements.html.j2")
    return environment.get_template("page.html.j2").render(page=page)


def macro_name(element: type) -> str:
    """``SmallCharts`` -> ``small_charts``: the macro that shows elements of this class."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", element.__name__).lower()


def _asset(name: str) -> str:
    return resources.files("megatron_ipt.report").joinpath(name).read_text("utf-8")
