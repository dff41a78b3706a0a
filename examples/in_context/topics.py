"""Makes a topic task from WikiText-2: beginnings of paragraphs, and which of six topics their article is about.

    python examples/in_context/topics.py wikitext2.valid.txt topics/

writes ``topics/demonstrations.jsonl`` and ``topics/questions.jsonl`` in the format of ``evaluation.questions``. No
article has paragraphs in both. The topics were assigned by hand, by the number of the article in the validation split,
since most titles there consist of unknown words.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

WORDS = 28
"""Of each paragraph; its first ones."""
QUESTIONS_PER_TOPIC = 20

# Numbers of articles, from 1. The first list shows, the second asks.
TOPICS = {
    "music": ([7, 10, 34, 44], [11, 54, 55]),
    "sports": ([8, 17, 33], [13, 50, 52]),
    "film": ([19, 20, 31, 46, 57, 59], [41, 49, 53, 60]),
    "war": ([2, 22, 30, 37, 47], [23, 35, 39]),
    "roads": ([3, 21, 43], [12, 24]),
    "nature": ([1, 9, 14, 18], [15, 27, 28]),
}
_TITLE = re.compile(r" = [^=]+ = ")


def paragraphs(text: str) -> dict[int, list[str]]:
    """Paragraphs by number of the article."""
    found: dict[int, list[str]] = {}
    for line in text.split("\n"):
        if _TITLE.fullmatch(line):
            found[len(found) + 1] = []
        elif line.strip() and not line.startswith(" =") and found:
            found[len(found)].append(line)
    return found


def plain(paragraph: str) -> str:
    """Its first words, without the marks of the tokenized corpus."""
    text = paragraph.replace("<unk>", " ")
    for mark, character in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
        text = text.replace(mark, character)
    text = re.sub(r'["“”()]', " ", text)
    text = re.sub(r"\s+([.,;:!?'’])", r"\1", text)
    return " ".join(text.split()[:WORDS])


def main(source: str, output: str) -> None:
    articles = paragraphs(Path(source).read_text(encoding="utf-8"))
    if len(articles) != 60:
        sys.exit(f"{source}: expected the 60 articles of the validation split, found {len(articles)}")
    shown, asked = [], []
    for topic, lists in TOPICS.items():
        for numbers, records in zip(lists, (shown, asked)):
            texts = [plain(paragraph) for number in numbers for paragraph in articles[number]]
            texts = [text for text in texts if len(text.split()) >= WORDS // 2]
            if records is asked:
                texts = random.Random(topic).sample(texts, QUESTIONS_PER_TOPIC)
            records += [
                {"context": text, "question": "Topic?", "answer": topic, "options": list(TOPICS)} for text in texts
            ]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    # So that the first few questions are about all topics.
    random.Random("order").shuffle(asked)
    for name, records in (("demonstrations", shown), ("questions", asked)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        counts = {topic: sum(record["answer"] == topic for record in records) for topic in TOPICS}
        print(f"{path}: {len(records)} ({', '.join(f'{count} {topic}' for topic, count in counts.items())})")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python topics.py wikitext2.valid.txt FOLDER")
    main(sys.argv[1], sys.argv[2])
