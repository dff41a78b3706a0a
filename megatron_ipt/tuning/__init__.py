"""Sequences with a loss mask: tuning data for the synthesizer and for instruction tuning."""
