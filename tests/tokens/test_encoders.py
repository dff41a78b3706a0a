"""Token for token: every encoder gives the ids of the library that the tokenizer was made for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.errors import InputError
from megatron_ipt.tokens.tokenizer import encoders, probes
from megatron_ipt.tokens.tokenizer.encoders import CheckedEncoder, GigatokenEncoder
from megatron_ipt.tokens.tokenizer.hugging_face_folder import HuggingFaceTokenizer
from megatron_ipt.tokens.tokenizer.loading import choose_encoder, encoder_for
from megatron_ipt.tokens.tokenizer.long_texts import encode_in_parts
from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer

from .conftest import CONTROL_TEXTS, ODD_TEXTS, sample_texts

pytest.importorskip("gigatoken")

TEXTS = [*ODD_TEXTS, *CONTROL_TEXTS, *probes.TEXTS]


def same(one, other):
    return len(one) == len(other) and all(map(np.array_equal, one, other))


@pytest.fixture(scope="module")
def mistral(mistral_model, mistral_folder):
    """SentencePiece itself, tokenizers on the copy, gigatoken on the copy."""
    exact = SentencePieceTokenizer.read(mistral_model)
    return (
        exact,
        HuggingFaceTokenizer(mistral_folder),
        GigatokenEncoder((mistral_folder / "tokenizer.json").read_bytes()),
    )


@pytest.fixture(scope="module")
def byte_level(byte_level_folder):
    return HuggingFaceTokenizer(byte_level_folder), GigatokenEncoder(
        (byte_level_folder / "tokenizer.json").read_bytes()
    )


def test_all_encoders_agree_on_mistral(mistral):
    texts = [*TEXTS, *sample_texts(400, seed=1)]
    exact, copy, fast = (each.encode(texts) for each in mistral)
    assert same(exact, copy)
    assert same(exact, fast)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.text("</s>unk \n▁abc", max_size=40))
def test_they_agree_on_any_text(mistral, text):
    exact, copy, fast = (each.encode([text]) for each in mistral)
    assert same(exact, copy)
    assert same(exact, fast)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80) | st.text("<|endoftext|> \n's 12", max_size=60))
def test_they_agree_on_a_byte_level_tokenizer(byte_level, text):
    exact, fast = (each.encode([text]) for each in byte_level)
    assert same(exact, fast)


@pytest.mark.parametrize("text", [*CONTROL_TEXTS, "<|endoftext|>", "a<|begin_of_text|>b <|endoftext|>"])
def test_control_tokens_written_out_stay_text(mistral, byte_level, text):
    for encoder in mistral:
        assert not {0, 1, 2} & set(encoder.encode([text])[0].tolist())
    for encoder in byte_level:
        assert not {0, 1} & set(encoder.encode([text])[0].tolist())


def test_the_fast_encoder_is_chosen_where_it_agrees(mistral_folder, byte_level_folder):
    for folder in (mistral_folder, byte_level_folder):
        assert choose_encoder("auto", folder) == choose_encoder("gigatoken", folder) == "gigatoken"
        assert choose_encoder("tokenizers", folder) == "tokenizers"
        assert encoder_for(folder, "gigatoken").name == "gigatoken"


def test_the_fast_encoder_is_not_chosen_where_it_differs(mistral_folder, monkeypatch, caplog):
    class Wrong(GigatokenEncoder):
        def encode(self, texts):
            return [np.append(ids, 5) for ids in super().encode(texts)]

    monkeypatch.setattr(encoders, "GigatokenEncoder", Wrong)
    assert choose_encoder("auto", mistral_folder) == "tokenizers"
    with pytest.raises(InputError, match="gigatoken: gives other ids than tokenizers for ''"):
        choose_encoder("gigatoken", mistral_folder)


def test_a_tokenizer_that_the_fast_encoder_does_not_know(tmp_path):
    model = {"type": "WordLevel", "vocab": {"a": 0, "[EOS]": 1, "[UNK]": 2}, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "[EOS]"}')
    assert choose_encoder("auto", tmp_path) == "tokenizers"
    with pytest.raises(InputError, match="gigatoken: does not support this tokenizer"):
        choose_encoder("gigatoken", tmp_path)
    with pytest.raises(InputError, match="sentencepiece cannot read this tokenizer; use tokenizers or auto"):
        choose_encoder("sentencepiece", tmp_path)


def test_without_the_library(mistral_folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gigatoken.gigatoken_rs", None)
    assert choose_encoder("auto", mistral_folder) == "tokenizers"
    with pytest.raises(InputError, match="not installed"):
        choose_encoder("gigatoken", mistral_folder)


def test_a_difference_while_working_is_an_error(mistral):
    exact, _, fast = mistral

    class Wrong:
        name = "gigatoken"

        def encode(self, texts):
            return [ids[::-1] if "zebra" in text else ids for text, ids in zip(texts, fast.encode(texts))]

    encoder = CheckedEncoder(Wrong(), lambda: exact.encoder)
    encoder.encode(["all is well"])
    with pytest.raises(InputError, match="gigatoken and sentencepiece disagree on 'a zebra came'"):
        encoder.encode(["a zebra came", "x"])


@pytest.mark.parametrize("index", [0, 1])
def test_long_texts_in_parts_have_the_ids_of_the_whole(mistral, byte_level, index):
    text = " ".join(sample_texts(120, seed=2)) + " and more words of the plain kind" * 50
    for tokenizer in (mistral[index], byte_level[0]):
        encode = tokenizer.encoder._encode
        longest = 0

        def noted(texts, encode=encode):
            nonlocal longest
            longest = max(longest, *map(len, texts))
            return encode(texts)

        (ids,) = encode_in_parts(noted, [text], part_characters=1000)
        assert np.array_equal(ids, encode([text])[0])
        assert longest < len(text) / 4


def test_a_long_text_without_a_place_to_cut(mistral):
    text = "漢字かな" * 500
    assert np.array_equal(encode_in_parts(mistral[0].encoder._encode, [text], 300)[0], mistral[0].encode([text])[0])
