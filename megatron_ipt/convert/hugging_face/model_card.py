"""The model card (README.md) of an exported model: what it is, what it was trained on, how to use it."""

from __future__ import annotations

from typing import Any

from megatron_ipt.training.checkpoints.model_file import ModelFile

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
{tags}
---
# {name}

{parameters:,} parameters, {family} architecture, {dtype}; {origin}

| | |
|---|---|
{rows}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")
inputs = tokenizer("The lighthouse", return_tensors="pt")
print(tokenizer.decode(model.generate(inputs["input_ids"], max_new_tokens=60)[0]))
```
"""
ORIGINS = {
    "pre-trained": """\
pre-trained with Megatron-IPT by
[Instruction Pre-Training](https://arxiv.org/abs/2406.14491): part of the corpus was augmented with
instruction–response pairs, and the model was trained on all tokens with the next-token loss.""",
    "tuned": """\
tuned with Megatron-IPT: the loss was taken over responses only, not over the texts or prompts before them.""",
    "converted": "converted from a Megatron-Core checkpoint by Megatron-IPT.",
}
"""A sentence by the origin of the model. How a converted one was trained is not known."""
_BOS = "\nEvery training document began with the BOS token; evaluate with `add_bos_token=True`.\n"


def model_card(
    name: str,
    model: ModelFile,
    exported: dict[str, Any],
    sources: dict[str, Any],
    origin: str = "pre-trained",
) -> str:
    """The card as Markdown.

    Args:
        name: name of the recipe, or of the checkpoint if there is no recipe.
        model: description of the checkpoint.
        exported: what :func:`megatron_ipt.convert.exporter.write_export` returned.
        sources: ``{name: {tokens}}`` of the training data.
        origin: a key of ``ORIGINS``.
    """
    recipe = origin != "converted"
    total = sum(source["tokens"] for source in sources.values())
    facts = [
        *([("recipe", name)] if recipe else []),
        ("training tokens seen", f"{model.consumed_tokens:,}"),
        ("optimizer steps", f"{model.iteration:,}"),
        ("sequence length", f"{model.seq_length:,}"),
        ("vocabulary", f"{model.vocab_size:,}"),
    ]
    facts += [
        (f"training data: {source}", f"{counts['tokens']:,} tokens ({counts['tokens'] / total:.1%})")
        for source, counts in sources.items()
        if total
    ]
    tags = [*(["instruction-pre-training"] if origin == "pre-trained" else []), "megatron-core"]
    card = _CARD.format(
        name=name,
        tags="\n".join(f"- {tag}" for tag in tags),
        parameters=exported["parameters"],
        family=exported["family"],
        dtype=exported["dtype"],
        origin=ORIGINS[origin],
        rows="\n".join(f"| {label} | {value} |" for label, value in facts),
    )
    return card + _BOS if recipe else card
