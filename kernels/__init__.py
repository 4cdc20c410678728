"""Triton kernels of pyllmclf, one file per op. Imports only torch and triton."""
