"""The data that all variants share, split once into training data and held-out data.

Articles are held out whole, because the paragraphs of one article tell the same story. A question's options are its
answer and the answers to the other questions about the same text, so that neither the topic nor the kind of text
gives the right one away.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.comparison.config import ComparisonConfig
from megatron_ipt.corpus.documents import Document
from megatron_ipt.corpus.reading import open_rejects, read_documents
from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_folder, atomic_jsonl, read_whole, write_json
from megatron_ipt.seeding import unit_interval
from megatron_ipt.synthesis.from_text.replay.formats import squad_pair
from megatron_ipt.tokens.tokenizer.sentencepiece_model import train_sentencepiece

logger = logging.getLogger(__name__)

CONTEXTS, PAIRS, TEXT = "contexts.jsonl", "pairs.json", "text.jsonl"
QUESTIONS, TEXT_HELD_OUT, TOKENIZER = "questions.jsonl", "text_held_out.jsonl", "tokenizer"
_LEAST_OPTIONS = 2


def prepare(config: ComparisonConfig, folder: Path) -> dict[str, Any]:
    """Writes the files that variants refer to; returns their counts.

    Raises:
        InputError: an input cannot be read, or nothing is left to train on or to ask.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = _divided_articles(config)
    options = config.read.options("read")
    with open_rejects(folder / "rejects.jsonl", options) as rejects:
        documents = list(read_documents(config.text, options, rejects, "text")) if config.text else []
    train_text, held_out_text = _divided(documents, config, lambda document: document.id)
    contexts = [record for article in train for record in _contexts(article)]
    questions = [record for article in held_out for record in questions_of(article)]
    if not contexts or not questions:
        raise InputError(
            f"{', '.join(config.tasks)}: {len(contexts)} texts to train on and {len(questions)} held-out questions; "
            "both are needed. Give more articles or change held_out_share or split_seed."
        )
    _write(folder / CONTEXTS, contexts)
    write_json(folder / PAIRS, {"data": train})
    _write(folder / TEXT, map(_record, train_text))
    _write(folder / TEXT_HELD_OUT, map(_record, held_out_text))
    _write(folder / QUESTIONS, questions)
    lines = (line for record in chain(contexts, map(_record, train_text)) for line in record["text"].split("\n"))
    tokenizer = train_sentencepiece(filter(None, lines), config.vocab_size)
    with atomic_folder(folder / TOKENIZER) as temporary:
        tokenizer.save(temporary)
    return {
        "texts": len(contexts),
        "gold_pairs": sum(len(paragraph["qas"]) for article in train for paragraph in article["paragraphs"]),
        "plain_documents": len(train_text),
        "held_out_questions": len(questions),
        "held_out_texts": sum(len(article["paragraphs"]) for article in held_out),
        "held_out_plain_documents": len(held_out_text),
        "vocab_size": tokenizer.vocab_size,
    }


def questions_of(article: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Questions with options; one about a text with no other answer to choose from has none and is left out."""
    for paragraph in article["paragraphs"]:
        pairs = [squad_pair(question)[0] for question in paragraph["qas"]]
        known = [pair for pair in pairs if pair is not None]
        for pair in known:
            others = {other.answer.casefold(): other.answer for other in known}
            others.pop(pair.answer.casefold())
            options = [pair.answer, *others.values()]
            if len(options) >= _LEAST_OPTIONS:
                yield {
                    "context": paragraph["context"],
                    "question": pair.question,
                    "answer": pair.answer,
                    "options": options,
                }


def _divided_articles(config: ComparisonConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    articles = []
    for path in config.tasks:
        try:
            data = orjson.loads(read_whole(path))["data"]
            found = [
                {
                    "title": str(article.get("title", "")),
                    "paragraphs": [
                        {"context": paragraph["context"], "qas": list(paragraph["qas"])}
                        for paragraph in article["paragraphs"]
                    ],
                }
                for article in data
            ]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not in the format squad: {error!r}") from error
        articles += found
    # By title, not path: the same file elsewhere is divided in the same way.
    return _divided(articles, config, lambda article: article["title"])


def _divided(records: list[Any], config: ComparisonConfig, name: Any) -> tuple[list[Any], list[Any]]:
    parts: tuple[list[Any], list[Any]] = [], []
    for record in records:
        parts[unit_interval(config.split_seed, "held out", name(record)) < config.held_out_share].append(record)
    return parts


def _contexts(article: dict[str, Any]) -> Iterator[dict[str, Any]]:
    title = article["title"].replace("_", " ")
    for number, paragraph in enumerate(article["paragraphs"]):
        yield {"id": f"{article['title']}:{number}", "title": title, "text": paragraph["context"]}


def _record(document: Document) -> dict[str, Any]:
    return {"id": document.id, "title": document.title, "text": document.text}


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with atomic_jsonl(path) as writer:
        for record in records:
            writer.write(record)
