"""Pre-training with Megatron-Core, on GPUs or on one CPU core."""
