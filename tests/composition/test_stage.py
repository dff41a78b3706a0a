"""The stage on a small corpus: rows worked out again from the texts, resume, shards, and input that cannot be used."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt import stages
from megatron_ipt.composition import neighbours, rows, scores, vectors
from megatron_ipt.composition.show import text as shown_text
from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.files import list_shards, read_json, read_jsonl, write_json
from megatron_ipt.pipeline import run_action, run_one, run_recipe, stage_of
from megatron_ipt.recipe import Recipe
from megatron_ipt.tuning.rows import RowReader
from tests.composition.conftest import SEQ_LENGTH, WORDS, Build, documents, make_encoder

torch = pytest.importorskip("torch")
pytest.importorskip("faiss")
IDS = {word: place for place, word in enumerate(["?", "E", "\n", *WORDS])}
NAMES = {place: word for word, place in IDS.items()}


def compose(recipe: Recipe, **options: Any) -> Path:
    run_recipe(recipe, until="tokens")
    run_one(stage_of(recipe, "composition"), recipe, **options)
    return Path(recipe.output_dir) / "composition"


def rows_of(folder: Path) -> list[str]:
    """Texts of the rows, paragraphs by lines."""
    reader = RowReader(folder / "contexts-train", folder / "contexts-train-loss-mask")
    return [" ".join(NAMES[each] for each in reader[row].ids.tolist()) for row in range(len(reader))]


def paragraphs_of(run: Path) -> dict[str, list[str]]:
    """Paragraphs of the training documents as the rule says: lines of nine words, limit 18, so each by itself."""
    shards = list_shards(run / "corpus" / "synthesis")
    return {
        record["id"]: record["text"].split("\n")
        for shard in shards
        for record in read_jsonl(shard)
        if record["split"] == "train"
    }


def digests(folder: Path) -> dict[str, str]:
    """Of everything but times and what is left of locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith((".done.json", "manifest.json"))
    }


def test_rows_are_what_the_rules_say(build: Build) -> None:
    folder = compose(build())
    documents = paragraphs_of(folder.parent)
    owner: dict[str, str] = {}
    for document, lines in documents.items():
        for line in lines:
            owner.setdefault(line, document)
    found = rows_of(folder)
    counts = read_json(folder / "manifest.json")["counts"]
    assert counts["paragraphs"] == sum(map(len, documents.values())) and len(found) == counts["rows"] > 10
    repeated = counts["paragraphs"] - len(owner)
    assert counts["dropped"]["paragraph that occurs before"] == repeated == 1
    queries = []
    for row in found:
        lines = [line.strip() for line in row.split("\n")]
        assert lines.pop() == "" and len(row.split(" ")) < SEQ_LENGTH
        # Cut to 15 words and a line break: a paragraph of nine is whole.
        assert all(line in owner for line in lines) and len(set(lines)) == len(lines) <= 7
        assert all(owner[line] != owner[lines[-1]] for line in lines[:-1])
        queries.append(lines[-1])
    assert len(set(queries)) == len(queries)


def test_only_contexts_that_gain_more_than_random_ones_are_kept(build: Build) -> None:
    """s worked out again from the texts of all contexts: log 5 for each token that is new alone and not in the row."""
    folder = compose(build())
    names = sorted(path.stem for path in (folder / "contexts").glob("*.npy"))
    texts = [line for lines in paragraphs_of(folder.parent).values() for line in lines]
    expected: dict[str, list[float]] = {"real": [], "random": [], "copies": []}
    found: dict[str, list[float]] = {"real": [], "random": [], "copies": []}
    for name in names:
        contexts, given = np.load(folder / "contexts" / f"{name}.npy"), np.load(folder / "scores" / f"{name}.npy")
        assert len(contexts) == len(given)
        for context, score in zip(contexts, given):
            nearest = [number for number in context["neighbours"].tolist() if number >= 0]
            members = [*reversed(nearest), int(context["query"])]
            seen: set[str] = set()
            gained = counted = 0
            for number in members:
                own: set[str] = set()
                for place, word in enumerate([*texts[number].split(), "\n"]):
                    if place:
                        gained += (word in seen) and (word not in own)
                        counted += 1
                    own.add(word)
                    seen.add(word)
            kind = ("real", "random", "copies")[int(context["kind"])]
            expected[kind].append(gained * math.log(5) / counted)
            found[kind].append(float(score["gain"]))
            assert score["tokens"] == counted
    for kind, values in expected.items():
        assert values and found[kind] == pytest.approx(values)
    details = read_json(folder / "composition.json")["gains"]
    cut = details["threshold"]
    assert cut == pytest.approx(sorted(expected["random"], reverse=True)[len(expected["random"]) // 4])
    assert read_json(folder / "manifest.json")["counts"]["rows"] == sum(value > cut for value in found["real"])
    assert details["kinds"]["random"]["above_threshold"] <= 0.25
    assert details["kinds"]["copies"]["mean"] > details["kinds"]["real"]["mean"]


def test_rows_are_blended_with_full_documents(build: Build) -> None:
    folder = compose(build())
    dataset, base = read_json(folder / "dataset.json"), read_json(folder.parent / "tokens" / "dataset.json")
    documents, contexts = dataset["train"]
    assert (folder / f"{documents['prefix']}.bin").resolve() == (folder.parent / "tokens" / "train.bin").resolve()
    assert (folder / dataset["tokenizer"] / "tokenizer.json").is_file() and dataset["vocab_size"] == base["vocab_size"]
    reader = RowReader(folder / "contexts-train", folder / "contexts-train-loss-mask")
    lengths = reader.lengths.astype(int)
    fill = (lengths - 1).mean() / SEQ_LENGTH
    assert contexts["weight"] == pytest.approx(1 / (1 + fill)) and documents["weight"] == pytest.approx(
        fill / (1 + fill)
    )
    for number in range(len(reader)):
        row = reader[number]
        assert not row.mask[0] and row.mask[1:].all() and row.lengths.tolist() == [len(row.ids)]
    assert [entry["name"] for entry in dataset["valid"]] == [entry["name"] for entry in base["valid"]]
    only = compose(build("only", composition={"share": 1.0}))
    assert [entry["name"] for entry in read_json(only / "dataset.json")["train"]] == ["contexts"]


def test_without_a_filter_all_contexts_are_rows(build: Build) -> None:
    recipe = build(composition={"filter": {"engine": "transformers"}})
    folder = compose(recipe)
    counts = read_json(folder / "manifest.json")["counts"]
    assert counts["rows"] == counts["contexts"] and not (folder / "scores").exists()
    assert read_json(folder / "composition.json")["gains"] == {}


def test_uses_are_capped(build: Build) -> None:
    for cap in (3, 5):
        folder = compose(build(f"cap{cap}", composition={"search": {"most_uses": cap}}))
        used: dict[int, int] = {}
        for path in (folder / "contexts").glob("*.npy"):
            for context in np.load(path):
                for number in context["neighbours"].tolist() if context["kind"] == 0 else []:
                    used[number] = used.get(number, 0) + (number >= 0)
        assert max(used.values()) == cap


def test_short_and_long_paragraphs_are_left_out(build: Build) -> None:
    records = [
        {"id": f"d{number}", "text": f"honey\n{line}\n{' '.join(line.split() * 3)}"}
        for number, line in enumerate(record["text"].split("\n")[0] for record in documents())
    ]
    paragraph = {"tokens": 6, "minimum_tokens": 2, "maximum_tokens": 20}
    folder = compose(build(records=records, composition={"paragraph": paragraph}))
    counts = read_json(folder / "manifest.json")["counts"]
    assert counts["dropped"]["paragraph shorter than paragraph.minimum_tokens"] == counts["paragraphs"]
    assert counts["dropped"]["paragraph longer than paragraph.maximum_tokens"] == counts["paragraphs"]
    assert {len(line.split()) for row in rows_of(folder) for line in row.split("\n")} == {0, 9}


def test_queries_are_a_sample_that_does_not_depend_on_shards(build: Build) -> None:
    folder = compose(build(composition={"queries": 20}))
    assert read_json(folder / "manifest.json")["counts"]["contexts"] == 20
    recipe = build("one", composition={"queries": 20}, shard_documents=30)
    assert sorted(rows_of(compose(recipe))) == sorted(rows_of(folder))


_UNDISTURBED: dict[str, str] = {}


def undisturbed(build: Build) -> dict[str, str]:
    """What a run that nothing interrupts writes."""
    if not _UNDISTURBED:
        _UNDISTURBED.update(digests(compose(build("whole"))))
    return _UNDISTURBED


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [
        (vectors, "save_array", 1), (vectors, "save_array", 4), (neighbours, "save_array", 2),
        (neighbours, "save_array", 7), (scores, "save_array", 1), (scores, "save_array", 3), (scores, "save_array", 8),
        (rows, "row_ids", 5), (rows, "write_json", 1),
    ],
)  # fmt: skip
def test_a_killed_run_resumes_to_the_same_bytes(
    build: Build, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, calls: int
) -> None:
    whole = undisturbed(build)
    left = [calls]
    real = getattr(module, name)

    def dies(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return real(*arguments, **options)

    recipe = build("killed")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        with pytest.raises(Killed):
            compose(recipe)
    assert digests(compose(recipe)) == whole


def test_shares_give_the_same_bytes(build: Build) -> None:
    whole = undisturbed(build)
    recipe = build("shares")
    run_recipe(recipe, until="tokens")
    stage = stage_of(recipe, "composition")
    with pytest.raises(StageError, match=r"3 of 5 shards have no vectors yet .*--until vectors"):
        run_one(stage, recipe, shard=(1, 2))
    for step in stage.steps:
        for share in ((1, 2), (0, 2)):
            run_one(stage, recipe, shard=share, until=step)
    folder = compose(recipe)
    assert digests(folder) == whole
    units = stages.load(stage.units)(recipe.composition, _context(recipe)).names
    assert len(units) == 20 and units[0] == "vectors/synthesis-00000" and units[-1] == "scores/synthesis-00004"


def _context(recipe: Recipe) -> Any:
    from megatron_ipt.pipeline import context_of

    return context_of(stage_of(recipe, "composition"), recipe)


def test_a_context_is_shown(build: Build) -> None:
    recipe = build()
    run_recipe(recipe, until="tokens")
    stage = stage_of(recipe, "composition")
    (action,) = stage.actions
    with pytest.raises(StageError, match="--until vectors first"):
        run_action(stage, recipe, action, "0")
    folder = compose(recipe)
    shown = run_action(stage, recipe, action, "3")
    lines = shown_text(shown).splitlines()
    assert lines[0].startswith(f"context 3 of {shown['contexts']}, gains ") and shown["query"] in lines[1]
    nearness = [each["nearness"] for each in shown["neighbours"]]
    assert nearness == sorted(nearness, reverse=True) and len(lines) == 3 + 2 * len(nearness)
    document, _, place = shown["query"].partition("#")
    assert paragraphs_of(folder.parent)[document][int(place)] == shown["text"]
    for wrong in ("x", "-1", "1000"):
        with pytest.raises(RecipeError, match=r"expected the number of a context, 0 to \d+"):
            run_action(stage, recipe, action, wrong)


def reopened(folder: Path, keep: str) -> None:
    """As after a run that ended before the steps after ``keep``."""
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", manifest | {"status": "running"})
    order = ("vectors", "neighbours", "contexts", "alone", "scores")
    for step in order[order.index(keep) + 1 :]:
        for path in (folder / step).iterdir():
            path.unlink()


def test_vectors_that_do_not_fit(build: Build, tmp_path: Path) -> None:
    recipe = build()
    folder = compose(recipe)
    reopened(folder, "vectors")
    path = folder / "vectors" / "synthesis-00001.npy"
    good, marker = np.load(path), path.with_suffix(".done.json")
    said = read_json(marker)
    for vectors_, message in (
        (good[:-1], r"vectors of \d+ paragraphs, but the shard has \d+: they are of another corpus"),
        (good + 1, "holds other vectors than those its marker names"),
    ):
        np.save(path, vectors_)
        with pytest.raises(StageError, match=message):
            compose(recipe)
    np.save(path, good)
    write_json(marker, said | {"encoder": "another"})
    with pytest.raises(StageError, match=r"synthesis-00001\.npy: made by another encoder"):
        compose(recipe)
    from megatron_ipt.composition.store import digest

    wrong = good.copy()
    wrong[2, 3] = np.nan
    np.save(path, wrong)
    write_json(marker, said | {"vectors": digest(wrong)})
    with pytest.raises(StageError, match=r"synthesis-00001\.npy: row 2 is not finite"):
        compose(recipe)
    path.write_bytes(b"no array")
    with pytest.raises(StageError, match="cannot be read"):
        compose(recipe)
    # What the message says helps.
    marker.unlink()
    compose(recipe)
    other = build(composition={"encoder": {"model": str(make_encoder(tmp_path / "other", 1))}})
    with pytest.raises(StageError, match=r"input composition\.encoder: changed"):
        compose(other)


def test_too_little_text(build: Build) -> None:
    with pytest.raises(InputError, match="the corpus has 1 different paragraphs; a context needs at least two"):
        compose(build("one", [{"id": "a", "text": "honey is wax"}], valid_share=0.0))
    few = [{"id": str(number), "text": f"{word} is wax"} for number, word in enumerate(WORDS[:8])]
    with pytest.raises(InputError, match=r"composition\.search\.candidates: 12 .* only 8 different paragraphs"):
        compose(build("few", few, valid_share=0.0))


def test_a_filter_that_cannot_be_used(build: Build) -> None:
    with pytest.raises(StageError, match=r"the filter .* gave NaN for"):
        compose(build("nan", composition={"filter": {"options": {"broken": True}}}))
    with pytest.raises(RecipeError, match=r"composition\.seq_length=200 and a BOS token do not fit into the 128"):
        compose(build("short", composition={"seq_length": 200}))
    with pytest.raises(RecipeError, match="control_rows"):
        build("none", composition={"filter": {"control_rows": 0}})
    with pytest.raises(StageError, match=r"none of \d+ contexts gains more than 9"):
        compose(build("high", composition={"filter": {"minimum_gain": 9.0}}))


def test_texts_that_the_engine_refuses(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their contexts are not kept, and counted; too many are an error. Chunks of texts leave no trace."""
    whole = compose(build("whole"))
    kept = rows_of(whole)
    word = IDS["swarm"]
    chosen = {"filter": {"options": {"refuses": word}, "minimum_gain": -1.0}}
    with pytest.raises(StageError, match=r"refused \d+ of \d+ texts of synthesis-0000\d, more than .* = 0\.0"):
        compose(build("refused", composition=chosen))
    chosen["filter"]["generation"] = {
        "tokenizer": str(whole.parent / "tokens" / "tokenizer"), "context_length": 128, "max_refused_share": 1.0,
    }  # fmt: skip
    folder = compose(build("refused", composition=chosen), overwrite=True)
    counts = read_json(folder / "manifest.json")["counts"]
    refused = counts["dropped"]["refused by the filter's engine"]
    assert 0 < refused < counts["contexts"] and counts["rows"] == counts["contexts"] - refused
    assert not any("swarm" in row for row in rows_of(folder)) and any("swarm" in row for row in kept)
    monkeypatch.setattr(scores, "_TEXTS_AT_ONCE", 5)
    assert rows_of(compose(build("chunks"))) == kept


def test_shards_without_training_documents(build: Build) -> None:
    folder = compose(build(composition={"filter": {"engine": "transformers"}}, shard_documents=1, valid_share=0.5))
    assert {len(np.load(path)) for path in (folder / "vectors").glob("*.npy")} == {0, 4}
    assert rows_of(folder)


def test_settings_that_contradict_each_other(build: Build) -> None:
    with pytest.raises(RecipeError, match=r"composition\.search\.candidates: 3 are fewer than neighbours=6"):
        build(composition={"search": {"candidates": 3}})
    with pytest.raises(RecipeError, match=r"composition\.paragraph_tokens: 64 leave no room"):
        build(composition={"paragraph_tokens": 64})
    with pytest.raises(InputError, match=r"composition\.encoder\.model: .* not a Hugging Face folder"):
        run_recipe(build(composition={"encoder": {"model": "nowhere"}}), until="composition")


def test_training_takes_sequences_as_long_as_rows(build: Build) -> None:
    assert build().training.seq_length() == SEQ_LENGTH
