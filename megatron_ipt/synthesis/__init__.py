"""Instruction–response pairs out of documents, by a language model or by mining."""
