"""Implementations of the ops: plain torch, torch's attention kernels, the native core for CPUs and CUDA, and Triton."""
