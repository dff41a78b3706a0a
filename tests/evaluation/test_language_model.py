"""Batched greedy answers against one forward pass per token."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from megatron_ipt.evaluation.language_model import LanguageModel
from megatron_ipt.evaluation.questions import Question, measure

WORDS = ["</s>", "\n", *(f" w{number}" for number in range(30))]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=" w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" w", "merged_with_next")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.4, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return LanguageModel(folder)


def expected(model, prompt, tokens):
    ids = list(prompt)
    while len(ids) < len(prompt) + tokens:
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] in (0, 1):
            break
    return "".join(WORDS[token] for token in ids[len(prompt) :] if token > 1).strip()


def test_answers_of_a_batch_are_those_of_each_prompt_alone(model):
    generator = torch.Generator().manual_seed(1)
    lengths = [3, 9, 4, 17, 5, 6, 7, 8, 11, 12, 2, 13, 14, 15, 16, 10, 18, 19, 20]
    prompts = [torch.randint(2, len(WORDS), (length,), generator=generator).tolist() for length in lengths]
    found = model.first_lines(prompts, 6, "test")
    assert [" ".join(text.split()) for text in found] == [
        " ".join(expected(model, prompt, 6).split()) for prompt in prompts
    ]
    assert len(set(found)) > 5
    assert any(len(text.split()) < 6 for text in found), "no answer ended early"


def test_f1_is_measured_on_request(model):
    question = Question("", " w3 w4", "w5")
    (line,) = model.first_lines([model.tokenizer(question.prompt)["input_ids"]], 4, "test")
    right, wrong = Question("", " w3 w4", line), Question("", " w3 w4", "nothing of this")
    result = measure(model, [right, wrong], 64, "test", answer_tokens=4)
    assert (result["exact_match"], result["f1"]) == (0.5, 0.5)
    assert "f1" not in measure(model, [right, wrong], 64, "test")
