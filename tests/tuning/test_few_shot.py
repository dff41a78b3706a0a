from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.synthesis.from_text.prompted.parsing import parse_answer
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat
from megatron_ipt.synthesis.pairs import Example, Pair
from megatron_ipt.tuning.few_shot import FewShotFormat, vary

ANN = Example(
    "a", "Ann sings.", pairs=[Pair("Who sings?", "Ann"), Pair("Is it Bob?", "No", options=("Yes", "No"))]
)  # fmt: skip


def test_token_by_token(mistral: PromptTokenizer) -> None:
    """Pieces of Mistral's model, looked up one by one; what is to be predicted stands in the second list."""
    text = ["<s>", "▁", "▁<", "CON", ">", "▁Ann", "▁s", "ings", ".", "▁</", "CON", ">", "<0x0A>", "<0x0A>"]
    first = ["<", "QUE", ">", "▁Who", "▁s", "ings", "?", "▁<", "AN", "S", ">", "▁Ann", "▁</", "END", ">"]
    second = ["<", "QUE", ">", "▁Is", "▁it", "▁Bob", "?", "<0x0A>", "Options", ":", "<0x0A>", "-", "▁Yes", "<0x0A>",
              "-", "▁No", "▁<", "AN", "S", ">", "▁No", "▁</", "END", ">"]  # fmt: skip
    pairs = [*first, "<0x0A>", "<0x0A>", *second, "</s>"]
    masked, drops = FewShotFormat(mistral, 256).encode(ANN)
    assert masked is not None and not drops
    pieces = mistral._tokenizer.id_to_token  # type: ignore[attr-defined]
    assert [pieces(token) for token in masked.ids] == text + pairs
    assert masked.mask == [0] * len(text) + [1] * len(pairs)


@pytest.mark.parametrize("name", ["mistral", "bytes_tokenizer"])
def test_prompts_of_a_chain_are_prefixes(name: str, request: pytest.FixtureRequest) -> None:
    """What an engine is asked to continue is what was learned, up to the token."""
    tokenizer: PromptTokenizer = request.getfixturevalue(name)
    prompts, layout = PromptFormat(tokenizer, 4096, 400), FewShotFormat(tokenizer, 4096)
    bob = Example("b", "Bob <QUE> mows.\n\nIt rains </s>.", pairs=[Pair("Who mows?", "Bob", reasoning="He mows.")])
    shots = [layout.encode(example)[0] for example in (ANN, bob, ANN)]
    row = [token for shot in shots if shot is not None for token in shot.ids]
    texts = prompts.encode_texts([ANN.text, bob.text, ANN.text])
    prompt = prompts.begin(texts[0])
    for number, text in enumerate(texts[1:]):
        assert row[: len(prompt.ids)] == prompt.ids
        shot = shots[number]
        assert shot is not None
        answer = [token for token, predicted in zip(shot.ids, shot.mask) if predicted][:-1]
        pairs, faults = parse_answer(tokenizer.decode(answer))
        assert pairs == [ANN, bob][number].pairs and not faults
        prompt = prompts.follow(prompt, answer, "", text)
    assert row[: len(prompt.ids)] == prompt.ids


def test_last_pairs_are_left_out_where_the_row_ends(bytes_tokenizer: PromptTokenizer) -> None:
    many = replace(ANN, pairs=[Pair(f"What is {number}?", "A number.") for number in range(40)])
    masked, drops = FewShotFormat(bytes_tokenizer, 257).encode(many)
    assert masked is not None and len(masked.ids) <= 257
    text = bytes_tokenizer.decode([token for token, predicted in zip(masked.ids, masked.mask) if predicted])
    kept, faults = parse_answer(text)
    assert kept == many.pairs[: len(kept)] and not faults
    assert [drop.sample for drop in drops] == [pair.question for pair in reversed(many.pairs[len(kept) :])]


def test_text_longer_than_a_row(bytes_tokenizer: PromptTokenizer) -> None:
    masked, drops = FewShotFormat(bytes_tokenizer, 257).encode(replace(ANN, text="Ann sings. " * 200))
    assert masked is None
    assert drops[-1].reason == "text longer than a row"


def test_row_too_short_for_the_format(bytes_tokenizer: PromptTokenizer) -> None:
    with pytest.raises(RecipeError, match=r"tuning\.seq_length: 40 tokens leave no room"):
        FewShotFormat(bytes_tokenizer, 41)


def test_only_pairs_that_read_back_are_learned(bytes_tokenizer: PromptTokenizer) -> None:
    layout = FewShotFormat(bytes_tokenizer, 257)
    good = Pair("Who </END> sings?", "Ann")
    kept, drops = layout.parseable(
        [good, Pair("WHO </END>  sings?", "Bob"), Pair("Which?\nOptions:\n- a\n- b", "c"), Pair("Which?", "  ")]
    )
    assert kept == [Pair("Who < /END> sings?", "Ann")]
    assert [drop.reason for drop in drops] == [
        "question repeated", "answer not among the options", "empty answer"
    ]  # fmt: skip


TEXT = "Ann sings in Rome, Bob mows in Paris, and Cid naps in Berlin until noon."
PLACES = [Pair("Where is Ann?", "Rome"), Pair("Where is Bob?", "Paris"), Pair("Where is Cid?", "Berlin")]


def test_extractive_questions_become_multiple_choice() -> None:
    example = Example("a", TEXT, pairs=[*PLACES, Pair("Who naps?", "Berlin, Cid"), Pair("Why?", "Nobody knows.")])
    varied = vary(example, 1.0, seed=3).pairs
    for before, after in zip(PLACES, varied):
        assert (after.question, after.answer) == (before.question, before.answer)
        assert sorted(after.options) == ["Berlin", "Paris", "Rome"]
    # Not words of the text in this order.
    assert varied[3:] == example.pairs[3:]
    assert vary(example, 0.0, seed=3) == example


def test_options_are_not_part_of_each_other() -> None:
    pairs = [*PLACES[:2], Pair("Where does Bob mow?", "in Paris"), Pair("What naps?", "Cid")]
    for pair in vary(Example("a", TEXT, pairs=pairs), 1.0, seed=3).pairs:
        assert len(pair.options) == 3 and not {"Paris", "in Paris"} <= set(pair.options)


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_variation_depends_on_seed_and_id(seed: int) -> None:
    example = Example("a", TEXT, pairs=PLACES)
    assert vary(example, 0.5, seed) == vary(example, 0.5, seed)


def test_share_of_varied_questions() -> None:
    varied = [pair for n in range(300) for pair in vary(Example(f"t{n}", TEXT, pairs=PLACES), 0.2, seed=1).pairs]
    assert 0.15 < sum(bool(pair.options) for pair in varied) / len(varied) < 0.25
