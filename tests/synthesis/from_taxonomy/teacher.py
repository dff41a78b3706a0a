"""A strong model as a script: answers every prompt of a taxonomy as such a model would, from the prompt alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
from typing import Any

from megatron_ipt.inference.engine import Completion, Engine, Request
from megatron_ipt.seeding import derive

SUBJECTS_OF = {
    "Beekeeping": [[("Hives", "beginner"), ("Honey", "advanced")], [("honey", "Advanced"), ("Swarms", "beginner")]],
    "Bookbinding": [[("Sewing", "beginner")], [("  sewing ", "Beginner")]],
    "Tide tables": [[("Moon and sun", "beginner")], [("Harbours", "beginner")]],
}
"""What each list of a discipline has: two lists, of which 2 + 1, 1 + 0 and 1 + 1 subjects are kept."""

SEED = 7
PATHS = {"Tide tables": "Sea > Water > Tide tables"}
TAXONOMY = "fields: {Crafts: {Hands: [Beekeeping, Bookbinding]}, Sea: {Water: [Tide tables]}}"


def _seed_of_list(discipline: str, number: int) -> int:
    path = PATHS.get(discipline, f"Crafts > Hands > {discipline}")
    return derive(SEED, "taxonomy", f"{path} >> list {number + 1}") % (1 << 31)


_NUMBERS = {(name, _seed_of_list(name, number)): number for name in SUBJECTS_OF for number in (0, 1)}
SESSIONS = [
    {"session": f"Session {number}: {name}", "concepts": [f"{name} {part}" for part in ("basics", "tools", "limits")]}
    for number, name in enumerate(("Aims", "Methods", "Practice"), 1)
]


def last_user_message(prompt: str) -> str:
    return prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


def answer_to(prompt: str, seed: int) -> str:
    """What the model says."""
    asked = last_user_message(prompt)
    if "Which subjects should" in asked:
        return f"A list, drawn with {seed}: several subjects of different levels."
    if "Convert your list" in asked:
        discipline = re.findall(r'the discipline "(.*?)"', prompt)[0]
        # The two lists of a discipline differ in the seed of their texts.
        subjects = SUBJECTS_OF[discipline][list_number(prompt, discipline)]
        return "\n".join(
            json.dumps({"subject": name, "level": level, "subtopics": ["a", "b"]}) for name, level in subjects
        )
    if "Write a syllabus" in asked:
        subject = re.findall(r'the subject "(.*?)"', asked)[0]
        return f"{subject} is worth learning. First come aims, then methods, then practice."
    if "Convert the sessions" in asked:
        return "\n".join(map(json.dumps, SESSIONS))
    if "This is the syllabus" in asked:
        concepts = ", ".join(re.findall(r"^- (.*)$", asked, re.MULTILINE))
        subject = re.findall(r'the subject "(.*?)"', asked)[0]
        return f"Question: For {subject}, how do these belong together: {concepts}?"
    digest = hashlib.blake2b(asked.encode(), digest_size=4).hexdigest()
    return f"They belong together as {digest} shows."


def list_number(prompt: str, discipline: str) -> int:
    """Which of the lists of a discipline, from 0, a conversion is about; the text of a list names its seed."""
    return _NUMBERS[discipline, int(re.findall(r"drawn with (\d+)", prompt)[0])]


class TeacherEngine(Engine):
    """Answers at once."""

    window = 16

    def __init__(self, settings: Any, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self.requests: list[Request] = []

    def answer(self, request: Request) -> str:
        return answer_to(request.prompt.text, request.seed)

    async def generate(self, request: Request) -> Completion:
        self.requests.append(request)
        text = self.answer(request)
        ids = self.tokenizer.encode([text])[0]
        return self.completion(ids, True, len(request.prompt.ids), text)


class SlowTeacher(TeacherEngine):
    """Waits a few random milliseconds and notes the seed of each request in the file ASKED_FILE."""

    def __init__(self, settings: Any, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self._random = random.Random()
        self._log = os.open(os.environ["ASKED_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def generate(self, request: Request) -> Completion:
        os.write(self._log, f"{request.seed}\n".encode())
        await asyncio.sleep(self._random.uniform(0, 0.004))
        return await super().generate(request)
