// The CUDA ops on the emulator as a Python module: tests/test_native_core.py runs the wrappers and autograd functions.
#include "bindings_cuda.h"

PYBIND11_MODULE(_emulated_cuda, module) { pyllmclf::bind_cuda_ops(module); }
