"""Finds the settings with which an engine is fastest."""
