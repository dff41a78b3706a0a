"""Whole trainings, many to a process (``driver.py``): every layout, recompute, saving, resuming, what is learned."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.training.loop.metrics import read_metrics

from .conftest import SMALL_RUN, documents, write_tokens

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

SMALLER_RUN = (*SMALL_RUN, "micro_batch_size=4", "checkpoint.save_interval=10", "validation.eval_interval=10")
"""Two micro-batches a step; where more matter, a job asks for them."""
FOUR_MICRO_BATCHES = "micro_batch_size=2"
TENSOR, PIPELINE = "parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2"
EXPERTS = ("model.preset=tiny_moe", "model.num_layers=2")
STEPS = 20
BIGRAM_PROBABILITIES = (0.5, 0.25, 0.125, 0.125)
BIGRAM_ENTROPY = 1.75 * math.log(2)


def losses(directory: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_metrics(directory / "metrics.jsonl") if "loss" in record}


def last_record(directory: Path) -> dict[str, Any]:
    return [record for record in read_metrics(directory / "metrics.jsonl") if "loss" in record][-1]


def validations(directory: Path) -> dict[int, dict[str, float]]:
    return {
        record["step"]: record["valid"] for record in read_metrics(directory / "metrics.jsonl") if "valid" in record
    }


def largest_difference(one: Path, other: Path) -> float:
    first, second = losses(one), losses(other)
    assert first.keys() == second.keys() and len(first) >= STEPS
    valid_one, valid_other = validations(one), validations(other)
    assert valid_one.keys() == valid_other.keys()
    held_out = [abs(valid_one[step][name] - valid_other[step][name]) for step in valid_one for name in valid_one[step]]
    return max([abs(first[step] - second[step]) for step in first] + held_out)


def saved(directory: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (directory / "checkpoints").glob("iter_*"))


class Jobs:
    """Trainings for one set of ranks, by name."""

    def __init__(self, root: Path, tokens: Path):
        self.root = root
        self.tokens = tokens
        self.jobs: list[dict[str, Any]] = []

    def add(self, name: str, *overrides: str, tokens: Path | None = None, **preparation: str) -> None:
        job = {
            "overrides": [*SMALLER_RUN, f"steps={STEPS}", "checkpoint.keep_last=0", *overrides],
            "directory": str(self.root / name),
            "tokens": str(tokens or self.tokens),
        }
        if "copy" in preparation:
            preparation["copy"] = str(self.root / preparation["copy"])
        self.jobs.append(job | preparation)

    def run(self, ranks: int) -> None:
        path = self.root / f"jobs-{ranks}.json"
        path.write_text(json.dumps(self.jobs))
        driver = Path(__file__).with_name("driver.py")
        launch = (
            ["-m", "megatron_ipt.training.ranks.launch", "--standalone", f"--nproc-per-node={ranks}"]
            if ranks > 1
            else []
        )
        environment = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", TORCH_CPP_LOG_LEVEL="ERROR")
        result = subprocess.run(
            [sys.executable, *launch, str(driver), str(path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-4000:]


def bigram_document(length: int, seed: int) -> list[int]:
    """One document in which each of 29 symbols has four successors of fixed probability: 1.75 bits a token."""
    successors = [np.roll(np.random.default_rng(5).permutation(29) + 3, row) for row in range(4)]
    token, document = 3, []
    for choice in np.random.default_rng(seed).choice(4, size=length, p=BIGRAM_PROBABILITIES):
        document.append(token)
        token = int(successors[choice][token - 3])
    return document


@pytest.fixture(scope="module")
def mixed_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of two sources in one dataset, as the tokens stage interleaves them."""
    folder = tmp_path_factory.mktemp("mixed")
    one, two = documents(90, 1), documents(60, 2)
    write_tokens(folder, [[*one, *two]], {"raw": documents(7, 3)})
    np.save(folder / "train-0.sources.npy", np.array([0] * 90 + [1] * 60, np.uint8))
    description = json.loads((folder / "dataset.json").read_text())
    description["train"][0]["by_source"] = {"augmented": {}, "raw": {}}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def one_rank(tokens: Path, mixed_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("runs")
    jobs = Jobs(root, tokens)
    jobs.add("base", "checkpoint.save_interval=5")
    jobs.add("recompute-full", "recompute.granularity=full")
    jobs.add("recompute-block", "recompute.granularity=full", "recompute.method=block", "recompute.num_layers=2")
    jobs.add("recompute-attention", "recompute.granularity=selective")
    jobs.add("recompute-mlp", "recompute.granularity=selective", "recompute.modules=[mlp]")
    jobs.add("experts", *EXPERTS)
    jobs.add("experts-recompute", *EXPERTS, "recompute.granularity=selective", "recompute.modules=[moe]")
    jobs.add("saved-in-line", "checkpoint.async_save=false")
    jobs.add("keep", "checkpoint.save_interval=5", "checkpoint.keep_last=1", "checkpoint.keep_every=10")
    flipped = "checkpoints/iter_0000020/__0_0.distcp"
    jobs.add("damaged", "steps=22", copy="base", flip=flipped)
    jobs.add("damaged-fall-back", "steps=22", "checkpoint.on_damage=previous", copy="base", flip=flipped)
    jobs.add("tracker", "steps=22", copy="base", tracker="99")
    jobs.add("tracker-fall-back", "steps=22", "checkpoint.on_damage=previous", copy="base", tracker="99")
    jobs.add("other-shape", "steps=22", "model.ffn_hidden_size=96", copy="base")
    jobs.add("longer", "steps=30", "schedule.lr_decay_iters=30")
    jobs.add("first-part", "schedule.lr_decay_iters=30")
    jobs.add("extended", "steps=30", "schedule.lr_decay_iters=30", copy="first-part")
    jobs.add("ramp", FOUR_MICRO_BATCHES, "batch_ramp.start=2", "batch_ramp.increment=2", "batch_ramp.samples=24")
    weights = f"initial_checkpoint={root / 'base/checkpoints'}"
    jobs.add("weights", weights, "steps=1", "optimizer.lr=0", "optimizer.min_lr=0", "schedule.lr_warmup_iters=0")
    jobs.add("weights-other-shape", weights, "model.num_layers=2")
    jobs.add("mixed", tokens=mixed_tokens)
    jobs.add("blend", "data.blend={train-0: 3, train-1: 1}")
    jobs.add("blend-unknown", "data.blend={train-7: 3}")
    jobs.add("half", "precision=bf16")
    jobs.add("half-from-full", weights, "precision=bf16", "steps=1")
    jobs.add("documents-apart", "data.reset_attention_mask=true", "data.eod_mask_loss=true")
    jobs.add("fp8", "precision=fp8")
    jobs.add("offload", "optimizer.offload_fraction=0.5")
    wild = ("steps=9", "optimizer.lr=1e30", "optimizer.clip_grad=0", "schedule.lr_warmup_iters=0")
    jobs.add("not-a-number", *wild)
    jobs.add("not-a-number-skipped", *wild, "anomalies.non_finite=skip", "anomalies.limit=3")
    one = write_tokens(root / "one-sequence", [[documents(1, 5)[0][:33]]], {})
    by_heart = ("steps=100", "global_batch_size=1", "micro_batch_size=1", "optimizer.lr=0.01", "model.num_layers=2")
    jobs.add("by-heart", *by_heart, "checkpoint.save_interval=100", tokens=one)
    bigram = write_tokens(
        root / "bigram", [[bigram_document(120_000, 1)]], {"held": [bigram_document(20_000, 2)]}, vocab_size=32
    )
    jobs.add(
        "bigram", "steps=200", "optimizer.lr=0.01", "model.num_layers=2", "data.seq_length=64", "global_batch_size=16",
        "micro_batch_size=16", "checkpoint.save_interval=200", "validation.eval_interval=200", tokens=bigram,
    )  # fmt: skip
    jobs.run(1)
    return lambda name: root / name


@pytest.fixture(scope="module")
def two_ranks(one_rank: Callable[[str], Path], tokens: Path) -> Callable[[str], Path]:
    jobs = Jobs(one_rank(""), tokens)
    jobs.add("tensor", TENSOR)
    jobs.add("tensor-sequence", TENSOR, "parallel.sequence_parallel=true")
    jobs.add("pipeline", PIPELINE, FOUR_MICRO_BATCHES)
    interleaved = "parallel.virtual_pipeline_model_parallel_size=2"
    jobs.add("pipeline-interleaved", PIPELINE, interleaved, FOUR_MICRO_BATCHES)
    overlapped = (
        "nproc=2",
        FOUR_MICRO_BATCHES,
        "parallel.overlap_grad_reduce=true",
        "parallel.overlap_param_gather=true",
    )
    jobs.add("data", *overlapped)
    jobs.add("data-resumed", *overlapped, copy="data", tracker="10")
    jobs.add("data-whole-optimizer", "nproc=2", "parallel.use_distributed_optimizer=false")
    jobs.add("context", "parallel.context_parallel_size=2")
    jobs.add("expert", *EXPERTS, "parallel.expert_model_parallel_size=2")
    jobs.add("resumed-pipeline", PIPELINE, copy="base", tracker="10")
    jobs.add("resumed-tensor", TENSOR, copy="base", tracker="5")
    jobs.add("resumed-expert", *EXPERTS, "parallel.expert_model_parallel_size=2", copy="experts", tracker="10")
    jobs.run(2)
    back = Jobs(one_rank(""), tokens)
    back.add("single-from-data", copy="data", tracker="10")
    back.add("resumed-single-expert", *EXPERTS, copy="expert", tracker="10")
    back.run(1)
    return one_rank


@pytest.mark.parametrize(
    "name",
    ["tensor", "tensor-sequence", "pipeline", "pipeline-interleaved", "data", "data-whole-optimizer", "context"],
)
def test_two_ranks_train_like_one(name: str, two_ranks: Callable[[str], Path]) -> None:
    assert largest_difference(two_ranks("base"), two_ranks(name)) < 1e-5


def test_experts_on_two_ranks_train_like_on_one(two_ranks: Callable[[str], Path]) -> None:
    assert largest_difference(two_ranks("experts"), two_ranks("expert")) < 1e-5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("base", "resumed-pipeline"),
        ("base", "resumed-tensor"),
        ("base", "data-resumed"),
        ("base", "single-from-data"),
        ("experts", "resumed-expert"),
        ("experts", "resumed-single-expert"),
    ],
)
def test_another_layout_continues_where_one_rank_stopped(
    before: str, after: str, two_ranks: Callable[[str], Path]
) -> None:
    assert largest_difference(two_ranks(before), two_ranks(after)) < 1e-5


def test_four_ranks_train_like_one(one_rank: Callable[[str], Path], tokens: Path) -> None:
    jobs = Jobs(one_rank(""), tokens)
    jobs.add("tensor-pipeline", TENSOR, PIPELINE, FOUR_MICRO_BATCHES)
    jobs.run(4)
    assert largest_difference(one_rank("base"), one_rank("tensor-pipeline")) < 1e-5


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("recompute-full", "base"),
        ("recompute-block", "base"),
        ("recompute-attention", "base"),
        ("recompute-mlp", "base"),
        ("experts-recompute", "experts"),
        ("saved-in-line", "base"),
    ],
)
def test_not_a_bit_changes(name: str, like: str, one_rank: Callable[[str], Path]) -> None:
    assert largest_difference(one_rank(like), one_rank(name)) == 0


def test_kept_checkpoints(one_rank: Callable[[str], Path]) -> None:
    assert saved(one_rank("base")) == [5, 10, 15, 20]
    assert saved(one_rank("keep")) == [10, 20]
    assert not list(one_rank("base").glob("checkpoints/.iter_*"))


def test_damage_is_found_by_checksum_and_named(one_rank: Callable[[str], Path]) -> None:
    message = (one_rank("damaged") / "error.txt").read_text()
    assert "iter_0000020/__0_0.distcp: its content is not what was written" in message
    assert "on_damage=previous" in message


@pytest.mark.parametrize("name", ["damaged-fall-back", "tracker-fall-back"])
def test_falls_back_when_told_to(name: str, one_rank: Callable[[str], Path]) -> None:
    repeated, before = losses(one_rank(name)), losses(one_rank("base"))
    assert max(repeated) == 22
    # Steps after the checkpoint are trained once more, on a schedule that now ends later.
    first_repeated = 16 if name == "damaged-fall-back" else 21
    assert all(repeated[step] == before[step] for step in range(1, first_repeated))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tracker", "names iteration 99, but"),
        ("other-shape", "was trained with model ffn_hidden_size=160, the recipe now says 96"),
        ("weights-other-shape", "holds a model with num_layers=4, training.model says 2"),
        ("blend-unknown", "no training source is called train-7; there are train-0, train-1"),
        ("fp8", "training.precision: fp8 needs a GPU"),
        ("offload", "training.optimizer.offload_fraction: moves optimizer state from a GPU"),
        ("not-a-number", "set training.anomalies.non_finite to skip or rollback"),
        ("not-a-number-skipped", "(and training.anomalies.limit=3 is reached)"),
    ],
)
def test_refusals_say_what_to_do(name: str, message: str, one_rank: Callable[[str], Path]) -> None:
    if name in ("fp8", "offload"):
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    assert message in (one_rank(name) / "error.txt").read_text()


def test_skipped_steps_are_in_the_log(one_rank: Callable[[str], Path]) -> None:
    lines = (one_rank("not-a-number-skipped") / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["skip"] * 3
    assert "is nan" in events[0]["found"] or "is inf" in events[0]["found"]


def test_a_run_made_longer_is_the_long_run(one_rank: Callable[[str], Path]) -> None:
    assert losses(one_rank("extended")) == losses(one_rank("longer"))


def test_batch_size_grows(one_rank: Callable[[str], Path]) -> None:
    records = [record for record in read_metrics(one_rank("ramp") / "metrics.jsonl") if "loss" in record]
    tokens = [record["tokens"] // 32 for record in records]
    # Parts of 8 samples: 4 steps of 2, 2 of 4, 2 of 6 (to 28 > 24), then 8.
    assert tokens[:10] == [2, 4, 6, 8, 12, 16, 22, 28, 36, 44]


def test_weights_are_taken_over_and_the_optimizer_is_not(one_rank: Callable[[str], Path]) -> None:
    assert validations(one_rank("weights"))[1] == validations(one_rank("base"))[20]
    assert last_record(one_rank("weights"))["tokens"] == 8 * 32


def test_tokens_are_counted_by_source(one_rank: Callable[[str], Path]) -> None:
    mixed = last_record(one_rank("mixed"))
    assert sum(mixed["tokens_by_source"].values()) == mixed["tokens"] == STEPS * 8 * 32
    share = mixed["tokens_by_source"]["augmented"] / mixed["tokens"]
    assert share == pytest.approx(0.6, abs=0.05)
    blend = last_record(one_rank("blend"))
    assert blend["tokens_by_source"]["train-0"] / blend["tokens"] == pytest.approx(0.75, abs=0.01)


def test_half_precision_follows_full(one_rank: Callable[[str], Path]) -> None:
    full, half = losses(one_rank("base")), losses(one_rank("half"))
    assert max(abs(full[step] - half[step]) for step in full) < 0.05
    assert losses(one_rank("half-from-full"))[1] < losses(one_rank("base"))[15]


def test_attention_within_documents_is_another_model(one_rank: Callable[[str], Path]) -> None:
    apart, base = losses(one_rank("documents-apart")), losses(one_rank("base"))
    assert apart[1] != base[1] and apart[STEPS] < apart[1] - 0.3


def test_what_a_line_of_metrics_says(two_ranks: Callable[[str], Path]) -> None:
    record = last_record(two_ranks("data"))
    assert record["tflops"] > 0 and record["memory_gb"] > 0.1 and "mfu" not in record
    assert record["rank_seconds_p50"] <= record["rank_seconds_p95"] <= record["rank_seconds_max"]
    assert record["params_norm"] == pytest.approx(last_record(two_ranks("base"))["params_norm"], rel=1e-6)
    assert last_record(two_ranks("tensor"))["params_norm"] == pytest.approx(record["params_norm"], rel=1e-6)
    experts, expert = last_record(two_ranks("experts")), last_record(two_ranks("expert"))
    assert expert["params_norm"] == pytest.approx(experts["params_norm"], rel=1e-6)


def test_one_batch_is_learned_by_heart(one_rank: Callable[[str], Path]) -> None:
    assert losses(one_rank("by-heart"))[100] < 0.05


def test_a_bigram_source_is_learned_to_its_entropy(one_rank: Callable[[str], Path]) -> None:
    held_out = validations(one_rank("bigram"))[200]["held"]
    assert held_out == pytest.approx(BIGRAM_ENTROPY, abs=0.02)
