// Checks of the native tests: print each failure, and end the program with exit code 1 after any.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace check {

inline int failures = 0;

inline void that(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

// Checks max|actual - expected| / max|expected| <= tolerance; NaN fails.
template <typename Actual>
void close(const std::vector<Actual>& actual, const std::vector<double>& expected, double tolerance,
           const std::string& what) {
  that(actual.size() == expected.size(), what + ": size");
  double difference = 0.0, largest = 1e-300;
  bool finite = true;
  for (std::size_t i = 0; i < actual.size() && i < expected.size(); ++i) {
    const double value = static_cast<double>(static_cast<float>(actual[i]));
    finite = finite && std::isfinite(value);
    difference = std::fmax(difference, std::fabs(value - expected[i]));
    largest = std::fmax(largest, std::fabs(expected[i]));
  }
  that(finite && difference / largest <= tolerance,
       what + ": relative error " + std::to_string(difference / largest) + (finite ? "" : ", not finite"));
}

inline int finish(const char* name) {
  std::printf("%s: %s\n", name, failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}

// Reproducible random numbers.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  template <typename T = float>
  std::vector<T> normal(std::int64_t count) {
    std::vector<T> out;
    out.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) out.push_back(static_cast<T>(static_cast<float>(distribution_(engine_))));
    return out;
  }
  std::vector<std::int32_t> below(std::int32_t limit, std::int64_t count) {
    std::vector<std::int32_t> out;
    for (std::int64_t i = 0; i < count; ++i) {
      out.push_back(static_cast<std::int32_t>(engine_() % static_cast<unsigned>(limit)));
    }
    return out;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<double> distribution_;
};

template <typename T>
std::vector<T> nans(std::int64_t count) {
  return std::vector<T>(static_cast<std::size_t>(count), static_cast<T>(std::nanf("")));
}

template <typename T>
std::vector<double> as_double(const std::vector<T>& x) {
  std::vector<double> out;
  for (const T value : x) out.push_back(static_cast<double>(static_cast<float>(value)));
  return out;
}

}  // namespace check
