"""Commands that are not stages, one module per topic. Their code is imported when a command is called."""
