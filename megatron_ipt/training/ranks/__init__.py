"""Launching the processes of a run, and their layout."""
