from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from megatron_ipt.config import check as check_section, load
from megatron_ipt.corpus.config import CorpusConfig
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.files import atomic_jsonl, read_json
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import AUGMENTED, DOCUMENTS
from megatron_ipt.tokenizer_readers import special_tokens
from megatron_ipt.tokens import encode
from megatron_ipt.tokens.config import SourceConfig, TokenizerConfig, TokensConfig
from megatron_ipt.tokens.dataset.indexed import IndexedReader
from megatron_ipt.tokens.dataset.inspection import inspect
from megatron_ipt.tokens.dataset.verify import verify
from megatron_ipt.tokens.stage import check, fingerprints, run
from megatron_ipt.tokens.tokenizer.loading import open_tokenizer

SPLITS = ["train"] * 8 + ["valid", "test"]


def shard(path, name, count):
    with atomic_jsonl(path) as writer:
        for number in range(count):
            text = f"{name} document {number}: the quick brown fox jumps over {number} lazy dogs."
            writer.write({"id": f"{name}:{number}", "text": text, "split": SPLITS[number % 10]})


@pytest.fixture
def context(tmp_path):
    shard(tmp_path / "augment/augmented/shard-00000.jsonl", "augmented", 30)
    shard(tmp_path / "augment/plain/shard-00000.jsonl", "plain", 10)
    shard(tmp_path / "corpus/raw/shard-00000.jsonl", "raw", 40)
    shard(tmp_path / "corpus/raw/shard-00001.jsonl", "more", 20)
    inputs = {DOCUMENTS: tmp_path / "corpus", AUGMENTED: tmp_path / "augment"}
    return StageContext("tokens", tmp_path / "tokens", 1, inputs)


def settings(**values):
    return TokensConfig(tokenizer=TokenizerConfig(vocab_size=400), **values)


def texts(context, prefix):
    tokenizer = open_tokenizer(context.directory / "tokenizer")
    reader = IndexedReader(context.directory / prefix)
    documents = [reader[i].tolist() for i in range(len(reader))]
    assert all(ids[0] == 1 and ids[-1] == 2 and not {1, 2} & set(ids[1:-1]) for ids in documents)
    return [tokenizer.decode(ids[1:-1]) for ids in documents]


def test_every_document_of_every_source_is_there_once(context):
    counts = run(settings(), context)
    train = texts(context, "train")
    assert len(train) == len(set(train)) == 80
    assert {text.split()[0] for text in train} == {"augmented", "plain", "raw", "more"}
    assert len(texts(context, "valid-augmented")) == 3
    assert len(texts(context, "valid-raw")) == 7
    assert len(texts(context, "test-raw")) == 7
    assert counts["train"]["documents"] == 80
    assert counts["train_by_source"]["augmented"]["documents"] == 24
    assert not (context.directory / "parts").exists()


def test_dataset_json_describes_it(context):
    run(settings(), context)
    dataset = read_json(context.directory / "dataset.json")
    assert dataset["dtype"] == "uint16"
    assert (dataset["bos_id"], dataset["eod_id"], dataset["pad_id"]) == (1, 2, None)
    (train,) = dataset["train"]
    assert train["tokens"] == IndexedReader(context.directory / "train").offsets[-1]
    assert [entry["name"] for entry in dataset["valid"]] == ["augmented", "raw"]
    sources = np.load(context.directory / "train.sources.npy")
    assert np.bincount(sources).tolist() == [24, 56]


def test_megatron_core_samples_it(context):
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    run(settings(), context)
    dataset = indexed.IndexedDataset(str(context.directory / "train"))
    assert len(dataset) == 80
    assert dataset[0][0] == 1


def test_shares_are_met_and_what_is_left_out_is_counted(context):
    sources = {"augmented": SourceConfig(share=0.5), "raw": SourceConfig(share=0.5)}
    counts = run(settings(sources=sources), context)
    by_source = counts["train_by_source"]
    assert abs(by_source["augmented"]["tokens"] - by_source["raw"]["tokens"]) < 60
    assert by_source["augmented"]["documents"] + by_source["augmented"]["left_out_documents"] == 24
    assert by_source["raw"]["documents"] + by_source["raw"]["left_out_documents"] == 56


def test_separate_datasets_with_weights(context):
    run(settings(mix="separate"), context)
    entries = {entry["name"]: entry for entry in read_json(context.directory / "dataset.json")["train"]}
    assert sum(entry["weight"] for entry in entries.values()) == pytest.approx(1)
    assert len(texts(context, entries["raw"]["prefix"])) == 56


def test_a_further_source_is_read_from_files_and_repeated(context, tmp_path):
    lines = [json.dumps({"text": f"general instruction {number}"}) for number in range(30)] + ["{"]
    (tmp_path / "general.jsonl").write_text("\n".join(lines))
    sources = {"raw": SourceConfig(), "general": SourceConfig(inputs=[str(tmp_path / "general.jsonl")], repeat=3)}
    counts = run(settings(sources=sources), context)
    train = [text for text in texts(context, "train") if text.startswith("general")]
    assert len(train) == 3 * len(set(train)) > 75
    assert counts["rejected"] == {"general": 1}


def general(path, count, **record):
    path.write_text("".join(json.dumps({"body": f"general text {n}", **record}) + "\n" for n in range(count)))
    return path


def test_a_source_is_read_like_the_corpus(context, tmp_path):
    """60 of 60 records were rejected, after hours of synthesis, where the corpus has a text_key of its own."""
    path = general(tmp_path / "general.jsonl", 60)
    corpus = CorpusConfig(text_key="body", valid_share=0)
    config = settings(sources={"raw": SourceConfig(), "general": SourceConfig(inputs=[str(path)])}).inherit(corpus)
    counts = run(config, context)
    assert counts["train_by_source"]["general"]["documents"] == 60
    assert counts["rejected"] == {}
    assert [entry["name"] for entry in read_json(context.directory / "dataset.json")["valid"]] == ["raw"]


def test_a_source_may_be_read_otherwise(context, tmp_path):
    path = general(tmp_path / "general.jsonl", 60)
    source = SourceConfig(inputs=[str(path)], text_key="body", valid_share=0.3, test_share=0.3)
    config = settings(sources={"general": source}).inherit(CorpusConfig(text_key="text", valid_share=0))
    counts = run(config, context)
    assert sum(counts[split]["documents"] for split in ("train", "valid", "test")) == 60
    assert min(counts["valid"]["documents"], counts["test"]["documents"]) > 5


def test_errors_name_the_source(context, tmp_path):
    path = general(tmp_path / "general.jsonl", 10)
    message = r"10 of 10 records were rejected .* raise tokens\.sources\.general\.maximum_reject_share"
    with pytest.raises(InputError, match=message):
        run(settings(sources={"general": SourceConfig(inputs=[str(path)])}), context)
    missing = settings(sources={"general": SourceConfig(inputs=[str(tmp_path / "none.jsonl")])})
    for early in (check, fingerprints):
        with pytest.raises(InputError, match=r"^tokens\.sources\.general\.inputs: .*none\.jsonl: no such file"):
            early(missing)
    custom = settings(sources={"general": SourceConfig(inputs=[str(path)], reader="no_such_module:read")})
    with pytest.raises(RecipeError, match=r"^tokens\.sources\.general\.reader: no_such_module cannot be imported"):
        check(custom)


def test_domains_of_sources_are_counted(context, tmp_path):
    law, code = general(tmp_path / "law.jsonl", 10, kind="tax"), general(tmp_path / "code.jsonl", 10)
    inputs = [str(law), str(code), str(general(tmp_path / "rest.jsonl", 10))]
    source = SourceConfig(inputs=inputs, text_key="body", domain_key="kind", domains={"code": [str(code)]})
    counts = run(settings(sources={"raw": SourceConfig(), "general": source}), context)
    documents = {name: domain["documents"] for name, domain in counts["domains"]["general"].items()}
    assert documents == {"tax": 10, "code": 10, "(none)": 10}
    assert counts["domains"]["general"]["tax"]["characters"] == 140
    assert "raw" not in counts["domains"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sources.raw.text_key=body", "sources.raw.text_key: applies to the files of a source, but inputs is empty"),
        ("sources.raw.valid_share=0", "sources.raw.valid_share: applies to the files of a source, but inputs is empty"),
        ("sources.x={inputs: [a], valid_share: 0.7, test_share: 0.3}", "sources.x.valid_share: valid_share and test_"),
        ("sources.a/b.inputs=[x]", "sources.a/b: the name becomes part of file names"),
        ("sources.x.share=2", "sources.x.share: 2.0 is above the maximum 1"),
    ],
)
def test_settings_of_sources_that_do_nothing_or_cannot_be(override, message):
    with pytest.raises(RecipeError) as caught:
        load(TokensConfig, None, [override])
    assert str(caught.value).startswith(message)


def test_workers_and_order_change_nothing(context):
    run(settings(workers=2), context)
    first = (context.directory / "train.bin").read_bytes()
    context.directory = context.directory.with_name("again")
    run(settings(), context)
    assert (context.directory / "train.bin").read_bytes() == first


def test_an_interrupted_run_continues_at_the_next_shard(context, monkeypatch):
    encoded = []
    original = encode.encode_items

    def interrupt_at_third(items, prefix_of, encoding):
        encoded.append(prefix_of("train"))
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return original(items, prefix_of, encoding)

    monkeypatch.setattr(encode, "encode_items", interrupt_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(settings(), context)
    assert not (context.directory / "dataset.json").exists()
    run(settings(), context)
    # Four shards; the third was begun twice.
    assert len(encoded) == 5
    assert len(texts(context, "train")) == 80


def test_a_given_tokenizer_is_used_as_it_is(context, tmp_path):
    run(settings(), context)
    model = context.directory / "tokenizer" / "tokenizer.model"
    for kind, path in (("sentencepiece", model), ("huggingface", model.parent)):
        context.directory = tmp_path / kind
        run(TokensConfig(tokenizer=TokenizerConfig(kind=kind, path=str(path))), context)
    assert (tmp_path / "huggingface/train.bin").read_bytes() == (tmp_path / "tokens/train.bin").read_bytes()


def test_no_documents_at_all(tmp_path):
    inputs = {DOCUMENTS: tmp_path / "corpus", AUGMENTED: tmp_path / "augment"}
    with pytest.raises(InputError, match="the sources hold no documents"):
        run(settings(), StageContext("tokens", tmp_path / "tokens", 1, inputs))


def test_a_share_of_an_empty_source_is_refused(context, tmp_path):
    context.inputs[AUGMENTED].rename(tmp_path / "elsewhere")
    sources = {"augmented": SourceConfig(share=0.5), "raw": SourceConfig(share=0.5)}
    with pytest.raises(InputError, match=r"tokens\.sources\.augmented\.share: 0\.5, but the source holds no tokens"):
        run(settings(sources=sources), context)


def test_shares_of_the_work_are_joined_by_a_last_run(context, tmp_path):
    run(settings(), context)
    expected = (context.directory / "train.bin").read_bytes()
    context.directory = tmp_path / "shared"
    context.directory.mkdir()
    assert [run(settings(), context, shard=(index, 3))["parts"] for index in (2, 0, 1)] == [1, 2, 1]
    assert not (context.directory / "dataset.json").exists()
    parts = {path.name: path.stat().st_mtime_ns for path in (context.directory / "parts").glob("*.bin")}
    assert len(list((context.directory / "parts").glob("*.done.json"))) == 4
    run(settings(), context)
    assert (context.directory / "train.bin").read_bytes() == expected
    assert parts


def test_processes_that_begin_together_make_one_tokenizer(context):
    program = (
        "import pickle, sys; from megatron_ipt.tokens.stage import run; "
        "run(*pickle.loads(bytes.fromhex(sys.argv[1])), shard=(int(sys.argv[2]), 3))"
    )
    context.directory.mkdir()
    arguments = pickle.dumps((settings(), context)).hex()
    processes = [subprocess.Popen([sys.executable, "-c", program, arguments, str(index)]) for index in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    run(settings(), context)
    assert len(texts(context, "train")) == 80


def test_what_is_written_is_sound_and_says_so(context):
    run(settings(), context)
    dataset = read_json(context.directory / "dataset.json")
    for entry in (*dataset["train"], *dataset["valid"], *dataset["test"]):
        found = verify(context.directory / entry["prefix"])
        assert found["problems"] == []
        assert found["checked"][-2:] == ["ids", "checksums"]
    found = inspect(context.directory / "train")
    assert set(found["sources"]) == {"augmented", "raw"}
    assert "⟦BOS⟧" in found["samples"][0]["text"]


@pytest.mark.parametrize("engine", ["gigatoken", "sentencepiece"])
def test_engines_write_the_same(context, tmp_path, engine):
    run(settings(), context)
    expected = (context.directory / "train.bin").read_bytes()
    context.directory = tmp_path / engine
    run(TokensConfig(tokenizer=TokenizerConfig(vocab_size=400, engine=engine)), context)
    assert (context.directory / "train.bin").read_bytes() == expected
    assert read_json(context.directory / "dataset.json")["engine"] == engine


def test_documents_without_text_are_counted_and_left_out(context, tmp_path):
    with atomic_jsonl(tmp_path / "corpus/raw/shard-00009.jsonl") as writer:
        writer.write({"id": "empty", "text": "", "split": "train"})
    counts = run(settings(), context)
    assert counts["empty_documents"] == 1
    assert counts["train"]["documents"] == len(texts(context, "train")) == 80


def test_a_data_type_of_choice(context):
    run(settings(dtype="int32"), context)
    assert IndexedReader(context.directory / "train").dtype == np.int32


def test_a_source_without_a_tokenizer_model_beside_its_json(context, tmp_path):
    """A published folder may hold a .model that differs from its tokenizer.json; the latter is what was asked for."""
    run(settings(), context)
    published = context.directory / "tokenizer"
    (published / "tokenizer.model").write_bytes(b"another tokenizer")
    context.directory = tmp_path / "again"
    run(TokensConfig(tokenizer=TokenizerConfig(kind="huggingface", path=str(published))), context)
    assert not (context.directory / "tokenizer" / "tokenizer.model").exists()
    assert len(texts(context, "train")) == 80


def test_the_token_between_documents_can_be_chosen(context, tmp_path):
    run(settings(), context)
    published = context.directory / "tokenizer"
    (published / "tokenizer.model").unlink()
    before = json.loads((published / "tokenizer_config.json").read_text())
    (published / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "unk_token": "<unk>"}))
    chosen = TokenizerConfig(kind="huggingface", path=str(published), eod_token="<unk>", bos_token="</s>")
    context.directory = tmp_path / "again"
    run(TokensConfig(tokenizer=chosen), context)
    vocabulary = json.loads((published / "tokenizer.json").read_text())["model"]["vocab"]
    documents = IndexedReader(context.directory / "train")
    assert {(document[0], document[-1]) for document in documents} == {(vocabulary["</s>"], vocabulary["<unk>"])}
    after = json.loads((context.directory / "tokenizer/tokenizer_config.json").read_text())
    assert after == {**before, "eos_token": "<unk>", "bos_token": "</s>"}
    assert special_tokens(context.directory / "tokenizer")["eos_token"] == "<unk>"
    absent = TokenizerConfig(kind="huggingface", path=str(published), eod_token="<|endoftext|>")
    context.directory = tmp_path / "absent"
    with pytest.raises(InputError, match=r"tokenizer\.eod_token: '<\|endoftext\|>' is not in the vocabulary"):
        run(TokensConfig(tokenizer=absent), context)


def test_only_a_published_tokenizer_has_tokens_to_choose():
    with pytest.raises(RecipeError, match=r"eod_token: can be chosen only for kind huggingface; kind is train"):
        check_section(TokensConfig(tokenizer=TokenizerConfig(eod_token="<unk>")))
