"""Prompts for any chat model: tasks as data, rendered by the model's own chat template, answers parsed leniently."""
