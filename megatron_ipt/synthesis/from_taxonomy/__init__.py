"""Instruction–response pairs without a corpus, from a taxonomy of knowledge alone (GLAN, arXiv:2402.13064)."""
