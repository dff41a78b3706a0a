"""Megatron-Core models and their arithmetic."""
