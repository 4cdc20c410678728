// The token store and the packer. Raw pointers and sizes; no torch, no Python.
#pragma once

#include <cstdint>
#include <vector>

namespace pyllmclf {

// All texts of a data set as one flat array: text i is tokens[offsets[i] .. offsets[i + 1]).
// Special tokens ([CLS], [SEP]) are not stored; the packer adds them.
class TokenStoreBuilder {
 public:
  TokenStoreBuilder() : offsets_{0} {}

  void append(const std::int32_t* tokens, std::int64_t count);
  // Appends tokens to the last text; there must be one.
  void extend(const std::int32_t* tokens, std::int64_t count);
  std::int64_t size() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }

  // Moves the arrays out; after both calls the builder is empty.
  std::vector<std::int32_t> take_tokens();
  std::vector<std::int64_t> take_offsets();

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<std::int64_t> offsets_;
};

// Returns the index of the first text with invalid offsets or with an id outside [0, vocab_size); -1 if there is none.
std::int64_t find_invalid_text(const std::int32_t* tokens, std::int64_t token_count, const std::int64_t* offsets,
                               std::int64_t texts, std::int32_t vocab_size);

// first[i] = the first text whose first most_tokens tokens equal those of text i; offsets must be valid.
void first_equal_texts(const std::int32_t* tokens, const std::int64_t* offsets, std::int64_t texts,
                       std::int64_t most_tokens, std::int64_t* first);

// Sorts `ids` lexicographically by the first most_tokens tokens of their texts, and equal ones by id.
void sort_texts(const std::int32_t* tokens, const std::int64_t* offsets, std::int64_t* ids, std::int64_t count,
                std::int64_t most_tokens);

// Deduplicates the rows of a packed batch for a causal model, where no later token changes a row: a text shares the
// rows of the prefix that it has in common with the previous text. `rows` receives the indices of the distinct rows,
// of[row] the index in `rows` of the distinct row that `row` shares; both have room for cu_seqlens[texts] entries.
// Returns the number of distinct rows.
std::int64_t share_prefixes(const std::int32_t* input_ids, const std::int32_t* cu_seqlens, std::int64_t texts,
                            std::int64_t* rows, std::int64_t* of);

// How a stored text becomes the rows of a batch.
struct RowLayout {
  std::int64_t max_length = 0;  // tokens per text, special tokens included; longer texts are truncated
  std::int64_t pad_to = 0;      // 0: packed, no padding; otherwise every text fills pad_to rows
  std::int32_t pad_token = 0;
  const std::int32_t* prefix = nullptr;  // special tokens before the text
  std::int64_t prefix_count = 0;
  const std::int32_t* suffix = nullptr;  // special tokens after the text, kept when it is truncated
  std::int64_t suffix_count = 0;
};

struct BatchSize {
  std::int64_t total = 0;       // rows of the batch, padding included
  std::int64_t max_seqlen = 0;  // longest text in rows, padding included
};

// Computes the size of the batch of the texts `ids`, which must lie in [0, texts).
BatchSize batch_size(const std::int64_t* offsets, const std::int64_t* ids, std::int64_t count, const RowLayout& layout);

// Writes the batch. The buffers input_ids and positions hold batch_size().total entries, cu_seqlens count + 1, lengths
// count (tokens of each text, special tokens included, padding not).
void pack(const std::int32_t* tokens, const std::int64_t* offsets, const std::int64_t* ids, std::int64_t count,
          const RowLayout& layout, std::int32_t* input_ids, std::int32_t* positions, std::int32_t* cu_seqlens,
          std::int32_t* lengths);

}  // namespace pyllmclf
