// Checks the arguments of the CPU ops and calls them without the GIL.
#include "bindings_cpu.h"

#include <cmath>
#include <cstdint>
#include <string>

#include "pyllmclf/cpu.h"

namespace py = pybind11;

namespace pyllmclf {
namespace {

using Address = std::uintptr_t;

const float* input(Address address) { return reinterpret_cast<const float*>(address); }
const std::uint16_t* bf16(Address address) { return reinterpret_cast<const std::uint16_t*>(address); }
float* output(Address address) { return reinterpret_cast<float*>(address); }
const std::int32_t* indices(Address address) { return reinterpret_cast<const std::int32_t*>(address); }
const std::int64_t* ids(Address address) { return reinterpret_cast<const std::int64_t*>(address); }

void require(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}

void check_rows(std::int64_t rows, std::int64_t width, int threads) {
  require(rows >= 0 && width >= 1, "rows must not be negative, and width must be positive");
  require(threads >= 1, "threads must be positive");
}

// stats [2, rows]: mean, then rstd.
void layer_norm_forward_(Address x, Address residual, Address weight, Address bias, Address y, Address sum,
                         Address stats, std::int64_t rows, std::int64_t width, float eps, int threads) {
  check_rows(rows, width, threads);
  require((residual == 0) == (sum == 0), "residual and sum must be passed together");
  py::gil_scoped_release release;
  layer_norm_forward({input(x), input(residual), input(weight), input(bias), output(y), output(sum), output(stats),
                      output(stats) + rows, rows, width, eps, threads});
}

void layer_norm_backward_(Address dy, Address dsum, Address s, Address weight, Address stats, Address ds,
                          Address dweight, Address dbias, std::int64_t rows, std::int64_t width, int threads) {
  check_rows(rows, width, threads);
  py::gil_scoped_release release;
  layer_norm_backward({input(dy), input(dsum), input(s), input(weight), input(stats), input(stats) + rows, output(ds),
                       output(dweight), output(dbias), rows, width, threads});
}

void rms_norm_forward_(Address x, Address residual, Address weight, Address y, Address sum, Address rstd,
                       std::int64_t rows, std::int64_t width, float eps, float offset, int threads) {
  check_rows(rows, width, threads);
  require((residual == 0) == (sum == 0), "residual and sum must be passed together");
  py::gil_scoped_release release;
  rms_norm_forward({input(x), input(residual), input(weight), output(y), output(sum), output(rstd), rows, width, eps,
                    offset, threads});
}

void rms_norm_backward_(Address dy, Address dsum, Address s, Address weight, Address rstd, Address ds, Address dweight,
                        std::int64_t rows, std::int64_t width, float offset, int threads) {
  check_rows(rows, width, threads);
  py::gil_scoped_release release;
  rms_norm_backward({input(dy), input(dsum), input(s), input(weight), input(rstd), output(ds), output(dweight), rows,
                     width, offset, threads});
}

Activation activation_of(int number) {
  require(number >= 0 && number <= static_cast<int>(Activation::kGeluExact), "the activation is unknown");
  return static_cast<Activation>(number);
}

// gate, up: (address, row stride). y is bf16 or fp32.
void gated_forward_(const py::tuple& gate, const py::tuple& up, Address y, bool y_is_bf16, std::int64_t rows,
                    std::int64_t width, int activation, int threads) {
  check_rows(rows, width, threads);
  const GatedForward args = {input(gate[0].cast<Address>()),
                             input(up[0].cast<Address>()),
                             gate[1].cast<std::int64_t>(),
                             up[1].cast<std::int64_t>(),
                             y_is_bf16 ? nullptr : output(y),
                             y_is_bf16 ? reinterpret_cast<std::uint16_t*>(y) : nullptr,
                             rows,
                             width,
                             activation_of(activation),
                             threads};
  py::gil_scoped_release release;
  gated_forward(args);
}

// gate, up, dgate, dup: (address, row stride)
void gated_backward_(Address dy, const py::tuple& gate, const py::tuple& up, const py::tuple& dgate,
                     const py::tuple& dup, std::int64_t rows, std::int64_t width, int activation, int threads) {
  check_rows(rows, width, threads);
  const GatedBackward args = {input(dy),
                              input(gate[0].cast<Address>()),
                              input(up[0].cast<Address>()),
                              gate[1].cast<std::int64_t>(),
                              up[1].cast<std::int64_t>(),
                              output(dgate[0].cast<Address>()),
                              output(dup[0].cast<Address>()),
                              dgate[1].cast<std::int64_t>(),
                              dup[1].cast<std::int64_t>(),
                              rows,
                              width,
                              activation_of(activation),
                              threads};
  py::gil_scoped_release release;
  gated_backward(args);
}

void rotary_rows_(Address x, std::int64_t x_row, Address cosine, Address sine, Address y, std::int64_t rows,
                  std::int64_t heads, std::int64_t half, std::int64_t rest, bool inverse, int threads) {
  check_rows(rows, 2 * heads * half + rest, threads);
  require(heads >= 0 && half >= 1 && rest >= 0, "sizes must not be negative");
  py::gil_scoped_release release;
  rotary_rows({input(x), x_row, input(cosine), input(sine), output(y), rows, heads, half, rest, inverse, threads});
}

// y is bf16 or fp32.
void gelu_forward_(Address x, Address bias, Address y, bool y_is_bf16, std::int64_t rows, std::int64_t width, bool tanh,
                   int threads) {
  check_rows(rows, width, threads);
  py::gil_scoped_release release;
  gelu_forward({input(x), input(bias), y_is_bf16 ? nullptr : output(y),
                y_is_bf16 ? reinterpret_cast<std::uint16_t*>(y) : nullptr, rows, width, tanh, threads});
}

void gelu_backward_(Address dy, Address x, Address bias, Address dx, Address dbias, std::int64_t rows,
                    std::int64_t width, bool tanh, int threads) {
  check_rows(rows, width, threads);
  py::gil_scoped_release release;
  gelu_backward({input(dy), input(x), input(bias), output(dx), output(dbias), rows, width, tanh, threads});
}

void embedding_forward_(Address input_ids, Address positions, Address types, Address token, Address position,
                        Address type, Address norm_weight, Address norm_bias, Address y, Address stats,
                        std::int64_t rows, std::int64_t width, std::int64_t tokens, std::int64_t n_positions,
                        std::int64_t n_types, float eps, int threads) {
  check_rows(rows, width, threads);
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t token_id = indices(input_ids)[i], at = indices(positions)[i];
    if (token_id < 0 || token_id >= tokens)
      throw py::index_error("token id " + std::to_string(token_id) + " lies outside the vocabulary");
    if (at < 0 || at >= n_positions)
      throw py::index_error("position " + std::to_string(at) + " lies outside the model's positions");
  }
  if (types && type) {
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t kind = indices(types)[i];
      if (kind < 0 || kind >= n_types)
        throw py::index_error("token type " + std::to_string(kind) + " lies outside the model's types");
    }
  }
  py::gil_scoped_release release;
  embedding_forward({indices(input_ids), indices(positions), indices(types), input(token), input(position), input(type),
                     input(norm_weight), input(norm_bias), output(y), output(stats), output(stats) + rows, rows, width,
                     eps, threads});
}

void embedding_backward_(Address dy, Address index, Address dtable, std::int64_t rows, std::int64_t width,
                         int threads) {
  check_rows(rows, width, threads);
  py::gil_scoped_release release;
  embedding_backward({input(dy), indices(index), output(dtable), rows, width, threads});
}

// weight: bf16 or fp32
void linear_forward_(Address x, std::int64_t x_row, Address weight, bool weight_is_bf16, Address bias, Address y,
                     std::int64_t rows, std::int64_t outputs, std::int64_t inputs, int threads) {
  check_rows(rows, inputs, threads);
  require(outputs >= 0, "outputs must not be negative");
  py::gil_scoped_release release;
  linear_forward({input(x), x_row, weight_is_bf16 ? nullptr : input(weight), input(bias), output(y), rows, outputs,
                  inputs, threads, weight_is_bf16 ? bf16(weight) : nullptr});
}

// numbers: (learning rate, beta1, beta2, eps, weight decay, step); steps count from 1.
AdamW make_adamw(const py::tuple& numbers) {
  const auto number = [&](int i) { return numbers[static_cast<std::size_t>(i)].cast<double>(); };
  const double lr = number(0), beta1 = number(1), beta2 = number(2), step = number(5);
  require(step >= 1.0, "steps are counted from 1");
  const auto rounded = [](double value) { return static_cast<float>(value); };
  return {rounded(beta1),
          rounded(1.0 - beta1),
          rounded(beta2),
          rounded(1.0 - beta2),
          rounded(number(3)),
          rounded(1.0 - lr * number(4)),
          rounded(lr / (1.0 - std::pow(beta1, step))),
          rounded(1.0 / std::sqrt(1.0 - std::pow(beta2, step)))};
}

void linear_adamw_(Address dy, std::int64_t dy_row, Address x, std::int64_t x_row, Address weight, Address exp_avg,
                   Address exp_avg_sq, Address dx, std::int64_t rows, std::int64_t outputs, std::int64_t inputs,
                   const py::tuple& adamw, int threads) {
  check_rows(rows, inputs, threads);
  require(outputs >= 0, "outputs must not be negative");
  const LinearAdamW args = {input(dy),       input(x),           dy_row,     x_row, output(weight),
                            output(exp_avg), output(exp_avg_sq), output(dx), rows,  outputs,
                            inputs,          make_adamw(adamw),  threads};
  py::gil_scoped_release release;
  linear_adamw(args);
}

// operands: (x, x_row, weight, weight_row, inputs, scale, whether the weight is in bf16)
Bf16Operands bf16_operands(const py::tuple& operands) {
  const bool halves = operands[6].cast<bool>();
  const Address weight = operands[2].cast<Address>();
  const Bf16Operands made = {bf16(operands[0].cast<Address>()), operands[1].cast<std::int64_t>(),
                             halves ? nullptr : input(weight),  operands[3].cast<std::int64_t>(),
                             operands[4].cast<std::int64_t>(),  operands[5].cast<float>(),
                             halves ? bf16(weight) : nullptr};
  require(!halves || made.scale == 1.0f, "a weight in bf16 has no factor");
  require(made.inputs >= 1 && made.x_row % 2 == 0 && operands[0].cast<Address>() % 4 == 0,
          "inputs must be positive, and rows of bf16 numbers begin at multiples of 4 bytes");
  return made;
}

void bf16_linear_(const py::tuple& base, const py::object& adapter, bool transposed, Address bias, Address y,
                  std::int64_t rows, std::int64_t outputs, int threads) {
  check_rows(rows, 1, threads);
  require(outputs >= 0, "outputs must not be negative");
  Bf16Operands low_rank = {};
  if (!adapter.is_none()) low_rank = bf16_operands(adapter);
  const Bf16Linear args = {bf16_operands(base), low_rank, transposed, input(bias), output(y), rows, outputs, threads};
  py::gil_scoped_release release;
  bf16_linear(args);
}

// target: (gradient, whether it is added to), or (weight, exp_avg, exp_avg_sq, settings of AdamW)
void bf16_weight_gradient_(Address dy, std::int64_t dy_row, Address x, std::int64_t x_row, const py::tuple& target,
                           std::int64_t rows, std::int64_t outputs, std::int64_t inputs, int threads) {
  check_rows(rows, inputs, threads);
  require(outputs >= 0, "outputs must not be negative");
  Bf16WeightGradient args = {};
  args.dy = bf16(dy), args.x = bf16(x), args.dy_row = dy_row, args.x_row = x_row;
  args.rows = rows, args.outputs = outputs, args.inputs = inputs, args.threads = threads;
  if (target.size() == 2) {
    args.gradient = output(target[0].cast<Address>());
    args.accumulate = target[1].cast<bool>();
  } else {
    args.weight = output(target[0].cast<Address>());
    args.exp_avg = output(target[1].cast<Address>());
    args.exp_avg_sq = output(target[2].cast<Address>());
    args.adamw = make_adamw(target[3]);
  }
  py::gil_scoped_release release;
  bf16_weight_gradient(args);
}

void quantize_rows_(Address x, Address factors, Address q, Address scales, std::int64_t rows, std::int64_t width,
                    int threads) {
  check_rows(rows, width, threads);
  py::gil_scoped_release release;
  quantize_rows({input(x), input(factors), reinterpret_cast<std::int8_t*>(q), output(scales), rows, width, threads});
}

void dequantize_rows_(Address y, Address row_scales, Address column_scales, Address bias, std::int64_t rows,
                      std::int64_t width, int threads) {
  check_rows(rows, width, threads);
  py::gil_scoped_release release;
  dequantize_rows({output(y), input(row_scales), input(column_scales), input(bias), rows, width, threads});
}

void int8_linear_(Address x, Address factors, Address packed, Address column_scales, Address bias, Address y,
                  std::int64_t rows, std::int64_t inputs, std::int64_t outputs, int threads) {
  check_rows(rows, inputs, threads);
  require(outputs >= 0, "outputs must not be negative");
  py::gil_scoped_release release;
  int8_linear({input(x), input(factors), reinterpret_cast<const std::int16_t*>(packed), input(column_scales),
               input(bias), output(y), rows, inputs, outputs, threads});
}

// numbers: (seed, step, stream, p); p = 0 means no dropout.
Dropout make_dropout(const py::tuple& numbers) {
  const double p = numbers[3].cast<double>();
  require(p >= 0.0 && p < 1.0, "the dropout rate must lie in [0, 1)");
  Dropout dropout = {numbers[0].cast<std::uint32_t>(), numbers[1].cast<std::uint32_t>(),
                     numbers[2].cast<std::uint32_t>(), 0, 0.0f};
  if (p > 0.0) {
    dropout.threshold = py::module_::import("builtins").attr("round")(p * 4294967296.0).cast<std::uint32_t>();
    dropout.scale = static_cast<float>(1.0 / (1.0 - p));
  }
  return dropout;
}

void dropout_rows_(Address x, Address y, Address example_ids, Address positions, std::int64_t rows, std::int64_t width,
                   const py::tuple& dropout, int threads) {
  check_rows(rows, width, threads);
  const DropoutRows args = {input(x), output(y), ids(example_ids),      indices(positions),
                            rows,     width,     make_dropout(dropout), threads};
  require(args.dropout.scale != 0.0f, "the dropout rate must be positive");
  py::gil_scoped_release release;
  dropout_rows(args);
}

// tensor: (address, row stride, head stride)
Heads heads(const py::tuple& tensor) {
  return {input(tensor[0].cast<Address>()), tensor[1].cast<std::int64_t>(), tensor[2].cast<std::int64_t>()};
}
MutableHeads mutable_heads(const py::tuple& tensor) {
  return {output(tensor[0].cast<Address>()), tensor[1].cast<std::int64_t>(), tensor[2].cast<std::int64_t>()};
}

void check_offsets(const std::int32_t* offsets, std::int64_t texts, std::int64_t rows) {
  require(offsets[0] == 0 && offsets[texts] == rows, "cu_seqlens must begin with 0 and end with the number of rows");
  for (std::int64_t t = 0; t < texts; ++t) require(offsets[t] <= offsets[t + 1], "cu_seqlens must not decrease");
}

// t: cu_seqlens_q, cu_seqlens_k, query_positions, example_ids, texts, rows_q, rows_k, heads, kv_heads, head_dim, scale,
// causal, window_left, window_right, bf16, dropout, threads
AttentionShape attention_shape(const py::tuple& t) {
  const AttentionShape shape = {indices(t[0].cast<Address>()),
                                indices(t[1].cast<Address>()),
                                indices(t[2].cast<Address>()),
                                ids(t[3].cast<Address>()),
                                t[4].cast<std::int64_t>(),
                                t[7].cast<std::int64_t>(),
                                t[8].cast<std::int64_t>(),
                                t[9].cast<std::int64_t>(),
                                t[10].cast<float>(),
                                t[11].cast<bool>(),
                                t[12].cast<std::int64_t>(),
                                t[13].cast<std::int64_t>(),
                                t[14].cast<bool>(),
                                make_dropout(t[15]),
                                t[16].cast<int>()};
  require(shape.texts >= 0 && shape.heads >= 1 && shape.threads >= 1,
          "texts must not be negative, and heads and threads must be positive");
  require(shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0, "heads must be a multiple of the keys' heads");
  require(shape.head_dim >= 1 && shape.head_dim <= kMaxHeadDim, "head_dim must lie between 1 and 256");
  check_offsets(shape.cu_seqlens_q, shape.texts, t[5].cast<std::int64_t>());
  check_offsets(shape.cu_seqlens_k, shape.texts, t[6].cast<std::int64_t>());
  for (std::int64_t i = 0; i < shape.texts; ++i) {
    const std::int64_t queries = shape.cu_seqlens_q[i + 1] - shape.cu_seqlens_q[i];
    const std::int64_t keys = shape.cu_seqlens_k[i + 1] - shape.cu_seqlens_k[i];
    require(shape.query_positions || queries == keys, "query_positions is required where only some rows are queries");
    require(keys > 0 || queries == 0, "a text has queries, but no keys");
  }
  for (std::int64_t i = 0; shape.query_positions && i < t[5].cast<std::int64_t>(); ++i) {
    require(shape.query_positions[i] >= 0, "a query position is negative");
  }
  return shape;
}

void attention_forward_(const py::tuple& shape, const py::tuple& q, const py::tuple& k, const py::tuple& v,
                        const py::tuple& out, Address log_sum_exp) {
  const AttentionForward args = {attention_shape(shape), heads(q),           heads(k), heads(v),
                                 mutable_heads(out),     output(log_sum_exp)};
  py::gil_scoped_release release;
  attention_forward(args);
}

void attention_backward_(const py::tuple& shape, const py::tuple& q, const py::tuple& k, const py::tuple& v,
                         const py::tuple& out, const py::tuple& dout, Address log_sum_exp, const py::tuple& dq,
                         const py::tuple& dk, const py::tuple& dv) {
  const AttentionBackward args = {
      attention_shape(shape), heads(q),          heads(k),          heads(v),         heads(out), heads(dout),
      input(log_sum_exp),     mutable_heads(dq), mutable_heads(dk), mutable_heads(dv)};
  py::gil_scoped_release release;
  attention_backward(args);
}

// t: buckets, distances, count, bias, keys, queries
PositionTerms position_terms(const py::tuple& t, const AttentionShape& shape) {
  const std::int64_t distances = t[1].cast<std::int64_t>();
  const PositionTerms terms = {indices(t[0].cast<Address>()), (distances + 1) / 2, t[2].cast<std::int64_t>(),
                               input(t[3].cast<Address>()),   heads(t[4]),         heads(t[5])};
  require(distances >= 1 && distances % 2 == 1 && terms.count >= 1, "distances must be odd, and buckets positive");
  require(shape.kv_heads == shape.heads && !shape.bf16 && shape.window_left < 0 && shape.window_right < 0,
          "relative attention has neither shared heads, windows nor bf16");
  for (std::int64_t i = 0; i < distances; ++i) {
    require(terms.buckets[i] >= 0 && terms.buckets[i] < terms.count, "a bucket lies outside of the terms");
  }
  for (std::int64_t t = 0; t < shape.texts; ++t) {
    const std::int64_t keys = shape.cu_seqlens_k[t + 1] - shape.cu_seqlens_k[t];
    require(keys <= terms.most, "a text is longer than the distances allow");
    for (std::int64_t i = shape.cu_seqlens_q[t]; shape.query_positions && i < shape.cu_seqlens_q[t + 1]; ++i) {
      require(shape.query_positions[i] < keys, "a query's row lies outside of its text");
    }
  }
  return terms;
}

void relative_attention_forward_(const py::tuple& shape, const py::tuple& terms, const py::tuple& q, const py::tuple& k,
                                 const py::tuple& v, const py::tuple& out, Address log_sum_exp) {
  const AttentionShape made = attention_shape(shape);
  const RelativeAttentionForward args = {made,     position_terms(terms, made), heads(q),           heads(k),
                                         heads(v), mutable_heads(out),          output(log_sum_exp)};
  py::gil_scoped_release release;
  relative_attention_forward(args);
}

// gradients: dq, dk, dv, dbias, dposition_keys, dposition_queries
void relative_attention_backward_(const py::tuple& shape, const py::tuple& terms, const py::tuple& q,
                                  const py::tuple& k, const py::tuple& v, const py::tuple& out, const py::tuple& dout,
                                  Address log_sum_exp, const py::tuple& gradients) {
  const AttentionShape made = attention_shape(shape);
  const RelativeAttentionBackward args = {made,
                                          position_terms(terms, made),
                                          heads(q),
                                          heads(k),
                                          heads(v),
                                          heads(out),
                                          heads(dout),
                                          input(log_sum_exp),
                                          mutable_heads(gradients[0]),
                                          mutable_heads(gradients[1]),
                                          mutable_heads(gradients[2]),
                                          output(gradients[3].cast<Address>()),
                                          mutable_heads(gradients[4]),
                                          mutable_heads(gradients[5])};
  py::gil_scoped_release release;
  relative_attention_backward(args);
}

}  // namespace

void bind_cpu_ops(py::module_& module) {
#define PYLLMCLF_BIND(result, name, Arguments) module.def(#name, &name##_);
  PYLLMCLF_CPU_OPS(PYLLMCLF_BIND)
#undef PYLLMCLF_BIND
}

}  // namespace pyllmclf
