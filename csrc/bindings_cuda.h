// Registers the CUDA ops in the extension.
#pragma once

#include <pybind11/pybind11.h>

namespace pyllmclf {

// Adds the CUDA ops to the extension as cuda_<name>. Tensors are passed as in bindings_cpu.h. An op's last argument,
// `place`, is (dtype, device, stream): 0 fp32, 1 bf16, 2 fp16; the device's index; the stream's address.
void bind_cuda_ops(pybind11::module_& module);

}  // namespace pyllmclf
