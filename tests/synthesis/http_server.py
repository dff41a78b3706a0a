"""A server of completions and chats for tests, good or bad on demand, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

GOOD_TEXT = "<QUE> Who? <ANS> Ann. </END>\n\n<QUE> When? <ANS> 1931 </END>"


def completion(body: dict[str, Any], text: str = GOOD_TEXT, extra_tokens: int = 0, **choice: Any) -> dict[str, Any]:
    prompt = body["prompt"]
    tokens = len(prompt) + extra_tokens if isinstance(prompt, list) else len(prompt.split())
    return {
        "id": "c", "object": "text_completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None} | choice],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 9, "total_tokens": tokens + 9},
    }  # fmt: skip


def chat(body: dict[str, Any], text: str | None = GOOD_TEXT, usage: bool = True, **choice: Any) -> dict[str, Any]:
    tokens = 20 + sum(len(message["content"].split()) for message in body["messages"])
    message = {"role": "assistant", "content": text}
    answer = {
        "id": "c", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | choice],
    }  # fmt: skip
    counts = {"prompt_tokens": tokens, "completion_tokens": 9, "total_tokens": tokens + 9}
    return answer | ({"usage": counts} if usage else {})


def good(body: dict[str, Any]) -> Any:
    return completion(body)


class Faults:
    """What a server may do instead of answering: functions from a request to (status, body) or a marker."""

    @staticmethod
    def status(code: int, **headers: str) -> Callable[[dict[str, Any]], Any]:
        return lambda body: (code, json.dumps({"error": {"message": f"injected {code}"}}).encode(), headers)

    @staticmethod
    def garbage(body: dict[str, Any]) -> Any:
        return (200, b"<html>not json", {})

    @staticmethod
    def no_choices(body: dict[str, Any]) -> Any:
        return (200, b'{"choices": []}', {})

    @staticmethod
    def empty_text(body: dict[str, Any]) -> Any:
        return completion(body, text="")

    @staticmethod
    def hang(body: dict[str, Any]) -> Any:
        return "hang"

    @staticmethod
    def disconnect(body: dict[str, Any]) -> Any:
        return "disconnect"

    @staticmethod
    def half_an_answer(body: dict[str, Any]) -> Any:
        return "half"


class Server:
    """Serves until the ``with`` block ends.

    Args:
        answer: what to do with request number n (from 0) and its body.
        models: names that /v1/models lists, or whole entries.
    """

    def __init__(
        self,
        answer: Callable[[int, dict[str, Any]], Any],
        models: tuple[str | dict[str, Any], ...] = ("tiny",),
        port: int = 0,
    ):
        self._answer = answer
        self._models = models
        self._port = port
        self.bodies: list[dict[str, Any]] = []
        self.paths: set[str] = set()
        self._ready = threading.Event()

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = await reader.readexactly(length)
                if b"/models" in head.split(b"\r\n")[0]:
                    entries = [entry if isinstance(entry, dict) else {"id": entry} for entry in self._models]
                    result: Any = {"object": "list", "data": [{"object": "model"} | entry for entry in entries]}
                else:
                    record = json.loads(body)
                    self.paths.add(head.split(b" ")[1].decode())
                    self.bodies.append(record)
                    result = self._answer(len(self.bodies) - 1, record)
                    if asyncio.iscoroutine(result):
                        result = await result
                if result == "hang":
                    await asyncio.sleep(3600)
                if result == "disconnect":
                    return
                if result == "half":
                    writer.write(
                        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"cho'
                    )
                    await writer.drain()
                    return
                status, data, headers = result if isinstance(result, tuple) else (200, json.dumps(result).encode(), {})
                lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(data)}"]
                lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
