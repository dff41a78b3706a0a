"""Measures the quality of pairs of any engine, on its output alone or against gold pairs of the same texts."""
