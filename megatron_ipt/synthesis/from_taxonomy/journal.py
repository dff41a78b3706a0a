"""The journal of a discipline: every call to a model by its id, the moment its answer is there.

Ids are paths in the tree, so what was answered is found again whatever else has changed, and each call is made exactly
once however often a run is killed. A call that the engine refused is forgotten when the discipline is opened again to
ask about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.errors import StageError
from megatron_ipt.synthesis.journal import Journal


@dataclass(frozen=True)
class Reply:
    """What became of a call.

    Attributes:
        text: the answer; empty if there is none.
        finished: False when the token limit ended the answer.
        loop: the answer repeated itself and was stopped.
        refused: why the engine did not answer; empty if it did.
        prompt_tokens, cached_tokens, generated_tokens: as the engine counted them.
    """

    text: str = ""
    finished: bool = True
    loop: bool = False
    refused: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class CallJournal:
    """Replies by id.

    Args:
        path: the file; created if missing.
        identity: of settings and discipline; see :class:`.journal.Journal`.

    Raises:
        StageError: the file was made with other settings, or is damaged.
    """

    def __init__(self, path: Path, identity: int):
        self._journal = Journal(path, identity)
        self._numbers: dict[str, int] = {}
        self._next = 0
        try:
            for number in self._journal:
                self._numbers[self._read(number)["id"]] = number
                self._next = max(self._next, number + 1)
        except BaseException:
            self._journal.close()
            raise

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._numbers

    def reply(self, call_id: str) -> Reply:
        """The reply to a call that is in the journal."""
        record = self._read(self._numbers[call_id])
        return Reply(**record["reply"])

    def replies(self) -> Iterator[tuple[str, Reply]]:
        """Level of each call, and the reply to it."""
        for number in self._numbers.values():
            record = self._read(number)
            yield record["level"], Reply(**record["reply"])

    def add(self, call_id: str, level: str, reply: Reply) -> None:
        """Keeps a reply.

        Raises:
            StorageError: for example, the disk is full. Nothing of it remains.
        """
        if call_id in self._numbers:
            raise RuntimeError(f"{self._journal.path}: {call_id} was answered twice")
        self._journal.append(self._next, orjson.dumps({"id": call_id, "level": level, "reply": asdict(reply)}))
        self._numbers[call_id] = self._next
        self._next += 1

    def forget_refused(self) -> int:
        """Drops the calls that the engine refused; returns their number."""
        refused = [call_id for call_id in self._numbers if self.reply(call_id).refused]
        for call_id in refused:
            self._journal.drop(self._numbers.pop(call_id))
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
