"""The circle: texts with tasks, a model tuned on them, its export, and pairs that the export writes about texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ipt.config import load
from megatron_ipt.convert import stage as export
from megatron_ipt.convert.config import ExportConfig
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import CHECKPOINTS, DOCUMENTS, TOKENS
from megatron_ipt.synthesis import stage as synthesis
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.tuning import stage as tuning
from megatron_ipt.tuning.config import TuningConfig
from tests.synthesis.conftest import write_corpus, write_tokenizer
from tests.tuning.conftest import write_jsonl

pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

TASKS = [
    ("The river meets the sea.", "What meets the sea?", "the river"),
    ("Bakers light ovens at four.", "Who light ovens?", "Bakers"),
    ("In 1931 the harbour was deepened.", "When was it deepened?", "1931"),
    ("Bees dance where clover is.", "Why do bees dance?", "clover"),
]
TRAINING = (
    "model.preset=tiny",
    "data.seq_length=256",
    "epochs=20",
    "micro_batch_size=4",
    "global_batch_size=4",
    "optimizer.lr=0.005",
    "schedule.lr_warmup_iters=5",
    "logging.tensorboard=false",
)


def test_a_tuned_synthesizer_writes_pairs(tmp_path: Path) -> None:
    from megatron_ipt.training import stage as training

    tokenizer = write_tokenizer(tmp_path / "tokenizer", marks_are_tokens=True)
    records = [{"context": text, "tasks": [{"question": q, "answer": a}]} for text, q, a in TASKS]
    path = write_jsonl(tmp_path / "tasks.jsonl", records)
    folders = {name: tmp_path / name for name in ("tuning", "training", "export", "corpus", "synthesis")}

    def context(name: str, inputs: dict[str, str]) -> StageContext:
        return StageContext(name, folders[name], 7, {key: folders[value] for key, value in inputs.items()})

    data = ["tokenizer.kind=huggingface", f"tokenizer.path={tokenizer}", "seq_length=256", "valid_share=0",
            f"datasets.texts.inputs=[{path}]", "datasets.texts.repeat=16"]  # fmt: skip
    tuning.run(load(TuningConfig, None, data), context("tuning", {}))
    trained = training.run(load(TrainingConfig, None, list(TRAINING)), context("training", {TOKENS: "tuning"}))
    assert trained["final_loss"] < 0.5
    export.run(ExportConfig(), context("export", {CHECKPOINTS: "training", TOKENS: "tuning"}))

    write_corpus(folders["corpus"], [[text for text, _, _ in TASKS]])
    settings = ["engine=transformers", f"generation.model={folders['export'] / 'model'}", "chain_length=2",
                "generation.context_length=256", "generation.max_new_tokens=48"]  # fmt: skip
    counts = synthesis.run(load(SynthesisConfig, None, settings), context("synthesis", {DOCUMENTS: "corpus"}))
    examples = [example for chain in synthesis.chains_in(folders["synthesis"]) for example in chain.examples]
    found = [(example.text, pair.question, pair.answer) for example in examples for pair in example.pairs]
    assert counts["texts"] == len(examples) == len(TASKS)
    # Learned by heart, text and all: most come back as they were.
    assert len(set(found) & set(TASKS)) >= 2, json.dumps(found)
