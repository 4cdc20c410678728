// The CUDA part of the native core; built only where CMake finds a CUDA compiler.
//
// The ops run asynchronously on place's stream. Rows are contiguous; x, y and parameters have one dtype, statistics and
// sums are fp32. Every op is deterministic: no atomics. A launch that fails throws std::runtime_error with the kernel's
// name and shape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pyllmclf::cuda {

struct Device {
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  std::size_t memory = 0;  // bytes
  int code_version = 0;    // architecture of the code in this library that the device runs, 0 if it runs none
};

// Returns the devices that the CUDA runtime sees. Without a driver there are none, and `error` holds the reason.
std::vector<Device> devices(std::string& error);

enum class DType { kFloat32, kBFloat16, kFloat16 };

// Where an op runs: dtype of its tensors, device, and one of the device's streams (cudaStream_t).
struct Place {
  DType dtype;
  int device;
  void* stream;
};

// Number of rows of fp32 scratch memory that sums over `rows` rows need.
std::int64_t sum_blocks(std::int64_t rows);

// As in cpu.h. A row of more than 2,048 accesses throws std::invalid_argument; an access has 16 bytes, or one element
// where addresses or width are not multiples of that.
struct LayerNormForward {
  const void* x;
  const void* residual;  // may be null
  const void* weight;
  const void* bias;
  void* y;
  void* sum;  // s, or null
  float* mean;
  float* rstd;
  std::int64_t rows, width;
  float eps;
};

struct LayerNormBackward {
  const void* dy;
  const void* dsum;  // may be null
  const void* s;
  const void* weight;
  const float* mean;
  const float* rstd;
  void* ds;        // or null
  void* dweight;   // [width]; null together with dbias
  void* dbias;     // [width]
  float* scratch;  // [sum_blocks(rows), 2 width], with dweight
  std::int64_t rows, width;
};

struct GeluForward {
  const void* x;
  const void* bias;  // may be null
  void* y;
  std::int64_t rows, width;
  bool tanh;
};

struct GeluBackward {
  const void* dy;
  const void* x;
  const void* bias;  // may be null
  void* dx;
  void* dbias;     // or null
  float* scratch;  // [sum_blocks(rows), width], with dbias
  std::int64_t rows, width;
  bool tanh;
};

struct EmbeddingForward {
  const std::int32_t* input_ids;
  const std::int32_t* positions;
  const std::int32_t* types;  // row of `type` for each row; null: row 0 for all
  const void* token;
  const void* position;
  const void* type;  // [n_types, width], may be null
  void* y;
  std::int64_t rows, width;
  std::int64_t tokens, n_positions, n_types;  // an index outside of them traps
};

// dtable[index[row]] += dy[row], rows of one index in order.
struct EmbeddingBackward {
  const void* dy;
  const std::int32_t* index;
  const std::int64_t* order;  // rows sorted by index, those of one index in ascending order
  void* dtable;
  std::int64_t rows, width;
};

// loss = sum over rows of class_weight[label] row_weight (log_sum_exp - logits[label]).
struct CrossEntropyForward {
  const void* logits;  // [rows, classes]
  const std::int64_t* labels;
  const float* class_weight;  // [classes], may be null
  const float* row_weight;    // [rows], may be null
  float* loss;                // scalar
  float* log_sum_exp;         // [rows]
  std::int64_t rows, classes;
};

struct CrossEntropyBackward {
  const void* logits;
  const std::int64_t* labels;
  const float* class_weight;
  const float* row_weight;
  const float* dloss;  // scalar
  const float* log_sum_exp;
  void* dlogits;
  std::int64_t rows, classes;
};

void layer_norm_forward(const LayerNormForward& args, const Place& place);
void layer_norm_backward(const LayerNormBackward& args, const Place& place);
void gelu_forward(const GeluForward& args, const Place& place);
void gelu_backward(const GeluBackward& args, const Place& place);
void embedding_forward(const EmbeddingForward& args, const Place& place);
void embedding_backward(const EmbeddingBackward& args, const Place& place);
void cross_entropy_forward(const CrossEntropyForward& args, const Place& place);
void cross_entropy_backward(const CrossEntropyBackward& args, const Place& place);

}  // namespace pyllmclf::cuda
