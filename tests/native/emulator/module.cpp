// Python module of the CUDA ops on the emulator, on which tests/test_native_core.py runs wrappers and autograd
// functions.
#include "bindings_cuda.h"

PYBIND11_MODULE(_emulated_cuda, module) { pyllmclf::bind_cuda_ops(module); }
