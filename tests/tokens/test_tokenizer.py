from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from megatron_ipt.errors import InputError
from megatron_ipt.tokens.tokenizer.hugging_face_folder import HuggingFaceTokenizer
from megatron_ipt.tokens.tokenizer.loading import open_tokenizer
from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer, train_sentencepiece

LINES = [
    "The lighthouse keeper trims the lamp at dusk, and the beam reaches 18 miles.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "In 1869 the canal opened; ships saved 7,000 kilometres.",
] * 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_sentencepiece(iter(LINES), 420).save(folder)
    return folder


@pytest.fixture(scope="module")
def both(trained):
    return SentencePieceTokenizer.read(trained / "tokenizer.model"), HuggingFaceTokenizer(trained)


def test_the_ids_of_control_tokens(both):
    for tokenizer in both:
        assert (tokenizer.bos_id, tokenizer.eod_id, tokenizer.vocab_size) == (1, 2, 420)


@given(text=st.text(max_size=60))
def test_sentencepiece_and_tokenizer_json_agree(both, text):
    sentencepiece, hugging_face = (tokenizer.encode([text])[0].tolist() for tokenizer in both)
    assert sentencepiece == hugging_face


@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=("Cs",)), max_size=60))
def test_decoding_gives_every_character_back(both, text):
    for tokenizer in both:
        assert tokenizer.decode(tokenizer.encode([text])[0].tolist()) == text


def test_control_tokens_written_out_in_a_text_stay_text(both):
    for tokenizer in both:
        ids = tokenizer.encode(["a </s> b <s> c <unk>"])[0]
        assert not {0, 1, 2} & set(ids.tolist())


def test_transformers_loads_the_saved_folder_with_the_same_ids(trained, both):
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(trained)
    assert loaded(LINES[0])["input_ids"] == [1, *both[0].encode([LINES[0]])[0].tolist()]
    assert (loaded.bos_token_id, loaded.eos_token_id) == (1, 2)


def test_the_original_is_preferred_over_the_copy(trained):
    assert isinstance(open_tokenizer(trained), SentencePieceTokenizer)


def test_a_small_corpus_gives_a_smaller_vocabulary():
    assert 260 < train_sentencepiece(iter(["aaa bbb"] * 5), 4096).vocab_size < 300


def test_training_on_nothing():
    with pytest.raises(InputError, match=r"tokens\.tokenizer: SentencePiece could not be trained"):
        train_sentencepiece(iter([]), 4096)


@pytest.mark.parametrize(
    ("opened", "file"), [(SentencePieceTokenizer.read, "tokenizer.json"), (HuggingFaceTokenizer, ".")]
)
def test_what_is_no_tokenizer_is_named(tmp_path, opened, file):
    with pytest.raises(InputError, match="none"):
        opened(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"tokenizer\.json: (the tokenizers library cannot|not a SentencePiece)"
    ):
        opened(tmp_path / file)


def test_a_unigram_model_is_refused_rather_than_changed(tmp_path):
    import sentencepiece

    with (tmp_path / "u.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=stream, vocab_size=60, model_type="unigram", minloglevel=2
        )
    with pytest.raises(InputError, match=r"cannot be written as tokenizer\.json"):
        SentencePieceTokenizer.read(tmp_path / "u.model").save(tmp_path / "saved")


def test_ids_are_numbers_of_four_bytes(both):
    assert all(tokenizer.encode(["x"])[0].dtype == np.int32 for tokenizer in both)


def test_the_tokenizer_of_mistral(tmp_path):
    """A model published by others, through the copy as tokenizer.json."""
    pytest.importorskip("mistral_common")
    from importlib.resources import files

    model = files("mistral_common") / "data" / "tokenizer.model.v1"
    original = SentencePieceTokenizer.read(str(model))
    original.save(tmp_path)
    texts = [*LINES[:3], "  x\n\ny\t漢字 é </s> 12 345", "<s> <CON> text </CON>"]
    for ours, theirs in zip(HuggingFaceTokenizer(tmp_path).encode(texts), original.encode(texts)):
        assert ours.tolist() == theirs.tolist()
    assert (original.vocab_size, original.bos_id, original.eod_id) == (32_000, 1, 2)
