"""Engines that run a language model: generation and scoring."""
