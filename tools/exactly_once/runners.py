"""The tools under test: how each is started, and what is found in its folder.

Adding one that speaks to an OpenAI-compatible server is adding a class.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = re.compile(r"doc-\d{6}")
_JOURNAL_HEADER, _RECORD_HEADER = 16, 16


class Unavailable(Exception):
    """A tool that cannot be run here, and why."""


class Runner(ABC):
    """A tool under test.

    Attributes:
        name: for tables.
        in_flight: documents that it works on at the same time.
        folder: what it writes; removed before every run.
        tells_kept: whether :meth:`kept` and :meth:`writing` read its files.
    """

    tells_kept = False
    name: str
    in_flight: int
    folder: Path

    @abstractmethod
    def command(self) -> list[str]:
        """The command that starts it, and that resumes it after a kill."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The files of its output, in order."""

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def reset(self) -> None:
        """Removes what it wrote."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def output(self) -> list[str]:
        """Ids of the documents in its output, as often as they occur."""
        return [document for path in self.files() for document in documents_in(path)]

    def content(self) -> dict[str, bytes]:
        """Its output, byte for byte."""
        return {path.name: path.read_bytes() for path in self.files()}

    def kept(self) -> frozenset[str]:
        """Documents that are finished on disk; none where they are not read."""
        return frozenset()

    def writing(self) -> bool:
        """Whether a file of the output is unfinished on disk."""
        return False


def documents_in(path: Path) -> Iterator[str]:
    """Ids of the documents in a file of JSON lines: the first one in every text.

    A record is a document with ``text``, or a chain of ``examples`` with one each.
    """
    for line in path.read_text().splitlines():
        record = json.loads(line)
        for example in record.get("examples", [record]):
            found = DOCUMENT.search(example["text"])
            if found is None:
                raise ValueError(f"{path}: a text without document id: {example['text'][:100]!r}")
            yield found[0]


class MegatronIPT(Runner):
    """``megatron-ipt synthesize`` with the engine ``openai``.

    Args:
        root: working folder.
        corpus: folder with the documents as JSON Lines.
        tokenizer: folder of the tokenizer.
        url: of the server, without ``/v1``.
        window: chains in flight.
        shard_documents: documents per shard.
    """

    name = "megatron-ipt"
    tells_kept = True
    _CHAIN_LENGTH = 2

    def __init__(self, root: Path, corpus: Path, tokenizer: Path, url: str, window: int, shard_documents: int):
        self.in_flight = window * self._CHAIN_LENGTH
        self._recipe = root / "recipe.yaml"
        recipe = {
            "name": "exactly_once",
            "output_dir": str(root / "run"),
            "compression": "none",
            "corpus": {"inputs": [str(corpus)], "valid_share": 0.0, "shard_documents": shard_documents},
            "synthesis": {
                "engine": "openai",
                "chain_length": self._CHAIN_LENGTH,
                "generation": {
                    "model": "dummy",
                    "tokenizer": str(tokenizer),
                    "context_length": 4096,
                    "max_new_tokens": 200,
                    "window": window,
                },
                "openai": {"server": "vllm", "base_urls": [f"{url}/v1"]},
            },
        }
        # JSON is YAML.
        self._recipe.write_text(json.dumps(recipe, indent=2))
        self.folder = root / "run" / "synthesis"
        subprocess.run(self._stage("corpus"), env=self.environment(), check=True, capture_output=True)

    def _stage(self, stage: str) -> list[str]:
        return [sys.executable, "-m", "megatron_ipt", stage, str(self._recipe)]

    def command(self) -> list[str]:
        return self._stage("synthesize")

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("shard-*.jsonl"))

    def kept(self) -> frozenset[str]:
        """Documents in finished shards and in journals, read independently of the code under test."""
        journals = (document for path in self.folder.glob("*.journal") for document in documents_in_journal(path))
        return frozenset([*self.output(), *journals])

    def writing(self) -> bool:
        return any(self.folder.glob(".shard-*.tmp"))


def documents_in_journal(path: Path) -> Iterator[str]:
    """Ids of the documents in a journal of synthesis; a torn record at the end is passed over."""
    data = path.read_bytes()
    position = _JOURNAL_HEADER
    while position + _RECORD_HEADER <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += _RECORD_HEADER + length
        if position > len(data):
            return
        for chain in json.loads(data[position - length : position])["chains"]:
            for example in chain["examples"]:
                yield DOCUMENT.findall(example["text"])[0]


class Datatrove(Runner):
    """datatrove's ``InferenceRunner`` with checkpoints; see ``datatrove_pipeline.py``.

    Args:
        root: working folder.
        corpus: folder with the documents as JSON Lines.
        url: of the server, without ``/v1``.
        python: the Python that has it.
        concurrent: documents in flight.
        chunk_documents: documents per chunk.

    Raises:
        Unavailable: that Python cannot import it.
    """

    def __init__(self, root: Path, corpus: Path, url: str, python: str, concurrent: int, chunk_documents: int):
        modules = "datatrove.pipeline.inference.run_inference, aiosqlite, aiofiles, httpx, xxhash, orjson"
        self.name = f"datatrove {installed_version(python, ('datatrove',), modules)}"
        self.in_flight = concurrent
        self.folder = root / "datatrove"
        script = Path(__file__).with_name("datatrove_pipeline.py")
        sizes = (str(concurrent), str(chunk_documents))
        self._command = [python, str(script), url, str(corpus), str(self.folder), *sizes]

    def command(self) -> list[str]:
        return self._command

    def files(self) -> list[Path]:
        return sorted((self.folder / "output").glob("*.jsonl"))


def installed_version(python: str, distributions: tuple[str, ...], modules: str) -> str:
    """Version of the first of ``distributions`` that ``python`` has, if it can import ``modules``.

    Raises:
        Unavailable: it cannot, or has none of them.
    """
    code = f"""
import importlib.metadata as metadata, {modules}
installed = {{found.metadata["Name"]: found.version for found in metadata.distributions()}}
print(next(installed[name] for name in {distributions!r} if name in installed))
"""
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unavailable(f"{python}: {error.strerror or error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise Unavailable(f"{python} cannot import {distributions[0]}: {lines[-1]}")
    return done.stdout.strip().splitlines()[-1]
