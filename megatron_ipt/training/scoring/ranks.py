"""Ranks that score texts under any layout: started once, then fed until they are closed.

Each copy of the model (tensor x pipeline parallel ranks) takes the next portion of micro-batches as soon as it has
finished one, so that copies of unequal speed all stay busy. Results are keyed by the index of their request. This
process imports no torch.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.inference.config import MegatronConfig
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.progress import counted
from megatron_ipt.training.checkpoints.model_file import ModelFile, checkpoint_folder
from megatron_ipt.training.ranks import local
from megatron_ipt.training.ranks.processes import end_group
from megatron_ipt.training.ranks.reports import RankReports
from megatron_ipt.training.scoring.channel import Done, Ready, Work, accept, listen, private_folder
from megatron_ipt.training.scoring.layout_check import check_layout
from megatron_ipt.training.scoring.texts import (
    Limits,
    MicroBatch,
    Text,
    check_requests,
    collate,
    plan,
    scores,
    work_items,
)
from megatron_ipt.training.scoring.worker import ScoringJob

logger = logging.getLogger(__name__)

_WORKER = "megatron_ipt.training.scoring.worker"
_PORTIONS_AHEAD = 2
"""Portions that a copy has been given at any time: the one it computes and the next one."""
_LOOK_SECONDS = 0.2
_SECONDS_TO_EXIT = 30.0
_SECONDS_TO_DIE = 5.0


@dataclass
class _Copy:
    """The ranks that hold one copy of the model.

    Attributes:
        ranks: connections to all of them.
        reporter: index in ``ranks`` of the one that sends results.
    """

    ranks: list[Connection] = field(default_factory=list)
    reporter: int = -1


class ScoringRanks:
    """Ranks on this machine that hold one or more copies of a checkpoint's model.

    Use as a context manager, or call :meth:`start` and :meth:`close`. On Linux the ranks also end with the thread that
    started them.

    Args:
        checkpoint: its folder (``.../iter_0000100`` or ``.../release``), or the folder that holds its tracker file.
        vocab_size: of the tokenizer that made the ids, to be checked; it may be smaller than the model's, whose
            embeddings are often padded.
        prefix: what comes before the names of the keys of ``config`` in a recipe, for errors.

    Attributes:
        model: the checkpoint's ``model.json``.
        limits: vocabulary and positions of the model.
        precision: fp32 or bf16, in which the ranks compute; empty before they have started.

    Raises:
        InputError: the folder is not a checkpoint of this package, a file of it is missing or truncated, or its
            vocabulary is too small.
        RecipeError: the settings are impossible for this checkpoint.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        config: MegatronConfig | None = None,
        vocab_size: int | None = None,
        prefix: str = "",
    ):
        self._checkpoint = checkpoint_folder(Path(checkpoint)).absolute()
        self._config = config or MegatronConfig()
        self._prefix = prefix
        self.model = ModelFile.read(self._checkpoint)
        if vocab_size is not None and vocab_size > self.model.vocab_size:
            raise InputError(
                f"{self._checkpoint}: the model has a vocabulary of {self.model.vocab_size}, the tokenizer of the "
                f"texts one of {vocab_size}; tokenize with the tokenizer of this model"
            )
        check_layout(self._config, self.model, prefix)
        self.limits = Limits(self.model.vocab_size, self.model.shape.max_position_embeddings)
        self.precision = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connections: list[Connection] = []
        self._copies: list[_Copy] = []
        self._lock = threading.Lock()
        self._unusable = "the ranks have not been started"
        self._killed = False

    def start(self) -> None:
        """Starts the ranks and waits until each has loaded its part of the model. To be called once.

        Raises:
            UserError: as a rank raised it.
            StageError: a rank exited, or did not start in time.
        """
        config, ranks = self._config, self._config.ranks()
        self._folder = private_folder()
        folder = Path(self._folder.name)
        job = folder / "job.json"
        try:
            with listen(folder) as server:
                ScoringJob(self._checkpoint, config, server.getsockname(), folder).write(job)
                logger.info("scoring: starting %s", counted(ranks, "rank"))
                environment = local.environment(ranks)
                if config.precision == "fp32":
                    # Transformer Engine multiplies fp32 matrices in TF32, with a mantissa of ten bits.
                    environment["NVIDIA_TF32_OVERRIDE"] = "0"
                self._process = subprocess.Popen(
                    local.command(ranks, _WORKER, job), env=environment, start_new_session=True
                )
                self._copies = self._await_ranks(server, ranks)
        except BaseException:
            self.terminate()
            raise
        self._unusable = ""

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Summed log-likelihoods of texts, in the order of ``requests``.

        Raises:
            InputError: a request cannot be scored; names its index. The ranks remain usable.
            StageError: a score is NaN or infinite, names its index, and the ranks remain usable; or a rank exited.
            UserError: as a rank raised it.
        """
        texts = check_requests(requests, self.limits)
        result = np.zeros(len(texts))
        for indices, sums in self.sums(texts):
            result[indices] = sums
        return scores(texts, result)

    def sums(self, texts: Sequence[Text]) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
        """Summed log-probabilities of the counted tokens of texts, in nats, a micro-batch at a time as they are done.

        To be exhausted before the next call.

        Yields:
            Indices of the texts of a micro-batch, and their sums. Texts without counted tokens are left out.

        Raises:
            StageError: a rank exited.
            UserError: as a rank raised it.
        """
        with self._lock:
            if self._unusable:
                raise StageError(f"scoring: {self._unusable}; start new ranks")
            self._unusable = "an earlier call was interrupted"
            yield from self._sums(texts)
            self._unusable = ""

    def close(self) -> None:
        """Lets the ranks finish and exit. Closing twice is harmless."""
        try:
            for connection in self._connections:
                connection.send(None)
            if self._process is not None:
                self._process.wait(_SECONDS_TO_EXIT)
        except (OSError, subprocess.TimeoutExpired):
            logger.warning("scoring: the ranks did not exit by themselves and are ended")
        self.terminate()

    def terminate(self) -> None:
        """Ends the ranks immediately, whatever they are doing."""
        self.kill()
        for connection in self._connections:
            connection.close()
        self._connections, self._copies = [], []
        self._unusable = "the ranks have been closed"
        if self._folder is not None:
            self._folder.cleanup()

    def kill(self) -> None:
        """Ends the processes only; safe while another thread is starting or using them, whose call then raises."""
        self._killed = True
        if self._process is not None:
            end_group(self._process, _SECONDS_TO_DIE)

    def __enter__(self) -> ScoringRanks:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.terminate()

    def _await_ranks(self, server: socket.socket, ranks: int) -> list[_Copy]:
        """Waits until all ranks have connected and loaded the model."""
        copies = [_Copy() for _ in range(ranks // self._config.ranks_per_copy())]
        ready = 0
        deadline = time.monotonic() + 60 * self._config.distributed_timeout_minutes
        while ready < ranks:
            assert self._process is not None
            if self._process.poll() is not None:
                raise self._error()
            if self._killed:
                raise StageError("scoring: the ranks were stopped while they started")
            if time.monotonic() > deadline:
                raise StageError(
                    f"scoring: {counted(ranks, 'rank')} did not start within {self._prefix}distributed_timeout_minutes="
                    f"{self._config.distributed_timeout_minutes:g}"
                )
            for source in wait([server, *self._connections], _LOOK_SECONDS):
                if source is server:
                    self._connections.append(accept(server))
                    continue
                assert isinstance(source, Connection)
                message = self._receive(source)
                assert isinstance(message, Ready)
                ready += 1
                self.precision = message.precision
                copy = copies[message.copy]
                copy.ranks.append(source)
                if message.reports:
                    copy.reporter = len(copy.ranks) - 1
        return copies

    def _sums(self, texts: Sequence[Text]) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
        config = self._config
        batches = plan(texts, config.batch_tokens)
        portions = list(work_items(len(batches), len(self._copies), config.pipeline_model_parallel_size))
        waiting = deque(range(len(portions)))
        reporters = {id(copy.ranks[copy.reporter]): copy for copy in self._copies}

        def hand_out(copy: _Copy) -> None:
            if waiting:
                number = waiting.popleft()
                self._send(copy, Work(number, [self._collate(texts, batches[index]) for index in portions[number]]))

        for copy in self._copies * _PORTIONS_AHEAD:
            hand_out(copy)
        left = len(portions)
        while left:
            for source in wait(self._connections):
                assert isinstance(source, Connection)
                message = self._receive(source)
                assert isinstance(message, Done)
                hand_out(reporters[id(source)])
                left -= 1
                for index, sums in zip(portions[message.number], message.sums):
                    yield batches[index], sums

    def _collate(self, texts: Sequence[Text], indices: list[int]) -> MicroBatch:
        multiple_of = self._config.tensor_model_parallel_size if self._config.sequence_parallel else 1
        return collate([texts[index] for index in indices], multiple_of)

    def _send(self, copy: _Copy, work: Work) -> None:
        try:
            for connection in copy.ranks:
                connection.send(work)
        except OSError as error:
            raise self._error() from error

    def _receive(self, connection: Connection) -> object:
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise self._error() from error

    def _error(self) -> Exception:
        """The one error to raise after a rank has gone, given everything that the ranks reported."""
        assert self._process is not None and self._folder is not None
        self._unusable = "a rank has exited"
        try:
            # The launcher ends the other ranks; what made the first one exit is written by then.
            self._process.wait(_SECONDS_TO_EXIT)
        except subprocess.TimeoutExpired:
            self.kill()
        reports = RankReports(Path(self._folder.name))
        reported = reports.error()
        if reported is not None:
            return reported
        failure = reports.first_failure()
        if failure is not None:
            return RuntimeError(f"scoring: {failure[0]} failed:\n{failure[1]}")
        return StageError(
            f"scoring: one of {counted(self._config.ranks(), 'rank')} exited without an error message, which usually "
            f"means that the system ran out of memory. Lower {self._prefix}batch_tokens={self._config.batch_tokens}, "
            "or spread the model over more ranks with tensor_model_parallel_size or pipeline_model_parallel_size"
        )


def score_texts(
    checkpoint: Path | str, requests: Sequence[ScoreRequest], config: MegatronConfig | None = None
) -> list[Score]:
    """Starts ranks, scores ``requests`` and lets the ranks exit; see :meth:`ScoringRanks.score`.

    Starting takes seconds: for several calls use :class:`ScoringRanks` or
    :class:`~megatron_ipt.training.scoring.engine.MegatronEngine`.
    """
    with ScoringRanks(checkpoint, config) as ranks:
        return ranks.score(requests)
