"""Engines without a model, for tests: named ``tests.synthesis.instant:Class`` in a recipe."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

from megatron_ipt.inference.engine import Completion, Engine, Request
from megatron_ipt.synthesis.from_text.prompted.marks import render_pairs
from megatron_ipt.synthesis.pairs import Pair


def answer_for(text: str) -> str:
    """What the engines write about ``text``: two pairs that name its first words."""
    words = text.split()
    first = " ".join(words[:3])
    return render_pairs([Pair(f"What does the text begin with, {first}?", first), Pair("How does it end?", words[-1])])


def text_of(request: Request) -> str:
    """The text that the request asks about: the last one of its prompt."""
    return request.prompt.text.rpartition("<CON> ")[2].removesuffix(" </CON>\n\n")


class InstantEngine(Engine):
    """Answers at once with two pairs; a text that contains NOPAIRS gets none."""

    window = 8

    def __init__(self, settings: Any, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self.requests: list[Request] = []

    def answer(self, request: Request) -> str:
        text = text_of(request)
        return "" if "NOPAIRS" in text else answer_for(text)

    async def generate(self, request: Request) -> Completion:
        self.requests.append(request)
        text = self.answer(request)
        return self.completion(self.tokenizer.encode([text])[0], True, len(request.prompt.ids), text)


class SlowEngine(InstantEngine):
    """Waits a few random milliseconds and notes what it was asked in the file ASKED_FILE, a line a request."""

    def __init__(self, settings: Any, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self._random = random.Random()
        self._log = os.open(os.environ["ASKED_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def generate(self, request: Request) -> Completion:
        os.write(self._log, f"{' '.join(text_of(request).split()[:1])}\n".encode())
        await asyncio.sleep(self._random.uniform(0, 0.004))
        return await super().generate(request)
