// Python's view of the CPU ops.
#pragma once

#include <pybind11/pybind11.h>

namespace pyllmclf {

// Adds the CPU ops to the extension. Tensors come as addresses (Tensor.data_ptr(), 0 for none); the caller has checked
// dtype, device and layout, here sizes are checked. The GIL is released while an op runs.
void bind_cpu_ops(pybind11::module_& module);

}  // namespace pyllmclf
