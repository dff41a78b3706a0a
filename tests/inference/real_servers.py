"""Real servers on loopback, found through environment variables (CONTRIBUTING.md); tests without them are skipped."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CONTEXT = 2048
"""Tokens of prompt and answer that the servers take."""
_START_SECONDS = 900


@dataclass(frozen=True)
class RealServer:
    """A server that is up.

    Attributes:
        kind: value of ``openai.server``.
        url: its address, for ``openai.base_urls``.
        model: the name it knows its model by.
        folder: Hugging Face folder of the same model, for its tokenizer and chat template.
    """

    kind: str
    url: str
    model: str
    folder: Path


def _found(variable: str, what: str) -> Path:
    """The path in an environment variable; the test is skipped without one."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: {what}")
    path = Path(value).expanduser()
    assert path.exists(), f"{variable}: {path} does not exist"
    return path


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def serving(kind: str, log: Path) -> Iterator[RealServer]:
    """Starts the server called ``kind`` and ends it afterwards."""
    folder = _found("MEGATRON_IPT_SERVER_MODEL", "folder of a small Hugging Face model with a chat template")
    port = _free_port()
    address = ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if kind == "vllm":
        python = _found("MEGATRON_IPT_VLLM_PYTHON", "Python of an environment with vLLM")
        # Not "vllm serve": packages of vLLM for the CPU lack the metadata that this command looks for. A seeded request
        # whose prompt is read in pieces ends vLLM 0.32 on a CPU; the budget avoids pieces.
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
        command += ["--served-model-name", "small", "--max-model-len", str(CONTEXT), "--max-num-seqs", "8"]
        command += ["--dtype", "bfloat16", "--max-num-batched-tokens", "16384", "--enforce-eager"]
        environment |= {"VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    else:
        program = _found("MEGATRON_IPT_LLAMA_SERVER", "llama.cpp's llama-server")
        weights = _found("MEGATRON_IPT_SERVER_GGUF", "the same model in GGUF")
        command = [str(program), "-m", str(weights), "--alias", "small", "-c", str(4 * CONTEXT), "-np", "4"]
        command += ["--poll", "0"]
    with open(log, "wb") as stream:
        process = subprocess.Popen([*command, *address], stdout=stream, stderr=stream, env=environment)
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield RealServer(kind, f"http://127.0.0.1:{port}/v1", "small", folder)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < _START_SECONDS:
        assert process.poll() is None, f"the server ended with status {process.returncode}:\n{_tail(log)}"
        with contextlib.suppress(OSError), urllib.request.urlopen(health, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise AssertionError(f"the server was not up after {_START_SECONDS} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
