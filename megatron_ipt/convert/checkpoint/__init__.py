"""Distributed checkpoints, read and written without Megatron-Core."""
