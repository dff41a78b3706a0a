"""What Megatron-LM's preprocess_data.py writes, spelled out with Megatron-Core's builder and tokenizers."""

from __future__ import annotations

import json

from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder


def write(lines, prefix, keys, tokenize, eod, vocab_size, append_eod, partitions=1):
    """One line after the other; with ``partitions``, every N-th line goes to the same one, and they are joined."""
    lines = list(lines)
    ordered = [line for partition in range(partitions) for line in lines[partition::partitions]]
    for key in keys:
        builder = IndexedDatasetBuilder(f"{prefix}_{key}_document.bin", dtype=DType.optimal_dtype(vocab_size))
        for line in ordered:
            text = json.loads(line)[key]
            ids, lengths = [], []
            for sentence in text if isinstance(text, list) else [text]:
                sentence_ids = tokenize(sentence)
                if len(sentence_ids) > 0:
                    ids.extend(sentence_ids)
                    lengths.append(len(sentence_ids))
            if len(ids) > 0 and append_eod:
                ids.append(eod)
                lengths[-1] += 1
            builder.add_document(ids, lengths)
        builder.finalize(f"{prefix}_{key}_document.idx")


def core_tokenizer(kind, model, **options):
    """The tokenizer that the present Megatron-LM builds: (tokenize, eod, vocab_size)."""
    from megatron.core.tokenizers import MegatronTokenizer

    library = {"HuggingFaceTokenizer": "huggingface"}.get(kind, "sentencepiece")
    tokenizer = MegatronTokenizer.from_pretrained(
        tokenizer_path=str(model), metadata_path={"library": library}, **options
    )
    return tokenizer.tokenize, tokenizer.eod, tokenizer.vocab_size


def legacy_llama2(model):
    """Llama2Tokenizer as it was: BOS before every text."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return (
        lambda text: [processor.bos_id(), *processor.encode(text)],
        processor.eos_id(),
        processor.get_piece_size(),
    )


def legacy_sentencepiece(model):
    """SentencePieceTokenizer as it was, for texts without its special tokens: <EOD> is added to the vocabulary."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    vocabulary = [processor.id_to_piece(i) for i in range(len(processor))]
    vocabulary += [token for token in ("<CLS>", "<SEP>", "<EOD>", "<MASK>", "<PAD>") if token not in vocabulary]
    return processor.encode_as_ids, vocabulary.index("<EOD>"), len(vocabulary)
