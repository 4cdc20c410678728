// What the CUDA part of the native core offers; built only where a CUDA compiler was found.
#pragma once

#include <cstddef>
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

}  // namespace pyllmclf::cuda
