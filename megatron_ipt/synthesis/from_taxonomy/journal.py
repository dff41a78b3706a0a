"""The journal of a discipline: every call to a model by its id, the moment its answer is there.

Ids are paths in the tree, so what was answered is found again whatever else has changed, and each call is made exactly
once however often a run is killed. A reply counts only while the same is asked: what grew from a list that was refused
and is asked again may be different. A call that the engine refused is forgotten when the discipline is opened again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.errors import StageError
from megatron_ipt.synthesis.journal import Journal, payloads_in


@dataclass(frozen=True)
class Reply:
    """What became of a call.

    Attributes:
        text: the answer; empty if there is none.
        finished: False when the token limit ended the answer.
        loop: the answer repeated itself and was stopped.
        refused: why the engine did not answer; empty if it did.
        unasked: why it was not asked at all; empty if it was.
        prompt_tokens, cached_tokens, generated_tokens: as the engine counted them.
    """

    text: str = ""
    finished: bool = True
    loop: bool = False
    refused: str = ""
    unasked: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class CallJournal:
    """Replies by id, as long as the same is asked.

    Args:
        path: the file; created if missing.
        identity: of settings and discipline; see :class:`megatron_ipt.synthesis.journal.Journal`.

    Raises:
        StageError: the file was made with other settings, or is damaged.
    """

    def __init__(self, path: Path, identity: int):
        self._journal = Journal(path, identity)
        self._numbers: dict[str, tuple[int, int]] = {}
        self._next = 0
        try:
            for number in self._journal:
                record = self._read(number)
                self._numbers[record["id"]] = number, record["asked"]
                self._next = max(self._next, number + 1)
        except BaseException:
            self._journal.close()
            raise

    def __len__(self) -> int:
        return len(self._numbers)

    def reply(self, call_id: str, asked: int) -> Reply | None:
        """The reply to a call; None if it is not here, or something else was asked under this id.

        Args:
            asked: hash of what is asked.
        """
        number, before = self._numbers.get(call_id, (-1, 0))
        return Reply(**self._read(number)["reply"]) if number >= 0 and before == asked else None

    def replies(self) -> Iterator[tuple[str, Reply]]:
        """Level of each call, and the reply to it."""
        for number, _ in self._numbers.values():
            record = self._read(number)
            yield record["level"], Reply(**record["reply"])

    def add(self, call_id: str, asked: int, level: str, reply: Reply) -> None:
        """Keeps a reply, in place of one to something else that was asked under this id.

        Raises:
            StorageError: for example, the disk is full. Nothing of it remains.
        """
        number, before = self._numbers.get(call_id, (-1, 0))
        if number >= 0:
            if before == asked:
                raise RuntimeError(f"{self._journal.path}: {call_id} was answered twice")
            self._journal.drop(number)
        record = {"id": call_id, "asked": asked, "level": level, "reply": asdict(reply)}
        self._journal.append(self._next, orjson.dumps(record))
        self._numbers[call_id] = self._next, asked
        self._next += 1

    def forget_refused(self) -> int:
        """Drops the calls that the engine refused, unless another try followed; returns their number."""
        refused = [
            call_id
            for call_id, (number, _) in self._numbers.items()
            if self._read(number)["reply"]["refused"] and next_try(call_id) not in self._numbers
        ]
        for call_id in refused:
            self._journal.drop(self._numbers.pop(call_id)[0])
        return len(refused)

    def sync(self) -> None:
        self._journal.sync()

    def close(self) -> None:
        self._journal.close()

    def _read(self, number: int) -> dict[str, Any]:
        record = orjson.loads(self._journal.payload(number))
        if not isinstance(record, dict) or "id" not in record:
            raise StageError(f"{self._journal.path}: record {number} is not a call. Delete this file to start again.")
        return record


def next_try(call_id: str) -> str:
    """Id of the try after this one; no id of a call if it is not a try."""
    before, tried, attempt = call_id.rpartition(" try ")
    return f"{before}{tried}{int(attempt) + 1}" if tried and attempt.isdigit() else ""


def replies_in(path: Path) -> Iterator[tuple[str, Reply]]:
    """Level of each call in a journal that another process may be writing, and the reply to it. Changes nothing."""
    for payload in payloads_in(path):
        record = orjson.loads(payload)
        yield record["level"], Reply(**record["reply"])
