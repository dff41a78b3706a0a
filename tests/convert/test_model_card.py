from __future__ import annotations

from types import SimpleNamespace

from megatron_ipt.convert.hugging_face.model_card import model_card

MODEL = SimpleNamespace(consumed_tokens=123_000, iteration=60, seq_length=256, vocab_size=1024)
EXPORTED = {"parameters": 1_000_576, "family": "mistral", "dtype": "bfloat16"}


def test_the_card_names_recipe_tokens_and_mix():
    sources = {"augmented": {"tokens": 750}, "raw": {"tokens": 250}}
    card = model_card("quickstart", MODEL, EXPORTED, sources)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "- instruction-pre-training\n- megatron-core\n---" in card
    assert "1,000,576 parameters, mistral architecture, bfloat16" in card
    assert "| recipe | quickstart |\n| training tokens seen | 123,000 |" in card
    assert "| training data: augmented | 750 tokens (75.0%) |\n| training data: raw | 250 tokens (25.0%) |" in card


def test_a_tuned_model_is_not_said_to_be_pre_trained():
    card = model_card("chat", MODEL, EXPORTED, {"chats": {"tokens": 10}}, "tuned")
    assert "loss was taken over responses only" in card
    assert "instruction-pre-training" not in card
    assert "| recipe | chat |" in card


def test_a_converted_model_is_not_said_to_be_trained_here():
    card = model_card("checkpoints", MODEL, EXPORTED, {}, "converted")
    assert "Instruction" not in card
    assert "instruction-pre-training" not in card
    assert "converted from a Megatron-Core checkpoint" in card
