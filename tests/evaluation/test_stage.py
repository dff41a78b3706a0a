"""The stage on a real, short training: benchmarks, curves over its checkpoints, and the page that shows them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("megatron.core")
pytest.importorskip("lm_eval")

from megatron_ipt.files import read_json
from megatron_ipt.pipeline import run_recipe
from megatron_ipt.recipe import load_recipe
from tests.conftest import REPOSITORY
from tests.evaluation.conftest import TASKS


@pytest.mark.slow
def test_losses_and_benchmarks_of_every_checkpoint(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    recipe = load_recipe(
        REPOSITORY / "examples/quickstart.yaml",
        [
            f"output_dir={tmp_path / 'run'}", "tokens.tokenizer.vocab_size=512", "training.model.num_layers=2",
            "training.model.hidden_size=32", "training.model.ffn_hidden_size=48", "training.steps=6",
            "training.checkpoint.save_interval=2", "training.checkpoint.keep_last=0", "evaluation.checkpoints=all",
            "evaluation.harness.tasks=[everyday_science:1]", f"evaluation.harness.include_path={TASKS}",
            "evaluation.generations=1",
        ],
    )  # fmt: skip
    run_recipe(recipe)
    folder = tmp_path / "run/evaluation"
    results, points = read_json(folder / "results.json"), read_json(folder / "curves.json")["checkpoints"]
    assert [point["checkpoint"] for point in points] == ["iter_0000002", "iter_0000004", "iter_0000006"]
    # 8 sequences of 256 tokens a step.
    assert [point["tokens"] for point in points] == [2 * 2048, 4 * 2048, 6 * 2048]
    losses = [point["perplexity"]["raw"]["loss"] for point in points]
    assert losses[0] > losses[1] > losses[2]
    # The last point is the exported model, and training measured the same loss on the same tokens.
    assert points[-1]["perplexity"] == results["perplexity"] and points[-1]["harness"] == results["harness"]
    trained = read_json(tmp_path / "run/training/manifest.json")["counts"]["valid"]["raw"]
    assert losses[-1] == pytest.approx(trained, abs=0.02)
    figures = results["harness"]["tasks"]["everyday_science"]
    assert (figures["shots"], figures["questions"]) == (1, 16)
    page = (tmp_path / "run/report/report.html").read_text()
    assert "Held-out loss of each checkpoint" in page and "everyday_science" in page
