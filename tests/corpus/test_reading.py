"""The one reader, as every door uses it."""

from __future__ import annotations

import json

import pytest

from megatron_ipt.config import describe, load
from megatron_ipt.corpus.config import CorpusConfig, ReadOverrides
from megatron_ipt.corpus.documents import Document
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.corpus.reading import DocumentReader, input_files, input_fingerprints, open_rejects, read_documents
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.rejects import Rejects


@pytest.fixture
def folder(tmp_path):
    """Two folders of JSON Lines, a plain text and an empty file."""
    for name, content in (
        ("law/a.jsonl", [{"id": "1", "text": "one"}, {"id": "2", "text": "two", "domain": "tax"}]),
        ("code/b.jsonl", [{"id": "3", "text": "three"}]),
    ):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text("".join(f"{json.dumps(record)}\n" for record in content))
    (tmp_path / "c.txt").write_text("four")
    (tmp_path / "empty.jsonl").touch()
    return tmp_path


@pytest.fixture
def read(folder):
    def read_it(*inputs, **settings):
        options = ReadOptions(**settings)
        with open_rejects(folder / "rejects.jsonl", options) as rejects:
            return list(read_documents([str(folder / entry) for entry in inputs], options, rejects))

    return read_it


def test_documents_of_all_files_in_order(read):
    assert read("law", "c.txt", "code/*.jsonl") == [
        Document("1", "one"), Document("2", "two"), Document("c.txt:1", "four"), Document("3", "three")
    ]  # fmt: skip


def test_domains_by_input_and_by_record(read, folder):
    domains = {"law": [str(folder / "law")], "other": [str(folder / "law/a.jsonl"), f"{folder}/*.txt"]}
    found = read("law", "c.txt", "code", domain_key="domain", domains=domains)
    assert [document.domain for document in found] == ["law", "tax", "other", ""]


def test_a_domain_of_other_files_is_a_mistake(read, folder):
    with pytest.raises(InputError, match=r"corpus\.domains\.law: .*/law: matches none of the files in corpus\.inputs"):
        read("code", domains={"law": [str(folder / "law")]})
    with pytest.raises(InputError, match=r"tokens\.sources\.x\.domains\.law: .*/lwa: no such file"):
        read("code", domains={"law": [str(folder / "lwa")]}, section="tokens.sources.x")


def test_a_link_is_the_file_that_it_leads_to(read, folder):
    (folder / "link").symlink_to(folder / "law")
    assert {document.domain for document in read("law", domains={"law": [str(folder / "link")]})} == {"law"}


def test_short_and_blank_documents_are_rejected(read, folder):
    (folder / "d.jsonl").write_text('{"text": " "}\n{"text": "ab"}\n{"text": "abc"}\n{"text": ""}\n')
    assert [document.text for document in read("d.jsonl", maximum_reject_share=1)] == ["ab", "abc"]
    assert [document.text for document in read("d.jsonl", maximum_reject_share=1, minimum_characters=3)] == ["abc"]
    with pytest.raises(
        InputError, match=r"2 of 4 records were rejected \(too short: 2\).*raise x\.maximum_reject_share"
    ):
        read("d.jsonl", maximum_reject_share=0.1, section="x")


def test_errors_name_the_door(folder):
    options = ReadOptions(section="tokens.sources.x")
    with pytest.raises(InputError, match=r"^tokens\.sources\.x\.inputs: .*none: no such file"):
        input_files([str(folder / "none")], options)
    with pytest.raises(InputError, match=r"^evaluation\.texts\.held: .*none: no such file"):
        input_files([str(folder / "none")], ReadOptions(section="evaluation.read"), "evaluation.texts.held")
    (folder / "x.pdf").touch()
    with pytest.raises(InputError, match=r"unknown format '\.pdf'; .*; tokens\.sources\.x\.reader takes a custom one"):
        input_files([str(folder / "x.pdf")], options)


def test_progress_and_empty_files(folder, caplog):
    options = ReadOptions()
    files = input_files([str(folder / "law"), str(folder / "empty.jsonl"), str(folder / "c.txt")], options)
    with Rejects(folder / "rejects.jsonl") as rejects:
        reader = DocumentReader(files, options, rejects)
        assert [(reader.place, reader.documents) for _ in reader] == [(1, 1), (1, 2), (3, 3)]
    assert reader.empty_files == [str(folder / "empty.jsonl")]
    assert "corpus: " in caplog.text and "empty.jsonl contains no documents" in caplog.text


def test_other_files_in_a_folder_are_skipped(folder, caplog):
    (folder / "law/x.pdf").touch()
    assert len(input_files([str(folder / "law")], ReadOptions())) == 1
    assert "corpus.inputs: 1 files of other formats skipped, e.g. " in caplog.text
    assert len(input_files([str(folder / "law")], ReadOptions(reader="m:f"))) == 2


def test_fingerprints_include_the_code_of_a_custom_reader(folder):
    code = folder / "custom.py"
    code.touch()
    prints = input_fingerprints([str(folder / "c.txt")], ReadOptions(reader=f"{code}:read"))
    assert [(print_["path"], print_.get("code", False)) for print_ in prints] == [
        (str(folder / "c.txt"), False), (str(code), True),
    ]  # fmt: skip


def test_settings_of_the_corpus_become_options():
    config = CorpusConfig(inputs=["x"], text_key="body", domain_key="kind", domains={"a": ["b"]}, reader="m:f")
    assert config.options() == ReadOptions(
        reader="m:f", text_key="body", domain_key="kind", domains={"a": ["b"]}, section="corpus"
    )
    assert CorpusConfig().options() == ReadOptions()


def test_overrides_inherit_what_they_leave_empty():
    corpus = CorpusConfig(text_key="body", id_key="key", minimum_characters=9, reader="m:f")
    overrides = ReadOverrides(id_key="uid", reader="")
    options = overrides.inherit(corpus).options("tokens.sources.x")
    assert options == ReadOptions(text_key="body", id_key="uid", minimum_characters=9, section="tokens.sources.x")
    assert overrides.options("x") == ReadOptions(id_key="uid", section="x")


def test_overrides_are_described_and_limited_like_the_keys_of_the_corpus():
    rows = {row[0]: row[1:] for row in describe(ReadOverrides)}
    assert rows["text_key"] == ("str | None", "", "Like corpus.text_key, its default.")
    assert rows["text_documents"][0] == "auto | file | heading | passage"
    with pytest.raises(RecipeError, match="minimum_characters: 0 is below the minimum 1"):
        load(ReadOverrides, None, ["minimum_characters=0"])
    assert {row[0] for row in describe(ReadOverrides)} <= {row[0] for row in describe(CorpusConfig)}


@pytest.mark.parametrize(
    ("override", "message"),
    [("domains.a=[]", r"domains\.a: is empty"), ('domains={"": [x]}', "domains: a name is empty")],
)
def test_domains_that_say_nothing(override, message):
    with pytest.raises(RecipeError, match=message):
        load(CorpusConfig, None, [override])
    assert load(CorpusConfig, None, ["domains.a=x"]).domains == {"a": ["x"]}
