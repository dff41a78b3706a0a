"""Sequences of which only a part is learned: tuning data for the synthesizer and for instructions."""
