// Packs texts of the token store into batches, and deduplicates the rows of common prefixes.
#include <algorithm>

#include "pyllmclf/data.h"

namespace pyllmclf {
namespace {

// Tokens of a stored text that fit into max_length beside the special tokens.
std::int64_t kept_tokens(std::int64_t stored, const RowLayout& layout) {
  const std::int64_t room = layout.max_length - layout.prefix_count - layout.suffix_count;
  return std::min(stored, room);
}

}  // namespace

BatchSize batch_size(const std::int64_t* offsets, const std::int64_t* ids, std::int64_t count,
                     const RowLayout& layout) {
  BatchSize size;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t stored = offsets[ids[i] + 1] - offsets[ids[i]];
    const std::int64_t length = layout.prefix_count + kept_tokens(stored, layout) + layout.suffix_count;
    const std::int64_t rows = layout.pad_to > 0 ? layout.pad_to : length;
    size.total += rows;
    size.max_seqlen = std::max(size.max_seqlen, rows);
  }
  return size;
}

void pack(const std::int32_t* tokens, const std::int64_t* offsets, const std::int64_t* ids, std::int64_t count,
          const RowLayout& layout, std::int32_t* input_ids, std::int32_t* positions, std::int32_t* cu_seqlens,
          std::int32_t* lengths) {
  std::int32_t row = 0;
  cu_seqlens[0] = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = offsets[ids[i]];
    const std::int64_t kept = kept_tokens(offsets[ids[i] + 1] - begin, layout);
    std::int32_t* out = input_ids + row;
    out = std::copy_n(layout.prefix, layout.prefix_count, out);
    out = std::copy_n(tokens + begin, kept, out);
    out = std::copy_n(layout.suffix, layout.suffix_count, out);
    const auto length = static_cast<std::int32_t>(out - (input_ids + row));
    const auto rows = layout.pad_to > 0 ? static_cast<std::int32_t>(layout.pad_to) : length;
    std::fill_n(out, rows - length, layout.pad_token);
    for (std::int32_t p = 0; p < rows; ++p) positions[row + p] = p;
    lengths[i] = length;
    row += rows;
    cu_seqlens[i + 1] = row;
  }
}

std::int64_t share_prefixes(const std::int32_t* input_ids, const std::int32_t* cu_seqlens, std::int64_t texts,
                            std::int64_t* rows, std::int64_t* of) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < texts; ++i) {
    std::int64_t row = cu_seqlens[i];
    if (i > 0) {
      std::int64_t before = cu_seqlens[i - 1];
      const std::int64_t before_end = cu_seqlens[i];
      while (row < cu_seqlens[i + 1] && before < before_end && input_ids[row] == input_ids[before])
        of[row++] = of[before++];
    }
    for (; row < cu_seqlens[i + 1]; ++row) {
      rows[count] = row;
      of[row] = count++;
    }
  }
  return count;
}

}  // namespace pyllmclf
