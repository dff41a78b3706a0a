"""Recipes over tiny models for this folder."""

from tests.selection.tiny_llamas import llama, pds

__all__ = ["llama", "pds"]
