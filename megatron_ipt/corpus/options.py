"""How files become documents: the options that the reader takes, wherever it is used.

Settings of a recipe are turned into these: :class:`~megatron_ipt.corpus.config.CorpusConfig` for the corpus,
:class:`~megatron_ipt.corpus.config.ReadOverrides` for everything else that is read the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReadOptions:
    """Options of the reader.

    Attributes:
        reader: a custom reader, ``module:function`` or ``path/to/file.py:function``; empty for the built-in ones.
        text_key, id_key, title_key: fields or columns of a record.
        domain_key: field or column with the domain of a record; empty for none.
        domains: inputs (files, folders, patterns) by the domain of their documents. The first entry that a file
            matches counts; a domain in the record itself takes precedence.
        text_documents: ``auto``, ``file``, ``heading`` or ``passage``: what is one document of a plain text file.
        passage_characters: minimum length of such a passage.
        minimum_characters: shorter documents are rejected, and blank ones in any case.
        maximum_reject_share: of all records; see :class:`~megatron_ipt.rejects.Rejects`.
        section: recipe section of these options, for messages.
    """

    reader: str = ""
    text_key: str = "text"
    id_key: str = "id"
    title_key: str = "title"
    domain_key: str = ""
    domains: Mapping[str, Sequence[str]] = field(default_factory=dict)
    text_documents: str = "auto"
    passage_characters: int = 2000
    minimum_characters: int = 1
    maximum_reject_share: float = 0.05
    section: str = "corpus"
