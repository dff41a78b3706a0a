"""A program for ``command_engine.py``: asks how the text begins. Replace ``pairs`` with a model."""

import json
import re
import sys

TEXT = re.compile(r"<CON> (.*?) </CON>", re.DOTALL)


def pairs(text: str) -> list[tuple[str, str]]:
    """Questions and answers about ``text``."""
    sentence = re.match(r".*?[.!?](?=\s|$)", " ".join(text.split()))
    return [("What does the text say first?", sentence.group())] if sentence else []


for line in sys.stdin:
    # A prompt of a longer chain repeats the earlier texts with their pairs; the last text is the one to ask about.
    text = TEXT.findall(json.loads(line)["prompt"])[-1]
    answer = "\n\n".join(f"<QUE> {question} <ANS> {answer} </END>" for question, answer in pairs(text))
    print(json.dumps({"text": answer}), flush=True)
