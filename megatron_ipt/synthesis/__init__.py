"""Instruction–response pairs: mined, prompted or replayed."""
