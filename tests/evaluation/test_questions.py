"""Likelihood ranking against a plain forward pass of every candidate by itself."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.questions import Question, measure, read_questions


class CharacterTokenizer:
    """A token a character, after BOS 1."""

    bos_token_id = 1

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        if isinstance(text, list):
            return {"input_ids": [self(one, False)["input_ids"] for one in text]}
        return {"input_ids": [2 + ord(character) % 60 for character in text]}


@pytest.fixture(scope="module")
def model():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return SimpleNamespace(model=MistralForCausalLM(config).eval(), tokenizer=CharacterTokenizer(), device="cpu")


QUESTIONS = [
    Question("The ferry left at noon.", "When did it leave?", "at noon", ("at noon", "on Monday", "x")),
    Question("The ferry left at noon.", "What left?", "The ferry", ("A tram", "The ferry")),
    Question("Quite another text", "Why?", "so"),
    Question("", "No text?", "yes", ("yes", "no")),
]


def log_likelihood(model, question, text):
    """One forward pass over prompt and candidate."""
    ids = model.tokenizer(question.prompt, False)["input_ids"]
    answer = model.tokenizer(f" {text}", False)["input_ids"]
    whole = torch.tensor([[1, *ids, *answer]])
    with torch.no_grad():
        scores = torch.log_softmax(model.model(whole).logits[0].double(), -1)
    start = 1 + len(ids)
    return sum(scores[start + place - 1, token].item() for place, token in enumerate(answer)), len(answer)


def test_figures_equal_those_of_one_forward_pass_a_candidate(model):
    result = measure(model, QUESTIONS, 512, "test")
    loss = tokens = first = per_byte = 0
    for question in QUESTIONS:
        likelihood, length = log_likelihood(model, question, question.answer)
        loss -= likelihood
        tokens += length
        others = [text for text in question.options if text != question.answer]
        if others:
            first += all(likelihood > log_likelihood(model, question, text)[0] for text in others)
            per_byte += all(
                likelihood / len(question.answer) > log_likelihood(model, question, text)[0] / len(text)
                for text in others
            )
    assert result["answer_loss"] == pytest.approx(loss / tokens, abs=1e-5)
    assert result["accuracy"] == first / 3
    assert result["accuracy_per_byte"] == per_byte / 3
    assert result["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert (result["questions"], result["ranked"]) == (4, 3)
    assert math.isfinite(loss)


def test_of_a_prompt_that_is_too_long_the_end_is_kept(model):
    question = Question("x" * 500, "Why?", "so", ("so", "no"))
    end = "Question: Why?\nAnswer:"
    kept = Question("", "Why?", "so", ("so", "no"))
    assert kept.prompt == end
    short = measure(model, [question], 1 + len(end) + 3, "test")
    assert short["answer_loss"] == pytest.approx(measure(model, [kept], 512, "test")["answer_loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "questions.jsonl:2: expected an object"),
        ('{"question": "Why?"}', "questions.jsonl:2: expected an object with context, question, answer"),
        ('{"question": "Why?", "answer": " "}', "questions.jsonl:2: the answer is empty"),
        ('{"question": "Why?", "answer": "a", "options": ["b", "c"]}', "'a' is not among the options"),
        ('{"question": 3, "answer": "a"}', "must be strings"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Why?", "answer": "so", "options": ["so", "no"]}\n' + line + "\n")
    with pytest.raises(InputError, match=r"questions\.jsonl") as raised:
        read_questions(path)
    assert message in str(raised.value)


def test_a_file_without_questions_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="contains no questions"):
        read_questions(tmp_path / "empty.jsonl")
