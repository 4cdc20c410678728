// Checks the arguments of the CUDA ops and launches them.
#include "bindings_cuda.h"

#include <cstdint>

#include "pyllmclf/cuda.h"

namespace py = pybind11;

namespace pyllmclf {
namespace {

using Address = std::uintptr_t;
using std::int64_t;

void* memory(Address address) { return reinterpret_cast<void*>(address); }
float* floats(Address address) { return reinterpret_cast<float*>(address); }
const std::int32_t* indices(Address address) { return reinterpret_cast<const std::int32_t*>(address); }
const int64_t* ids(Address address) { return reinterpret_cast<const int64_t*>(address); }

void check_rows(int64_t rows, int64_t width) {
  if (rows < 0 || width < 1) throw py::value_error("rows must not be negative, and width must be positive");
}

cuda::Place make_place(const py::tuple& place) {
  const int dtype = place[0].cast<int>();
  if (dtype < 0 || dtype > 2) throw py::value_error("unknown dtype");
  return {static_cast<cuda::DType>(dtype), place[1].cast<int>(), memory(place[2].cast<Address>())};
}

void layer_norm_forward(Address x, Address residual, Address weight, Address bias, Address y, Address sum,
                        Address stats, int64_t rows, int64_t width, float eps, const py::tuple& place) {
  check_rows(rows, width);
  const cuda::LayerNormForward args = {memory(x),   memory(residual), memory(weight),       memory(bias), memory(y),
                                       memory(sum), floats(stats),    floats(stats) + rows, rows,         width,
                                       eps};
  cuda::layer_norm_forward(args, make_place(place));
}

void layer_norm_backward(Address dy, Address dsum, Address s, Address weight, Address stats, Address ds,
                         Address dweight, Address dbias, Address scratch, int64_t rows, int64_t width,
                         const py::tuple& place) {
  check_rows(rows, width);
  const cuda::LayerNormBackward args = {memory(dy),    memory(dsum),         memory(s),  memory(weight),
                                        floats(stats), floats(stats) + rows, memory(ds), memory(dweight),
                                        memory(dbias), floats(scratch),      rows,       width};
  cuda::layer_norm_backward(args, make_place(place));
}

void gelu_forward(Address x, Address bias, Address y, int64_t rows, int64_t width, bool tanh, const py::tuple& place) {
  check_rows(rows, width);
  cuda::gelu_forward({memory(x), memory(bias), memory(y), rows, width, tanh}, make_place(place));
}

void gelu_backward(Address dy, Address x, Address bias, Address dx, Address dbias, Address scratch, int64_t rows,
                   int64_t width, bool tanh, const py::tuple& place) {
  check_rows(rows, width);
  const cuda::GeluBackward args = {memory(dy),      memory(x), memory(bias), memory(dx), memory(dbias),
                                   floats(scratch), rows,      width,        tanh};
  cuda::gelu_backward(args, make_place(place));
}

void embedding_forward(Address input_ids, Address positions, Address types, Address token, Address position,
                       Address type, Address y, int64_t rows, int64_t width, int64_t tokens, int64_t n_positions,
                       int64_t n_types, const py::tuple& place) {
  check_rows(rows, width);
  const cuda::EmbeddingForward args = {indices(input_ids),
                                       indices(positions),
                                       indices(types),
                                       memory(token),
                                       memory(position),
                                       memory(type),
                                       memory(y),
                                       rows,
                                       width,
                                       tokens,
                                       n_positions,
                                       n_types};
  cuda::embedding_forward(args, make_place(place));
}

void embedding_backward(Address dy, Address index, Address order, Address dtable, int64_t rows, int64_t width,
                        const py::tuple& place) {
  check_rows(rows, width);
  cuda::embedding_backward({memory(dy), indices(index), ids(order), memory(dtable), rows, width}, make_place(place));
}

void cross_entropy_forward(Address logits, Address labels, Address class_weight, Address row_weight, Address loss,
                           Address log_sum_exp, int64_t rows, int64_t classes, const py::tuple& place) {
  check_rows(rows, classes);
  const cuda::CrossEntropyForward args = {
      memory(logits), ids(labels), floats(class_weight), floats(row_weight), floats(loss), floats(log_sum_exp),
      rows,           classes};
  cuda::cross_entropy_forward(args, make_place(place));
}

void cross_entropy_backward(Address logits, Address labels, Address class_weight, Address row_weight, Address dloss,
                            Address log_sum_exp, Address dlogits, int64_t rows, int64_t classes,
                            const py::tuple& place) {
  check_rows(rows, classes);
  const cuda::CrossEntropyBackward args = {memory(logits),     ids(labels),   floats(class_weight),
                                           floats(row_weight), floats(dloss), floats(log_sum_exp),
                                           memory(dlogits),    rows,          classes};
  cuda::cross_entropy_backward(args, make_place(place));
}

}  // namespace

void bind_cuda_ops(py::module_& module) {
  module.def("cuda_sum_blocks", &cuda::sum_blocks);
  module.def("cuda_layer_norm_forward", &layer_norm_forward);
  module.def("cuda_layer_norm_backward", &layer_norm_backward);
  module.def("cuda_gelu_forward", &gelu_forward);
  module.def("cuda_gelu_backward", &gelu_backward);
  module.def("cuda_embedding_forward", &embedding_forward);
  module.def("cuda_embedding_backward", &embedding_backward);
  module.def("cuda_cross_entropy_forward", &cross_entropy_forward);
  module.def("cuda_cross_entropy_backward", &cross_entropy_backward);
}

}  // namespace pyllmclf
