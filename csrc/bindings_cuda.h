// Python's view of the CUDA ops.
#pragma once

#include <pybind11/pybind11.h>

namespace pyllmclf {

// Adds the CUDA ops to the extension, as cuda_NAME; tensors come as in bindings_cpu.h, and (dtype, device, stream) says
// where an op runs: 0 fp32, 1 bf16, 2 fp16; the device's index; the address of the stream.
void bind_cuda_ops(pybind11::module_& module);

}  // namespace pyllmclf
