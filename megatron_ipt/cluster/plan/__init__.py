"""Memory, layout, time and storage of a recipe, estimated before it runs."""
