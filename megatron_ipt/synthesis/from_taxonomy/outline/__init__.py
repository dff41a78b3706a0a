"""From a discipline to what is asked about it: taxonomy, prompts, and what models write, parsed. Pure functions."""
