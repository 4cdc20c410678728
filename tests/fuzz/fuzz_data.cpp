// The packer and the token store under libFuzzer: what find_invalid_text accepts, no other function may stumble over.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include "pyllmclf/data.h"

namespace {

constexpr std::int32_t kVocabSize = 50;

// A number from the input, 0 when nothing is left of it.
struct Input {
  const std::uint8_t* data;
  std::size_t size;

  template <typename T>
  T next() {
    T value{};
    const std::size_t count = size < sizeof(T) ? size : sizeof(T);
    if (count != 0) std::memcpy(&value, data, count);
    data += count;
    size -= count;
    return value;
  }
};

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input{data, size};
  const std::int64_t texts = input.next<std::uint8_t>() % 12;
  std::vector<std::int32_t> tokens(input.next<std::uint8_t>() % 64);
  const bool ordered = input.next<std::uint8_t>() % 4 != 0;
  pyllmclf::RowLayout layout;
  const std::int32_t special[2] = {1, 2};
  layout.prefix = layout.suffix = special;
  layout.prefix_count = input.next<std::uint8_t>() % 3;
  layout.suffix_count = input.next<std::uint8_t>() % 3;
  layout.max_length = layout.prefix_count + layout.suffix_count + 1 + input.next<std::uint8_t>() % 20;
  if (input.next<std::uint8_t>() % 2) layout.pad_to = layout.max_length + input.next<std::uint8_t>() % 4;
  for (auto& token : tokens) token = ordered ? input.next<std::uint8_t>() % kVocabSize : input.next<std::int32_t>();
  std::vector<std::int64_t> offsets(texts + 1, 0);
  for (std::int64_t i = 1; i <= texts; ++i) {
    const auto token_count = static_cast<std::int64_t>(tokens.size());
    offsets[i] = ordered ? std::min<std::int64_t>(offsets[i - 1] + input.next<std::uint8_t>() % 16, token_count)
                         : input.next<std::int64_t>();
  }
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (pyllmclf::find_invalid_text(tokens.data(), count, offsets.data(), texts, kVocabSize) >= 0) return 0;

  const std::int64_t most = input.next<std::uint8_t>() % 24;
  std::vector<std::int64_t> first(texts), ids(texts);
  pyllmclf::first_equal_texts(tokens.data(), offsets.data(), texts, most, first.data());
  for (std::int64_t i = 0; i < texts; ++i) require(first[i] <= i && first[first[i]] == first[i]);
  std::iota(ids.begin(), ids.end(), 0);
  pyllmclf::sort_texts(tokens.data(), offsets.data(), ids.data(), texts, most);

  const auto room = pyllmclf::batch_size(offsets.data(), ids.data(), texts, layout);
  std::vector<std::int32_t> input_ids(room.total), positions(room.total), cu_seqlens(texts + 1), lengths(texts);
  pyllmclf::pack(tokens.data(), offsets.data(), ids.data(), texts, layout, input_ids.data(), positions.data(),
                 cu_seqlens.data(), lengths.data());
  require(cu_seqlens[texts] == room.total);
  for (std::int64_t i = 0; i < texts; ++i) {
    require(cu_seqlens[i + 1] - cu_seqlens[i] <= room.max_seqlen && lengths[i] <= layout.max_length);
  }
  for (const auto token : input_ids) require(token >= 0 && token < kVocabSize);

  std::vector<std::int64_t> rows(room.total), of(room.total);
  const auto distinct = pyllmclf::share_prefixes(input_ids.data(), cu_seqlens.data(), texts, rows.data(), of.data());
  require(distinct <= room.total);
  for (std::int64_t row = 0; row < room.total; ++row) {
    require(of[row] >= 0 && of[row] < distinct && input_ids[rows[of[row]]] == input_ids[row]);
  }
  return 0;
}
