"""The whole flow through the command, on the sample corpus and as short as it can be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_ipt.errors import RecipeError, UserError
from megatron_ipt.files import list_shards, read_json, read_jsonl
from megatron_ipt.pipeline import context_of, run_recipe, stage_of, summarize
from megatron_ipt.recipe import load_recipe, stages_of
from megatron_ipt.stages import TOKENS, stage_named
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

STEPS = 60


def run_quickstart(output, *arguments):
    command = [sys.executable, "-m", "megatron_ipt", "run", str(REPOSITORY / "examples/quickstart.yaml")]
    command += [f"output_dir={output}", f"training.steps={STEPS}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pytest.importorskip("megatron.core")
    output = tmp_path_factory.mktemp("pipeline") / "run"
    result = run_quickstart(output)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"model   {output}/export/model\nreport  {output}/report/report.html\n"
    return output


def test_every_stage_left_a_complete_manifest(finished):
    for stage in ("corpus", "synthesis", "augment", "tokens", "training", "export", "evaluation", "report"):
        manifest = read_json(finished / stage / "manifest.json")
        assert manifest["status"] == "complete"
        assert manifest["seconds"] >= 0


def test_no_document_is_lost_between_the_corpus_and_the_tokens(finished):
    corpus = read_json(finished / "corpus/manifest.json")["counts"]
    tokens = read_json(finished / "tokens/manifest.json")["counts"]
    written = [
        record for lane in ("synthesis", "raw") for shard in list_shards(finished / "corpus" / lane)
        for record in read_jsonl(shard)
    ]  # fmt: skip
    assert corpus["documents"] == len(written) == 60
    assert tokens["train"]["documents"] + tokens["valid"]["documents"] == 60


def test_transformers_loads_the_model_and_it_has_learned(finished):
    transformers = pytest.importorskip("transformers")
    folder = finished / "export/model"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("The lighthouse", return_tensors="pt")
    assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id
    output = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]
    results = read_json(finished / "evaluation/results.json")
    assert results["parity"]["max_abs_difference"] < 1e-4
    for measured in results["perplexity"].values():
        # In nats; a model that knew only token frequencies would be at the entropy.
        assert measured["loss"] < measured["unigram_entropy"] - 0.5


def test_losses_of_training_and_of_transformers_agree(finished):
    trained = read_json(finished / "training/manifest.json")["counts"]["valid"]
    measured = read_json(finished / "evaluation/results.json")["perplexity"]
    for name, loss in trained.items():
        # Megatron-Core leaves out or repeats a few tokens at the end of the data to fill whole sequences.
        assert measured[name]["loss"] == pytest.approx(loss, abs=0.1)


def test_a_recipe_either_reads_a_corpus_or_tunes():
    quickstart = REPOSITORY / "examples/quickstart.yaml"
    tuning = load_recipe(REPOSITORY / "examples/synthesizer_tiny.yaml", ["output_dir=/o"])
    assert [stage.name for stage in stages_of(tuning)] == ["tuning", "training", "export", "evaluation", "report"]
    assert context_of(stage_named("train"), tuning).inputs == {TOKENS: Path("/o/tuning")}
    assert [stage.name for stage in stages_of(load_recipe(quickstart))][:5] == [
        "corpus", "synthesis", "augment", "tokens", "training",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"corpus: not a stage of this recipe, because corpus\.inputs names no data"):
        stage_of(tuning, "corpus")
    with pytest.raises(RecipeError, match=r"keep one of corpus\.inputs and tuning\.datasets"):
        load_recipe(quickstart, ["tuning.datasets.chats.inputs=[chats.jsonl]"])
    with pytest.raises(RecipeError, match=r"corpus\.inputs: is empty"):
        load_recipe(quickstart, ["corpus.inputs=[]"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("corpus.reader=mine.py:read", r"corpus\.reader: mine\.py: no such file"),
        (
            "synthesis.engine=no_such_module:Engine synthesis.generation.model=mine",
            r"synthesis\.engine: no_such_module cannot be imported",
        ),
        (
            "synthesis.engine=openai synthesis.generation.model=mine",
            r"synthesis\.generation\.\w+: no tokenizer at mine",
        ),
        ("augment.extend_templates=[mine.yaml]", r"mine\.yaml"),
        ("tokens.tokenizer.kind=huggingface tokens.tokenizer.path=mine", "mine"),
    ],
)
def test_what_the_recipe_alone_tells_is_told_before_the_first_stage(settings, message, tmp_path):
    recipe = load_recipe(REPOSITORY / "examples/quickstart.yaml", [f"output_dir={tmp_path / 'run'}", *settings.split()])
    with pytest.raises(UserError, match=message):
        run_recipe(recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"files": 1, "text_files": 2, "empty_files": []}, "1 file, 2 text files"),
        ({"texts_with_pairs": 1, "rejects": 0, "pairs_per_text": 5.077}, "1 text with pairs, 5.08 pairs per text"),
        ({"train": {"documents": 5, "tokens": 1024}, "rejected": {"empty": 2, "short": 1}, "mixed": {"raw": 3}},
         "1,024 train tokens, 3 rejected"),
        ({"final_loss": 2.34567, "resumed": True}, "final loss 2.346"),
    ],
)  # fmt: skip
def test_counts_in_a_line(counts, line):

    assert summarize(counts) == line


def test_a_rerun_skips_everything(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/manifest.json")}
    result = run_quickstart(finished, "--json")
    assert result.returncode == 0
    assert result.stderr.count("already done") == 8
    assert {row["status"] for row in json.loads(result.stdout)} == {"complete"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_folder_of_a_run_names_its_recipe(finished):
    command = [sys.executable, "-m", "megatron_ipt", "status", str(finished)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["complete"] * 8
    assert f"step {STEPS} of {STEPS}" in lines[4]
    # As of the run, whatever the recipe says.
    command[-1:] = [str(REPOSITORY / "examples/quickstart.yaml"), f"output_dir={finished}"]
    assert f"step {STEPS} of {STEPS}" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_changed_settings_are_refused(finished):
    result = run_quickstart(finished, "training.optimizer.lr=0.1")
    assert result.returncode == 4
    assert "training.optimizer.lr: was 0.002, is 0.1" in result.stderr


def test_the_report_shows_the_run(finished):
    page = (finished / "report/report.html").read_text()
    assert "quickstart" in page
    assert "<svg" in page


@pytest.mark.skipif(sys.platform != "linux", reason="signals as on Linux")
def test_ctrl_c_in_every_stage_and_the_same_command_completes(tmp_path):
    output = tmp_path / "run"
    recipe = REPOSITORY / "examples/quickstart.yaml"
    arguments = ("run", str(recipe), f"output_dir={output}", "training.steps=10")
    for stage in ("corpus", "synthesis", "augment", "tokens", "training", "export", "evaluation", "report"):
        process = subprocess.Popen(
            [sys.executable, "-m", "megatron_ipt", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        manifest = output / stage / "manifest.json"
        while process.poll() is None and not manifest.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
        # A stage may finish in the instant before the signal reaches it.
        assert process.returncode in (130, 0), stderr
        assert b"Traceback" not in stderr
        assert not [path for path in output.rglob(".*") if path.suffix == ".tmp"]
    assert run_quickstart(output, "training.steps=10").returncode == 0
