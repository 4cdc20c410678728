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
  // More tokens of the text that was appended last; there must be one.
  void extend(const std::int32_t* tokens, std::int64_t count);
  std::int64_t size() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }

  // Gives the arrays away; the builder is empty afterwards.
  std::vector<std::int32_t> take_tokens();
  std::vector<std::int64_t> take_offsets();

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<std::int64_t> offsets_;
};

// Index of the first text whose offsets run backwards or that holds an id outside [0, vocab_size); -1 if none.
std::int64_t find_invalid_text(const std::int32_t* tokens, std::int64_t token_count, const std::int64_t* offsets,
                               std::int64_t texts, std::int32_t vocab_size);

// first[i] is the first text whose first most_tokens tokens are those of text i; offsets must be valid.
void first_equal_texts(const std::int32_t* tokens, const std::int64_t* offsets, std::int64_t texts,
                       std::int64_t most_tokens, std::int64_t* first);

// Sorts `ids` by the first most_tokens tokens of these texts, as a dictionary would; the same texts by their id.
void sort_texts(const std::int32_t* tokens, const std::int64_t* offsets, std::int64_t* ids, std::int64_t count,
                std::int64_t most_tokens);

// Which rows of packed texts stand for all if nothing behind a row changes it: a row that begins as the text before
// does is that text's row. rows gets the indices of those that stand for themselves, of[row] which of them each row is;
// both have room for cu_seqlens[texts] entries. Returns how many entries rows got.
std::int64_t share_prefixes(const std::int32_t* input_ids, const std::int32_t* cu_seqlens, std::int64_t texts,
                            std::int64_t* rows, std::int64_t* of);

// How a stored text becomes the rows of a batch.
struct RowLayout {
  std::int64_t max_length = 0;  // longest row, special tokens included; longer texts lose their end
  std::int64_t pad_to = 0;      // 0: packed, no padding; otherwise every text fills pad_to rows
  std::int32_t pad_token = 0;
  const std::int32_t* prefix = nullptr;  // special tokens before the text
  std::int64_t prefix_count = 0;
  const std::int32_t* suffix = nullptr;  // special tokens after the text, kept when it is cut
  std::int64_t suffix_count = 0;
};

struct BatchSize {
  std::int64_t total = 0;       // rows of the batch, padding included
  std::int64_t max_seqlen = 0;  // longest text in rows, padding included
};

// Rows that the texts `ids` take; ids must lie in [0, texts).
BatchSize batch_size(const std::int64_t* offsets, const std::int64_t* ids, std::int64_t count, const RowLayout& layout);

// Writes the batch. input_ids and positions hold batch_size().total entries, cu_seqlens count + 1, lengths count
// (tokens of each text, special tokens included, padding not).
void pack(const std::int32_t* tokens, const std::int64_t* offsets, const std::int64_t* ids, std::int64_t count,
          const RowLayout& layout, std::int32_t* input_ids, std::int32_t* positions, std::int32_t* cu_seqlens,
          std::int32_t* lengths);

}  // namespace pyllmclf
