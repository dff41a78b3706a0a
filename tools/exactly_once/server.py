"""A dummy OpenAI-compatible server that logs what it was asked and what it answered completely.

It answers ``/v1/models``, ``/health``, ``/v1/completions`` (prompts as text or token ids) and ``/v1/chat/completions``.
An answer is a function of the last document id in the prompt (``doc-000123``), and so is its latency. Every event is a
line of JSON on stdout. ``POST /life`` marks the end of a process under test; what asks on later connections is the next
one. An answer counts as sent when the operating system took all of it for a client that had not hung up. It ends when
its standard input does, so it does not outlive the process that started it.

Usage: python tools/exactly_once/server.py --tokenizer tokenizer.json [--latency SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import sys
import time
from typing import Any

from tokenizers import Tokenizer

DOCUMENT = re.compile(r"doc-\d{6}")
MODEL = "dummy"
CONTEXT_LENGTH = 8192


def document_in(prompt: str) -> str:
    """Id of the document that a prompt asks about: the last one in it."""
    found = DOCUMENT.findall(prompt)
    if not found:
        raise ValueError(f"no document id in the prompt {prompt[-200:]!r}")
    return str(found[-1])


def answer_to(document: str) -> str:
    """Pairs in the format of the instruction synthesizer."""
    number = int(document.removeprefix("doc-"))
    return (
        f"<QUE> Which record is described in {document}? <ANS> Record {number}. </END>\n\n"
        f"<QUE> How many crates does {document} list? <ANS> It lists {number % 97 + 3} crates. </END>"
    )


def share_of(document: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=4).digest(), "big") / (1 << 32)


class DummyServer:
    """Serves connections.

    Args:
        tokenizer: of the prompts; counts and decodes tokens.
        latency: mean seconds until an answer; those of single documents are between 0.25 and 1.75 times as long.
    """

    def __init__(self, tokenizer: Tokenizer, latency: float):
        self._tokenizer = tokenizer
        self._latency = latency
        self._life = 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Connections are accepted in order, so this is right even where requests are read late.
        life = self._life
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                closing = re.search(r"(?i)\r\nconnection: *close", head) is not None
                await self._answer(life, head.split(" ")[1], body, reader, writer)
                if closing:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, life: int, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not path.endswith("/completions"):
            if path == "/life":
                log("life", self._life)
                self._life += 1
            else:
                log("contact", life)
            models = [{"id": MODEL, "object": "model", "max_model_len": CONTEXT_LENGTH}]
            await send(writer, {"object": "list", "data": models})
            return
        request = json.loads(body)
        chat = path.endswith("/chat/completions")
        prompt, tokens = self._read_chat(request) if chat else self._read_prompt(request)
        document = document_in(prompt)
        probe = request.get("max_tokens") == 1
        log("asked", life, document, probe)
        await asyncio.sleep(self._latency * (0.25 + 1.5 * share_of(document)))
        completion = self._completion(answer_to(document), tokens, chat)
        try:
            if reader.at_eof():
                raise ConnectionError
            await send(writer, completion)
        except ConnectionError:
            log("dropped", life, document, probe)
            raise
        log("answered", life, document, probe)

    def _read_prompt(self, request: dict[str, Any]) -> tuple[str, int]:
        prompt = request["prompt"]
        if isinstance(prompt, list):
            return self._tokenizer.decode(prompt, skip_special_tokens=False), len(prompt)
        return prompt, len(self._tokenizer.encode(prompt).ids)

    def _read_chat(self, request: dict[str, Any]) -> tuple[str, int]:
        prompt = "\n".join(message["content"] for message in request["messages"])
        return prompt, len(self._tokenizer.encode(prompt).ids)

    def _completion(self, text: str, prompt_tokens: int, chat: bool) -> dict[str, Any]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text, "token_ids": ids}
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(ids),
            "total_tokens": prompt_tokens + len(ids),
        }
        kind = "chat.completion" if chat else "text_completion"
        return {"id": "0", "object": kind, "created": 0, "model": MODEL, "choices": [choice], "usage": usage}


async def send(writer: asyncio.StreamWriter, content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


def log(kind: str, life: int, document: str = "", probe: bool = False) -> None:
    record = {"time": time.monotonic(), "kind": kind, "life": life, "document": document, "probe": probe}
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json of the prompts")
    parser.add_argument("--latency", type=float, default=0.1, help="mean seconds until an answer")
    arguments = parser.parse_args()
    dummy = DummyServer(Tokenizer.from_file(arguments.tokenizer), arguments.latency)
    server = await asyncio.start_server(dummy.serve, "127.0.0.1", 0)
    # The first line is the port; events follow.
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
