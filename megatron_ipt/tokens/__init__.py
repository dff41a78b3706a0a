"""Documents to token ids: tokenizers, interleaving, Megatron indexed datasets."""
