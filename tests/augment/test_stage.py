import dataclasses
import json

import pytest

from megatron_ipt import stages
from megatron_ipt.augment import stage
from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.augment.render import render
from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.files import atomic_jsonl, read_json, read_jsonl, shard_name
from megatron_ipt.manifest import StageContext
from megatron_ipt.synthesis.pairs import TEXT_COMPLETION, Chain, Example, Pair

CHAINS = 60


def chain_of(number):
    pairs = [
        Pair("How does it go on?", f"It ends {number}.", TEXT_COMPLETION),
        Pair(f"What is {number}?", f"A number, {number}."),
        Pair("Which?", "b.", "quiz", ("a", "b")),
        Pair("Which?", "d", "quiz", ("a", "b")),
    ]
    amount = number % 5
    examples = [Example(f"{number}a", f"Text {number}a.", "", pairs[4 - amount :]), Example(f"{number}b", "Text b.")]
    return Chain(f"doc-{number}", ("train", "valid")[number % 2], examples)


def write_input(folder, chains, shards):
    for index in range(shards):
        with atomic_jsonl(folder / shard_name(index)) as writer:
            for chain in chains[index::shards]:
                writer.write(chain.to_json())


@pytest.fixture
def chains():
    return [chain_of(number) for number in range(CHAINS)]


@pytest.fixture
def context(tmp_path, chains):
    write_input(tmp_path / "synthesis", chains, 3)
    directory = tmp_path / "augment"
    directory.mkdir()
    return StageContext("augment", directory, 7, {stages.CHAINS: tmp_path / "synthesis"})


def documents(directory):
    return [record for folder in ("augmented", "plain") for path in sorted((directory / folder).iterdir())
            for record in read_jsonl(path)]  # fmt: skip


def test_a_document_has_the_domain_of_its_chain(tmp_path):
    chains = [dataclasses.replace(chain_of(number), domain="law" if number % 3 else "") for number in range(9)]
    write_input(tmp_path / "synthesis", chains, 1)
    context = StageContext("augment", tmp_path / "augment", 7, {stages.CHAINS: tmp_path / "synthesis"})
    stage.run(AugmentConfig(), context)
    found = {record["id"]: record.get("domain", "") for record in documents(context.directory)}
    assert found == {chain.id: chain.domain for chain in chains}


def test_every_chain_becomes_one_document(context, chains, built_in):
    counts = stage.run(AugmentConfig(), context)
    found = {record["id"]: record for record in documents(context.directory)}
    assert found.keys() == {chain.id for chain in chains}
    for chain in chains:
        rendered = render(chain, built_in, 7)
        assert found[chain.id] == {
            "id": chain.id,
            "text": rendered.text,
            "split": chain.split,
            "source": "augmented" if chain.examples[0].pairs else "plain",
            "layout": rendered.layout,
            "pairs": len(chain.examples[0].pairs),
            "texts": 2,
        }
    assert counts["documents"] == CHAINS
    assert (counts["augmented_documents"], counts["plain_documents"]) == (48, 12)
    assert counts["texts"] == 120
    assert counts["pairs"] == counts["pairs_rendered"] == 12 * (1 + 2 + 3 + 4)
    assert counts["categories"] == {"quiz": 84, "other": 24, TEXT_COMPLETION: 12}
    assert counts["layouts"]["text"] == 12
    assert counts["unmatched_options"] == 48
    assert counts["characters"] == sum(len(record["text"]) for record in found.values())
    assert counts["characters"] == sum(counts[f"{kind}_characters"] for kind in ("text", "pair", "frame"))
    assert counts["text_characters"] == sum(len(example.text) for chain in chains for example in chain.examples)


def test_folders_and_shards(context):
    stage.run(AugmentConfig(), dataclasses.replace(context, compression="zst"))
    for folder in ("augmented", "plain"):
        names = sorted(path.name for path in (context.directory / folder).iterdir())
        assert names == [f"shard-0000{index}.jsonl.zst" for index in range(3)]


def test_sharding_and_workers_change_nothing(context, chains, tmp_path):
    counts = stage.run(AugmentConfig(), context)
    write_input(tmp_path / "other", chains[::-1], 2)
    (tmp_path / "out").mkdir()
    other = StageContext("augment", tmp_path / "out", 7, {stages.CHAINS: tmp_path / "other"})
    assert stage.run(AugmentConfig(workers=2), other) == counts

    def texts(directory):
        return {record["id"]: record["text"] for record in documents(directory)}

    assert texts(context.directory) == texts(other.directory)
    assert read_json(context.directory / "samples.json") == read_json(other.directory / "samples.json")


def test_a_rerun_goes_on_after_the_last_finished_shard(context, monkeypatch):
    class Killed(Exception):
        pass

    rendered = []

    def failing(chain, templates, seed):
        if len(rendered) == 30:
            raise Killed
        rendered.append(chain.id)
        return render(chain, templates, seed)

    monkeypatch.setattr(stage, "render", failing)
    with pytest.raises(Killed):
        stage.run(AugmentConfig(), context)
    names = sorted(path.name for path in (context.directory / "augmented").iterdir())
    assert names == ["shard-00000.jsonl"]
    assert not (context.directory / "samples.json").exists()
    again = []
    monkeypatch.setattr(stage, "render", lambda *arguments: again.append(1) or render(*arguments))
    counts = stage.run(AugmentConfig(), context)
    assert len(again) == 40
    assert counts["documents"] == CHAINS

    fresh = dataclasses.replace(context, directory=context.directory.with_name("fresh"))
    fresh.directory.mkdir()
    assert stage.run(AugmentConfig(), fresh) == counts
    assert documents(fresh.directory) == documents(context.directory)


def test_samples_show_every_layout(context, tmp_path):
    pairs = [Pair("What?", "That."), Pair("Who?", "She.")]
    chains = [Chain(f"doc-{number}", "train", [Example("e", "Text.", "", pairs)]) for number in range(CHAINS)]
    write_input(tmp_path / "synthesis", chains, 3)
    stage.run(AugmentConfig(layout_weights={"plain": 1, "numbered": 1, "next_turn": 1}), context)
    samples = json.loads((context.directory / "samples.json").read_text(encoding="utf-8"))
    assert len(samples) == 12
    assert {sample["layout"] for sample in samples} == {"plain", "numbered", "next_turn"}
    texts = {record["id"]: record["text"] for record in documents(context.directory)}
    for sample in samples:
        assert "".join(string for _, string in sample["segments"]) == texts[sample["id"]]
        assert {kind for kind, _ in sample["segments"]} == {"text", "question", "answer", "frame"}


def test_a_lost_pair_stops_the_stage(context, monkeypatch):
    def losing(chain, templates, seed):
        rendered = render(chain, templates, seed)
        rendered.pairs = max(0, rendered.pairs - 1)
        return rendered

    monkeypatch.setattr(stage, "render", losing)
    with pytest.raises(StageError, match=r"shard-00000\.jsonl:2: chain doc-3 has 2 texts and 3 pairs, but 2 and 2"):
        stage.run(AugmentConfig(), context)


def test_faulty_templates_stop_the_stage_before_it_writes(context, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("patterns: {free: ['{question}']}")
    config = AugmentConfig(extend_templates=[str(path)])
    with pytest.raises(RecipeError, match=r"mine\.yaml: patterns\.free, entry 1: .*missing slot \{answer\}"):
        stage.run(config, context)
    assert not list(context.directory.iterdir())
    assert [entry["path"] for entry in stage.fingerprints(config)] == [str(path)]
    assert stage.fingerprints(AugmentConfig()) == []


def test_nothing_to_do(tmp_path):
    context = StageContext("augment", tmp_path / "augment", 7, {stages.CHAINS: tmp_path / "none"})
    counts = stage.run(AugmentConfig(), context)
    assert counts["documents"] == 0
    assert read_json(tmp_path / "augment/samples.json") == []
