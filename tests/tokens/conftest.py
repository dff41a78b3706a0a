from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

ODD_TEXTS = [
    "",
    " ",
    "\n\n\t ",
    "plain text, with 1,234.5 numbers.",
    "   runs    of \t\t blanks   \n\n\n  ",
    "naïve café — “quotes” … 漢字かな кириллица العربية हिन्दी 🙂👩‍🚀🏳️‍🌈",
    "e\u0301\u0327 \u1100\u1161\u11a8 \ufb01 \u212b ß ẞ ｆｕｌｌ \u200b\u200d\ufeff\u00ad \u2028 \u2029 \x85",
    "null \x00 and \x07\x1b[0m and \x7f\x80 \ue000 \U0010ffff \ufffd",
    "▁ ▁▁ the mark ▁of▁ a blank",
    "<0x0A> <0xE2><0x96>",
    'a\\b"c/d {e} %s %(f)s ${g} {{h}}',
    "x" * 5000,
    "word " * 3000,
    "def f(x):\n    return {\n        'a': x,\n    }\n" * 20,
    "\r\n windows \r old mac \r\r\n",
]
CONTROL_TEXTS = ["</s>", "<s>", "a</s>b", " <s> x </s> <unk>", "<s><s></s></s>", "[INST] hi [/INST] </s>\n"]


@pytest.fixture(scope="session")
def mistral_model():
    """Mistral's SentencePiece model of 32,000 pieces, which others have published."""
    mistral_common = pytest.importorskip("mistral_common")
    return Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


@pytest.fixture(scope="session")
def mistral_folder(mistral_model, tmp_path_factory):
    """The same tokenizer as a Hugging Face folder, without its ``.model`` file."""
    from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer

    folder = tmp_path_factory.mktemp("mistral")
    SentencePieceTokenizer.read(mistral_model).save(folder)
    (folder / "tokenizer.model").unlink()
    return folder


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory):
    """A byte-level BPE as GPT-2 and Llama 3 have it, trained here on source code."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bytes")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|endoftext|>", "<|begin_of_text|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(json.__file__).read_text(), *ODD_TEXTS], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    return folder


def sample_texts(count, seed=0):
    """Texts of random words, lengths and alphabets, with every odd text among them."""
    rng = random.Random(seed)
    alphabets = ("abcdefghij ", "etaoin shrdlu\n", "漢字かな交じり文 ", "абвгд ежз", "0123456789.,", " \t\n<>/s▁")
    texts = [
        "".join(rng.choice(rng.choice(alphabets)) for _ in range(rng.randrange(400)))
        for _ in range(count - len(ODD_TEXTS))
    ]
    texts += ODD_TEXTS
    rng.shuffle(texts)
    return texts
