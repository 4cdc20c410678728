// Builds the token store; validates, compares and sorts its texts.
#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "pyllmclf/data.h"

namespace pyllmclf {

void TokenStoreBuilder::append(const std::int32_t* tokens, std::int64_t count) {
  tokens_.insert(tokens_.end(), tokens, tokens + count);
  offsets_.push_back(static_cast<std::int64_t>(tokens_.size()));
}

void TokenStoreBuilder::extend(const std::int32_t* tokens, std::int64_t count) {
  tokens_.insert(tokens_.end(), tokens, tokens + count);
  offsets_.back() = static_cast<std::int64_t>(tokens_.size());
}

std::vector<std::int32_t> TokenStoreBuilder::take_tokens() { return std::exchange(tokens_, {}); }

std::vector<std::int64_t> TokenStoreBuilder::take_offsets() { return std::exchange(offsets_, {0}); }

std::int64_t find_invalid_text(const std::int32_t* tokens, std::int64_t token_count, const std::int64_t* offsets,
                               std::int64_t texts, std::int32_t vocab_size) {
  for (std::int64_t i = 0; i < texts; ++i) {
    const std::int64_t begin = offsets[i];
    const std::int64_t end = offsets[i + 1];
    if (begin < 0 || end < begin || end > token_count) return i;
    for (std::int64_t j = begin; j < end; ++j) {
      if (tokens[j] < 0 || tokens[j] >= vocab_size) return i;
    }
  }
  return -1;
}

void first_equal_texts(const std::int32_t* tokens, const std::int64_t* offsets, std::int64_t texts,
                       std::int64_t most_tokens, std::int64_t* first) {
  std::unordered_map<std::string_view, std::int64_t> seen;
  seen.reserve(static_cast<std::size_t>(texts));
  for (std::int64_t i = 0; i < texts; ++i) {
    const std::int64_t count = std::min(offsets[i + 1] - offsets[i], most_tokens);
    const std::string_view bytes(reinterpret_cast<const char*>(tokens + offsets[i]),
                                 static_cast<std::size_t>(count) * sizeof(std::int32_t));
    first[i] = seen.emplace(bytes, i).first->second;
  }
}

void sort_texts(const std::int32_t* tokens, const std::int64_t* offsets, std::int64_t* ids, std::int64_t count,
                std::int64_t most_tokens) {
  const auto end_of = [&](std::int64_t id) { return std::min(offsets[id + 1], offsets[id] + most_tokens); };
  std::sort(ids, ids + count, [&](std::int64_t a, std::int64_t b) {
    const std::int32_t* a_end = tokens + end_of(a);
    const std::int32_t* b_end = tokens + end_of(b);
    const auto [in_a, in_b] = std::mismatch(tokens + offsets[a], a_end, tokens + offsets[b], b_end);
    if (in_a == a_end && in_b == b_end) return a < b;
    if (in_a == a_end || in_b == b_end) return in_a == a_end;
    return *in_a < *in_b;
  });
}

}  // namespace pyllmclf
