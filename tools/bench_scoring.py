#!/usr/bin/env python3
"""Benchmarks the stage ``scoring`` against a bare forward loop over the same batches, and counts padding.

    python tools/bench_scoring.py
    python tools/bench_scoring.py --documents 5000 --hidden 512 --layers 8

The stage reads documents, tokenizes, sorts, scores with ``transformers`` and writes its arrays; the loop is given the
padded batches and computes logits and the cross-entropy of every token. Both take turns, on one thread; CPU-seconds of
the fastest round count, because other load only adds time. Documents have a log-normal number of words.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmark_table import Figures, add_option, number  # noqa: E402

from megatron_ipt.corpus.config import CorpusConfig  # noqa: E402
from megatron_ipt.corpus.stage import run as make_corpus  # noqa: E402
from megatron_ipt.inference.config import TransformersConfig  # noqa: E402
from megatron_ipt.inference.scoring import fills_batch  # noqa: E402
from megatron_ipt.manifest import StageContext, run_stage  # noqa: E402
from megatron_ipt.selection.config import ScorerConfig, ScorerGeneration, ScoringConfig  # noqa: E402
from megatron_ipt.selection.score import run as score  # noqa: E402
from megatron_ipt.stages import DOCUMENTS  # noqa: E402

SPEED_BAR, PADDING_BAR = 0.9, 5.0
WORDS, LONGEST = 4000, 1000


def write_model(folder: Path, hidden: int, layers: int) -> Any:
    """A Llama of random weights, whose tokenizer has one id for each word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS + 2, hidden_size=hidden, intermediate_size=hidden * 8 // 3 // 8 * 8, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, max_position_embeddings=LONGEST + 8, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"w{place}": place + 2 for place in range(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return model


def documents_of(count: int, draw: random.Random) -> list[str]:
    lengths = [min(LONGEST, max(5, int(draw.lognormvariate(5.0, 0.8)))) for _ in range(count)]
    return [" ".join(f"w{draw.randrange(WORDS)}" for _ in range(length)) for length in lengths]


def batches_of(ids: list[list[int]], budget: int) -> Iterator[list[list[int]]]:
    """Texts of similar length, the longest first, by the rule of the engines."""
    batch: list[list[int]] = []
    for text in sorted(ids, key=len, reverse=True):
        if batch and not fills_batch(len(batch) + 1, len(text), len(batch[0]), budget):
            yield batch
            batch = []
        batch.append(text)
    yield batch


def bare_loop(model: Any, batches: list[Any]) -> None:
    """Logits, and the cross-entropy of every token of texts that are padded with -100 on the right."""
    import torch

    with torch.inference_mode():
        for labels in batches:
            ids = labels.clamp(min=0)
            logits = model(input_ids=ids, attention_mask=(labels >= 0).long(), use_cache=False).logits
            torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="none"
            )


def measure(arguments: argparse.Namespace, figures: Figures) -> None:
    import torch

    torch.set_num_threads(1)
    texts = documents_of(arguments.documents, random.Random(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model", arguments.hidden, arguments.layers)
        source = folder / "texts.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        corpus = CorpusConfig(inputs=[str(source)], valid_share=0.0, minimum_characters=1)
        context = StageContext("corpus", folder / "corpus", 1)
        run_stage(context, {}, [], lambda: make_corpus(corpus, context))
        own = TransformersConfig(device="cpu", score_tokens=arguments.score_tokens)
        generation = ScorerGeneration(model=str(folder / "model"), context_length=LONGEST + 8)
        config = ScoringConfig(scorers={"model": ScorerConfig(generation=generation, transformers=own)})
        ids = [[int(word[1:]) + 2 for word in text.split()] + [1] for text in texts]
        batches = [
            torch.tensor([text + [-100] * (len(batch[0]) - len(text)) for text in batch])
            for batch in batches_of(ids, arguments.score_tokens)
        ]
        times: dict[str, list[float]] = {"stage": [], "bare": []}
        for turn in range(arguments.rounds):
            start = time.process_time()
            bare_loop(model, batches)
            times["bare"].append(time.process_time() - start)
            start = time.process_time()
            score(config, StageContext("scoring", folder / f"scores{turn}", 1, {DOCUMENTS: folder / "corpus"}))
            times["stage"].append(time.process_time() - start)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens = sum(map(len, ids))
    named = f"{parameters / 1e6:.0f}M parameters, {len(texts):,} documents"
    figures.add(
        f"scoring against a bare forward loop, {named}", min(times["bare"]) / min(times["stage"]), "x", SPEED_BAR
    )
    figures.add(f"scoring, {named}", tokens / min(times["stage"]), "tokens per CPU-s")
    padded = sum(batch.numel() for batch in batches)
    figures.add("padding in its batches", 100 * (1 - tokens / padded), "%", PADDING_BAR, at_most=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--score-tokens", type=int, default=8192, help="tokens of a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (default: %(default)s)")
    add_option(parser)
    arguments = parser.parse_args()
    figures = Figures()
    measure(arguments, figures)
    for figure in figures:
        print(f"{figure.name}: {number(figure.value)} {figure.unit}")
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
