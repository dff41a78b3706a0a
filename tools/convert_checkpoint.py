#!/usr/bin/env python
"""Converts between Hugging Face folders and Megatron-Core checkpoints, without a GPU.

python tools/convert_checkpoint.py import HF_FOLDER CHECKPOINTS
python tools/convert_checkpoint.py export CHECKPOINTS HF_FOLDER --tokenizer HF_FOLDER
python tools/convert_checkpoint.py verify CHECKPOINTS HF_FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from megatron_ipt.convert.checkpoint.find import find_checkpoint
from megatron_ipt.convert.commands import TYPES, export_model, import_model
from megatron_ipt.convert.verify import verify
from megatron_ipt.errors import INTERRUPTED_STATUS, UserError
from megatron_ipt.extensions import load_registered_extensions
from megatron_ipt.progress import configure_logging


def main() -> int:
    arguments = vars(_parser().parse_args())
    configure_logging()
    command = arguments.pop("command")
    try:
        load_registered_extensions()
        result = _COMMANDS[command](**arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted; rerun the same command to resume", file=sys.stderr)
        return INTERRUPTED_STATUS
    print(json.dumps(result, indent=2))
    return 0


def _verify(checkpoint: str, folder: str, iteration: int | None, text: str | None, tensors_only: bool) -> dict:
    found = find_checkpoint(Path(checkpoint), iteration)
    return verify(found, Path(folder), logits=not tensors_only, text=Path(text) if text else None)


_COMMANDS = {"import": import_model, "export": export_model, "verify": _verify}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    importing = commands.add_parser("import", help="Hugging Face folder to CHECKPOINTS/release")
    importing.add_argument("folder")
    importing.add_argument("checkpoints")
    importing.add_argument("--make-vocab-size-divisible-by", type=int, default=128)
    _common(importing)

    exporting = commands.add_parser("export", help="checkpoint to a new Hugging Face folder")
    exporting.add_argument("checkpoint", help="iter_* folder, or the folder with its tracker file")
    exporting.add_argument("folder")
    exporting.add_argument("--iteration", type=int, help="iteration to export; default: the latest complete checkpoint")
    exporting.add_argument("--max-shard-size", default="5GB")
    exporting.add_argument("--tokenizer", help="Hugging Face folder to copy tokenizer and special token ids from")
    exporting.add_argument("--family", help="model family, for checkpoints written by Megatron-LM; inferred by default")
    exporting.add_argument("--vocab-size", type=int, help="vocabulary size, for checkpoints written by Megatron-LM")
    _common(exporting)

    verifying = commands.add_parser("verify", help="compare tensors and logits of both models")
    verifying.add_argument("checkpoint")
    verifying.add_argument("folder")
    verifying.add_argument("--iteration", type=int)
    verifying.add_argument("--text", help="text file to compare logits on; default: random tokens")
    verifying.add_argument("--tensors-only", action="store_true", help="do not compare logits")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=TYPES, default="auto", help="data type of the written weights")
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")
    parser.add_argument("--workers", type=int, default=2, help="number of threads")
    parser.add_argument("--allow-not-finite", action="store_true", help="convert even if weights are NaN or infinite")
    parser.add_argument("--verify", action="store_true", help="compare tensors and logits afterwards")
    parser.add_argument("--text", help="text file to compare logits on; default: random tokens")


if __name__ == "__main__":
    sys.exit(main())
