"""Implementations of the ops: plain torch, the native core for CPUs and for CUDA, and Triton."""
