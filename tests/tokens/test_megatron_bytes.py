"""The bytes of Megatron-LM's own tool, for all it shares with ours."""

from __future__ import annotations

import gzip
import json

import pytest

pytest.importorskip("megatron.core")

from megatron_ipt.tokens.preprocess.preprocess import Options, SourceFiles, run

from . import megatron_reference as reference
from .conftest import CONTROL_TEXTS, sample_texts


def lines_of(texts, seed=0):
    """JSON Lines in several styles of escaping, with other fields before and after, and one with NaN."""
    for number, text in enumerate(texts):
        record = {"id": number, "text": text, "summary": text[::-1][:50], "score": float("nan")}
        if number % 7:
            del record["score"]
        yield json.dumps(record, ensure_ascii=bool(number % 2))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines_of(sample_texts(300))), encoding="utf-8", newline="\n")
    return path


def compare(tmp_path, corpus, tokenizer, kind, model, **options):
    keys = options.pop("json_keys", ("text",))
    append_eod = options.get("append_eod", False)
    with open(corpus, encoding="utf-8") as stream:
        reference.write(stream, tmp_path / "theirs", keys, *tokenizer, append_eod, options.get("partitions", 1))
    inputs = options.pop("inputs", (str(corpus),))
    options = {"piece_bytes": 20_000, **options}
    result = run(
        Options((SourceFiles("input", inputs),), str(tmp_path / "ours"), kind, str(model), json_keys=keys, **options)
    )
    for key in keys:
        for suffix in ("bin", "idx"):
            ours, theirs = (tmp_path / f"{name}_{key}_document.{suffix}" for name in ("ours", "theirs"))
            assert ours.read_bytes() == theirs.read_bytes(), (key, suffix)
    return result


@pytest.mark.parametrize(
    ("kind", "append_eod"),
    [("SentencePieceTokenizer", True), ("GPTSentencePieceTokenizer", False), ("Llama2Tokenizer", True)],
)
def test_sentencepiece_types(tmp_path, corpus, mistral_model, kind, append_eod):
    tokenizer = reference.core_tokenizer(kind, mistral_model)
    result = compare(tmp_path, corpus, tokenizer, kind, mistral_model, append_eod=append_eod)
    assert result["engine"] == "gigatoken"


def test_control_tokens_stay_text_as_with_the_present_sentencepiece_types(tmp_path, mistral_model):
    path = tmp_path / "control.jsonl"
    path.write_text("\n".join(lines_of(CONTROL_TEXTS)))
    kind = "SentencePieceTokenizer"
    compare(tmp_path, path, reference.core_tokenizer(kind, mistral_model), kind, mistral_model, append_eod=True)


def test_llama2_as_it_was(tmp_path, corpus, mistral_model):
    tokenizer = reference.legacy_llama2(mistral_model)
    compare(tmp_path, corpus, tokenizer, "Llama2Tokenizer", mistral_model, append_eod=True, legacy_tokenizer=True)


def test_sentencepiece_as_it_was(tmp_path, mistral_model):
    texts = [text for text in sample_texts(200) if "<s>" not in text and "</s>" not in text]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines_of(texts)), encoding="utf-8", newline="\n")
    kind, tokenizer = "SentencePieceTokenizer", reference.legacy_sentencepiece(mistral_model)
    compare(tmp_path, path, tokenizer, kind, mistral_model, append_eod=True, legacy_tokenizer=True)


@pytest.mark.parametrize("training", [{"model_type": "unigram"}, {"model_type": "bpe"}, {"byte_fallback": True}])
def test_sentencepiece_models_with_normalization(tmp_path, corpus, training):
    """As the trainer makes them by default; the fast engine is left out where it would not agree."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = tmp_path / "own.model"
    with open(model, "wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample_texts(400, seed=5)), model_writer=stream, vocab_size=800, minloglevel=2,
            hard_vocab_limit=False, user_defined_symbols=["<sep>", "12"], **training
        )  # fmt: skip
    kind = "SentencePieceTokenizer"
    result = compare(tmp_path, corpus, reference.core_tokenizer(kind, model), kind, model, append_eod=True)
    assert result["engine"] == "sentencepiece"


@pytest.mark.parametrize("template", [True, False])
def test_hugging_face(tmp_path, corpus, byte_level_folder, template):
    kind = "HuggingFaceTokenizer"
    tokenizer = reference.core_tokenizer(kind, byte_level_folder, include_special_tokens=template, use_fast=True)
    result = compare(tmp_path, corpus, tokenizer, kind, byte_level_folder, append_eod=True, template=template)
    assert result["engine"] == "gigatoken"


def test_hugging_face_made_from_sentencepiece(tmp_path, corpus, mistral_folder):
    kind = "HuggingFaceTokenizer"
    tokenizer = reference.core_tokenizer(kind, mistral_folder, include_special_tokens=True, use_fast=True)
    texts = [text for text in sample_texts(300) if "<s>" not in text and "</s>" not in text]
    corpus.write_text("\n".join(lines_of(texts)), encoding="utf-8", newline="\n")
    compare(tmp_path, corpus, tokenizer, kind, mistral_folder, append_eod=True)


@pytest.mark.parametrize("engine", ["gigatoken", "sentencepiece"])
@pytest.mark.parametrize("workers", [1, 2])
def test_engines_and_workers(tmp_path, corpus, mistral_model, engine, workers):
    kind = "SentencePieceTokenizer"
    tokenizer = reference.core_tokenizer(kind, mistral_model)
    compare(tmp_path, corpus, tokenizer, kind, mistral_model, engine=engine, workers=workers, append_eod=True)


@pytest.mark.parametrize("partitions", [2, 3])
def test_partitions_deal_the_lines_out(tmp_path, corpus, mistral_model, partitions):
    kind = "SentencePieceTokenizer"
    tokenizer = reference.core_tokenizer(kind, mistral_model)
    compare(tmp_path, corpus, tokenizer, kind, mistral_model, partitions=partitions, append_eod=True)


def test_several_keys(tmp_path, corpus, mistral_model):
    kind = "SentencePieceTokenizer"
    tokenizer = reference.core_tokenizer(kind, mistral_model)
    compare(tmp_path, corpus, tokenizer, kind, mistral_model, json_keys=("text", "summary"), append_eod=True)


def test_a_list_of_texts_is_a_document_of_several_sequences(tmp_path, mistral_model):
    path = tmp_path / "lists.jsonl"
    texts = [["one", "two", ""], [], "three", ["", ""], ["four"]]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    kind = "SentencePieceTokenizer"
    tokenizer = reference.core_tokenizer(kind, mistral_model)
    compare(tmp_path, path, tokenizer, kind, mistral_model, append_eod=True)


def test_a_vocabulary_of_four_bytes(tmp_path, corpus, byte_level_folder):
    kind = "HuggingFaceTokenizer"
    tokenize, eod, _ = reference.core_tokenizer(kind, byte_level_folder, include_special_tokens=True, use_fast=True)
    compare(tmp_path, corpus, (tokenize, eod, 70_000), kind, byte_level_folder, append_eod=True, dtype="int32")


def test_a_compressed_copy_gives_the_same(tmp_path, corpus, mistral_model):
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    kind = "SentencePieceTokenizer"
    tokenizer = reference.core_tokenizer(kind, mistral_model)
    compare(tmp_path, corpus, tokenizer, kind, mistral_model, inputs=(str(packed),), append_eod=True)
