"""Cost model of the stage: how much text there is, counted if the stage has run, else estimated from the input files.

The stage is one process; its rate was measured on JSON Lines of English text.
"""

from __future__ import annotations

from megatron_ipt.corpus.config import CorpusConfig
from megatron_ipt.corpus.reading import input_files
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.stages.costs import CHARACTERS_PER_TOKEN, Documents, Estimate, Planning, StageCost, bytes_of_text
from megatron_ipt.stages.readable import compact

MB_PER_SECOND = 20.0


def cost(config: CorpusConfig, planning: Planning) -> Estimate:
    """Time, storage and size of the corpus.

    Raises:
        UnknownSize: the input files are not here and nothing else says how much text there is.
    """
    size, source = _size(config, planning)
    return Estimate(
        costs=(StageCost.on_cores("corpus", size.tokens, 1, MB_PER_SECOND),),
        makes={DOCUMENTS: size},
        storage_gb={"corpus": planning.shard_gb(size.tokens)},
        data=f"{compact(size.documents)} documents, {compact(size.tokens)} tokens ({source})",
        facts={"data": {"documents": size.documents, "tokens": size.tokens, "source": source}},
    )


def _size(config: CorpusConfig, planning: Planning) -> tuple[Documents, str]:
    given, counts = planning.assumptions.documents, planning.counts
    length = planning.assumptions.tokens_per_document
    if given is not None:
        documents, source = float(given), "documents as given"
    elif counts:
        documents = float(counts["documents"])
        length = counts["characters"] / CHARACTERS_PER_TOKEN / max(documents, 1)
        source = "documents and characters as counted by the corpus stage"
    elif (
        size := bytes_of_text(lambda: [file.path for file in input_files(config.inputs, config.options())])
    ) is not None:
        documents = size / CHARACTERS_PER_TOKEN / length * (config.slice[1] - config.slice[0])
        source = "size of corpus.inputs"
    else:
        beginning = planning.begin("corpus.inputs is not here")
        documents, source = beginning.documents, beginning.source
    return Documents(documents, length, config.synthesis_share), source


def _paths(config: CorpusConfig) -> list[str]:
    return [file.path for file in input_files(config.inputs, config.options())]
