"""A custom reader: abstracts from the XML files of PubMed (``corpus.reader: examples/extensions/pubmed.py:read``).

A reader is a function that turns one file into records. This one streams, so that memory does not grow with the file;
it opens files through the package, so that ``.gz``, ``.zst`` and URLs such as ``s3://`` work; an article without an
abstract is counted in the rejects, and a truncated file is an error.
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
    """Records of ``file``: the PubMed id, the abstract with one paragraph per section, and the title."""
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
    # Without formatting marks such as <i> and <sub> inside.
    return "" if element is None else " ".join("".join(element.itertext()).split())
