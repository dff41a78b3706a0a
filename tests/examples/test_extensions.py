"""The examples of each extension point, run as their readers would run them."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from megatron_ipt.config import load
from megatron_ipt.corpus.inputs import InputFile
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.corpus.readers import Record, read_file
from megatron_ipt.corpus.reading import input_files
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.extensions import import_code
from megatron_ipt.files import read_json, read_jsonl
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request
from megatron_ipt.manifest import StageContext
from megatron_ipt.pipeline import run_recipe
from megatron_ipt.recipe import load_recipe
from megatron_ipt.rejects import Rejects
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage as synthesis
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.pairs import Pair
from tests.conftest import REPOSITORY
from tests.synthesis.conftest import texts_of, tokenizer_folder, write_corpus  # noqa: F401


class TestReader:
    """``pubmed.py``"""

    def read(self, path: Path, extensions: Path, tmp_path: Path) -> tuple[list[Record], dict[str, int]]:
        options = ReadOptions(reader=f"{extensions}/pubmed.py:read")
        (file,) = input_files([str(path)], options)
        with Rejects(tmp_path / "rejects.jsonl") as rejects:
            return list(read_file(file, options, rejects)), dict(rejects.reasons)

    def test_sections_become_paragraphs(self, extensions, tmp_path):
        records, rejected = self.read(extensions / "pubmed.xml", extensions, tmp_path)
        assert records[0] == Record(
            "pubmed:1",
            "Field beans germinate slowly in cold soil. Farmers therefore sow them late.\n\n"
            "At 12 degrees, 90 of 100 seeds of Vicia faba germinated within ten days. At 6 degrees only 31 did.",
            "Warm soil and the germination of field beans.",
        )
        assert [record.id for record in records] == ["pubmed:1", "pubmed:3"]
        assert rejected == {"no abstract": 1}

    def test_compressed(self, extensions, tmp_path):
        path = tmp_path / "pubmed.xml.gz"
        path.write_bytes(gzip.compress((extensions / "pubmed.xml").read_bytes()))
        assert len(self.read(path, extensions, tmp_path)[0]) == 2

    def test_a_file_that_breaks_off(self, extensions, tmp_path):
        path = tmp_path / "broken.xml"
        path.write_bytes((extensions / "pubmed.xml").read_bytes()[:900])
        with pytest.raises(InputError, match=r"broken\.xml: not readable as PubMed XML: "):
            self.read(path, extensions, tmp_path)

    def test_by_suffix(self, extensions, tmp_path):
        """As an extension would enter it; without it the error lists what can be read."""
        from megatron_ipt.corpus.readers import READERS
        from megatron_ipt.extensions import load_object

        path = extensions / "pubmed.xml"
        with pytest.raises(InputError, match=r"unknown format '\.xml'; readable are \.jsonl, .* and \.md, optionally"):
            input_files([str(path)], ReadOptions())
        READERS[".xml"] = load_object(f"{extensions}/pubmed.py:read", "corpus.reader")
        with Rejects(tmp_path / "rejects.jsonl") as rejects:
            assert len(list(read_file(InputFile(str(path), path.name), ReadOptions(), rejects))) == 2


@pytest.fixture
def configure(extensions, tokenizer_folder):  # noqa: F811
    """The section for ``command_engine.py`` with a program."""

    def build(*command: str, processes: int = 2) -> SynthesisConfig:
        return load(
            SynthesisConfig,
            None,
            [
                f"engine={extensions}/command_engine.py:CommandEngine",
                f"options.command={json.dumps(command)}",
                f"options.processes={processes}",
                f"generation.model={tokenizer_folder}",
                "generation.context_length=1024",
                "generation.max_new_tokens=128",
                "generation.max_refused_share=0.5",
                "chain_length=2",
            ],
        )

    return build


@pytest.fixture
def context(tmp_path):
    return StageContext("synthesis", tmp_path / "synthesis", 7, {DOCUMENTS: tmp_path / "corpus"})


class TestEngine:
    """``command_engine.py``"""

    def test_the_program_of_the_example(self, extensions, configure, context):
        texts = texts_of(9)
        write_corpus(context.inputs[DOCUMENTS], [texts[:6], texts[6:]])
        synthesis.run(configure(sys.executable, str(extensions / "first_sentence.py")), context)
        examples = [example for chain in synthesis.chains_in(context.directory) for example in chain.examples]
        assert [example.text for example in examples] == texts
        # Every text of texts_of is two sentences; the second of a chain is asked about itself, not about the first.
        for example in examples:
            (pair,) = example.pairs
            assert pair.question == "What does the text say first?"
            assert example.text.startswith(pair.answer) and pair.answer[-1] in ".?"

    def test_a_program_that_refuses(self, configure, context, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            "import json, sys\n"
            "for line in sys.stdin:\n"
            "    refused = 'Text2 ' in json.loads(line)['prompt'].split('<CON>')[-1]\n"
            "    answer = {'refused': 'not that'} if refused else {'text': '<QUE> Which? <ANS> This. </END>'}\n"
            "    print(json.dumps(answer), flush=True)\n"
        )
        write_corpus(context.inputs[DOCUMENTS], [texts_of(4)])
        counts = synthesis.run(configure(sys.executable, str(program)), context)
        chains = list(synthesis.chains_in(context.directory))
        # The chain of texts 2 and 3 is cut where text 2 has no pairs.
        assert [[len(example.pairs) for example in chain.examples] for chain in chains] == [[1, 1], [0], [1]]
        assert chains[0].examples[0].pairs == [Pair("Which?", "This.", chains[0].examples[0].pairs[0].category)]
        assert counts["dropped"] == {"refused by the engine": 1}

    @pytest.mark.parametrize("program", ["print('no JSON')", "pass"], ids=["no JSON", "ends"])
    def test_a_program_that_does_not_answer(self, configure, context, program):
        write_corpus(context.inputs[DOCUMENTS], [texts_of(2)])
        with pytest.raises(EngineError, match="expected one line of JSON, found "):
            synthesis.run(configure(sys.executable, "-c", program, processes=1), context)

    def test_without_a_command(self, configure, context):
        write_corpus(context.inputs[DOCUMENTS], [texts_of(1)])
        with pytest.raises(RecipeError, match=r"synthesis\.options\.command: required by CommandEngine"):
            synthesis.run(configure(), context)

    def test_a_command_that_does_not_exist(self, configure, context):
        write_corpus(context.inputs[DOCUMENTS], [texts_of(1)])
        with pytest.raises(RecipeError, match=r"synthesis\.options\.command: no_such_program: No such file"):
            synthesis.run(configure("no_such_program"), context)


class QuestionEngine(Engine):
    """Writes two questions, half a one, and a text of its own."""

    asked: ClassVar[list[Request]] = []

    async def generate(self, request: Request) -> Completion:
        self.asked.append(request)
        word = request.prompt.text.rpartition("\nText: ")[2].split()[0]
        answer = f" Which word is first?\nA: {word}\nQ: Is it long?\nA: No,\nit is not.\nQ: And\n\nText: More.\n\nQ: x"
        ids = self.tokenizer.encode([answer])[0]
        return self.completion(ids, True, len(request.prompt.ids), sampling=request.sampling)


class TestPromptStyle:
    """``plain_questions.py``"""

    @pytest.fixture
    def plain(self, extensions, configure):
        return replace(
            configure(),
            engine="tests.examples.test_extensions:QuestionEngine",
            prompt=f"{extensions}/plain_questions.py:PlainQuestions",
        )

    def test_pairs(self, plain, context):
        QuestionEngine.asked.clear()
        write_corpus(context.inputs[DOCUMENTS], [texts_of(3)])
        counts = synthesis.run(plain, context)
        pairs = [
            [(pair.question, pair.answer) for pair in example.pairs]
            for chain in synthesis.chains_in(context.directory)
            for example in chain.examples
        ]
        assert pairs == [
            [("Which word is first?", f"Text{number}"), ("Is it long?", "No,\nit is not.")] for number in range(3)
        ]
        assert counts["dropped"] == {"without a question and an answer": 3}
        assert counts["chains"] == 2

    def test_a_chain_repeats_its_ids_up_to_the_stop_string(self, plain, context):
        QuestionEngine.asked.clear()
        write_corpus(context.inputs[DOCUMENTS], [["One. Two </s>.", "Three."]])
        synthesis.run(plain, context)
        first, second = (request.prompt for request in QuestionEngine.asked)
        assert [request.sampling.stop for request in QuestionEngine.asked] == [("\nText:",)] * 2
        assert second.ids[: len(first.ids)] == first.ids and first.ids[0] == 1
        # BOS once, and the "</s>" of the text is text.
        assert not {1, 2} & {*first.ids[1:], *second.ids[1:]}
        answered = second.text.removeprefix(first.text)
        assert answered.startswith(" Which word is first?\nA: One.\n")
        assert answered.endswith("\nQ: And\n\nText: Three.\n\nQ:")

    def test_the_file_is_recorded(self, plain, extensions):
        recorded = synthesis.fingerprints(plain)
        assert [Path(entry["path"]).name for entry in recorded if entry.get("code")] == ["plain_questions.py"]

    def test_other_classes_and_names_are_refused(self, plain, configure):
        for name, message in (
            (f"{__name__}:QuestionEngine", r"synthesis\.prompt: .* is not a subclass of .*style\.PromptStyle"),
            ("no.such:Style", r"synthesis\.prompt: no\.such cannot be imported"),
        ):
            with pytest.raises(RecipeError, match=message):
                synthesis.check(replace(plain, prompt=name))
        with pytest.raises(RecipeError, match=r"prompt: 'synthesiser' is not one of .*Did you mean synthesizer"):
            load(SynthesisConfig, None, ["prompt=synthesiser"])


class TestPairsWithoutAModel:
    """``definitions.py``"""

    def test_pairs(self, extensions):
        module = import_code(str(extensions / "definitions.py"), "extensions")
        text = "A cistern is a tank that keeps rain. Some had two. The arches were the work of masons. It is a pity."
        assert module.pairs_of(text) == [
            Pair("What is a cistern?", "A tank that keeps rain.", "definition"),
            Pair("What were the arches?", "The work of masons.", "definition"),
        ]

    def test_in_a_run(self, extensions, tmp_path):
        overrides = [
            f"output_dir={tmp_path}", f"extensions=[{extensions / 'definitions.py'}]", "synthesis.engine=definitions",
        ]  # fmt: skip
        recipe = load_recipe(REPOSITORY / "examples/quickstart.yaml", overrides)
        run_recipe(recipe, until="augment")
        counts = read_json(tmp_path / "synthesis/manifest.json")["counts"]
        assert counts["pairs"] > 0 and set(counts["categories"]) == {"definition"}


def test_the_recipe_with_every_extension(extensions, tokenizer_folder, tmp_path, monkeypatch):  # noqa: F811
    """Through the data stages; the family is trained below."""
    monkeypatch.chdir(REPOSITORY)
    overrides = [f"output_dir={tmp_path}/run", f"synthesis.generation.model={tokenizer_folder}"]
    recipe = load_recipe(extensions / "recipe.yaml", overrides)
    assert recipe.training.model.shape().family == "smollm3"
    run_recipe(recipe, until="augment")
    documents = {record["id"]: record for record in read_jsonl(tmp_path / "run/augment/augmented/shard-00000.jsonl")}
    assert documents.keys() == {"pubmed:1", "pubmed:3"}
    for text, answer in (("pubmed:1", "Field beans germinate slowly in cold soil."), ("pubmed:3", "Posters above the")):
        assert "What does the text say first?" in documents[text]["text"]
        assert documents[text]["text"].count(answer) == 2


class TestObjective:
    """``z_loss.py``"""

    @pytest.mark.slow
    def test_log_z_of_the_recipe_begins_at_that_of_a_uniform_guess(self, extensions, tmp_path, monkeypatch):
        pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
        from megatron_ipt.training.loop.metrics import read_metrics
        from megatron_ipt.training.stage import check, fingerprints, run as train
        from tests.training.conftest import context as training_context, documents, write_tokens

        monkeypatch.chdir(REPOSITORY)
        recipe = load_recipe(extensions / "recipe.yaml", ["training.steps=1"])
        check(recipe.training)
        assert [entry["path"] for entry in fingerprints(recipe.training)] == ["examples/extensions/z_loss.py"]
        tokens = write_tokens(tmp_path / "tokens", [documents(60, 1)], {})
        train(recipe.training, training_context(tmp_path / "training", tokens))
        (first,) = [record for record in read_metrics(tmp_path / "training/metrics.jsonl") if "loss" in record]
        metrics = first["metrics"]
        # 500 entries with logits near 0: log Z is ln 500.
        assert metrics["z_loss/log_z"] == pytest.approx(6.2146, abs=0.02)
        assert metrics["z_loss/loss"] == pytest.approx(6.2146**2, abs=0.2)
        assert first["loss"] == pytest.approx(metrics["next_token/loss"] + 1e-4 * metrics["z_loss/loss"], rel=1e-9)


class TestFamily:
    """``smollm3.py``"""

    def test_unknown_without_it(self, extensions):
        with pytest.raises(RecipeError, match=r"training\.model\.family: 'smollm3' is not one of mistral, llama, "):
            load_recipe(None, ["corpus.inputs=[a]", "training.model.family=smollm3"])
        shape = load_recipe(
            None,
            ["corpus.inputs=[a]", f"extensions=[{extensions}/smollm3.py]", "training.model.preset=smollm3_3b"],
        ).training.model.shape()
        # What transformers counts for SmolLM3-3B's configuration: 128,256 x 2,048 shared, 36 layers.
        assert shape.parameters(128256) == 3_075_098_624

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"no_rope_layers": [1, 0, 1, 0]}, r"no_rope_layers=\[1, 0, 1, 0\] is not supported"),
            ({"no_rope_layer_interval": 2}, r"no_rope_layer_interval=2 is not supported; supported: 4"),
        ],
    )
    def test_other_intervals_are_refused(self, extensions, tmp_path, changes, message):
        from megatron_ipt.extensions import load_extensions
        from megatron_ipt.models.hugging_face_config import read_model_config

        load_extensions([str(extensions / "smollm3.py")], "extensions")
        config = {
            "model_type": "smollm3", "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96,
            "num_attention_heads": 4, "max_position_embeddings": 64, "vocab_size": 50, "rms_norm_eps": 1e-6,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        read_model_config(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(InputError, match=message):
            read_model_config(tmp_path)

    def test_it_is_the_model_that_transformers_knows(self, extensions, tmp_path):
        """An absent key means the same, and the parameters are as many."""
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        from megatron_ipt.extensions import load_extensions
        from megatron_ipt.models.hugging_face_config import TokenIds, hugging_face_config, read_model_config
        from megatron_ipt.models.presets import resolve_shape

        load_extensions([str(extensions / "smollm3.py")], "extensions")
        minimal = {
            "model_type": "smollm3", "num_hidden_layers": 5, "hidden_size": 64, "intermediate_size": 96,
            "num_attention_heads": 8, "max_position_embeddings": 64, "vocab_size": 50, "rms_norm_eps": 1e-6,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(minimal))
        shape = resolve_shape({}, read_model_config(tmp_path)[0])
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        assert (shape.num_query_groups, shape.rotary_base) == (4, 2e6)
        assert (theirs.num_key_value_heads, theirs.rope_parameters["rope_theta"]) == (4, 2e6)
        assert theirs.tie_word_embeddings and not shape.untie_embeddings_and_output_weights
        (tmp_path / "config.json").write_text(json.dumps(hugging_face_config(shape, 50, TokenIds(1, 2, 0), "float32")))
        written = transformers.AutoConfig.from_pretrained(tmp_path)
        assert written.no_rope_layers == [1, 1, 1, 0, 1]
        assert resolve_shape({}, read_model_config(tmp_path)[0]) == shape
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(written)
        assert model.num_parameters() == shape.parameters(50)

    @pytest.mark.slow
    def test_import_train_export(self, extensions, tmp_path):
        """Bits come back from the way in and out; after training, logits equal those of transformers' own SmolLM3."""
        pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
        torch = pytest.importorskip("torch")
        from megatron_ipt.convert.commands import export_model, import_model
        from megatron_ipt.extensions import load_extensions
        from megatron_ipt.training.config import TrainingConfig
        from megatron_ipt.training.stage import run as train
        from tests.convert.models import assert_same_weights, save, weights
        from tests.training.conftest import context as training_context, documents, write_tokens

        load_extensions([str(extensions / "smollm3.py")], "extensions")
        # Five layers: the fourth rotates nothing, and the number is no multiple of four.
        source = save(
            tmp_path / "hf", "smollm3", vocab_size=500, hidden_size=64, head_dim=16, num_hidden_layers=5,
            tie_word_embeddings=True, pad_token_id=0,
        )  # fmt: skip
        import_model(source, tmp_path / "checkpoints")
        export_model(tmp_path / "checkpoints", tmp_path / "back")
        assert_same_weights(source, tmp_path / "back")
        assert "no_rope_layers" not in read_json(tmp_path / "back/config.json")

        tokens = write_tokens(tmp_path / "tokens", [documents(60, 1)], {})
        config = load(
            TrainingConfig,
            None,
            [
                f"model.from_hf={source}/config.json", f"initial_checkpoint={tmp_path}/checkpoints/release",
                "data.seq_length=32", "micro_batch_size=2", "global_batch_size=4", "steps=3", "optimizer.lr=0.01",
                "validation.eval_iters=0",
            ],
        )  # fmt: skip
        train(config, training_context(tmp_path / "training", tokens))
        trained = export_model(tmp_path / "training/checkpoints", tmp_path / "trained", verify=True)
        assert trained["family"] == "smollm3"
        assert trained["verified"]["max_abs_difference"] < 1e-4
        before, after = weights(source), weights(tmp_path / "trained")
        assert not any(torch.equal(before[name], after[name]) for name in before)
