"""What stands in for CUDA and fused kernels on a CPU."""
