"""Tests of pairs from a taxonomy."""
