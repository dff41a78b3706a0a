"""Writes a SentencePiece BPE model as ``tokenizer.json``, exactly.

SentencePiece merges the neighbours whose joined piece has the best score; the tokenizers library applies a ranked list
of merges. Listing, for every piece, all ways to split it into two pieces, in the order of the scores, makes the two
equivalent. The result is compared with the original on probing texts before it is trusted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.tokens.tokenizer.encoders import SentencePieceEncoder, TokenizersEncoder
from megatron_ipt.tokens.tokenizer.probes import first_difference
from megatron_ipt.tokens.tokenizer.transformers_files import write_tokenizer_config

_SPACE = "▁"


def write_hugging_face(processor: Any, folder: Path, control_tokens: list[str]) -> None:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json`` for a ``SentencePieceProcessor``.

    Args:
        control_tokens: additional probing texts.

    Raises:
        InputError: the model is not BPE or normalizes text in a way that could not be reproduced.
    """
    tokenizer = _build(processor)
    different = first_difference(
        TokenizersEncoder(tokenizer).encode, SentencePieceEncoder(processor).encode, control_tokens
    )
    if different is not None:
        raise InputError(
            "this SentencePiece model cannot be written as tokenizer.json without changing its ids (only BPE models "
            "without normalization can); use kind=huggingface with the tokenizer.json published for it. First "
            f"difference: {different!r}"
        )
    tokenizer.encode_special_tokens = False
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    bos = processor.id_to_piece(processor.bos_id()) if processor.bos_id() >= 0 else None
    write_tokenizer_config(
        folder, bos, processor.id_to_piece(processor.eos_id()), processor.id_to_piece(processor.unk_id())
    )


def _build(processor: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    ids = list(range(processor.get_piece_size()))
    pieces, scores, is_byte = processor.id_to_piece(ids), processor.get_score(ids), processor.is_byte(ids)
    is_control = [a or b for a, b in zip(processor.is_control(ids), processor.is_unknown(ids))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    apart = zip(is_control, is_byte, processor.is_unused(ids))
    mergeable = {piece for piece, reasons in zip(pieces, apart) if not any(reasons)}
    ranked = []
    for piece in mergeable:
        score = scores[vocabulary[piece]]
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in mergeable and right in mergeable:
                ranked.append((-score, vocabulary[piece], vocabulary[left], vocabulary[right], left, right))
    ranked.sort()
    unknown = processor.id_to_piece(processor.unk_id())
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [(left, right) for *_, left, right in ranked],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=any(is_byte),
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [i for i in ids if is_control[i]]
    tokenizer.add_special_tokens([AddedToken(pieces[i], special=True, normalized=False) for i in control])
    if processor.bos_id() >= 0:
        bos = pieces[processor.bos_id()]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, processor.bos_id())]
        )
    tokenizer.encode_special_tokens = True
    return tokenizer
