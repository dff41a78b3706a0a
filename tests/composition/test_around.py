"""What surrounds the stage: its option for steps, jobs on a cluster, its plan, its part of the report, and training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from megatron_ipt.cli import cli
from megatron_ipt.cluster.slurm.jobs import Folders, jobs_of
from megatron_ipt.cluster.slurm.site import read_site
from megatron_ipt.cluster.watch.progress import progress_of
from megatron_ipt.composition.config import CompositionConfig, EncoderConfig, FilterConfig
from megatron_ipt.composition.cost import cost
from megatron_ipt.composition.report import part
from megatron_ipt.files import read_json, read_jsonl
from megatron_ipt.manifest import read_manifest
from megatron_ipt.pipeline import run_recipe, stage_of
from megatron_ipt.recipe import Recipe, save_recipe
from megatron_ipt.selection.config import ScorerGeneration
from megatron_ipt.stages import DOCUMENTS, TOKENS
from megatron_ipt.stages.costs import Assumptions, Documents, Machine, Planning, TokenData
from megatron_ipt.stages.page import Bars, Caution, Chart, Samples, SideBySide, StageRecord
from megatron_ipt.tokens.dataset.description import has_loss_masks
from tests.composition.conftest import Build
from tests.composition.test_stage import compose

pytest.importorskip("faiss")
pytest.importorskip("torch")


def test_steps_on_the_command_line(build: Build, tmp_path: Path) -> None:
    recipe = build()
    run_recipe(recipe, until="tokens")
    save_recipe(recipe, tmp_path / "recipe.yaml")
    folder = Path(recipe.output_dir) / "composition"

    def call(*words: str) -> Any:
        return CliRunner().invoke(cli, ["compose", str(tmp_path / "recipe.yaml"), *words], catch_exceptions=False)

    for share in ("0/2", "1/2"):
        assert call("--until", "vectors", "--shard", share).exit_code == 0
    assert len(list((folder / "vectors").glob("*.npy"))) == 5 and not (folder / "neighbours").exists()
    assert (read_manifest(folder) or {})["status"] == "running"
    assert call("--until", "neighbours").exit_code == 0 and not (folder / "alone").exists()
    early = call("--show", "0")
    assert early.exit_code == 0 and early.output.splitlines()[0].endswith(", not scored")
    assert "'rows' is not one of" in call("--until", "rows").output
    assert call().exit_code == 0 and (read_manifest(folder) or {})["status"] == "complete"
    shown = call("--show", "0")
    assert shown.exit_code == 0 and shown.output.startswith("context 0 of ")


def jobs(recipe: Recipe, tmp_path: Path) -> list[Any]:
    site = tmp_path / "site.env"
    site.write_text("COMPOSITION_ARRAY_TASKS=2\n")
    folders = Folders(tmp_path, tmp_path / "logs", tmp_path / "exits", "python")
    return [
        job
        for job in jobs_of(recipe, tmp_path / "recipe.yaml", [], read_site(site), folders, progress_of(recipe))
        if job.stage == "composition"
    ]


def test_every_step_is_an_array_on_a_cluster(build: Build, tmp_path: Path) -> None:
    recipe = build()
    recipe.training = replace(recipe.training)
    recipe.skip.append("training")
    before = jobs(recipe, tmp_path)
    steps = ["vectors", "neighbours", "alone", "scores"]
    assert [job.key for job in before] == [*(f"compose_{step}" for step in steps), "compose_merge"]
    assert [job.after for job in before[1:]] == [job.key for job in before[:-1]]
    for job, step in zip(before, steps):
        assert job.array == (0, 1) and f"MEGATRON_IPT_UNTIL={step}" in job.options[-2] + job.options[-1]
        assert f", {step}: 2 of 2 shares" in job.does
        assert ("--gpus-per-task=1" in job.options) == (step != "neighbours")
    assert not any("UNTIL" in option for option in before[-1].options)
    folder = compose_until(recipe, "neighbours")
    (folder / "neighbours" / "synthesis-00003.done.json").unlink()
    after = jobs(recipe, tmp_path)
    assert [job.key for job in after] == ["compose_neighbours", "compose_alone", "compose_scores", "compose_merge"]
    assert [job.array for job in after] == [(1,), (0, 1), (0, 1), ()]


def compose_until(recipe: Recipe, step: str) -> Path:
    return compose(recipe, until=step)


def test_a_plan_counts_contexts(build: Build) -> None:
    planning = Planning(Machine(8), Assumptions(), {DOCUMENTS: Documents(1e6, 500.0), TOKENS: TokenData(5e8, 32000)})
    config = CompositionConfig(EncoderConfig("nowhere"), filter=FilterConfig(generation=ScorerGeneration("nowhere")))
    estimate = cost(config, planning)
    paragraphs = round(5e8 / 96)
    assert estimate.facts["data"]["paragraphs"] == pytest.approx(paragraphs)
    rows = paragraphs * 0.75 * 1024 * 0.8
    assert estimate.makes[TOKENS].tokens == pytest.approx(5e8 + rows)
    assert [each.stage for each in estimate.costs] == [
        "composition vectors", "composition neighbours", "composition filter",
    ]  # fmt: skip
    assert "IVF" in estimate.costs[1].basis
    fewer = cost(replace(config, queries=1000, share=1.0), planning)
    assert fewer.makes[TOKENS].tokens == pytest.approx(1000 * 0.75 * 1024 * 0.8)
    config = build().composition
    known = cost(config, planning)
    assert known.costs[0].hours and known.costs[2].hours is None


def test_the_report_shows_gains_ranks_uses_and_contexts(build: Build) -> None:
    recipe = build()
    folder = compose(recipe)
    stage = stage_of(recipe, "composition")
    shown = part(StageRecord(stage, folder, read_manifest(folder) or {}))
    pairs = [each for each in shown.elements if isinstance(each, SideBySide)]
    (close, wide), (ranks, fill), (uses, dropped) = (pair.elements for pair in pairs)
    assert isinstance(close, Chart) and isinstance(wide, Chart)
    labels = ["contexts", "random paragraphs", "copies of the query", "threshold"]
    assert [curve.label for curve in wide.curves] == labels
    assert [curve.label for curve in close.curves] == [labels[0], labels[1], labels[3]]
    for curve in (*wide.curves[:3], *close.curves[:2]):
        assert sum(curve.y) == pytest.approx(1)
    warnings = [each.text for each in shown.elements if isinstance(each, Caution)]
    assert "80,000" in warnings[0]
    assert isinstance(ranks, Chart) and isinstance(uses, Bars) and isinstance(fill, Bars) and isinstance(dropped, Bars)
    counts = read_json(folder / "manifest.json")["counts"]
    assert sum(fill.counts.values()) == counts["rows"]
    assert sum(uses.counts.values()) == counts["paragraphs"] - counts["dropped"]["paragraph that occurs before"]
    (samples,) = (each for each in shown.elements if isinstance(each, Samples))
    gains = [float(sample.facts[0].split()[1]) for sample in samples.samples]
    assert len(gains) == 3 and gains == sorted(gains, reverse=True)
    assert part(StageRecord(stage, folder, {})).elements == ()


@pytest.mark.slow
def test_training_takes_contexts_and_documents(build: Build) -> None:
    recipe = build()
    recipe.training.model.num_layers = 2
    recipe.training.steps = 6
    recipe.training.micro_batch_size = 4
    recipe.training.global_batch_size = 16
    run_recipe(recipe)
    run = Path(recipe.output_dir)
    weights = {entry["name"]: entry["weight"] for entry in read_json(run / "composition" / "dataset.json")["train"]}
    steps = [record for record in read_jsonl(run / "training" / "metrics.jsonl") if "loss" in record]
    assert len(steps) == 6 and np.isfinite([step["loss"] for step in steps]).all()
    assert set(weights) == {"mixed", "contexts"}
    by_source = steps[-1]["tokens_by_source"]
    share = by_source["contexts"] / sum(by_source.values())
    # Of 96 samples, each source is within one of its weight.
    assert share == pytest.approx(0.5, abs=0.06)
    assert not has_loss_masks(read_json(run / "composition" / "dataset.json"))
