"""A reader of your own: abstracts from the XML files of PubMed (``corpus.reader: examples/extensions/pubmed.py:read``).

A reader is a function from one file to its records. This one streams, so that a file of any size takes the same memory;
it opens files through the package, so that ``.gz``, ``.zst`` and addresses such as ``s3://`` work; an article that has
no abstract is counted in the rejects, and a file that breaks off is an error.
"""

from collections.abc import Iterator
from xml.etree import ElementTree

from megatron_ipt.corpus.inputs import InputFile
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.corpus.readers import Record
from megatron_ipt.errors import InputError
from megatron_ipt.files import open_bytes
from megatron_ipt.rejects import Rejects


def read(file: InputFile, options: ReadOptions, rejects: Rejects) -> Iterator[Record]:
    """Records of ``file``: the PubMed id, the abstract with a paragraph a section, and the title."""
    with open_bytes(file.path) as stream:
        try:
            for number, (_, article) in enumerate(_articles(stream), 1):
                identifier = article.findtext(".//PMID", default="")
                sections = [_text(section) for section in article.iterfind(".//Abstract/AbstractText")]
                text = "\n\n".join(section for section in sections if section)
                if text and identifier:
                    yield Record(f"pubmed:{identifier}", text, _text(article.find(".//ArticleTitle")))
                else:
                    rejects.add("no abstract" if identifier else "no PMID", file.path, number)
                article.clear()
        except ElementTree.ParseError as error:
            raise InputError(f"{file.path}: not readable as PubMed XML: {error}") from error


def _articles(stream) -> Iterator[tuple[str, ElementTree.Element]]:
    return (event for event in ElementTree.iterparse(stream) if event[1].tag == "PubmedArticle")


def _text(element: ElementTree.Element | None) -> str:
    # Formatting marks such as <i> and <sub> stand inside; only their text is wanted.
    return "" if element is None else " ".join("".join(element.itertext()).split())
