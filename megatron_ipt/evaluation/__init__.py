"""What a trained model can do, and that its exported copy is the same model."""
