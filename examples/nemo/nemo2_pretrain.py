"""Pre-trains on the data of a Megatron-IPT run with NeMo 2.x (``nemo.collections.llm``).

    torchrun --nproc-per-node 8 examples/nemo/nemo2_pretrain.py RUN MODEL OUTPUT --steps 1000
    torchrun --nproc-per-node 8 examples/nemo/nemo2_pretrain.py RUN MODEL OUTPUT --steps 1000 --from-weights
    python examples/nemo/nemo2_pretrain.py RUN MODEL OUTPUT --export OUTPUT/default/.../checkpoints/NAME-last

RUN is the ``output_dir`` of a recipe whose stage ``tokens`` has finished. MODEL is a Hugging Face folder of a Llama
model, such as RUN/export/model, that defines the model shape and, with ``--from-weights``, the initial weights. OUTPUT
gets logs, NeMo's checkpoints and, after ``--export``, a Hugging Face folder ``OUTPUT/hf``.

NOT RUN: NeMo trains on GPUs only. Written for nemo-toolkit 2.7.3; all arguments were checked against its sources.
nemo-toolkit 3.0 supports speech only; Megatron-Bridge is its successor (``megatron_bridge_pretrain.py``). Recipes for
NeMo need ``training.model.family: llama``: NeMo's importer for Mistral takes the sequence length from the sliding
window, which our exports do not have. Without a sliding window, Mistral and Llama are the same model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from run_data import read_run

SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "kv_channels": "head_dim",
    "init_method_std": "initializer_range",
    "layernorm_epsilon": "rms_norm_eps",
    "rotary_base": "rope_theta",
    "share_embeddings_and_output_weights": "tie_word_embeddings",
}
"""Maps fields of NeMo's LlamaConfig to keys of config.json."""


def model_sizes(folder: Path) -> dict[str, Any]:
    """Arguments of NeMo's LlamaConfig for the model in ``folder``.

    Raises:
        SystemExit: the model is not a Llama, or uses rotary scaling, for which NeMo has Llama31Config.
    """
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama":
        raise SystemExit(f"{folder}: is a {config['model_type']} model; set training.model.family to llama")
    if config.get("rope_scaling"):
        raise SystemExit(f"{folder}: uses rotary scaling; use llm.Llama31Config8B or --from-weights instead")
    return {ours: config[theirs] for ours, theirs in SIZES.items()}


def main() -> None:
    arguments = parse()
    if arguments.export:
        export(arguments)
    else:
        pretrain(arguments)


def pretrain(arguments: argparse.Namespace) -> None:
    import torch
    from megatron.core.optimizer import OptimizerConfig
    from nemo import lightning as nl
    from nemo.collections import llm
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    run = read_run(arguments.run)
    data = llm.PreTrainingDataModule(
        paths=run.nemo_paths(),
        seq_length=arguments.seq_length,
        tokenizer=AutoTokenizer(run.tokenizer),
        micro_batch_size=arguments.micro_batch_size,
        global_batch_size=arguments.global_batch_size,
        split=None,
        num_workers=2,
    )
    restore = None
    if arguments.from_weights:
        imported = Path(arguments.output) / "imported"
        if not imported.exists():
            llm.import_ckpt(model=llm.LlamaModel(), source=f"hf://{arguments.model.resolve()}", output_path=imported)
        model, restore = str(imported), nl.RestoreConfig(path=str(imported), load_artifacts=False)
    else:
        config = llm.LlamaConfig(
            **model_sizes(arguments.model), seq_length=arguments.seq_length, make_vocab_size_divisible_by=128
        )
        model = llm.LlamaModel(config, tokenizer=data.tokenizer)
    trainer = nl.Trainer(
        accelerator="gpu",
        devices=arguments.devices,
        num_nodes=arguments.nodes,
        max_steps=arguments.steps,
        val_check_interval=min(arguments.steps, 1000),
        limit_val_batches=20,
        limit_test_batches=20,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        plugins=nl.MegatronMixedPrecision(precision="bf16-mixed"),
        strategy=nl.MegatronStrategy(
            tensor_model_parallel_size=arguments.tensor_parallel,
            pipeline_model_parallel_size=arguments.pipeline_parallel,
            pipeline_dtype=torch.bfloat16,
            sequence_parallel=arguments.tensor_parallel > 1,
        ),
    )
    optimizer = nl.MegatronOptimizerModule(
        config=OptimizerConfig(
            optimizer="adam", lr=arguments.lr, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95, clip_grad=1.0,
            bf16=True, use_distributed_optimizer=True,
        ),
        lr_scheduler=nl.lr_scheduler.CosineAnnealingScheduler(
            max_steps=arguments.steps, warmup_steps=arguments.warmup, constant_steps=0, min_lr=arguments.lr / 10
        ),
    )  # fmt: skip
    llm.pretrain(
        model=model,
        data=data,
        trainer=trainer,
        log=nl.NeMoLogger(
            log_dir=str(arguments.output), ckpt=nl.ModelCheckpoint(save_last=True, every_n_train_steps=500)
        ),
        resume=nl.AutoResume(resume_if_exists=True, resume_ignore_no_checkpoint=True, restore_config=restore),
        optim=optimizer,
    )


def export(arguments: argparse.Namespace) -> None:
    from nemo.collections import llm

    llm.export_ckpt(path=arguments.export, target="hf", output_path=arguments.output / "hf")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--from-weights", action="store_true", help="continue from the weights of MODEL")
    parser.add_argument("--export", type=Path, metavar="CHECKPOINT", help="export it to OUTPUT/hf and stop")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seq-length", type=int, default=2048)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--global-batch-size", type=int, default=512)
    parser.add_argument("--devices", type=int, default=8, help="GPUs per node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--pipeline-parallel", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
