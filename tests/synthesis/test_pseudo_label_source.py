"""The engine ``pseudo_labels``: what several documents decide together, whatever the shards, workers and order."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.corpus.documents import Document
from megatron_ipt.files import read_jsonl
from megatron_ipt.manifest import StageContext
from megatron_ipt.rejects import Rejects
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.passages import divide
from megatron_ipt.synthesis.from_text.pseudo_labels.source import ENDING, HEADING, SURPLUS, PseudoLabelSource
from megatron_ipt.synthesis.pairs import Chain, Example, Pair
from megatron_ipt.synthesis.statistics import LONGEST_IS_RIGHT, OPTIONS_COMPARED, Statistics, total_of
from tests.synthesis.conftest import write_corpus
from tests.synthesis.test_pseudo_labels import BEES, DIALOGUE, SENTENCES

GOOD = "A wonderful film with brilliant actors, and I loved every happy minute of {0}."
BAD = "A terrible film with awful actors, and I hated every boring minute of {0}."
PLACES = ("Ash", "Elm", "Oak", "Fir", "Yew", "Box", "Bay", "Fig", "Gum", "Ivy", "May", "Nut")


def dialogue(place: str) -> str:
    return DIALOGUE.replace("The mill was", f"The mill at {place} was").replace("falls by", f"at {place} falls by")


TEXTS = [
    *[dialogue(place) for place in PLACES],
    *[GOOD.format(place) for place in PLACES[:7]],
    *[BAD.format(place) for place in PLACES[:4]],
    "On mills\n\n" + " ".join(SENTENCES),
    BEES,
    "Die Mühle steht am Fluss, und der Müller mahlt das Korn für die Leute aus dem Dorf.",
]


def configured(**changes: Any) -> SynthesisConfig:
    rules = {"lead_summary_share": 1.0, "gap_sentence_share": 1.0}
    changes = {"engine": "pseudo_labels", "pseudo_labels": rules | changes.pop("rules", {})} | changes
    return load(SynthesisConfig, changes)


def make(documents: list[Document], folder: Path, seed: int = 7, **changes: Any) -> tuple[list[Chain], Statistics]:
    statistics = Statistics()
    with Rejects(folder / "rejects.jsonl") as rejects:
        chains = list(PseudoLabelSource(configured(**changes), seed).chains(documents, rejects, statistics))
    for chain in chains:
        statistics.add_chain(chain)
    statistics.dropped.update(rejects.reasons)
    return chains, statistics


def documents_of(texts: list[str], split: str = "train") -> list[Document]:
    return [Document(f"d{number}", text, split=split) for number, text in enumerate(texts)]


def examples_of(chains: list[Chain]) -> dict[str, Example]:
    return {example.id: example for chain in chains for example in chain.examples}


def of(rule: str, examples: dict[str, Example]) -> dict[str, Pair]:
    return {name: pair for name, example in examples.items() for pair in example.pairs if pair.task == rule}


def test_what_each_text_gets(tmp_path: Path) -> None:
    chains, statistics = make(documents_of(TEXTS), tmp_path)
    assert dict(statistics.tasks) == {"natural_question": 12, "sentiment": 8, "lead_summary": 1, "gap_sentence": 1}
    assert dict(statistics.categories) == {
        "multiple choice": 12, "sentiment": 8, "summary": 1, "missing sentence": 1,
    }  # fmt: skip
    assert dict(statistics.dropped) == {SURPLUS: 3, HEADING: 1, ENDING: 1}
    assert statistics.tallies["labels"] == {"sentiment: positive": 4, "sentiment: negative": 4}
    assert statistics.tallies["gap_rouge"] == {"0.55": 1}
    assert statistics.counts["texts_not_in_english"] == 1
    rejects = list(read_jsonl(tmp_path / "rejects.jsonl"))
    left_out = {record["reason"]: record["detail"] for record in rejects if record["source"] == "d23"}
    assert left_out == {HEADING: "On mills", ENDING: SENTENCES[11]}
    examples = examples_of(chains)
    assert examples["d23"].text == " ".join(SENTENCES[3:11])
    assert [pair.answer for pair in examples["d23"].pairs] == [" ".join(SENTENCES[:3])]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_and_of_processes_changes_nothing(
    configure: Callable[..., SynthesisConfig], context: StageContext, workers: int
) -> None:
    config = configure(engine="pseudo_labels", workers=workers, **{"pseudo_labels.lead_summary_share": 1})
    write_corpus(context.inputs[DOCUMENTS], [TEXTS[:13], TEXTS[13:], TEXTS[:20]])
    counts = stage.run(config, context)
    alone = StageContext("synthesis", context.directory.with_name("alone"), context.seed, context.inputs)
    for number in (1, 0):
        shared = stage.run(config, alone, (number, 2))
    assert counts == shared
    assert counts["pairs"] > 20
    # None in the first shard, which has no negative text; four and one of each in the others.
    assert counts["labels"] == {"sentiment: negative": 5, "sentiment: positive": 5}
    for path in sorted(context.directory.glob("shard-*")):
        assert path.read_bytes() == (alone.directory / path.name).read_bytes()
    for path in sorted((context.directory / "rejects").iterdir()):
        assert path.read_bytes() == (alone.directory / "rejects" / path.name).read_bytes()


def test_the_order_of_documents_changes_nothing(tmp_path: Path) -> None:
    documents = documents_of(TEXTS)
    chains, statistics = make(documents, tmp_path)
    for seed in range(5):
        random.Random(seed).shuffle(documents)
        other, others = make(documents, tmp_path)
        assert examples_of(other) == examples_of(chains)
        assert others == statistics


def test_other_shards_change_only_easy_options_and_which_surplus_is_dropped(tmp_path: Path) -> None:
    documents = documents_of(TEXTS)
    whole = examples_of(make(documents, tmp_path)[0])
    for size in (1, 5, 13):
        parts: dict[str, Example] = {}
        for start in range(0, len(documents), size):
            parts |= examples_of(make(documents[start : start + size], tmp_path)[0])
        assert {name: example.text for name, example in parts.items()} == {
            name: example.text for name, example in whole.items()
        }
        for name, example in whole.items():
            certain = [pair for pair in example.pairs if pair.task in ("lead_summary", "gap_sentence")]
            assert [pair for pair in parts[name].pairs if pair.task in ("lead_summary", "gap_sentence")] == certain
            for pair, other in zip(of("natural_question", {name: example}).values(), parts[name].pairs):
                assert (pair.question, pair.answer) == (other.question, other.answer)
        # All labels where nothing is balanced.
        unbalanced = {"balance_labels": False}
        both = make(documents, tmp_path, rules=unbalanced), make(documents[:size], tmp_path, rules=unbalanced)
        first, second = (of("sentiment", examples_of(chains)) for chains, _ in both)
        assert second == {name: pair for name, pair in first.items() if int(name[1:]) < size}


def test_wrong_options_are_from_other_training_documents(tmp_path: Path) -> None:
    documents = documents_of(TEXTS[:12])
    for number in (3, 8):
        documents[number].split = "valid"
    examples = examples_of(make(documents, tmp_path)[0])
    for name, pair in of("natural_question", examples).items():
        own = " ".join(examples[name].text.split())
        wrong = [option for option in pair.options if option not in own]
        assert len(pair.options) == len(set(pair.options)) == 4
        assert len(wrong) == 2
        for option in wrong:
            sources = {document.id for document in documents if option in " ".join(document.text.split())}
            assert name not in sources
            assert sources - {"d3", "d8"}
        # The places name the documents.
        assert not any(f"at {PLACES[number]}" in option for number in (3, 8) for option in wrong)


def test_a_single_document_gets_the_options_it_has(tmp_path: Path) -> None:
    chains, _ = make(documents_of(TEXTS[:1]), tmp_path)
    (pair,) = chains[0].examples[0].pairs
    assert sorted(pair.options) == [
        "The miller left in the year of the flood. Nobody has lived there since.",
        "The river at Ash falls by two metres at this place. A wheel needs such a fall.",
    ]


def test_both_labels_are_equally_frequent(tmp_path: Path) -> None:
    documents = documents_of(TEXTS[12:23])
    examples = examples_of(make(documents, tmp_path)[0])
    asked = of("sentiment", examples)
    assert len(asked) == 8
    surplus = [record for record in read_jsonl(tmp_path / "rejects.jsonl") if record["reason"] == SURPLUS]
    assert {record["source"] for record in surplus} == examples.keys() - asked.keys()
    assert {record["detail"] for record in surplus} == {"positive"}
    everything = examples_of(make(documents, tmp_path, rules={"balance_labels": False})[0])
    assert len(of("sentiment", everything)) == 11
    assert {name: pair for name, pair in of("sentiment", everything).items() if name in asked} == asked
    one_sided = examples_of(make(documents[:7], tmp_path)[0])
    assert of("sentiment", one_sided) == {}


def test_long_documents_are_labelled_text_by_text(tmp_path: Path) -> None:
    text = "\n\n".join([" ".join(SENTENCES), DIALOGUE, " ".join(SENTENCES), GOOD.format("Ash")])
    url = "https://example.com/travel/mills.html"
    chains, _ = make([Document(url, text)], tmp_path, chain_length=2, passage_characters=800)
    examples = examples_of(chains)
    assert list(examples) == [url, *(f"{url}#{number}" for number in range(2, len(examples) + 1))]
    assert len(examples) > 2
    assert of("topic", examples).keys() == examples.keys()
    assert list(of("lead_summary", examples)) == [url]
    assert {chain.id for chain in chains} == {url, f"{url}#3"}


@pytest.mark.parametrize("text", ["", "One sentence.", " \n ", "\x00", "((((", '"', "?", "??", "\ud800"])
def test_hardly_any_text(tmp_path: Path, text: str) -> None:
    chains, statistics = make([Document("d", text)], tmp_path)
    assert [example.text for chain in chains for example in chain.examples] == [text]
    assert statistics.counts["pairs"] == 0


FIVE_MB, ONE_MB = 5_000_000, 1_000_000


@pytest.mark.parametrize(
    ("piece", "length"),
    [
        ("The mill by the river grinds the corn of the village, and the village lives from the mill. ", FIVE_MB),
        (".", FIVE_MB), ('"', FIVE_MB), ("(", FIVE_MB), ("a", FIVE_MB), ("\x00", ONE_MB), ("?", ONE_MB),
        (".:1", ONE_MB), (".[1]", ONE_MB), ("# ", ONE_MB), (". ", ONE_MB),
    ],
)  # fmt: skip
def test_work_on_a_line_of_5_mb_is_linear(
    tmp_path: Path, piece: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes the square of this length does not end."""
    looked_at = Counter[str]()
    module = "megatron_ipt.synthesis.from_text.pseudo_labels.labeller"
    for name in ("split", "sentiment_of"):
        _count_characters(monkeypatch, f"{module}.{name}", looked_at)
    text = piece * (length // len(piece)) + "x"
    chains, _ = make([Document("d", text)], tmp_path)
    shown = [example for chain in chains for example in chain.examples]
    assert sum(len(example.text) for example in shown) <= len(text)
    assert sum(len(part) for part in divide(text, 2400)) == len(text)
    assert len(shown) == len(divide(text, 2400))
    # Once whole, once without what was taken out.
    assert looked_at["split"] <= 2 * len(text)
    assert looked_at["sentiment_of"] <= len(text)


def _count_characters(monkeypatch: pytest.MonkeyPatch, path: str, counts: Counter[str]) -> None:
    import importlib

    module, _, name = path.rpartition(".")
    real = getattr(importlib.import_module(module), name)

    def counting(text: str) -> Any:
        counts[name] += len(text)
        return real(text)

    monkeypatch.setattr(path, counting)


def test_a_text_of_5_mb_that_is_not_divided_is_left_alone(tmp_path: Path) -> None:
    text = "The mill grinds corn. " * (FIVE_MB // 22)
    chains, statistics = make([Document("d", text)], tmp_path, passage_characters=2 * FIVE_MB)
    assert [example.text for chain in chains for example in chain.examples] == [text]
    assert statistics.counts["texts_too_long_for_rules"] == 1


def test_statistics_pass_through_markers(tmp_path: Path) -> None:
    statistics = make(documents_of(TEXTS), tmp_path)[1]
    written = json.loads(json.dumps(statistics.to_json()))
    assert Statistics.from_json(written) == statistics
    twice = total_of([written, written, Statistics().to_json()]).summary()
    assert twice["labels"] == {"sentiment: negative": 8, "sentiment: positive": 8}
    assert twice["gap_rouge"] == {"0.55": 2}
    assert twice["tasks"]["natural_question"] == 24
    assert "tallies" not in Statistics().to_json()


def test_how_often_the_longest_option_is_right() -> None:
    pairs = [
        Pair("Q?", "longest", options=("longest", "short"), task="rule"),
        Pair("Q?", "short", options=("longest", "short"), task="rule"),
        Pair("Q?", "short", options=("longest", "short"), task="rule"),
        Pair("Q?", "aaa", options=("aaa", "bbb", "c"), task="rule"),  # Two are equally long.
        Pair("Q?", "aaaa", options=("aaaa", "bbb", "c"), category="cloze"),
        Pair("Q?", "elsewhere", options=("longest", "short"), task="rule"),
        Pair("Q?", "alone", options=("alone",), task="rule"),
        Pair("Q?", "no options"),
    ]
    statistics = Statistics()
    statistics.add_chain(Chain("d", "train", [Example("d", "text", pairs=pairs)]))
    assert statistics.tallies[OPTIONS_COMPARED] == {"rule: 2": 3, "cloze: 3": 1}
    assert statistics.tallies[LONGEST_IS_RIGHT] == {"rule: 2": 1, "cloze: 3": 1}


def test_public_texts(tmp_path: Path, test_data: Path) -> None:
    articles = json.loads((test_data / "xquad.en.json").read_text())["data"]
    texts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    chains, statistics = make(documents_of(texts), tmp_path)
    examples = examples_of(chains)
    assert statistics.counts["texts_with_pairs"] >= 10
    assert all(of(rule, examples) for rule in ("gap_sentence", "sentiment"))
    left_out: dict[str, list[str]] = {}
    for record in read_jsonl(tmp_path / "rejects.jsonl"):
        if record["reason"] in (HEADING, ENDING):
            left_out.setdefault(record["source"], []).append(record["detail"])
    for number, text in enumerate(texts):
        parts = []
        for name in (f"d{number}", f"d{number}#2"):
            if name in examples:
                taken = [pair.answer for pair in examples[name].pairs if pair.task in ("lead_summary", "gap_sentence")]
                parts += [examples[name].text, *taken, *left_out.get(name, [])]
        assert Counter(" ".join(parts).split()) == Counter(text.split())
