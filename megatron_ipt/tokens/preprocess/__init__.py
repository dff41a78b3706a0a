"""Megatron-LM's preprocess_data, from the same flags."""
