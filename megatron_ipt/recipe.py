"""The recipe: one YAML file with a section per stage, the same on a laptop and on a cluster.

This module is the table of contents of the package: the only one above the rooms that lists them. A custom stage adds
its section to the recipe by registering (see :mod:`megatron_ipt.stages`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from megatron_ipt.augment import description as augment
from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.composition import description as composition
from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.config import UNREADABLE, as_dict, check, key, load, read_parts, schema
from megatron_ipt.convert import description as convert
from megatron_ipt.convert.config import ExportConfig
from megatron_ipt.corpus import description as corpus
from megatron_ipt.corpus.config import CorpusConfig
from megatron_ipt.decontamination import description as decontamination
from megatron_ipt.decontamination.config import DecontaminateConfig
from megatron_ipt.errors import RecipeError
from megatron_ipt.evaluation import description as evaluation
from megatron_ipt.evaluation.config import EvaluationConfig
from megatron_ipt.evaluation.judge.config import JudgeConfig
from megatron_ipt.extensions import load_extensions
from megatron_ipt.files import COMPRESSIONS, atomic_open
from megatron_ipt.report import description as report
from megatron_ipt.report.config import ReportConfig
from megatron_ipt.row_selection import description as row_selection
from megatron_ipt.row_selection.config import RowScoringConfig, RowSelectionConfig
from megatron_ipt.selection import description as selection
from megatron_ipt.selection.config import ScoringConfig, SelectionConfig
from megatron_ipt.selection.fitting.config import FittingConfig
from megatron_ipt.selection.proxy.config import ProxyConfig
from megatron_ipt.stages import Stage, all_stages, register, stages_of_sections
from megatron_ipt.synthesis import description as synthesis
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_taxonomy import description as taxonomy
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.tokens import description as tokens
from megatron_ipt.tokens.config import TokensConfig
from megatron_ipt.training import description as training
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.tuning import description as tuning
from megatron_ipt.tuning.config import TuningConfig

BUILT_IN = (
    corpus.STAGE,
    selection.PROXY,
    selection.FITTING,
    selection.SCORING,
    selection.SELECTION,
    taxonomy.STAGE,
    synthesis.STAGE,
    evaluation.JUDGE,
    decontamination.STAGE,
    *(room.STAGE for room in (augment, tokens, tuning)),
    row_selection.SCORING,
    row_selection.SELECTION,
    *(room.STAGE for room in (composition, training, convert, evaluation, report)),
)
"""The stages of the package, in the order of the flow."""

for _before, _stage in zip((None, *BUILT_IN), BUILT_IN):
    register(_stage, after=_before.name if _before else "")


@dataclass
class Recipe:
    name: str = key("run", "Name of the run, for titles and the model card.")
    output_dir: str = key(
        "runs/${name}", "Folder of everything the run writes, one folder per stage.", affects_output=False
    )
    seed: int = key(1234, "Every random choice derives from it.", minimum=0)
    compression: str = key("zst", "Of the JSON Lines that pass between stages.", choices=tuple(COMPRESSIONS))
    extensions: list[str] = key(
        [],
        "Your Python files or modules, imported first, that add model families, presets, readers, engines or stages.",
        affects_output=False,
    )
    skip: list[str] = key(
        [],
        "Stages to leave out, e.g. [evaluation, report]. A section given as null does the same.",
        affects_output=False,
    )
    corpus: CorpusConfig = key(CorpusConfig, "Raw documents.")
    proxy: ProxyConfig = key(ProxyConfig, "What training on documents of a sample does for a target (PDS).")
    fitting: FittingConfig = key(FittingConfig, "A scorer that learns from proxy scores (PDS).")
    scoring: ScoringConfig = key(ScoringConfig, "What models think of the documents.")
    selection: SelectionConfig = key(SelectionConfig, "Documents that are worth keeping.")
    taxonomy: TaxonomyConfig = key(TaxonomyConfig, "Instruction–response pairs from a taxonomy, instead of a corpus.")
    synthesis: SynthesisConfig = key(SynthesisConfig, "Instruction–response pairs.")
    judge: JudgeConfig = key(JudgeConfig, "Quality of the pairs, for the report.")
    decontaminate: DecontaminateConfig = key(DecontaminateConfig, "Test questions kept out of pairs and documents.")
    augment: AugmentConfig = key(AugmentConfig, "Texts and pairs as documents.")
    tokens: TokensConfig = key(TokensConfig, "Tokenizer and indexed datasets.")
    tuning: TuningConfig = key(TuningConfig, "Data to tune a synthesizer or a chat model on, instead of a corpus.")
    row_scoring: RowScoringConfig = key(RowScoringConfig, "What models think of rows of training tokens.")
    row_selection: RowSelectionConfig = key(RowSelectionConfig, "Rows that are worth training on.")
    composition: CompositionConfig = key(CompositionConfig, "Contexts of paragraphs that share a task.")
    training: TrainingConfig = key(TrainingConfig, "Training, on the loss of all tokens or of selected ones.")
    export: ExportConfig = key(ExportConfig, "Hugging Face folder.")
    evaluation: EvaluationConfig = key(EvaluationConfig, "What the model can do.")
    report: ReportConfig = key(ReportConfig, "The page about the run.")

    def __post_init__(self) -> None:
        # Built in Python, a recipe is resolved and checked as one that was read.
        self.output_dir = self.output_dir.replace("${name}", self.name)
        self.proxy = self.proxy.inherit(self.corpus)
        self.tokens = self.tokens.inherit(self.corpus)
        self.evaluation = self.evaluation.inherit(self.corpus)
        self.decontaminate = self.decontaminate.inherit(self.evaluation)
        if self.tuning.wanted():
            self.training.take_rows_of(self.tuning.seq_length)
        elif self.row_selection.wanted():
            scored = self.row_scoring.wanted()
            self.training.take_rows_of(self.row_scoring.seq_length if scored else self.row_selection.seq_length)
        if self.composition.wanted():
            self.training.take_rows_of(self.composition.seq_length)
        check(self)

    def problems(self) -> Iterator[tuple[str, str]]:
        names = [stage.name for stage in all_stages()]
        for name in self.skip:
            if name not in names:
                yield "skip", f"{name!r} is not a stage; the stages are {', '.join(names)}"
        try:
            stages = stages_of(self)
        except RecipeError as error:
            name, _, message = str(error).partition(": ")
            yield name, message
            return
        if not stages:
            begin = [stage.begins_with for stage in all_stages() if stage.begins_with]
            yield begin[0], f"is empty, and nothing else gives the recipe data; set one of {', '.join(begin)}"


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of this recipe, in order; which they are follows from its sections."""
    sections = {stage.name: getattr(recipe, stage.name) for stage in all_stages() if hasattr(recipe, stage.name)}
    return stages_of_sections(sections, recipe.skip)


def recipe_type() -> type[Recipe]:
    """:class:`Recipe` with the sections of all stages that are registered, those of extensions included."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    return _with_sections(tuple(stage for stage in all_stages() if stage.name not in known))


@lru_cache(maxsize=4)
def _with_sections(stages: tuple[Stage, ...]) -> type[Recipe]:
    added = [(stage.name, stage.config, key(stage.config, stage.help)) for stage in stages]
    return dataclasses.make_dataclass("Recipe", added, bases=(Recipe,)) if added else Recipe


def load_recipe(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and ``section.key=value`` overrides.

    Raises:
        RecipeError: lists everything wrong with it.
    """
    return load(recipe_type, path, list(overrides), _prepare)


def recipe_from(sections: Mapping[str, Any]) -> Recipe:
    """A recipe from nested mappings, as a YAML file would say it.

    Raises:
        RecipeError: lists everything wrong with it.
    """
    return load(recipe_type, sections, (), _prepare)


def load_extensions_of(path: str | Path, overrides: Sequence[str] = ()) -> None:
    """Imports the extensions that a recipe names, without looking at the rest of it.

    Raises:
        RecipeError: the recipe cannot be read, or an extension cannot be imported.
    """
    _load_extensions(read_parts(path, list(overrides)))


def _prepare(parts: list[DictConfig]) -> None:
    """Before values are checked: imports extensions, which add to what is known, and notes sections that are null."""
    _load_extensions(parts)
    names = {stage.name for stage in all_stages()}
    skip: dict[str, None] = {}
    for part in parts:
        if "skip" in part:
            skip = dict.fromkeys(_strings(_plain(part)["skip"]))
        for name in names & set(map(str, part)):
            node = part._get_node(name)
            if node is not None and node._is_none():
                skip[name] = None
                del part[name]
    if skip:
        parts.append(OmegaConf.create({"skip": sorted(skip)}))


def _load_extensions(parts: list[DictConfig]) -> None:
    try:
        named = OmegaConf.select(cast(DictConfig, OmegaConf.merge(*parts)), "extensions")
        names = _strings(list(named) if OmegaConf.is_list(named) else named)
    except UNREADABLE:
        # What is wrong with the value is found when types are checked.
        return
    load_extensions(names, "extensions")


def _plain(part: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(part, resolve=False))


def _strings(value: Any) -> list[str]:
    """The strings in a value that is a list of them or one by itself; other types are left to the check of types."""
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, str)]


SAVED_RECIPE = "recipe.yaml"
"""In the folder of a run: the recipe as it was resolved when the run began."""


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the recipe as it was resolved, every key included."""
    import yaml

    with atomic_open(path) as stream:
        stream.write(yaml.safe_dump(as_dict(recipe), sort_keys=False, allow_unicode=True).encode())


def defaults_of(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """Values of all keys of the section of ``stage`` where the recipe does not set them, as plain values.

    Keys that take their default from another section have what that section says.
    """
    others = {name: value for name, value in as_dict(recipe).items() if name != stage.name}
    merged = cast(DictConfig, OmegaConf.merge(schema(cast(Any, type(recipe))), others))
    return cast("dict[str, Any]", OmegaConf.to_container(merged[stage.name], resolve=True))


def section_of(recipe: Recipe, stage: Stage) -> Any:
    """The section of ``stage``, an instance of ``stage.config``."""
    return getattr(recipe, stage.name)
