// Checks the token store and the packer on small examples.
#include "check.h"
#include "pyllmclf/data.h"

namespace {

using Ints = std::vector<std::int32_t>;

void test_token_store() {
  pyllmclf::TokenStoreBuilder builder;
  const Ints first = {5, 6, 7}, second = {8};
  builder.append(first.data(), 3);
  builder.append(nullptr, 0);
  builder.append(nullptr, 0);
  builder.extend(second.data(), 1);
  check::that(builder.size() == 3, "size");
  const auto tokens = builder.take_tokens();
  const auto offsets = builder.take_offsets();
  check::that(tokens == Ints{5, 6, 7, 8}, "tokens");
  check::that(offsets == std::vector<std::int64_t>{0, 3, 3, 4}, "offsets");
  check::that(builder.size() == 0, "empty afterwards");
  check::that(pyllmclf::find_invalid_text(tokens.data(), 4, offsets.data(), 3, 9) == -1, "valid");
  check::that(pyllmclf::find_invalid_text(tokens.data(), 4, offsets.data(), 3, 8) == 2, "an id that is too large");
}

void test_equal_texts() {
  const Ints tokens = {5, 6, 5, 6, 7, 5, 6};
  const std::vector<std::int64_t> offsets = {0, 2, 2, 5, 7, 7};
  std::vector<std::int64_t> first(5, -1);
  pyllmclf::first_equal_texts(tokens.data(), offsets.data(), 5, 9, first.data());
  check::that(first == std::vector<std::int64_t>{0, 1, 2, 0, 1}, "equal texts");
  pyllmclf::first_equal_texts(tokens.data(), offsets.data(), 5, 2, first.data());
  check::that(first == std::vector<std::int64_t>{0, 1, 0, 0, 1}, "equal prefixes");
}

void test_shared_prefixes() {
  const Ints tokens = {5, 6, 5, 6, 7, 4, 5, 6};
  const std::vector<std::int64_t> offsets = {0, 2, 2, 5, 6, 8};
  std::vector<std::int64_t> ids = {4, 3, 2, 1, 0};
  pyllmclf::sort_texts(tokens.data(), offsets.data(), ids.data(), 5, 9);
  check::that(ids == std::vector<std::int64_t>{1, 3, 0, 4, 2}, "texts in order");
  pyllmclf::sort_texts(tokens.data(), offsets.data(), ids.data(), 5, 2);
  check::that(ids == std::vector<std::int64_t>{1, 3, 0, 2, 4}, "prefixes in order");
  const Ints input_ids = {4, 5, 6, 5, 6, 7, 5, 8}, cu_seqlens = {0, 0, 1, 3, 6, 8};
  std::vector<std::int64_t> rows(8, -1), of(8, -1);
  check::that(pyllmclf::share_prefixes(input_ids.data(), cu_seqlens.data(), 5, rows.data(), of.data()) == 5, "count");
  check::that(rows == std::vector<std::int64_t>{0, 1, 2, 5, 7, -1, -1, -1}, "distinct rows");
  check::that(of == std::vector<std::int64_t>{0, 1, 2, 1, 2, 3, 1, 4}, "distinct row of each row");
}

void test_pack() {
  const Ints tokens = {5, 6, 7, 8}, prefix = {1}, suffix = {2};
  const std::vector<std::int64_t> offsets = {0, 3, 3, 4}, ids = {2, 0, 1};
  pyllmclf::RowLayout layout;
  layout.max_length = 4;
  layout.prefix = prefix.data();
  layout.prefix_count = 1;
  layout.suffix = suffix.data();
  layout.suffix_count = 1;
  for (const std::int64_t pad_to : {0, 5}) {
    layout.pad_to = pad_to;
    const auto size = pyllmclf::batch_size(offsets.data(), ids.data(), 3, layout);
    check::that(size.total == (pad_to ? 15 : 9), "total");
    Ints input_ids(static_cast<std::size_t>(size.total), -1), positions = input_ids, cu_seqlens(4), lengths(3);
    pyllmclf::pack(tokens.data(), offsets.data(), ids.data(), 3, layout, input_ids.data(), positions.data(),
                   cu_seqlens.data(), lengths.data());
    check::that(lengths == Ints{3, 4, 2}, "lengths");
    if (pad_to) {
      check::that(input_ids == Ints{1, 8, 2, 0, 0, 1, 5, 6, 2, 0, 1, 2, 0, 0, 0}, "padded ids");
      check::that(cu_seqlens == Ints{0, 5, 10, 15}, "padded cu_seqlens");
    } else {
      check::that(input_ids == Ints{1, 8, 2, 1, 5, 6, 2, 1, 2}, "ids");
      check::that(positions == Ints{0, 1, 2, 0, 1, 2, 3, 0, 1}, "positions");
      check::that(cu_seqlens == Ints{0, 3, 7, 9}, "cu_seqlens");
    }
  }
}

}  // namespace

int main() {
  test_token_store();
  test_equal_texts();
  test_shared_prefixes();
  test_pack();
  return check::finish("data");
}
