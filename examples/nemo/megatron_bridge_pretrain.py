"""Pre-trains on the data of a Megatron-IPT run with Megatron-Bridge, the successor of NeMo 2.x.

    torchrun --nproc-per-node 8 examples/nemo/megatron_bridge_pretrain.py RUN MODEL OUTPUT --steps 1000
    torchrun --nproc-per-node 8 examples/nemo/megatron_bridge_pretrain.py RUN MODEL OUTPUT --steps 1000 --from-weights
    python examples/nemo/megatron_bridge_pretrain.py RUN MODEL OUTPUT --export

RUN is the ``output_dir`` of a recipe whose stage ``tokens`` has finished. MODEL is a Hugging Face folder, such as
RUN/export/model, that defines the model shape and, with ``--from-weights``, the initial weights. ``--export`` writes
the last checkpoint in OUTPUT as a Hugging Face folder ``OUTPUT/hf``.

NOT RUN: Megatron-Bridge trains on GPUs only, and its dependencies (Transformer Engine, mamba-ssm) need CUDA. Written
for megatron-bridge 0.3.1; all arguments were checked against its sources.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from run_data import RunData, read_run


def dataset_settings(data: RunData) -> dict[str, Any]:
    """Fields of Megatron-Bridge's GPTDatasetConfig that select the data."""
    return {"blend": None, "blend_per_split": data.blend_per_split(), "split": None}


def main() -> None:
    arguments = parse()
    if arguments.export:
        export(arguments)
    else:
        pretrain_run(arguments)


def pretrain_run(arguments: argparse.Namespace) -> None:
    import torch
    from megatron.bridge import AutoBridge
    from megatron.bridge.recipes.utils.optimizer_utils import distributed_fused_adam_with_cosine_annealing
    from megatron.bridge.training.config import (
        CheckpointConfig,
        ConfigContainer,
        DistributedDataParallelConfig,
        GPTDatasetConfig,
        LoggerConfig,
        RNGConfig,
        TokenizerConfig,
        TrainingConfig,
    )
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    data = read_run(arguments.run)
    model = AutoBridge.from_hf_pretrained(str(arguments.model)).to_megatron_provider(load_weights=False)
    model.seq_length = arguments.seq_length
    model.tensor_model_parallel_size = arguments.tensor_parallel
    model.pipeline_model_parallel_size = arguments.pipeline_parallel
    model.pipeline_dtype = torch.bfloat16
    model.sequence_parallel = arguments.tensor_parallel > 1

    imported = arguments.output / "imported"
    if arguments.from_weights and not imported.exists():
        raise SystemExit(
            f'{imported}: does not exist. Run once, in one process: python -c "from megatron.bridge import AutoBridge; '
            f"AutoBridge.import_ckpt('{arguments.model}', '{imported}')\""
        )
    checkpoints = str(arguments.output / "checkpoints")
    optimizer, scheduler = distributed_fused_adam_with_cosine_annealing(
        lr_warmup_iters=arguments.warmup,
        lr_decay_iters=arguments.steps,
        max_lr=arguments.lr,
        min_lr=arguments.lr / 10,
    )
    pretrain(
        ConfigContainer(
            model=model,
            train=TrainingConfig(
                train_iters=arguments.steps,
                eval_interval=min(arguments.steps, 1000),
                eval_iters=20,
                micro_batch_size=arguments.micro_batch_size,
                global_batch_size=arguments.global_batch_size,
            ),
            optimizer=optimizer,
            scheduler=scheduler,
            ddp=DistributedDataParallelConfig(
                grad_reduce_in_fp32=True,
                overlap_grad_reduce=True,
                overlap_param_gather=True,
                use_distributed_optimizer=True,
            ),
            dataset=GPTDatasetConfig(
                seq_length=arguments.seq_length,
                random_seed=1234,
                reset_position_ids=False,
                reset_attention_mask=False,
                eod_mask_loss=False,
                dataloader_type="single",
                num_workers=2,
                **dataset_settings(data),
            ),
            tokenizer=TokenizerConfig(tokenizer_type="HuggingFaceTokenizer", tokenizer_model=data.tokenizer),
            logger=LoggerConfig(log_interval=10, tensorboard_dir=str(arguments.output / "tensorboard")),
            checkpoint=CheckpointConfig(
                save=checkpoints,
                load=checkpoints,
                save_interval=500,
                ckpt_format="torch_dist",
                pretrained_checkpoint=str(imported) if arguments.from_weights else None,
            ),
            rng=RNGConfig(seed=1234),
            mixed_precision="bf16_mixed",
        ),
        forward_step,
    )


def export(arguments: argparse.Namespace) -> None:
    from megatron.bridge import AutoBridge

    bridge = AutoBridge.from_hf_pretrained(str(arguments.model))
    bridge.export_ckpt(str(arguments.output / "checkpoints"), str(arguments.output / "hf"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--from-weights", action="store_true", help="continue from the weights of MODEL")
    parser.add_argument("--export", action="store_true", help="write the last checkpoint to OUTPUT/hf and stop")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seq-length", type=int, default=2048)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--global-batch-size", type=int, default=512)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--pipeline-parallel", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
