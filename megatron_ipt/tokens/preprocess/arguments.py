"""The command line of ``tools/preprocess_data.py``: Megatron-LM's flags where the meaning is the same, and ours."""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import sys
from pathlib import Path
from typing import Any

from megatron_ipt.errors import INTERRUPTED_STATUS, RecipeError, UserError
from megatron_ipt.progress import configure_logging

logger = logging.getLogger(__name__)

_EPILOG = """examples:
  preprocess_data.py --input corpus.jsonl --output-prefix data/corpus --workers 8 --append-eod \\
      --tokenizer-type SentencePieceTokenizer --tokenizer-model tokenizer.model
  preprocess_data.py --source raw:0.8:raw/ --source augmented:0.2:'augmented/*.jsonl.zst' --output-prefix data/mix \\
      --tokenizer-type HuggingFaceTokenizer --tokenizer-model my-tokenizer/ --append-eod --prepend-bos
  an array of 8 jobs: each with --shard $i/8, then once the same command without --shard
"""


def parser() -> argparse.ArgumentParser:
    """All flags."""
    root = argparse.ArgumentParser(
        description="Tokenize texts into a Megatron indexed dataset (PREFIX_KEY_document.bin and .idx).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = root.add_argument_group("input")
    add = data.add_argument
    add("--input", nargs="+", default=[], metavar="PATH",
        help="JSON Lines (also .gz and .zst), Parquet or text: files, folders, patterns or URLs")  # fmt: skip
    add("--source", action="append", default=[], metavar="NAME[:SHARE]:PATH[,PATH...]",
        help="instead of --input, once for each of several sources to interleave by their share of tokens")  # fmt: skip
    add("--sources", metavar="YAML", help="the same as a file: {name: {inputs: [...], share: 0.8, repeat: 1}}")
    add("--json-keys", nargs="+", default=["text"], metavar="KEY", help="keys of the texts; each gives a dataset")
    add("--maximum-reject-share", type=float, default=0.05, help="fail if more of the records are unusable (0.05)")
    tokens = root.add_argument_group("tokenization")
    add = tokens.add_argument
    add("--tokenizer-type", required=True,
        help="SentencePieceTokenizer, GPTSentencePieceTokenizer, Llama2Tokenizer or HuggingFaceTokenizer")  # fmt: skip
    add("--tokenizer-model", required=True, help="a .model file, or a folder with tokenizer.json")
    add("--vocab-size", type=int, help="fail if the tokenizer has more ids")
    add("--append-eod", action="store_true", help="end every document with the end-of-document id")
    add("--prepend-bos", action="store_true", help="begin every document with BOS, unless the tokenizer does")
    add("--tokenizer-hf-no-include-special-tokens", action="store_true",
        help="HuggingFaceTokenizer: leave out the control tokens that it puts around texts")  # fmt: skip
    add("--tokenizer-hf-include-special-tokens", action="store_true", help="the default; for older command lines")
    add("--legacy-tokenizer", action="store_true",
        help="as before megatron.core.tokenizers: Llama2Tokenizer puts BOS before texts, "
        "SentencePieceTokenizer adds an <EOD> token")  # fmt: skip
    add("--engine", default="auto", choices=["auto", "gigatoken", "sentencepiece", "tokenizers"],
        help="library that encodes; all give the same ids (auto: the fastest that does)")  # fmt: skip
    output = root.add_argument_group("output")
    add = output.add_argument
    add("--output-prefix", required=True, help="path of the outputs without _KEY_document.bin")
    add("--split-by-hash", metavar="TRAIN,VALID,TEST",
        help="shares, e.g. 98,1,1: PREFIX_train_KEY_document and so on, by hash of the document's id")  # fmt: skip
    add("--seed", type=int, default=1234, help="seed of the hash")
    add("--dtype", default="auto", choices=["auto", "uint16", "int32"], help="type of the ids")
    add("--overwrite", action="store_true", help="replace outputs that exist")
    add("--json", action="store_true", help="print the result as JSON")
    running = root.add_argument_group("running")
    add = running.add_argument
    add("--workers", type=int, default=1, help="processes")
    add("--partitions", type=int, default=1, help="order the documents as Megatron-LM does with this many partitions")
    add("--keep-sequential-samples", action="store_true", help="keep the order of the input despite --partitions")
    add("--log-interval", type=int, default=1000, help="number of documents between two log lines")
    add("--shard", metavar="I/N", help="encode only this share; the same command without --shard joins all")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool; returns the exit status."""
    parsed = parser().parse_args(arguments)
    configure_logging()
    # SystemExit unwinds like Ctrl-C, so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        result = _run(parsed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted; rerun the same command to resume", file=sys.stderr)
        return INTERRUPTED_STATUS
    if parsed.json:
        print(json.dumps(result, indent=2))
    elif "parts" in result:
        print(f"{result['parts']} parts done; run once without --shard to join them")
    else:
        print(_summary(result))
    return 0


def _run(parsed: argparse.Namespace) -> dict[str, Any]:
    from megatron_ipt.tokens.preprocess.preprocess import Options, run

    options = Options(
        sources=tuple(_sources(parsed)),
        output_prefix=parsed.output_prefix,
        tokenizer_type=parsed.tokenizer_type,
        tokenizer_model=parsed.tokenizer_model,
        json_keys=tuple(parsed.json_keys),
        vocab_size=parsed.vocab_size,
        append_eod=parsed.append_eod,
        prepend_bos=parsed.prepend_bos,
        legacy_tokenizer=parsed.legacy_tokenizer,
        template=not parsed.tokenizer_hf_no_include_special_tokens,
        partitions=parsed.partitions,
        keep_sequential_samples=parsed.keep_sequential_samples,
        split=_split(parsed.split_by_hash),
        seed=parsed.seed,
        dtype=parsed.dtype,
        engine=parsed.engine,
        maximum_reject_share=parsed.maximum_reject_share,
        workers=parsed.workers,
        log_interval=parsed.log_interval,
    )
    return run(options, _shard(parsed.shard), parsed.overwrite)


def _sources(parsed: argparse.Namespace) -> list[Any]:
    from megatron_ipt.tokens.preprocess.preprocess import SourceFiles

    if sum(map(bool, (parsed.input, parsed.source, parsed.sources))) != 1:
        raise RecipeError("give one of --input, --source and --sources")
    if parsed.input:
        return [SourceFiles("input", tuple(parsed.input))]
    if parsed.source:
        return [_parse_source(text) for text in parsed.source]
    return _read_sources(Path(parsed.sources))


def _parse_source(text: str) -> Any:
    from megatron_ipt.tokens.preprocess.preprocess import SourceFiles

    match = re.fullmatch(r"(?P<name>[^:/]+):(?:(?P<share>[0-9.]+):)?(?P<inputs>.+)", text)
    if not match:
        raise RecipeError(f"--source {text}: expected NAME:SHARE:PATH or NAME:PATH, e.g. raw:0.8:corpus/raw")
    share = float(match["share"]) if match["share"] else None
    return SourceFiles(match["name"], tuple(match["inputs"].split(",")), share)


def _read_sources(path: Path) -> list[Any]:
    import yaml

    from megatron_ipt.tokens.preprocess.preprocess import SourceFiles

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"--sources {path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise RecipeError(f"--sources {path}: expected {{name: {{inputs: [...], share: 0.8, repeat: 1}}}}")
    sources = []
    for name, entry in content.items():
        unknown = set(entry) - {"inputs", "share", "repeat"}
        if unknown or not entry.get("inputs"):
            raise RecipeError(f"--sources {path}: {name}: expected inputs, share and repeat, found {list(entry)}")
        inputs = [entry["inputs"]] if isinstance(entry["inputs"], str) else entry["inputs"]
        sources.append(SourceFiles(str(name), tuple(inputs), entry.get("share"), int(entry.get("repeat", 1))))
    return sources


def _split(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError as error:
        raise RecipeError(f"--split-by-hash {text}: expected numbers, e.g. 98,1,1") from error
    shares += [0.0] * (3 - len(shares))
    total = sum(shares)
    if len(shares) != 3 or total <= 0 or min(shares) < 0:
        raise RecipeError(f"--split-by-hash {text}: expected shares of train, valid and test, e.g. 98,1,1")
    return tuple(share / total for share in shares)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise RecipeError(f"--shard {text}: expected i/N, e.g. 0/8")
    return int(match[1]), int(match[2])


def _summary(result: dict[str, Any]) -> str:
    lines = []
    for prefix, entry in result["outputs"].items():
        lines.append(f"{prefix}  {entry['documents']:,} documents, {entry['tokens']:,} tokens, {entry['dtype']}")
        for name, source in entry.get("by_source", {}).items():
            share = source["tokens"] / entry["tokens"] if entry["tokens"] else 0.0
            lines.append(
                f"  {name}  {share:.1%}: {source['documents']:,} documents, {source['tokens']:,} tokens, "
                f"{source['left_out_documents']:,} documents left out"
            )
    if result["rejected"]:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in result["rejected"].items())
        lines.append(f"rejected  {reasons}")
    return "\n".join(lines)
