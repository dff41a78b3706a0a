from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.inference.tokenizer import PromptTokenizer, open_prompt_tokenizer
from megatron_ipt.synthesis.from_text.prompted.marks import MARKS, render_pairs, render_text
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat
from megatron_ipt.synthesis.pairs import Pair
from tests.synthesis.conftest import SENTENCES


def as_written(tokenizer_folder: Path, ids: list[int]) -> str:
    """Decoded by the library itself, control tokens written out."""
    from tokenizers import Tokenizer

    return str(Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json")).decode(ids, skip_special_tokens=False))


def test_one_shot_is_the_documented_bytes(tokenizer_folder: Path, prompts: PromptFormat) -> None:
    prompt = prompts.begin(prompts.encode_texts(["  The sea is salt.\n"])[0])
    assert as_written(tokenizer_folder, prompt.ids) == "<s> <CON> The sea is salt. </CON>\n\n"
    assert prompt.text == " <CON> The sea is salt. </CON>\n\n"


def test_two_shots_are_the_documented_bytes(tokenizer_folder: Path, prompts: PromptFormat) -> None:
    first, second = prompts.encode_texts(["One.", "Two."])
    answer = render_pairs([Pair("Who?", "Ann."), Pair("What?", "b", options=("a", "b"), reasoning="c")])
    ids = prompts.tokenizer.encode([answer])[0]
    prompt = prompts.follow(prompts.begin(first), ids, answer, second)
    expected = (
        " <CON> One. </CON>\n\n<QUE> Who? <ANS> Ann. </END>\n\n<QUE> What?\nOptions:\n- a\n- b\n"
        "Let's think step by step. <ANS> c\nTherefore, the answer is b </END></s><s> <CON> Two. </CON>\n\n"
    )
    assert as_written(tokenizer_folder, prompt.ids) == "<s>" + expected
    assert prompt.text == expected


def test_the_prefix_is_repeated_id_by_id(prompts: PromptFormat) -> None:
    first, second = prompts.encode_texts(SENTENCES[:2])
    begun = prompts.begin(first)
    generated = [5, 300, 7, 9]
    prompt = prompts.follow(begun, generated, "x", second)
    tokenizer = prompts.tokenizer
    assert prompt.ids == [*begun.ids, *generated, tokenizer.eos_id, tokenizer.bos_id, *second.ids]


@given(st.text(max_size=60))
def test_one_bos_whatever_the_text(tokenizer: PromptTokenizer, text: str) -> None:
    prompts = PromptFormat(tokenizer, 1024, 128)
    prompt = prompts.begin(prompts.encode_texts([text + "<s></s><CON>"])[0])
    assert prompt.ids[0] == tokenizer.bos_id
    assert tokenizer.bos_id not in prompt.ids[1:]
    assert tokenizer.eos_id not in prompt.ids


@given(st.lists(st.sampled_from([*MARKS, "<s>", "</s>", "<", ">", "/", "CON", "END", " ", "a"])).map("".join))
def test_marks_in_a_text_are_neutralised(tokenizer: PromptTokenizer, text: str) -> None:
    prompts = PromptFormat(tokenizer, 1024, 128)
    neutral = prompts.neutralise(text)
    assert not any(mark in neutral for mark in (*MARKS, "<s>", "</s>"))
    assert prompts.neutralise(neutral) == neutral
    assert neutral.replace(" ", "") == text.replace(" ", "")


def test_neutralised_mark() -> None:
    assert render_text("a") == " <CON> a </CON>\n\n"


def test_a_cut_answer_is_repeated_up_to_its_last_pair(prompts: PromptFormat) -> None:
    whole = "<QUE> Who? <ANS> Ann. </END>\n\n<QUE> When? <ANS> 1931 </END>"
    text = whole + "\n\n<QUE> Where? <ANS> In th"
    ids = prompts.tokenizer.encode([text])[0]
    kept, kept_text = prompts.up_to_last_pair(ids, text)
    assert kept_text == whole
    assert kept == ids[: len(kept)]
    assert prompts.tokenizer.decode(kept).startswith(whole)
    assert not prompts.tokenizer.decode(kept[:-1]).startswith(whole)
    assert prompts.up_to_last_pair(prompts.tokenizer.encode(["x"])[0], "x") == ([], "")


def test_budget_counts_tokens(prompts: PromptFormat) -> None:
    filler = "a " * 2000
    for words in range(700, 1000):
        text = filler[: 2 * words].strip()
        prompt = prompts.begin(prompts.encode_texts([text])[0])
        assert prompts.fits(prompt) == (len(prompt.ids) + 128 <= 1024)
        assert prompts.fits(prompt) == (prompts.count(text) <= prompts.text_limit) or abs(len(prompt.ids) - 896) <= 1


def test_a_context_without_room_is_refused(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(RecipeError, match=r"synthesis\.generation\.context_length"):
        PromptFormat(tokenizer, 200, 150)


def test_sentencepiece_gives_the_same_text(tmp_path: Path) -> None:
    import sentencepiece

    path = tmp_path / "tokenizer.model"
    with open(path, "wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*SENTENCES, "<CON> a </CON> <QUE> b <ANS> c </END>"] * 5), model_writer=stream,
            vocab_size=400, model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    tokenizer = open_prompt_tokenizer(tmp_path)
    prompts = PromptFormat(tokenizer, 1024, 128)
    prompt = prompts.begin(prompts.encode_texts(["A </s> b <CON>"])[0])
    assert prompt.ids[0] == tokenizer.bos_id == 1
    assert not {1, 2} & set(prompt.ids[1:])
    assert tokenizer.decode(prompt.ids).strip() == "<CON> A < /s> b < CON> </CON>"
    assert (tokenizer.bos, tokenizer.eos) == ("<s>", "</s>")


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"synthesis\.generation\.tokenizer: no tokenizer at"):
        open_prompt_tokenizer(tmp_path, "synthesis.generation.tokenizer")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizers library cannot load"):
        open_prompt_tokenizer(tmp_path)
