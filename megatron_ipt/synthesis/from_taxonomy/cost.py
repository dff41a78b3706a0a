"""Cost model of the stage: the calls of the plan, at the speed of a 7 to 8B model on each GPU."""

from __future__ import annotations

from megatron_ipt.models.hardware import gpu_named
from megatron_ipt.stages import CHAINS
from megatron_ipt.stages.costs import Estimate, PairedTexts, Planning, StageCost
from megatron_ipt.stages.readable import compact
from megatron_ipt.synthesis.cost import EFFICIENCY, seconds_per_request
from megatron_ipt.synthesis.from_taxonomy.asking import ANSWERS, QUESTIONS
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import DisciplineTask, file_of, read_taxonomy
from megatron_ipt.synthesis.from_taxonomy.plan import plan


def cost(config: TaxonomyConfig, planning: Planning) -> Estimate:
    """Time, storage and size of the pairs.

    Raises:
        RecipeError: the taxonomy cannot be read.
    """
    disciplines = read_taxonomy(file_of(config.file))
    tasks = [DisciplineTask(discipline.shard_name(planning.compression), discipline) for discipline in disciplines]
    # Lengths of prompts are estimated, so that no tokenizer is needed where recipes are planned.
    result = plan(config, None, tasks, None)
    pairs = float(planning.counts.get("pairs", result["pairs"]))
    levels = result["levels"]
    per_pair = sum(levels[level]["generated_tokens"] for level in (QUESTIONS, ANSWERS)) / max(1, result["pairs"])
    seconds = sum(
        figures["calls"]
        * seconds_per_request(
            figures["prompt_tokens"] / max(1, figures["calls"]), figures["generated_tokens"] / max(1, figures["calls"])
        )
        for figures in levels.values()
    )
    gpus = max(1, planning.machine.gpus)
    gpu_seconds = seconds / gpu_named(planning.machine.gpu).generation / EFFICIENCY
    basis = f"{compact(result['total']['calls'])} calls to a 7-8B model in FP8, {EFFICIENCY:.0%} of ideal speed"
    size = PairedTexts(pairs / config.pairs_per_document, 0.0, pairs, per_pair)
    return Estimate(
        costs=(StageCost("taxonomy", "gpu", gpus, gpu_seconds / gpus / 3600, gpu_seconds / 3600, basis),),
        makes={CHAINS: size},
        # Chains, rows for tuning, and the tree twice.
        storage_gb={"taxonomy": planning.shard_gb(size.tokens) * 2 + size.tokens * 4.4e-9 * 2},
        data=f"{len(disciplines)} disciplines give {compact(pairs)} pairs, {compact(size.pair_tokens)} tokens",
        facts={"data": {"disciplines": len(disciplines), "pairs": pairs, "pair_tokens": size.pair_tokens}},
    )
