"""Memory and speed of a training on GPUs, estimated before it runs. No torch."""
