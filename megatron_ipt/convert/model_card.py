"""The README.md of an exported model: what it is, what it was trained on, how to use it."""

from __future__ import annotations

from typing import Any

from megatron_ipt.training.model_file import ModelFile

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
_TRAINED = """\
pre-trained with Megatron-IPT by
[Instruction Pre-Training](https://arxiv.org/abs/2406.14491): part of the corpus was augmented with
instruction–response pairs, and the model was trained on all tokens with the next-token loss."""
_CONVERTED = "converted from a Megatron-Core checkpoint by Megatron-IPT."
_BOS = "\nEvery training document began with the BOS token; evaluate with `add_bos_token=True`.\n"


def model_card(
    name: str, model: ModelFile, exported: dict[str, Any], sources: dict[str, Any], recipe: bool = True
) -> str:
    """The card as Markdown.

    Args:
        name: of the recipe, or of the checkpoint where no recipe is known.
        model: description of the checkpoint.
        exported: what :func:`megatron_ipt.convert.export.write_export` returned.
        sources: ``{name: {tokens}}`` of the training data.
        recipe: whether a recipe of this package trained it, so that it is known how.
    """
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
    card = _CARD.format(
        name=name,
        tags="\n".join(f"- {tag}" for tag in (["instruction-pre-training"] if recipe else []) + ["megatron-core"]),
        parameters=exported["parameters"],
        family=exported["family"],
        dtype=exported["dtype"],
        origin=_TRAINED if recipe else _CONVERTED,
        rows="\n".join(f"| {label} | {value} |" for label, value in facts),
    )
    return card + _BOS if recipe else card
