"""A corpus of topics, a tokenizer with an id for each word, a small encoder, and a filter whose losses are known."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.files import write_json
from megatron_ipt.inference.engine import Engine, RequestRefused
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.recipe import Recipe, recipe_from

TOPICS = {
    "bees": "hive nectar wax honey comb drone queen swarm smoke frame",
    "tides": "moon harbour ebb flood neap spring gauge pier chart draught",
    "books": "spine glue press thread leaf board cloth gilt fold stitch",
}
COMMON = "the a of and to in is with for by"
WORDS = [*dict.fromkeys(" ".join([*TOPICS.values(), COMMON]).split())]
SEQ_LENGTH = 64


class Seen(Engine):
    """A token that occurred before in the text has probability 1/2, any other 1/10: repetition helps, nothing else."""

    async def score(self, request: ScoreRequest) -> Score:
        self.check_length(request)
        if self.settings.options.get("broken"):
            return Score(math.nan, 1)
        ids = list(request.ids)
        if self.settings.options.get("refuses") in ids:
            raise RequestRefused("a word that it does not take")
        return request.score([math.log(0.5 if ids[p] in ids[:p] else 0.1) for p in request.counted])


def documents() -> list[dict[str, str]]:
    """Thirty documents of four lines about one topic each; the last one repeats a line of the first."""
    draws = random.Random(4)
    made = []
    for number in range(30):
        topic = list(TOPICS)[number % 3]
        words = TOPICS[topic].split()
        lines = [
            " ".join(draws.choice(words if draws.random() < 0.6 else COMMON.split()) for _ in range(9))
            for _ in range(4)
        ]
        made.append({"id": f"{topic}-{number}", "text": "\n".join(lines)})
    made[-1]["text"] = "\n".join([made[0]["text"].split("\n")[0], *made[-1]["text"].split("\n")[1:]])
    return made


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose tokenizer has one id for each word, and one for the line break."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("words")
    vocabulary = {word: place for place, word in enumerate(["?", "E", "\n", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": "E"})
    return folder


def make_encoder(folder: Path, seed: int = 0, modules: bool = True) -> Path:
    """A BERT of one layer with random weights, and the files of sentence-transformers beside it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=4 + len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=1.0,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    if modules:
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        write_json(
            folder / "modules.json",
            [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()],
        )
        (folder / "1_Pooling").mkdir()
        write_json(
            folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 16}
        )
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 24})
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoders") / "bert")


Build = Callable[..., Recipe]


@pytest.fixture
def build(tmp_path: Path, words: Path, encoder: Path) -> Build:
    """A recipe over the documents, or others, in shards of seven; ``composition`` is merged into its section."""

    def make(
        name: str = "run", records: Any = None, composition: dict[str, Any] | None = None, **corpus: Any
    ) -> Recipe:
        inputs = tmp_path / "documents.json"
        write_json(inputs, documents() if records is None else records)
        given = copy.deepcopy(composition or {})
        section: dict[str, Any] = {
            "encoder": {"model": str(encoder)} | given.pop("encoder", {}),
            "paragraph": {"tokens": 18, "minimum_tokens": 0},
            "search": {"candidates": 12, "near_duplicate": 0.999} | given.pop("search", {}),
            "filter": {
                "engine": f"{__name__}:Seen",
                "generation": {"tokenizer": str(words), "context_length": 128},
                "control_rows": 40,
            }
            | given.pop("filter", {}),
            "neighbours": 6,
            "paragraph_tokens": 16,
            "seq_length": SEQ_LENGTH,
        } | given
        return recipe_from(
            {
                "name": name,
                "output_dir": str(tmp_path / name),
                "compression": "none",
                "corpus": {"inputs": [str(inputs)], "valid_share": 0.1, "shard_documents": 7} | corpus,
                "synthesis": None,
                "tokens": {"tokenizer": {"kind": "huggingface", "path": str(words)}, "prepend_bos": False},
                "composition": section,
                "training": {"model": {"preset": "tiny"}, "steps": 2},
                "skip": ["export", "evaluation", "report"],
            }
        )

    return make
