"""A small tokenizer, corpora, and contexts of the stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.files import atomic_jsonl, shard_name
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.tokenizer import PromptTokenizer, open_prompt_tokenizer
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.marks import MARKS
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture, StyleShare
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat

SENTENCES = (
    "The river rises in the northern hills and flows past three mill towns before it meets the sea.",
    "In 1931 the harbour was deepened so that larger ships could reach the grain stores.",
    "Bakers in the old quarter still light their ovens at four in the morning.",
    "A comet's tail always points away from the sun, whatever way the comet travels.",
    "Why do bees dance? They tell their sisters where the clover is in bloom.",
)


def write_tokenizer(folder: Path, marks_are_tokens: bool = False) -> Path:
    """Trains a byte-level BPE tokenizer of up to 600 pieces and writes it as a Hugging Face folder."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=590, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    marks = "<CON> a </CON>\n\n<QUE> What? <ANS> That. </END>\n\n"
    tokenizer.train_from_iterator([*SENTENCES, *[marks] * 20], trainer)
    if marks_are_tokens:
        tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False, lstrip=True) for mark in MARKS])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    named["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> PromptTokenizer:
    return open_prompt_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mistral with its tokenizer; see ``tiny_model``."""
    from tests.synthesis.tiny_model import write_model

    folder = write_tokenizer(tmp_path_factory.mktemp("model"), marks_are_tokens=True)
    write_model(folder)
    return folder


@pytest.fixture
def prompts(tokenizer: PromptTokenizer) -> PromptFormat:
    return PromptFormat(tokenizer, context_length=1024, max_new_tokens=128)


@pytest.fixture
def styles(prompts: PromptFormat) -> StyleMixture:
    """The format of the synthesizer alone, decoded greedily."""
    return StyleMixture([StyleShare("synthesizer", prompts, 1.0, Sampling(128))], 1)


def write_corpus(folder: Path, shards: list[list[str]]) -> Path:
    """A finished corpus stage whose lane ``synthesis`` holds ``shards`` of texts; ids are ``d0``, ``d1``, ..."""
    number = 0
    for index, texts in enumerate(shards):
        with atomic_jsonl(folder / "synthesis" / shard_name(index)) as writer:
            for text in texts:
                writer.write({"id": f"d{number}", "text": text, "split": "train"})
                number += 1
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"counts": {"synthesis_documents": number}}))
    return folder


def texts_of(count: int, start: int = 0) -> list[str]:
    """Distinct texts of two sentences; each begins with a word of its own."""
    return [
        f"Text{number} {SENTENCES[number % len(SENTENCES)]} {SENTENCES[(number + 1) % len(SENTENCES)]}"
        for number in range(start, start + count)
    ]


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext("synthesis", tmp_path / "synthesis", 7, {DOCUMENTS: tmp_path / "corpus"})


@pytest.fixture
def configure(tokenizer_folder: Path) -> Callable[..., SynthesisConfig]:
    """Builds the section from overrides; a small model context, instant engine."""

    def build(**overrides: Any) -> SynthesisConfig:
        settings = {
            "engine": "tests.synthesis.instant:InstantEngine",
            "generation.model": str(tokenizer_folder),
            "generation.context_length": 1024,
            "generation.max_new_tokens": 128,
            "chain_length": 2,
        } | {name.replace("__", "."): value for name, value in overrides.items()}
        return load(SynthesisConfig, None, [f"{name}={value}" for name, value in settings.items()])

    return build
