"""The Python API: each function against what the stages do, several models at once, and the notebook as written."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import megatron_ipt as mi
from megatron_ipt.errors import InputError, RecipeError
from tests.conftest import REPOSITORY

NOTEBOOK = REPOSITORY / "docs/python_api.ipynb"
TEXTS = REPOSITORY / "examples/corpus"


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, megatron_ipt; print(sorted({'torch', 'omegaconf', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_is_offered_is_there_and_typed():
    assert set(mi.__all__) <= set(dir(mi))
    for name in mi.__all__:
        assert getattr(mi, name).__doc__
    tree = ast.parse((REPOSITORY / "megatron_ipt/__init__.py").read_text())
    for_types = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "megatron_ipt.api"
    ]
    assert sorted(alias.name for alias in for_types[0].names) == sorted(mi.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = mi.no_such_name


def test_documents_and_pairs_are_those_of_the_stages(tmp_path):
    recipe = mi.build_recipe(
        output_dir=tmp_path / "run", compression="none",
        corpus={"inputs": [TEXTS], "synthesis_share": 1.0},
    )  # fmt: skip
    mi.run(recipe, until="augment")
    records = [json.loads(line) for line in (tmp_path / "run/synthesis/shard-00000.jsonl").read_text().splitlines()]
    documents = list(mi.read_documents(TEXTS))
    chains = mi.make_pairs(documents)
    assert [(document.id, document.title) for document in documents[:1]] == [
        (chains[0].examples[0].id, chains[0].examples[0].title)
    ]
    assert [chain.to_json()["examples"] for chain in chains] == [record["examples"] for record in records]
    rendered = {document.text for document in mi.render(chains)}
    written = (tmp_path / "run/augment/augmented/shard-00000.jsonl").read_text().splitlines()
    assert rendered == {json.loads(line)["text"] for line in written}


def test_texts_alone_will_do_and_work_is_kept_where_asked(tmp_path):
    text = "A cistern is a tank that keeps rain. It was dug in 1931 because the wells had run dry."
    chains = mi.make_pairs([text], directory=tmp_path)
    assert chains[0].examples[0].text == text and chains[0].examples[0].pairs
    before = (tmp_path / "synthesis/shard-00000.jsonl").stat().st_mtime_ns
    assert mi.make_pairs([text], directory=tmp_path) == chains
    assert (tmp_path / "synthesis/shard-00000.jsonl").stat().st_mtime_ns == before
    assert mi.make_pairs([]) == []


def test_tokenizers_and_datasets(tmp_path):
    texts = [document.text for document in mi.read_documents(TEXTS)]
    tokenizer = mi.train_tokenizer(texts, 500)
    dataset = mi.write_dataset(tmp_path / "data", texts, tokenizer)
    assert len(dataset) == len(texts)
    ids = dataset[3]
    assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eod_id
    assert tokenizer.decode(ids[1:-1].tolist()) == texts[3]
    tokenizer.save(tmp_path / "tokenizer")
    again = mi.load_tokenizer(tmp_path / "tokenizer")
    assert np.array_equal(again.encode([texts[3]])[0], ids[1:-1])
    bare = mi.write_dataset(tmp_path / "bare", texts, tokenizer, prepend_bos=False, append_eod=False)
    assert np.array_equal(bare[3], ids[1:-1])


class TestRecipe:
    def test_everything_wrong_is_said_when_it_is_built(self):
        with pytest.raises(RecipeError, match=r"(?s)training\.step: unknown key.*tokens\.mxi: unknown key"):
            mi.build_recipe(training={"step": 1}, tokens={"mxi": "separate"}, corpus={"inputs": ["a"]})
        with pytest.raises(RecipeError, match=r"corpus\.inputs: is empty"):
            mi.build_recipe()
        with pytest.raises(RecipeError, match=r"corpus\.valid_share: -1.* is below"):
            mi.build_recipe(corpus={"inputs": ["a"], "valid_share": -1})

    def test_names_paths_and_references_are_resolved(self):
        recipe = mi.build_recipe(name="n", corpus={"inputs": [Path("texts")]})
        assert recipe.output_dir == "runs/n" and recipe.corpus.inputs == ["texts"]

    def test_the_class_itself_checks_and_resolves_too(self):
        from megatron_ipt.corpus.config import CorpusConfig

        recipe = mi.Recipe(name="n", corpus=CorpusConfig(inputs=["texts"]))
        assert recipe.output_dir == "runs/n"
        with pytest.raises(RecipeError, match=r"corpus\.inputs: is empty"):
            mi.Recipe()
        with pytest.raises(RecipeError, match=r"seed: -1 is below"):
            mi.Recipe(seed=-1, corpus=CorpusConfig(inputs=["texts"]))

    def test_status_of_what_was_not_run(self, tmp_path):
        recipe = mi.build_recipe(output_dir=tmp_path, corpus={"inputs": [TEXTS]})
        assert mi.status(recipe) == mi.Run(tmp_path, {}, {})


@pytest.mark.slow
class TestModels:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory) -> mi.Run:
        pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
        recipe = mi.build_recipe(
            output_dir=tmp_path_factory.mktemp("run"), corpus={"inputs": [TEXTS]},
            tokens={"tokenizer": {"vocab_size": 500}},
            training={
                "model": {"preset": "tiny", "num_layers": 2, "max_position_embeddings": 128}, "steps": 3,
                "micro_batch_size": 2, "global_batch_size": 2, "validation": {"eval_iters": 0},
            },
        )  # fmt: skip
        return mi.run(recipe, until="export")

    def test_a_checkpoint_and_its_export_at_the_same_time(self, run):
        import torch

        texts = ["The bridge was built of stone.", "Rain"]
        with mi.load_model(run.model) as exported, mi.load_model(run.folder / "training/checkpoints") as trained:
            ids = [exported.encode(texts[0])]
            assert ids == [trained.encode(texts[0])]
            logits = exported.logits(ids)
            assert logits.shape == (1, len(ids[0]), 500)
            assert abs(logits - trained.logits(ids)).max() < 1e-4
            expected = logits.double().log_softmax(-1)[0, :-1].gather(1, torch.tensor(ids)[0, 1:, None]).sum().item()
            for model in (exported, trained):
                scores = model.score(texts)
                assert [score.tokens for score in scores] == [len(model.encode(text)) - 1 for text in texts]
                assert scores[0].log_likelihood == pytest.approx(expected, rel=1e-4)
            assert exported.generate("The bridge", 5) == trained.generate("The bridge", 5)

    def test_the_command_generates_the_same_from_both(self, run):
        from click.testing import CliRunner

        from megatron_ipt.cli import cli

        def texts(model, *options):
            words = ["generate", str(model), "The bridge", "Rain", "--max-new-tokens", "8", "--json", *options]
            result = CliRunner().invoke(cli, words)
            assert result.exit_code == 0, result.output
            found = json.loads(result.stdout[result.stdout.index("[") :])
            assert [entry["prompt"] for entry in found] == ["The bridge", "Rain"]
            return [entry["text"] for entry in found]

        trained = run.folder / "training/checkpoints"
        assert texts(run.model) == texts(trained)
        for model in (run.model, trained):
            drawn = texts(model, "--temperature", "1.5", "--seed", "3")
            assert drawn == texts(model, "--temperature", "1.5", "--seed", "3")
            assert drawn != texts(model, "--temperature", "1.5", "--seed", "4") and drawn != texts(model)

    def test_what_is_no_model(self, run, tmp_path):
        with pytest.raises(InputError, match="not a model; expected a Hugging Face folder"):
            mi.load_model(tmp_path)
        with pytest.raises(RecipeError, match="precision: 'fp7' is not one of fp32, bf16"):
            mi.load_model(run.model, precision="fp7")
        with mi.load_model(run.model) as model, pytest.raises(InputError, match="text 0 has 1 tokens"):
            model.score([""])


@pytest.mark.slow
def test_the_notebook_runs_as_written(monkeypatch):
    """In a real kernel, whose event loop is running while cells do."""
    pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    imported = [
        alias.name
        for cell in notebook.cells
        if cell.cell_type == "code"
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.ImportFrom) and node.module == "megatron_ipt"
        for alias in node.names
    ]
    assert 0 < len(imported) <= 6
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(cwd=str(REPOSITORY))
    outputs = [
        "".join(out.get("text", "") for out in cell.outputs) for cell in notebook.cells if cell.cell_type == "code"
    ]
    assert "60 documents" in outputs[1]
    scores = [float(line.split()[0]) for line in outputs[3].splitlines() if "nats per token" in line]
    assert len(scores) == 2 and abs(scores[0] - scores[1]) < 1e-3
    assert "The bridge" in outputs[3]
