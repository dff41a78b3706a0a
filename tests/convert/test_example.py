"""The recipe of continual pre-training in a tiny shape: from a Hugging Face folder to a Hugging Face folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

from megatron_ipt.convert.commands import import_model  # noqa: E402
from megatron_ipt.files import read_json  # noqa: E402

from ..conftest import REPOSITORY  # noqa: E402
from .models import save  # noqa: E402

VOCABULARY = 400


def make_tokenizer(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train([str(path) for path in (REPOSITORY / "examples/corpus").glob("*")], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], add_bos_token=True
    )
    fast.save_pretrained(folder)


def test_the_whole_way_from_hugging_face_and_back(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "bos_token_id": 0, "eos_token_id": 1}
    source = save(tmp_path / "hf", "llama", torch.bfloat16, vocab_size=VOCABULARY, **sizes)
    make_tokenizer(source)
    import_model(source, tmp_path / "checkpoints")
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"text": f"What is {n} and {n}? {2 * n}"}) + "\n" for n in range(600)))
    overrides = {
        "output_dir": tmp_path / "run", "corpus.inputs": f"[{REPOSITORY}/examples/corpus]", "corpus.valid_share": 0.1,
        "synthesis.engine": "mined", "tokens.tokenizer.path": source, "tokens.workers": 1,
        "tokens.sources.general_instructions.inputs": f"[{general}]",
        "training.model.from_hf": source / "config.json",
        "training.initial_checkpoint": tmp_path / "checkpoints/release",
        "training.parallel.tensor_model_parallel_size": 2, "training.data.seq_length": 64, "training.steps": 3,
        "training.global_batch_size": 4, "training.schedule.lr_warmup_iters": 1, "evaluation.parity_tokens": 128,
        "evaluation.perplexity_tokens": 256, "evaluation.max_new_tokens": 4,
    }  # fmt: skip
    recipe = REPOSITORY / "examples/llama3_8b_continual.yaml"
    command = [sys.executable, "-m", "megatron_ipt", "run", str(recipe), "--until", "evaluation"]
    done = subprocess.run(
        [*command, *(f"{name}={value}" for name, value in overrides.items())], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model = tmp_path / "run/export/model"
    before, after = read_json(source / "config.json"), read_json(model / "config.json")
    for key in ("architectures", "vocab_size", "hidden_size", "rms_norm_eps", "bos_token_id", "eos_token_id"):
        assert before[key] == after[key], key
    assert after["dtype"] == "float32"  # as it was trained on the CPU
    rope = transformers.AutoConfig.from_pretrained(model).rope_parameters
    assert rope == transformers.AutoConfig.from_pretrained(source).rope_parameters
    assert "| recipe | llama3_8b_continual |" in (model / "README.md").read_text()
    ids = [transformers.AutoTokenizer.from_pretrained(folder)("Lighthouses")["input_ids"] for folder in (source, model)]
    assert ids[0] == ids[1]
