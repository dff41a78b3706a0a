from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.checkpoints.model_file import ModelFile
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.stage import check, fingerprints, run
from megatron_ipt.training.teacher.config import TeacherConfig
from megatron_ipt.training.teacher.source import TeacherSource, check_tokenizers, read_entries

WORDS = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4}
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 5, "hidden_size": 48,
    "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip


def write_tokenizer(folder: Path, words: dict[str, int], added: tuple[str, ...] = ()) -> Path:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(WordLevel(words, unk_token="a"))
    tokenizer.add_special_tokens([AddedToken(token) for token in added])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_teacher(folder: Path, **values: Any) -> Path:
    write_tokenizer(folder, WORDS)
    (folder / "config.json").write_text(json.dumps(LLAMA | values))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "tokens/tokenizer", WORDS)
    (tmp_path / "tokens/dataset.json").write_text(json.dumps({"tokenizer": "tokenizer", "vocab_size": 5}))
    return tmp_path / "tokens"


def read(path: Path, **settings: Any) -> TeacherSource:
    return TeacherSource.read(TeacherConfig(path=str(path), **settings))


def test_a_hugging_face_folder(tmp_path: Path, tokens: Path) -> None:
    source = read(write_teacher(tmp_path / "teacher"))
    assert not source.is_checkpoint and source.vocab_size == 5
    assert source.shape.num_layers == 4 and source.shape.max_position_embeddings == 64
    check_tokenizers(source, tokens)


def test_rows_of_the_embedding_do_not_matter_and_entries_do(tmp_path: Path, tokens: Path) -> None:
    """Models of a family pad their embeddings differently; an entry in another place is another language."""
    check_tokenizers(read(write_teacher(tmp_path / "padded", vocab_size=64)), tokens)
    teacher = write_teacher(tmp_path / "teacher")
    write_tokenizer(teacher, {"<s>": 0, "</s>": 1, "b": 2, "a": 3, "c": 4})
    with pytest.raises(
        InputError, match=r"differs from that of .* in 2 entries .*'[ab]' is 2 in the data, 3 for"
    ) as error:
        check_tokenizers(read(teacher), tokens)
    assert "tokens.tokenizer" in str(error.value)
    write_tokenizer(teacher, WORDS, added=("<pad>",))
    with pytest.raises(InputError, match=r"in 1 entries .*'<pad>' is missing in the data, 5 for the teacher"):
        check_tokenizers(read(teacher), tokens)
    write_tokenizer(tokens / "tokenizer", WORDS, added=("<pad>",))
    with pytest.raises(InputError, match="has 5 embeddings, but its tokenizer 6 ids"):
        check_tokenizers(read(teacher), tokens)


def checkpoint(folder: Path, source: TeacherSource) -> Path:
    """A training's folder with the description of a checkpoint."""
    place = folder / "training/checkpoints/iter_0000007"
    place.mkdir(parents=True)
    (place / "metadata.json").write_text("{}")
    (place.parent / "latest_checkpointed_iteration.txt").write_text("7")
    ModelFile(source.shape, 5, 128, "float32", 64, 7, 0, 0, {}).write(place)
    return place.parent


def test_a_checkpoint_has_the_tokenizer_of_its_run(tmp_path: Path, tokens: Path) -> None:
    shape = read(write_teacher(tmp_path / "teacher"))
    checkpoints = checkpoint(tmp_path / "run", shape)
    source = read(checkpoints)
    assert (source.is_checkpoint, source.vocab_size, source.padded_vocab_size) == (True, 5, 128)
    with pytest.raises(
        InputError, match=r"no tokenizer is known for this checkpoint; set training.distillation.teacher"
    ):
        check_tokenizers(source, tokens)
    check_tokenizers(read(checkpoints, tokenizer=str(tmp_path / "teacher")), tokens)
    manifest = {"inputs": [{"path": str(tokens), "stage": "tokens"}]}
    (checkpoints.parent / "manifest.json").write_text(json.dumps(manifest))
    assert read(checkpoints).tokenizer == tokens / "tokenizer"
    check_tokenizers(read(checkpoints), tokens)


def test_other_models_change_the_fingerprint(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    config = load(TrainingConfig, None, [f"distillation.teacher.path={teacher}"])
    before = fingerprints(config)
    assert fingerprints(config) == before and len(before) == 2
    (teacher / "model.safetensors").write_bytes(b"other weights")
    assert fingerprints(config) != before
    assert fingerprints(load(TrainingConfig, None, [])) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.seq_length=128"], "the teacher reads 64 tokens at most, and sequences have 128"),
        (["teacher.tensor_model_parallel_size=4"], "4 does not divide the teacher's num_query_groups=2; nearest.*: 2"),
        (["teacher.pipeline_model_parallel_size=3"], "3 does not divide the teacher's num_layers=4; .*: 2 or 4"),
        (["teacher.path=/nowhere"], "/nowhere: no such folder; expected a Hugging Face folder or a checkpoint"),
    ],
)
def test_teachers_that_do_not_fit(overrides: list[str], message: str, tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    settings = [f"distillation.{each}" if each.startswith("teacher") else each for each in overrides]
    config = load(TrainingConfig, None, ["data.seq_length=64", f"distillation.teacher.path={teacher}", *settings])
    with pytest.raises((RecipeError, InputError), match=message):
        check(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=jsd", "beta=0"], "beta: at 0 the divergence of any two models is 0; .* objective forward_kl"),
        (["objective=jsd", "beta=1"], "beta: at 1 .* objective reverse_kl"),
        (["skew=1"], "skew: at 1"),
        (["temperature=0"], "temperature: must be above 0"),
        (["alpha=1.5"], "alpha: 1.5"),
        (["objective=forward"], "objective: .*forward_kl"),
    ],
)
def test_settings_that_cannot_be(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=f"distillation.{message}"):
        load(TrainingConfig, None, [f"distillation.{each}" for each in overrides])


def test_terms_that_distillation_adds_are_not_listed_again() -> None:
    overrides = ["distillation.teacher.path=here", "objectives={next_token: {weight: 1}}"]
    with pytest.raises(RecipeError, match=r"objectives.next_token: is added by training.distillation"):
        load(TrainingConfig, None, overrides)


def test_a_teacher_with_another_tokenizer_is_refused_before_any_rank_starts(tmp_path: Path, tokens: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    config = load(TrainingConfig, None, [f"distillation.teacher.path={teacher}", "data.seq_length=64"])
    started = []

    class Launcher:
        def launch(self, config: TrainingConfig, context: StageContext) -> dict[str, Any]:
            started.append(config)
            return {"steps": 1}

    context = StageContext("training", tmp_path / "training", 17, {TOKENS: tokens})
    assert run(config, context, Launcher())["steps"] == 1
    write_tokenizer(teacher, WORDS | {"c": 3, "b": 4})
    with pytest.raises(InputError, match="the teacher's tokenizer differs"):
        run(config, context, Launcher())
    assert len(started) == 1


def test_files_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer.json or tokenizer.model found"):
        read_entries(tmp_path)
    quantized = write_teacher(tmp_path / "quantized", quantization_config={"quant_method": "gptq"})
    with pytest.raises(InputError, match="quantization_config"):
        read(quantized)
    shutil.rmtree(quantized)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no checkpoint found"):
        read(tmp_path / "empty")
    assert asdict(TeacherConfig())["path"] is None
