from __future__ import annotations

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from megatron_ipt.config import load  # noqa: E402
from megatron_ipt.errors import InputError, RecipeError, StageError  # noqa: E402
from megatron_ipt.evaluation.config import EvaluationConfig  # noqa: E402
from megatron_ipt.evaluation.held_out import training_frequencies, unigram_entropy  # noqa: E402
from megatron_ipt.evaluation.language_model import LanguageModel  # noqa: E402
from megatron_ipt.evaluation.measures import Measures  # noqa: E402
from megatron_ipt.evaluation.parity import check_parity, compare_logits, parity_tolerance  # noqa: E402
from megatron_ipt.tokens.dataset.indexed import IndexedWriter  # noqa: E402
from megatron_ipt.tokens.tokenizer.sentencepiece_model import train_sentencepiece  # noqa: E402


def test_differences_of_logits():
    trained = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    result = compare_logits(trained, trained + torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
    assert result["max_abs_difference"] == 3.0
    assert result["argmax_agreement"] == 0.5
    assert result["logit_spread"] == pytest.approx(math.sqrt(4 / 3))


def test_parity_is_judged_relative_to_the_spread():
    check_parity({"max_abs_difference": 1e-4, "logit_spread": 2.0}, 1e-4)
    with pytest.raises(StageError, match=r"logits differ by up to 0\.001"):
        check_parity({"max_abs_difference": 1e-3, "logit_spread": 2.0}, 1e-4)
    with pytest.raises(StageError):
        check_parity({"max_abs_difference": math.nan, "logit_spread": 2.0}, 1e-4)


def test_an_export_with_fewer_bits_is_held_to_what_rounding_explains():
    assert parity_tolerance(1e-4, "float32", "float32") == 1e-4
    assert parity_tolerance(1e-4, "bfloat16", "float32") == 1e-4
    assert parity_tolerance(1e-4, "float32", "bfloat16") == 0.2


def test_unigram_entropy_worked_by_hand(tmp_path):
    with IndexedWriter(tmp_path / "train", np.uint16) as writer:
        writer.add(np.array([0, 0, 1]), np.array([3], np.int32))
    # With one added to each of four counts: 3/7, 2/7, 1/7, 1/7.
    frequencies = training_frequencies(tmp_path, [{"prefix": "train"}], 4, 100)
    assert frequencies.tolist() == pytest.approx([3 / 7, 2 / 7, 1 / 7, 1 / 7])
    assert unigram_entropy(np.array([0, 3]), frequencies) == pytest.approx(-(math.log(3 / 7) + math.log(1 / 7)) / 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    train_sentencepiece(iter(["the quick brown fox"] * 9), 300).save(path)
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, sliding_window=None,
    )  # fmt: skip
    transformers.MistralForCausalLM(config).save_pretrained(path)
    return path


def test_the_loss_is_that_of_transformers(folder):
    model = LanguageModel(folder)
    ids = np.random.default_rng(0).integers(3, 280, 50)
    # Sequences of 16 targets: inputs 0-15, 16-31, 32-47, 48; every token but the first is predicted once.
    expected = 0.0
    for start in (0, 16, 32, 48):
        piece = torch.tensor(ids[start : start + 17])[None]
        expected += model.model(piece, labels=piece).loss.item() * (piece.shape[1] - 1)
    result = model.loss(ids, 16, "test")
    assert result["tokens"] == 49
    assert result["loss"] == pytest.approx(expected / 49, abs=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(expected / 49), rel=1e-5)
    text = model.tokenizer.decode(ids.tolist())
    assert result["bits_per_byte"] == pytest.approx(expected / math.log(2) / len(text.encode()), rel=1e-5)


class TestTexts:
    """Further held-out text, by what the recipe says about it."""

    @pytest.fixture
    def measure(self, tmp_path, folder):
        with IndexedWriter(tmp_path / "train", np.uint16) as writer:
            writer.add(np.array([5, 6, 7]), np.array([3], np.int32))
        dataset = {"train": [{"prefix": "train"}], "valid": [], "vocab_size": 300}
        (tmp_path / "dataset.json").write_text(json.dumps(dataset))
        model = LanguageModel(folder)

        def run(*overrides):
            measures = Measures(load(EvaluationConfig, None, overrides), tmp_path, 16, False)
            return measures.run(model, tmp_path)["perplexity"]

        return run

    def test_options(self, measure, tmp_path):
        path = tmp_path / "held.jsonl"
        path.write_text(json.dumps({"body": "the quick brown fox"}) + "\n" + json.dumps({"body": "fox"}) + "\n")
        both = measure(f"texts.held={path}", "read.text_key=body")["held"]
        long = measure(f"texts.held={path}", "read.text_key=body", "read.minimum_characters=5",
                       "read.maximum_reject_share=0.5")["held"]  # fmt: skip
        assert 0 < long["tokens"] < both["tokens"]
        assert (tmp_path / "rejects-held.jsonl").read_text().count("too short") == 1

    def test_a_folder(self, measure, tmp_path):
        (tmp_path / "texts").mkdir()
        for name in ("a.txt", "b.md"):
            (tmp_path / "texts" / name).write_text("the quick brown fox")
        one = measure(f"texts.held={tmp_path}/texts/a.txt")["held"]
        assert measure(f"texts.held={tmp_path}/texts")["held"]["tokens"] == 2 * one["tokens"] + 1

    def test_what_cannot_be_read(self, measure, tmp_path):
        path = tmp_path / "held.jsonl"
        path.write_text('{"body": "the quick brown fox"}\n')
        with pytest.raises(InputError, match=r"1 of 1 records were rejected .* evaluation\.read\.maximum_reject_share"):
            measure(f"texts.held={path}")
        with pytest.raises(InputError, match=r"^evaluation\.texts\.held: .*none\.txt: no such file"):
            measure(f"texts.held={tmp_path}/none.txt")
        path.write_text("")
        with pytest.raises(InputError, match=r"^evaluation\.texts\.held: .*held\.jsonl: contains no text"):
            measure(f"texts.held={path}")
        with pytest.raises(RecipeError, match=r"^texts\.a/b: the name becomes part of file names"):
            measure(f"texts.a/b={path}")


def test_questions_after_demonstrations(tmp_path, folder):
    """As the stage measures them: by name, each with its own file of demonstrations."""
    with IndexedWriter(tmp_path / "train", np.uint16) as writer:
        writer.add(np.array([5, 6, 7]), np.array([3], np.int32))
    (tmp_path / "dataset.json").write_text(json.dumps({"train": [{"prefix": "train"}], "valid": [], "vocab_size": 300}))
    for name, words in (("test", ["the", "fox"]), ("shown", ["quick", "brown", "a fox"])):
        lines = [json.dumps({"question": word, "answer": "the", "options": ["the", "fox"]}) for word in words]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    keys = [f"questions.few={tmp_path}/test.jsonl", f"in_context.files.few={tmp_path}/shown.jsonl"]

    def run(*overrides):
        config = load(EvaluationConfig, None, [*keys, "in_context.mode=structured", *overrides])
        return Measures(config, tmp_path, 16, False).run(LanguageModel(folder), tmp_path)["questions"]["few"]

    found = run("in_context.demonstrations=3", "in_context.groups=2")
    assert found["questions"] == found["ranked"] == 2 and found["answer_loss"] > 0
    assert {name: found["in_context"][name] for name in ("mode", "demonstrations", "groups")} == {
        "mode": "structured", "demonstrations": 3, "groups": 2,
    }  # fmt: skip
    assert run("in_context.demonstrations=3", "in_context.groups=3")["answer_loss"] != found["answer_loss"]
    with pytest.raises(InputError, match=r"shown\.jsonl: 4 demonstrations are asked for, but it has 3"):
        run("in_context.demonstrations=4")
    (tmp_path / "shown.jsonl").write_text("")
    with pytest.raises(InputError, match=r"shown\.jsonl: contains no questions"):
        run()


def test_generation_is_greedy_and_leaves_out_the_prompt(folder):
    model = LanguageModel(folder)
    ids = model.tokenizer("the quick")["input_ids"]
    generated = list(ids)
    for _ in range(5):
        generated.append(int(model.logits(torch.tensor([generated]))[0, -1].argmax()))
    assert model.generate(ids, 5) == model.tokenizer.decode(generated[len(ids) :], skip_special_tokens=True)
