"""What a teacher's files say about it, and whether it can teach; reads no weights and needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.files import read_json
from megatron_ipt.manifest import fingerprint_file, read_manifest
from megatron_ipt.models import divisibility
from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.hugging_face_config import config_file, read_model_config
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.tokenizer_readers import read_sentencepiece, read_tokenizer_json
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.training.checkpoints.model_file import MODEL_FILE, ModelFile, checkpoint_folder
from megatron_ipt.training.teacher.config import TeacherConfig

KEY = "training.distillation.teacher"
_SHOWN = 3


@dataclass(frozen=True)
class TeacherSource:
    """Attributes:
    folder: of the files themselves.
    is_checkpoint: otherwise a Hugging Face folder.
    vocab_size: entries of its vocabulary, rows that pad it left out.
    tokenizer: folder of its tokenizer; None if it was not found.
    padded_vocab_size: rows of a checkpoint's embedding.
    """

    folder: Path
    is_checkpoint: bool
    shape: ModelShape
    vocab_size: int
    tokenizer: Path | None
    padded_vocab_size: int | None = None

    @classmethod
    def read(cls, config: TeacherConfig) -> TeacherSource:
        """Raises:
        InputError: there is no model at the path, or it is of a kind that is not supported.
        """
        assert config.path is not None
        path = Path(config.path)
        if not path.is_dir():
            raise InputError(f"{KEY}.path: {path}: no such folder; expected a Hugging Face folder or a checkpoint")
        own = Path(config.tokenizer) if config.tokenizer else None
        if (path / "config.json").is_file():
            values, vocab_size = read_model_config(path)
            if "quantization_config" in read_json(config_file(path)):
                raise InputError(f"{config_file(path)}: quantization_config: export the model in bf16 or fp32 first")
            return cls(path, False, resolve_shape({}, values), vocab_size, own or path)
        folder = checkpoint_folder(path)
        model = ModelFile.read(folder)
        return cls(
            folder, True, model.shape, model.vocab_size, own or _tokenizer_of_run(folder), model.padded_vocab_size
        )

    def fingerprints(self) -> list[dict[str, Any]]:
        """Of the file that describes the model and, for a Hugging Face folder, of its weights: a checkpoint's
        description has checksums of them."""
        if self.is_checkpoint:
            return [fingerprint_file(self.folder / MODEL_FILE)]
        weights = sorted(self.folder.glob("*.safetensors"))
        return [fingerprint_file(path) for path in (config_file(self.folder), *weights)]


def check_teacher(source: TeacherSource, config: TeacherConfig, seq_length: int) -> None:
    """Refuses a teacher that cannot read the sequences, or cannot be divided as the recipe says.

    Raises:
        RecipeError: names the key.
    """
    shape, tensor, pipeline = source.shape, config.tensor_model_parallel_size, config.pipeline_model_parallel_size
    if shape.max_position_embeddings < seq_length:
        raise RecipeError(
            f"{KEY}.path: the teacher reads {shape.max_position_embeddings} tokens at most, and sequences have "
            f"{seq_length}; set training.data.seq_length to {shape.max_position_embeddings} or less"
        )
    sizes = ("num_attention_heads", "num_query_groups", "ffn_hidden_size")
    values = {name: getattr(shape, name) for name in sizes} | {"padded_vocab_size": source.padded_vocab_size or tensor}
    for name, size in values.items():
        if size % tensor:
            raise RecipeError(
                f"{KEY}.tensor_model_parallel_size: {tensor} does not divide the teacher's {name}={size}; nearest that "
                f"do: {divisibility.divisors(size, tensor)}"
            )
    if shape.num_layers % pipeline:
        raise RecipeError(
            f"{KEY}.pipeline_model_parallel_size: {pipeline} does not divide the teacher's num_layers="
            f"{shape.num_layers}; nearest that do: {divisibility.divisors(shape.num_layers, pipeline)}"
        )
    if shape.num_moe_experts and tensor > 1:
        raise RecipeError(
            f"{KEY}.tensor_model_parallel_size: a teacher with experts cannot be tensor parallel; use "
            "pipeline_model_parallel_size"
        )


def check_tokenizers(source: TeacherSource, tokens: Path) -> None:
    """Refuses a teacher to whom an id means something else than to the training data in ``tokens``.

    Entries are compared one by one. The numbers of rows of the embeddings do not matter: models of one family pad them
    differently.

    Raises:
        InputError: the tokenizers differ, or the teacher's is not known.
    """
    if source.tokenizer is None:
        raise InputError(
            f"{source.folder}: no tokenizer is known for this checkpoint; set {KEY}.tokenizer to the folder of the one "
            "it was trained with"
        )
    description = read_json(tokens / DATASET)
    own, teacher = read_entries(tokens / description["tokenizer"]), read_entries(source.tokenizer)
    different = [token for token in own.keys() | teacher.keys() if own.get(token) != teacher.get(token)]
    if different:
        shown = sorted(different, key=lambda token: min(own.get(token, len(own)), teacher.get(token, len(teacher))))
        examples = "; ".join(
            f"{token!r} is {_id(own, token)} in the data, {_id(teacher, token)} for the teacher"
            for token in shown[:_SHOWN]
        )
        raise InputError(
            f"{source.tokenizer}: the teacher's tokenizer differs from that of {tokens} in {len(different)} entries "
            f"({examples}). Tokenize with the teacher's: tokens.tokenizer"
        )
    if source.vocab_size <= max(teacher.values()):
        raise InputError(
            f"{source.folder}: has {source.vocab_size} embeddings, but its tokenizer {max(teacher.values()) + 1} ids"
        )


def read_entries(folder: Path) -> dict[str, int]:
    """Every entry of the tokenizer in ``folder`` and its id, control tokens included.

    Raises:
        InputError: there is no tokenizer.
    """
    if (folder / "tokenizer.json").is_file():
        return dict(read_tokenizer_json(folder / "tokenizer.json").get_vocab(with_added_tokens=True))
    model = folder / "tokenizer.model"
    if model.is_file():
        pieces = read_sentencepiece(model.read_bytes(), model)
        return {pieces.id_to_piece(number): number for number in range(pieces.get_piece_size())}
    raise InputError(f"{folder}: no tokenizer.json or tokenizer.model found; see {KEY}.tokenizer")


def _id(entries: dict[str, int], token: str) -> str:
    return str(entries[token]) if token in entries else "missing"


def _tokenizer_of_run(folder: Path) -> Path | None:
    """The tokenizer of the data that the checkpoint ``RUN/STAGE/checkpoints/iter_*`` was trained on."""
    manifest = read_manifest(folder.parent.parent) or {}
    for entry in manifest.get("inputs", ()):
        path = Path(entry["path"]) / DATASET
        if path.is_file():
            return path.parent / str(read_json(path)["tokenizer"])
    return None
