from __future__ import annotations

import json

import pytest

from megatron_ipt.corpus.config import CorpusConfig
from megatron_ipt.corpus.documents import split_of
from megatron_ipt.corpus.stage import run
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.files import list_shards, read_jsonl
from megatron_ipt.manifest import StageContext
from megatron_ipt.recipe import recipe_from


@pytest.fixture
def corpus(tmp_path):
    def make(lines, **settings):
        path = tmp_path / "in.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines))
        context = StageContext("corpus", tmp_path / "corpus", seed=1, compression="zst")
        return run(CorpusConfig(inputs=[str(path)], **settings), context), context.directory

    return make


def documents(folder):
    return [record for shard in list_shards(folder) for record in read_jsonl(shard)]


def test_every_document_is_in_one_lane_and_one_split(corpus):
    lines = [json.dumps({"text": f"text {number}"}) for number in range(400)]
    counts, folder = corpus(lines, synthesis_share=0.5, valid_share=0.2, test_share=0.1, shard_documents=50)
    lanes = {lane: documents(folder / lane) for lane in ("synthesis", "raw")}
    texts = sorted(record["text"] for lane in lanes.values() for record in lane)
    assert texts == sorted(f"text {number}" for number in range(400))
    assert counts["documents"] == 400
    assert counts["synthesis_documents"] == len(lanes["synthesis"])
    assert 150 < counts["synthesis_documents"] < 250
    assert 40 < counts["splits"]["valid"] < 120
    assert 10 < counts["splits"]["test"] < 80
    assert len(list_shards(folder / "synthesis")) == -(-counts["synthesis_documents"] // 50)
    for record in lanes["raw"]:
        assert record["split"] == split_of(record["id"], 1, 0.2, 0.1)


def test_growth_of_the_corpus_moves_no_document(corpus):
    lines = [json.dumps({"text": "t", "id": f"d{number}"}) for number in range(60)]
    first = {record["id"]: record for record in documents(corpus(lines[:30], synthesis_share=0.5)[1] / "raw")}
    second = {record["id"]: record for record in documents(corpus(lines, synthesis_share=0.5)[1] / "raw")}
    assert first.items() <= second.items()


def test_domains_are_kept_and_counted(corpus, caplog):
    lines = [json.dumps({"text": "abc", "id": f"{n}", "kind": ("law", "code", None)[n % 3]}) for n in range(30)]
    caplog.set_level("INFO")
    counts, folder = corpus(lines, synthesis_share=0.5, domain_key="kind")
    assert counts["domains"] == {
        "(none)": {"documents": 10, "characters": 30},
        "code": {"documents": 10, "characters": 30},
        "law": {"documents": 10, "characters": 30},
    }
    found = {record["id"]: record.get("domain") for lane in ("synthesis", "raw") for record in documents(folder / lane)}
    assert found == {f"{n}": ("law", "code", None)[n % 3] for n in range(30)}
    assert "by domain: (none) 10 (30), code 10 (30), law 10 (30)" in caplog.text
    assert "10 documents have no domain" in caplog.text


def test_without_domains_nothing_speaks_of_them(corpus, caplog):
    lines = [json.dumps({"text": "abc", "domain": "law"})] * 3
    counts, folder = corpus(lines, valid_share=0)
    assert "domains" not in counts
    assert set(documents(folder / "synthesis")[0]) == {"id", "text", "split"}
    counts, _ = corpus(lines, valid_share=0, domain_key="domian")
    assert "domains" not in counts
    assert "no document has a domain under corpus.domain_key" in caplog.text


def test_rejects_are_counted_and_kept(corpus):
    counts, folder = corpus(['{"text":"a"}'] * 50 + ["{", '{"text":" "}'])
    assert counts["rejected"] == {"invalid JSON": 1, "too short": 1}
    assert [record["line"] for record in read_jsonl(folder / "rejects.jsonl")] == [51, None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no document in .* every file is empty"),
        (["{"] * 3, r"3 of 3 records were rejected \(invalid JSON: 3\).* or raise corpus\.maximum_reject_share"),
        (['{"body":"x"}'], r"1 of 1 records were rejected \(missing text: 1\)"),
    ],
)
def test_nothing_usable_is_an_error_that_leaves_no_shard(corpus, tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        corpus(lines)
    assert not list((tmp_path / "corpus").rglob("shard-*"))


def test_a_corpus_that_is_held_out_entirely_is_refused(corpus):
    with pytest.raises(InputError, match="all 2 documents were held out"):
        corpus(['{"text":"a"}', '{"text":"b"}'], valid_share=0.999)


def test_one_empty_file_among_others_is_reported(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("text")
    (tmp_path / "in/b.txt").touch()
    counts = run(CorpusConfig(inputs=[str(tmp_path / "in")]), StageContext("corpus", tmp_path / "out", 1))
    assert (counts["documents"], counts["empty_files"]) == (1, [str(tmp_path / "in/b.txt")])


def test_real_text(test_data, tmp_path):
    context = StageContext("corpus", tmp_path / "out", 1)
    counts = run(CorpusConfig(inputs=[str(test_data / "wikitext2.valid.txt")]), context)
    assert counts["documents"] == 60
    assert documents(context.directory / "synthesis")[0]["title"] == "Homarus gammarus"


def test_slices_are_the_same_for_every_seed(tmp_path):
    (tmp_path / "in.jsonl").write_text("".join(f'{{"id": "d{n}", "text": "text number {n}"}}\n' for n in range(200)))
    found = []
    for number, (slice_, seed) in enumerate([([0.0, 0.3], 1), ([0.0, 0.3], 2), ([0.3, 1.0], 3)]):
        config = CorpusConfig(inputs=[str(tmp_path / "in.jsonl")], slice=slice_, minimum_characters=1)
        context = StageContext("corpus", tmp_path / f"out{number}", seed)
        run(config, context)
        found.append({document["id"] for document in documents(context.directory / "synthesis")})
    assert found[0] == found[1] and 40 < len(found[0]) < 80
    assert found[0] | found[2] == {f"d{n}" for n in range(200)} and not found[0] & found[2]


@pytest.mark.parametrize("slice_", [[0.5], [0.5, 0.5], [1.0, 0.0], [0.0, 0.5, 1.0]])
def test_a_slice_is_a_stretch(slice_):
    with pytest.raises(RecipeError, match=r"corpus\.slice: .* is not a stretch"):
        recipe_from({"corpus": {"inputs": ["x"], "slice": slice_}})
