"""Instruction Pre-Training on Megatron-Core: from a raw corpus to a Hugging Face model."""

__version__ = "0.1.0"
