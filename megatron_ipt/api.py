"""The Python API: ``import megatron_ipt as mi``.

Small on purpose. Every function is one step of the flow, usable on its own, and calls the same code as the stages do::

    import megatron_ipt as mi

    documents = mi.read_documents("my_texts/")
    chains = mi.make_pairs(documents)                      # or engine="openai", generation={...}
    texts = [document.text for document in mi.render(chains)]

    recipe = mi.build_recipe(name="mine", corpus={"inputs": ["my_texts/"]}, training={"steps": 100})
    run = mi.run(recipe)
    with mi.load_model(run.model) as model:
        print(model.generate("The bridge", max_new_tokens=20))

Settings are those of the recipe, as nested mappings or keyword arguments. Everything is checked when it is built, and
errors are the same :class:`UserError` that the command line shows. Progress is shown on terminals and in notebooks.
Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ipt.config import load
from megatron_ipt.errors import InputError, UserError as UserError
from megatron_ipt.recipe import Recipe, load_recipe as load_recipe, recipe_from

if TYPE_CHECKING:
    from megatron_ipt.augment.render import Rendered
    from megatron_ipt.corpus.documents import Document
    from megatron_ipt.evaluation.loaded_model import LoadedModel
    from megatron_ipt.synthesis.pairs import Chain
    from megatron_ipt.tokens.dataset.indexed import IndexedReader
    from megatron_ipt.tokens.tokenizer.interface import Tokenizer

logger = logging.getLogger(__name__)

_SHARD_DOCUMENTS = 1000


def read_documents(
    inputs: str | Path | Sequence[str | Path], *, rejects: str | Path | None = None, **settings: Any
) -> Iterator[Document]:
    """Documents of files, folders, glob patterns or URLs, streamed, read as a recipe's ``corpus.inputs`` is.

    Args:
        inputs: what to read.
        rejects: file for records that cannot be used; by default they are only counted in a warning.
        settings: further keys of the recipe section ``corpus``, e.g. ``text_key="content"``.

    Raises:
        InputError: nothing is there, a format is unknown, or too many records cannot be used.
        RecipeError: a setting is wrong.
    """
    from megatron_ipt.corpus.config import CorpusConfig
    from megatron_ipt.corpus.reading import open_rejects, read_documents as read

    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    config = load(CorpusConfig, {"inputs": [str(path) for path in paths], **settings})

    def documents() -> Iterator[Document]:
        with tempfile.TemporaryDirectory(prefix="megatron-ipt-rejects-") as folder:
            with open_rejects(Path(rejects or Path(folder) / "rejects.jsonl"), config.options()) as rejected:
                yield from read(config.inputs, config.options(), rejected, "read_documents")
            if rejected.count and not rejects:
                logger.warning(
                    "read_documents: %d records could not be used (%s); pass rejects=FILE to keep them",
                    rejected.count,
                    ", ".join(rejected.reasons),
                )

    return documents()


def make_pairs(
    documents: Iterable[Document | str],
    engine: str = "mined",
    *,
    seed: int = 1234,
    directory: str | Path | None = None,
    **settings: Any,
) -> list[Chain]:
    """Instruction–response pairs for documents, by any engine.

    Args:
        documents: documents, or texts.
        engine: as in ``synthesis.engine``: ``mined``, ``pseudo_labels``, ``transformers``, ``openai``,
            ``tensorrt_llm``, ``module:Class``.
        seed: every random choice derives from it.
        directory: where to keep the work, so that an interrupted call resumes; by default nothing is kept.
        settings: further keys of the section ``synthesis``, e.g. ``generation={"model": "models/synthesizer"}``.

    Returns:
        Chains of texts with their pairs, in the order of the documents.

    Raises:
        RecipeError: a setting is wrong, or ``directory`` holds the work of other documents or settings.
        StageError: the engine failed.
    """
    from megatron_ipt.synthesis.config import SynthesisConfig
    from megatron_ipt.synthesis.in_memory import chains_of

    config = load(SynthesisConfig, {"engine": engine, **settings})
    return chains_of(_as_documents(documents), config, seed, None if directory is None else Path(directory))


def render(chains: Iterable[Chain], *, seed: int = 1234, **settings: Any) -> Iterator[Rendered]:
    """Texts and pairs formatted as documents, by templates.

    Args:
        seed: of the choice of layouts and wordings; a document depends on it and on its own id alone.
        settings: keys of the recipe section ``augment``, e.g. ``layout_weights={"plain": 1.0}``.

    Yields:
        One document per chain: its ``text``, and its ``segments`` as (kind, string).

    Raises:
        RecipeError: a setting or a template is wrong.
    """
    from megatron_ipt.augment.config import AugmentConfig
    from megatron_ipt.augment.render import render as render_chain
    from megatron_ipt.augment.templates import load_templates

    templates = load_templates(load(AugmentConfig, settings))
    return (render_chain(chain, templates, seed) for chain in chains)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A SentencePiece BPE tokenizer trained on ``texts``.

    Args:
        vocab_size: pieces, control tokens included; fewer where the texts do not yield as many.

    Raises:
        InputError: there is too little text.
    """
    from megatron_ipt.tokens.tokenizer.sentencepiece_model import train_sentencepiece

    return train_sentencepiece((line for text in texts for line in text.splitlines() if line), vocab_size)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer from a folder with ``tokenizer.json`` or ``tokenizer.model``, or from a ``.model`` file.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    from megatron_ipt.tokens.tokenizer.loading import open_tokenizer
    from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer

    return SentencePieceTokenizer.read(path) if Path(path).is_file() else open_tokenizer(path)


def write_dataset(
    prefix: str | Path, texts: Iterable[str], tokenizer: Tokenizer, *, prepend_bos: bool = True, append_eod: bool = True
) -> IndexedReader:
    """Texts as a Megatron indexed dataset ``PREFIX.bin`` and ``PREFIX.idx``, one document each; returns it opened.

    Args:
        prefix: path without suffix. Both files appear when they are complete.
        prepend_bos: begin every document with BOS, where the tokenizer has one.
        append_eod: end every document with the end-of-document token.

    Raises:
        StorageError: the files could not be written.
    """
    import numpy as np

    from megatron_ipt.tokens.dataset.indexed import IndexedWriter, smallest_dtype

    head = [tokenizer.bos_id] if prepend_bos and tokenizer.bos_id is not None else []
    tail = [tokenizer.eod_id] if append_eod else []
    with IndexedWriter(prefix, smallest_dtype(tokenizer.vocab_size)) as writer:
        for batch in _batches(iter(texts), _SHARD_DOCUMENTS):
            documents = [np.array([*head, *ids, *tail]) for ids in tokenizer.encode(batch)]
            lengths = np.array([len(document) for document in documents], np.int32)
            writer.add(np.concatenate(documents), lengths)
    return open_dataset(prefix)


def open_dataset(prefix: str | Path) -> IndexedReader:
    """A Megatron indexed dataset, memory-mapped: ``len(dataset)`` documents, ``dataset[i]`` their ids.

    Raises:
        InputError: files are missing or damaged.
    """
    from megatron_ipt.tokens.dataset.indexed import IndexedReader

    return IndexedReader(prefix)


def build_recipe(**sections: Any) -> Recipe:
    """A recipe from its sections, checked as a whole: ``build_recipe(corpus={"inputs": ["texts/"]}, ...)``.

    Raises:
        RecipeError: lists everything wrong with it.
    """
    return recipe_from(sections)


@dataclass(frozen=True)
class Run:
    """A run of a recipe.

    Attributes:
        folder: of everything the run wrote.
        counts: what each finished stage counted, by name.
        results: what a run is for, by name, as far as it is there: ``model``, ``report``.
    """

    folder: Path
    counts: Mapping[str, Mapping[str, Any]]
    results: Mapping[str, Path]

    @property
    def model(self) -> Path:
        """The Hugging Face folder.

        Raises:
            InputError: the run has not written one.
        """
        if "model" not in self.results:
            raise InputError(f"{self.folder}: no model was exported; run the recipe to its end, or up to that stage")
        return self.results["model"]


def run(recipe: Recipe, *, until: str | None = None, overwrite: bool = False) -> Run:
    """Runs the stages of a recipe in order; finished ones are skipped, interrupted ones resume.

    Args:
        until: last stage to run.
        overwrite: discard output of other settings or inputs instead of refusing to continue.

    Raises:
        UserError: with the reason; see the subclasses in :mod:`megatron_ipt.errors`.
    """
    from megatron_ipt.pipeline import run_recipe

    run_recipe(recipe, overwrite, until)
    return status(recipe)


def status(recipe: Recipe) -> Run:
    """What a run of ``recipe`` has made so far. Runs nothing."""
    from megatron_ipt.pipeline import results_of, status_of

    return Run(
        folder=Path(recipe.output_dir),
        counts={row["stage"]: row["counts"] for row in status_of(recipe) if row["status"] == "complete"},
        results=results_of(recipe),
    )


def load_model(path: str | Path, *, tokenizer: str | Path | None = None, precision: str = "fp32") -> LoadedModel:
    """A model to look at: logits, scores of texts, generation. Several may be open in one process.

    Args:
        path: a Hugging Face folder, or a Megatron-Core checkpoint: an ``iter_*`` folder or the folder above it.
        tokenizer: folder of the tokenizer; by default the model's own, or for a checkpoint of a run that of the run.
        precision: ``fp32`` or ``bf16``.

    Returns:
        A context manager with the methods ``logits``, ``score`` and ``generate``.

    Raises:
        InputError: there is no model, or no tokenizer.
    """
    from megatron_ipt.evaluation.loaded_model import load_model as load_any

    return load_any(Path(path), None if tokenizer is None else Path(tokenizer), precision)


def _as_documents(documents: Iterable[Document | str]) -> Iterator[Document]:
    from megatron_ipt.corpus.documents import Document

    for number, document in enumerate(documents):
        yield Document(str(number), document) if isinstance(document, str) else document


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    from itertools import islice

    while batch := list(islice(items, size)):
        yield batch
