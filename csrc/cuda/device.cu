// Lists the CUDA devices and the architecture, of those compiled into this library, that each of them runs.
#include <cuda_runtime.h>

#include "pyllmclf/cuda.h"

namespace pyllmclf::cuda {
namespace {

// Never launched: its attributes tell which embedded binary (or PTX) the driver selects for a device.
__global__ void code_version_kernel(int* out) { *out = 0; }

}  // namespace

std::vector<Device> devices(std::string& error) {
  std::vector<Device> all;
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    error = cudaGetErrorString(status);
    (void)cudaGetLastError();
    return all;
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
    all.push_back(device);
  }
  (void)cudaSetDevice(current);
  return all;
}

}  // namespace pyllmclf::cuda
