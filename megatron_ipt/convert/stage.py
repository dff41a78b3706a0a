"""Stage ``export``: the trained model as a folder that transformers loads.

``export/model`` appears only when every file of it is complete.
"""

from __future__ import annotations

import shutil
from typing import Any

from megatron_ipt.convert.checkpoint.description import describe
from megatron_ipt.convert.checkpoint.find import find_checkpoint
from megatron_ipt.convert.checkpoint.reader import CheckpointReader
from megatron_ipt.convert.config import ExportConfig
from megatron_ipt.convert.exporter import plan_export, write_export
from megatron_ipt.convert.hugging_face.model_card import model_card
from megatron_ipt.convert.hugging_face.tokenizer_files import check_tokenizer
from megatron_ipt.convert.output_folder import unfinished_folder
from megatron_ipt.files import read_json
from megatron_ipt.manifest import StageContext, read_manifest
from megatron_ipt.models.hugging_face_config import TokenIds
from megatron_ipt.stages import CHECKPOINTS, TOKENS
from megatron_ipt.tokens.dataset.description import DATASET, has_loss_masks

MODEL_FOLDER = "model"


def run(config: ExportConfig, context: StageContext) -> dict[str, Any]:
    """Writes ``model/``; returns counts.

    Raises:
        InputError: the checkpoint cannot be used.
        StorageError: the folder could not be written.
    """
    checkpoint = find_checkpoint(context.inputs[CHECKPOINTS] / "checkpoints", config.iteration)
    tokens = context.inputs[TOKENS]
    dataset = read_json(tokens / DATASET)
    reader = CheckpointReader(checkpoint)
    model = describe(checkpoint, reader)
    plan = plan_export(reader, model, config.dtype, config.max_shard_size)
    tokenizer = tokens / dataset["tokenizer"]
    check_tokenizer(tokenizer, model.vocab_size)
    ids = TokenIds(dataset["bos_id"], dataset["eod_id"], dataset["pad_id"])
    final = context.directory / MODEL_FOLDER
    identity = {"source": plan.identity(), "dtype": config.dtype, "max_shard_size": config.max_shard_size}
    # The manifest has decided whether existing output may be replaced.
    with unfinished_folder(final, identity, plan.size, overwrite=True) as folder:
        exported = write_export(plan, folder, ids, config.workers)
        sources = (read_manifest(tokens) or {}).get("counts", {}).get("train_by_source", {})
        origin = "tuned" if has_loss_masks(dataset) else "pre-trained"
        card = model_card(context.recipe_name, model, exported, sources, origin)
        (folder / "README.md").write_text(card)
        for file in sorted(tokenizer.iterdir()):
            shutil.copyfile(file, folder / file.name)
    return {**exported, "checkpoint": checkpoint.name}
