"""What the scores of a scorer depend on besides the documents: its model, its tokenizer and its settings.

Scores of different models must never be mixed. Files are compared by size and a sampled hash, so that a checkpoint of
terabytes costs seconds; a model behind a server is known by its name alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.config import as_dict
from megatron_ipt.extensions import own_file
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import find_tokenizer
from megatron_ipt.manifest import fingerprint_code, fingerprint_file
from megatron_ipt.selection.config import LEARNED, ScorerConfig, ScoringConfig

_TRANSFORMERS = "transformers"
_ENGINE_SECTIONS = (_TRANSFORMERS, "megatron", "openai", "tensorrt_llm")


_LEARNED_ENGINE = "megatron_ipt.selection.fitting.engine:LearnedScorer"


def settings_of(name: str, scorer: ScorerConfig, section: str, fitted: Path | None = None) -> EngineSettings:
    """Settings of the engine of a scorer.

    Args:
        fitted: folder of the scorer that this recipe fits, for one whose section names none.
    """
    prefix = f"{section}.scorers.{name}"
    if scorer.engine != LEARNED:
        return EngineSettings.of(scorer, prefix, scoring=True)
    folder = scorer.generation.model or str(fitted or "")
    generation = replace(
        scorer.generation, model=folder, tokenizer=scorer.generation.tokenizer or (f"{folder}/trunk" if folder else "")
    )
    return EngineSettings(_LEARNED_ENGINE, generation, scorer.transformers, {}, prefix, scoring=True)


def fingerprints(config: ScoringConfig) -> list[dict[str, Any]]:
    """Fingerprints of the scorers of the stage ``scoring``; see :func:`fingerprints_of`."""
    return fingerprints_of(config.scorers, "scoring")


def fingerprints_of(scorers: dict[str, ScorerConfig], section: str) -> list[dict[str, Any]]:
    """One entry for each scorer, and the code of custom engines.

    A scorer that was added since makes a finished stage incomplete, not different.

    Raises:
        InputError: a tokenizer or a file of a model is not where the recipe says.
    """
    entries = [
        identity_of(settings_of(name, scorer, section), scorer) | {"adds": True} for name, scorer in scorers.items()
    ]
    files = dict.fromkeys(own_file(scorer.engine) for scorer in scorers.values())
    return [*entries, *(entry for file in files for entry in fingerprint_code(file))]


def identity_of(settings: EngineSettings, scorer: ScorerConfig) -> dict[str, Any]:
    """``{path, model, tokenizer, settings}``: hashes of the model, of its tokenizer and of the keys that matter."""
    keys = as_dict(scorer, only_output=True)
    for section in _ENGINE_SECTIONS:
        if section != (_TRANSFORMERS if scorer.engine == LEARNED else scorer.engine):
            del keys[section]
    return {
        "path": settings.prefix,
        "model": model_fingerprint(settings.generation.model),
        "tokenizer": tokenizer_fingerprint(settings),
        "settings": _hash(keys),
    }


def tokenizer_fingerprint(settings: EngineSettings) -> str:
    """Hash of the tokenizer's file; empty where there is none."""
    if not settings.tokenizer:
        return ""
    return str(fingerprint_file(find_tokenizer(settings.tokenizer, settings.key("generation.tokenizer")))["xxh128"])


def model_fingerprint(model: str) -> str:
    """Hash of the files of a model in a folder; the name of one that is elsewhere."""
    folder = Path(model)
    if not model or not folder.exists():
        return model
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    found = [(str(path.relative_to(folder)), _content(path)) for path in files]
    return _hash(found)


def _content(path: Path) -> list[Any]:
    printed = fingerprint_file(path)
    return [printed["bytes"], printed["xxh128"]]


def _hash(value: Any) -> str:
    return hashlib.blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
