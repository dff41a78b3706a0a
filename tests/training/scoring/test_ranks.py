"""Scores under every layout of ranks, and what happens when ranks or whoever started them die."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.inference.config import MegatronConfig
from megatron_ipt.inference.scoring import ScoreRequest
from megatron_ipt.training.scoring.ranks import ScoringRanks, score_texts

from .conftest import VOCABULARY, make_requests, transformers_scores

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="scoring needs Megatron-Core")
pytestmark = pytest.mark.slow

Models = Callable[..., tuple[Path, Path]]
TENSOR = {"tensor_model_parallel_size": 2}
PIPELINE = {"pipeline_model_parallel_size": 2}
LAYOUTS = {
    "one rank": {},
    "tensor 2": TENSOR,
    "tensor 2, sequence": TENSOR | {"sequence_parallel": True},
    "pipeline 2": PIPELINE,
    "data 2": {"nproc": 2},
    "tensor 2, pipeline 2": TENSOR | PIPELINE,
    "pipeline 2, data 2": PIPELINE | {"nproc": 4},
}


@pytest.fixture(scope="module")
def single(models: Models) -> list[float]:
    """Sums on one rank."""
    found = score_texts(models("llama")[1], make_requests(), MegatronConfig(precision="fp32", batch_tokens=300))
    return [score.log_likelihood for score in found]


@pytest.mark.parametrize("name", LAYOUTS)
def test_scores_are_those_of_transformers_under_every_layout(name: str, models: Models, single: list[float]) -> None:
    folder, checkpoint = models("llama")
    requests = make_requests()
    with ScoringRanks(checkpoint, MegatronConfig(precision="fp32", batch_tokens=300, **LAYOUTS[name])) as ranks:
        found = ranks.score(requests)
        # Further calls, other orders and sizes of batches are answered by the same ranks.
        again = ranks.score(requests[::-1])[::-1]
        one_by_one = [ranks.score([request])[0] for request in requests[:6]]
    expected = transformers_scores(folder, requests)
    assert [score.tokens for score in found] == [tokens for _, tokens in expected]
    sums = [score.log_likelihood for score in found]
    assert sums == pytest.approx([total for total, _ in expected], rel=1e-5)
    assert sums == pytest.approx(single, rel=1e-5)
    assert sum(tokens for _, tokens in expected) > 500 and min(sums) < -100
    assert again == found
    assert [score.log_likelihood for score in one_by_one] == pytest.approx(sums[:6], rel=1e-5)
    if "tensor" not in name:
        assert sums == single


@pytest.mark.parametrize(
    ("family", "changes", "settings"),
    [
        ("qwen2", {"tie_word_embeddings": True}, TENSOR | PIPELINE),
        ("mixtral", {}, PIPELINE),
        ("mixtral", {}, TENSOR | {"sequence_parallel": True}),
    ],
)
def test_shared_embeddings_and_experts(
    family: str, changes: dict[str, bool], settings: dict[str, int], models: Models
) -> None:
    folder, checkpoint = models(family, **changes)
    requests = make_requests(16)
    found = score_texts(checkpoint, requests, MegatronConfig(precision="fp32", batch_tokens=200, **settings))
    expected = [total for total, _ in transformers_scores(folder, requests)]
    assert [score.log_likelihood for score in found] == pytest.approx(expected, rel=1e-5)


def test_bf16_is_near_fp32_and_not_the_same(models: Models, single: list[float]) -> None:
    checkpoint = models("llama")[1]
    with ScoringRanks(checkpoint, MegatronConfig(precision="bf16", batch_tokens=300, **TENSOR)) as ranks:
        found = [score.log_likelihood for score in ranks.score(make_requests())]
        assert ranks.precision == "bf16"
    assert found == pytest.approx(single, rel=0.05, abs=0.1)
    assert found != pytest.approx(single, rel=1e-5)


def test_requests_that_cannot_be_scored_leave_the_ranks_usable(models: Models, single: list[float]) -> None:
    requests = make_requests()
    with ScoringRanks(models("llama")[1], MegatronConfig(precision="fp32", batch_tokens=300)) as ranks:
        with pytest.raises(InputError, match="request 3: id 50 at position 1 is outside the vocabulary of 50"):
            ranks.score([*requests[:3], ScoreRequest([1, VOCABULARY])])
        assert [score.log_likelihood for score in ranks.score(requests)] == single
        assert ranks.score([]) == []
    with pytest.raises(StageError, match="the ranks have been closed; start new ranks"):
        ranks.score(requests)


def test_nan_is_named_by_its_request(models: Models, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from megatron_ipt.convert.commands import import_model
    from tests.convert.models import save

    source = save(tmp_path / "hf", "llama")
    weights = load_file(source / "model.safetensors")
    weights["model.embed_tokens.weight"][7] = float("nan")
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    import_model(source, tmp_path / "checkpoints", allow_not_finite=True)
    with ScoringRanks(tmp_path / "checkpoints") as ranks:
        good = ScoreRequest([1, 2, 3])
        with pytest.raises(StageError, match="request 1: the model gave a log-likelihood of nan"):
            ranks.score([good, ScoreRequest([1, 7, 3]), ScoreRequest([1, 2, 7])])
        assert ranks.score([good])[0].log_likelihood < 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nproc": 3, **TENSOR}, "nproc: 3 ranks cannot be divided into groups .* nearest that can: 2 or 4"),
        ({"tensor_model_parallel_size": 4}, "tensor_model_parallel_size: 4 does not divide .* num_query_groups=2"),
        ({"pipeline_model_parallel_size": 3}, "pipeline_model_parallel_size: 3 does not divide .* num_layers=2"),
        ({"sequence_parallel": True}, "sequence_parallel: needs tensor_model_parallel_size"),
    ],
)  # fmt: skip
def test_impossible_layouts_are_refused_before_anything_starts(
    settings: dict[str, int], message: str, models: Models
) -> None:
    with pytest.raises(RecipeError, match=rf"score\.{message}"):
        ScoringRanks(models("llama")[1], MegatronConfig(**settings), prefix="score.")


def test_experts_under_tensor_parallelism_need_sequence_parallelism(models: Models) -> None:
    with pytest.raises(RecipeError, match="sequence_parallel: must be true for a model with experts"):
        ScoringRanks(models("mixtral")[1], MegatronConfig(**TENSOR))


def test_tokenizer_of_a_larger_vocabulary_is_refused(models: Models) -> None:
    with pytest.raises(InputError, match="has a vocabulary of 50, the tokenizer of the texts one of 51"):
        ScoringRanks(models("llama")[1], vocab_size=51)


def test_errors_of_ranks_come_back_as_their_message(models: Models, tmp_path: Path) -> None:
    shutil.copytree(models("llama")[1], tmp_path / "checkpoints")
    for shard in (tmp_path / "checkpoints/release").glob("*.distcp"):
        shard.write_bytes(bytes(shard.stat().st_size))
    with (
        pytest.raises(InputError, match="release: cannot be loaded: "),
        ScoringRanks(tmp_path / "checkpoints", MegatronConfig(**TENSOR)),
    ):
        pass


def workers(process: psutil.Process | None = None) -> list[psutil.Process]:
    """The ranks below ``process``."""
    found = (process or psutil.Process()).children(recursive=True)
    commands = [" ".join(child.cmdline()) for child in found]
    return [
        child
        for child, command in zip(found, commands)
        if "training.scoring.worker" in command and "training.ranks.launch" not in command
    ]


def assert_all_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def test_a_rank_that_dies_ends_the_others_and_is_reported(models: Models) -> None:
    with ScoringRanks(models("llama")[1], MegatronConfig(**TENSOR)) as ranks:
        started = workers()
        assert len(started) == 2
        started[1].send_signal(signal.SIGKILL)
        with pytest.raises(StageError, match="one of 2 ranks exited without an error message, which usually means"):
            ranks.score(make_requests())
        with pytest.raises(StageError, match="a rank has exited; start new ranks"):
            ranks.score(make_requests())
    assert_all_end(started)


def test_killing_the_ranks_from_another_thread_ends_a_call(models: Models) -> None:
    with ScoringRanks(models("llama")[1]) as ranks:
        timer = threading.Timer(0.5, ranks.kill)
        timer.start()
        with pytest.raises(StageError, match="rank"):
            while True:
                ranks.score(make_requests())
        timer.join()
    assert not workers()


PROGRAM = """
import signal, sys
# Whoever started the tests in the background may have had SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from megatron_ipt.inference.scoring import ScoreRequest
from megatron_ipt.inference.config import MegatronConfig
from megatron_ipt.training.scoring.ranks import ScoringRanks
with ScoringRanks(sys.argv[1], MegatronConfig(nproc=2)) as ranks:
    assert "torch" not in sys.modules
    print("ready", flush=True)
    while True:
        ranks.score([ScoreRequest([1, 2, 3] * 20)] * 100)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_rank_outlives_the_process_that_started_it(number: signal.Signals, models: Models) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(models("llama")[1])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    started = workers(psutil.Process(process.pid))
    assert len(started) == 2
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in message) == (number is signal.SIGINT)
    assert_all_end(started)
