// What the CUDA part of the native core offers; built only where a CUDA compiler was found.
//
// The ops run on the given stream and return at once. Rows are contiguous; x, y and parameters have one dtype,
// statistics and sums are fp32. Every op gives the same bits each time: no atomics. A launch that fails throws
// std::runtime_error with the kernel's name and shape.
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
  int code_version = 0;    // architecture of the code in this library that the device runs, 0 if it can run none
};

// The devices that the CUDA runtime sees. Without a driver: empty, and `error` says why.
std::vector<Device> devices(std::string& error);

enum class DType { kFloat32, kBFloat16, kFloat16 };

// Where an op runs: dtype of its tensors, device, and one of its streams (cudaStream_t).
struct Place {
  DType dtype;
  int device;
  void* stream;
};

// How many rows of fp32 scratch memory the sums over `rows` rows need.
std::int64_t sum_blocks(std::int64_t rows);

// As in cpu.h. A row that is wider than 2,048 accesses of 16 bytes (or, where addresses or width don't fit these, of
// one element) throws std::invalid_argument.
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
  void* dweight;   // [width]; both of the parameters' gradients, or null
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
  const void* token;
  const void* position;
  const void* type;  // [width], may be null
  void* y;
  std::int64_t rows, width;
  std::int64_t tokens, n_positions;  // an index beyond ends the kernel with a trap
};

// table[index[row]] += dy[row], rows of one index in order.
struct EmbeddingBackward {
  const void* dy;
  const std::int32_t* index;
  const std::int64_t* order;  // rows by ascending index; those of one index in ascending order
  void* dtable;
  std::int64_t rows, width;
};

// loss = sum over rows of weight[label] (log_sum_exp - logits[label]).
struct CrossEntropyForward {
  const void* logits;  // [rows, classes]
  const std::int64_t* labels;
  const float* class_weight;  // [classes], may be null
  float* loss;                // one number
  float* log_sum_exp;         // [rows]
  std::int64_t rows, classes;
};

struct CrossEntropyBackward {
  const void* logits;
  const std::int64_t* labels;
  const float* class_weight;
  const float* dloss;  // one number
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
