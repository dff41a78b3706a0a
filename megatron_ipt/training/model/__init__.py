"""Building Megatron-Core models, and their precision."""
