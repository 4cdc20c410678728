// Registers the CPU ops in the extension.
#pragma once

#include <pybind11/pybind11.h>

namespace pyllmclf {

// Adds each op of PYLLMCLF_CPU_OPS to the extension. Tensors are passed as addresses (Tensor.data_ptr(), 0 for none).
// The caller checks dtype, device and layout; the bindings check sizes, and release the GIL while an op runs.
void bind_cpu_ops(pybind11::module_& module);

}  // namespace pyllmclf
