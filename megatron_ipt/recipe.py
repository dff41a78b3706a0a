"""The recipe: one YAML file, a section per stage, the same on a laptop and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.config import as_dict, key, load
from megatron_ipt.convert.config import ExportConfig
from megatron_ipt.corpus.config import CorpusConfig
from megatron_ipt.evaluation.config import EvaluationConfig
from megatron_ipt.extensions import load_extensions
from megatron_ipt.files import COMPRESSIONS, atomic_open
from megatron_ipt.report.config import ReportConfig
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.tokens.config import TokensConfig
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.tuning.config import TuningConfig


@dataclass
class Recipe:
    name: str = key("run", "Name of the run, for titles and the model card.")
    output_dir: str = key(
        "runs/${name}", "Folder of everything the run writes, one folder a stage.", affects_output=False
    )
    seed: int = key(1234, "Every random choice derives from it.", minimum=0)
    compression: str = key("zst", "Of the JSON Lines that pass between stages.", choices=tuple(COMPRESSIONS))
    extensions: list[str] = key(
        [],
        "Python files or modules of yours, imported first, that add model families, presets, readers or engines.",
        affects_output=False,
    )
    corpus: CorpusConfig = key(CorpusConfig, "Raw documents.")
    synthesis: SynthesisConfig = key(SynthesisConfig, "Instruction–response pairs.")
    augment: AugmentConfig = key(AugmentConfig, "Texts and pairs as documents.")
    tokens: TokensConfig = key(TokensConfig, "Tokenizer and indexed datasets.")
    tuning: TuningConfig = key(TuningConfig, "Data to tune a synthesizer or a chat model on, instead of a corpus.")
    training: TrainingConfig = key(TrainingConfig, "Training, with the loss of all tokens or of the masked-in ones.")
    export: ExportConfig = key(ExportConfig, "Hugging Face folder.")
    evaluation: EvaluationConfig = key(EvaluationConfig, "What the model can do.")
    report: ReportConfig = key(ReportConfig, "The page about the run.")

    def __post_init__(self) -> None:
        # Before values are checked against the tables that extensions add to.
        load_extensions(self.extensions, "extensions")
        self.tokens = self.tokens.inherit(self.corpus)
        self.evaluation = self.evaluation.inherit(self.corpus)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.corpus.inputs and self.tuning.datasets:
            yield "tuning.datasets", "given beside corpus.inputs; a recipe either pre-trains on a corpus or tunes"
        if not self.corpus.inputs and not self.tuning.datasets:
            yield "corpus.inputs", "is empty; name at least one file or folder (or data to tune on in tuning.datasets)"


def load_recipe(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """Reads a recipe and ``section.key=value`` overrides.

    Raises:
        RecipeError: lists everything wrong with it.
    """
    return load(Recipe, path, overrides)


SAVED_RECIPE = "recipe.yaml"
"""In the folder of a run: the recipe as it was resolved when the run began."""


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the recipe as it was resolved, every key included."""
    import yaml

    with atomic_open(path) as stream:
        stream.write(yaml.safe_dump(as_dict(recipe), sort_keys=False, allow_unicode=True).encode())
