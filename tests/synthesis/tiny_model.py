"""A tiny Mistral that writes one pair about any text: built, not trained.

Attention and MLP add nothing, so the next token depends on the last one alone, through a table that the output layer
holds: every token of the answer recalls the one after it. That asks for an answer in which no token occurs twice, and
for a tokenizer in which every mark is one token.
"""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.inference.tokenizer import open_prompt_tokenizer
from megatron_ipt.synthesis.from_text.prompted.marks import render_pairs
from megatron_ipt.synthesis.pairs import Pair

PAIR = Pair("Why do bees dance?", "clover")
_HIDDEN = 128
_POSITIONS = 2048


def write_model(folder: Path) -> None:
    """Writes the model beside the tokenizer in ``folder`` (see ``write_tokenizer``)."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = open_prompt_tokenizer(folder)
    answer = [*tokenizer.encode([render_pairs([PAIR])])[0], tokenizer.eos_id]
    assert len(answer) == len(set(answer)), "a token occurs twice in the answer"
    last = tokenizer.encode([" <CON> a </CON>\n\n"])[0][-1]
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=600, hidden_size=_HIDDEN, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=_POSITIONS, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        sliding_window=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    with torch.no_grad():
        embedding = torch.randn(600, _HIDDEN)
        model.model.embed_tokens.weight.copy_(embedding)
        output = 0.01 * torch.randn(600, _HIDDEN)
        for token, successor in zip([last, *answer], answer):
            output[successor] += embedding[token]
        model.lm_head.weight.copy_(output)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
