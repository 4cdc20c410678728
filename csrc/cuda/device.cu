// Which devices there are, and which of the architectures compiled into this library each of them runs.
#include <cuda_runtime.h>

#include "pyllmclf/cuda.h"

namespace pyllmclf::cuda {
namespace {

// Never launched: its attributes say which of the embedded binaries (or PTX) the driver chose for a device.
__global__ void code_version_kernel(int* out) { *out = 0; }

}  // namespace

std::vector<Device> devices(std::string& error) {
  std::vector<Device> found;
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    error = cudaGetErrorString(status);
    (void)cudaGetLastError();
    return found;
  }
  int current = 0;
  (void)cudaGetDevice(&current);
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    if (const cudaError_t status = cudaGetDeviceProperties(&properties, index); status != cudaSuccess) {
      error = cudaGetErrorString(status);
      (void)cudaGetLastError();
      continue;
    }
    Device device{properties.name, properties.major, properties.minor, properties.totalGlobalMem, 0};
    cudaFuncAttributes attributes{};
    if (cudaSetDevice(index) == cudaSuccess && cudaFuncGetAttributes(&attributes, code_version_kernel) == cudaSuccess) {
      device.code_version = attributes.binaryVersion;
    }
    (void)cudaGetLastError();
    found.push_back(device);
  }
  (void)cudaSetDevice(current);
  return found;
}

}  // namespace pyllmclf::cuda
