"""Measures a trained model, and checks that its exported copy is the same model."""
