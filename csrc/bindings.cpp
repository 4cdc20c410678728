// The extension pyllmclf._C: checks the arguments and calls the core.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings_cpu.h"
#include "bindings_cuda.h"
#include "pyllmclf/cpu.h"
#include "pyllmclf/data.h"
#ifdef PYLLMCLF_WITH_CUDA
#include "pyllmclf/cuda.h"
#endif

namespace py = pybind11;

namespace {

// Without forcecast pybind11 refuses a wrong dtype; with it, it would copy the array.
using Int32Array = py::array_t<std::int32_t, py::array::c_style>;
using Int64Array = py::array_t<std::int64_t, py::array::c_style>;

// Returns a numpy array over the vector's memory, without a copy.
template <typename T>
py::array_t<T> as_array(std::vector<T>&& values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  auto* raw = owned.get();
  py::capsule keep(owned.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(static_cast<py::ssize_t>(raw->size()), raw->data(), keep);
}

void require_flat(const py::array& array, const char* name) {
  if (array.ndim() != 1) throw py::value_error(std::string(name) + " must have one dimension");
}

void append_batch(pyllmclf::TokenStoreBuilder& builder, const std::vector<std::vector<std::int32_t>>& texts,
                  const std::vector<bool>& goes_on) {
  if (!goes_on.empty() && goes_on.size() != texts.size()) throw py::value_error("goes_on must have one entry a text");
  if (builder.size() == 0 && !goes_on.empty() && goes_on[0]) throw py::value_error("there is no text to continue");
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto count = static_cast<std::int64_t>(texts[i].size());
    if (!goes_on.empty() && goes_on[i]) {
      builder.extend(texts[i].data(), count);
    } else {
      builder.append(texts[i].data(), count);
    }
  }
}

std::int64_t find_invalid_text(const Int32Array& tokens, const Int64Array& offsets, std::int32_t vocab_size) {
  require_flat(tokens, "tokens");
  require_flat(offsets, "offsets");
  if (offsets.size() < 1) throw py::value_error("offsets must have at least one entry");
  return pyllmclf::find_invalid_text(tokens.data(), tokens.size(), offsets.data(), offsets.size() - 1, vocab_size);
}

// Raises unless the offsets of one text lie within the tokens.
void require_text(const Int32Array& tokens, const Int64Array& offsets, std::int64_t text) {
  const std::int64_t begin = offsets.data()[text];
  const std::int64_t end = offsets.data()[text + 1];
  if (begin < 0 || end < begin || end > tokens.size()) throw py::value_error("offsets do not fit the tokens");
}

Int64Array first_equal_texts(const Int32Array& tokens, const Int64Array& offsets, std::int64_t most_tokens) {
  require_flat(tokens, "tokens");
  require_flat(offsets, "offsets");
  if (offsets.size() < 1 || most_tokens < 0) throw py::value_error("no offsets, or a negative length");
  const std::int64_t texts = offsets.size() - 1;
  for (std::int64_t i = 0; i < texts; ++i) require_text(tokens, offsets, i);
  Int64Array first(texts);
  pyllmclf::first_equal_texts(tokens.data(), offsets.data(), texts, most_tokens, first.mutable_data());
  return first;
}

Int64Array sort_texts(const Int32Array& tokens, const Int64Array& offsets, const Int64Array& ids,
                      std::int64_t most_tokens) {
  require_flat(tokens, "tokens");
  require_flat(offsets, "offsets");
  require_flat(ids, "ids");
  if (offsets.size() < 1 || most_tokens < 0) throw py::value_error("no offsets, or a negative length");
  for (py::ssize_t i = 0; i < ids.size(); ++i) {
    if (ids.data()[i] < 0 || ids.data()[i] >= offsets.size() - 1) throw py::index_error("an id is not in the store");
    require_text(tokens, offsets, ids.data()[i]);
  }
  Int64Array sorted(ids.size());
  std::copy_n(ids.data(), ids.size(), sorted.mutable_data());
  pyllmclf::sort_texts(tokens.data(), offsets.data(), sorted.mutable_data(), ids.size(), most_tokens);
  return sorted;
}

py::tuple share_prefixes(const Int32Array& input_ids, const Int32Array& cu_seqlens) {
  require_flat(input_ids, "input_ids");
  require_flat(cu_seqlens, "cu_seqlens");
  const py::ssize_t texts = cu_seqlens.size() - 1;
  if (texts < 0 || cu_seqlens.data()[0] != 0 || cu_seqlens.data()[texts] != input_ids.size())
    throw py::value_error("cu_seqlens do not fit the rows");
  for (py::ssize_t i = 0; i < texts; ++i) {
    if (cu_seqlens.data()[i + 1] < cu_seqlens.data()[i]) throw py::value_error("cu_seqlens do not fit the rows");
  }
  std::vector<std::int64_t> rows(static_cast<std::size_t>(input_ids.size()));
  Int64Array of(input_ids.size());
  const std::int64_t count =
      pyllmclf::share_prefixes(input_ids.data(), cu_seqlens.data(), texts, rows.data(), of.mutable_data());
  rows.resize(static_cast<std::size_t>(count));
  return py::make_tuple(as_array(std::move(rows)), of);
}

py::tuple pack(const Int32Array& tokens, const Int64Array& offsets, const Int64Array& ids, std::int64_t max_length,
               std::int64_t pad_to, std::int32_t pad_token, const std::vector<std::int32_t>& prefix,
               const std::vector<std::int32_t>& suffix) {
  require_flat(tokens, "tokens");
  require_flat(offsets, "offsets");
  require_flat(ids, "ids");
  const std::int64_t texts = offsets.size() - 1;
  const auto specials = static_cast<std::int64_t>(prefix.size() + suffix.size());
  if (max_length < specials || max_length < 1)
    throw py::value_error("max_length leaves no room for the special tokens");
  if (pad_to > std::numeric_limits<std::int32_t>::max()) throw py::value_error("pad_to is more than int32 can hold");
  if (pad_to != 0 && pad_to < max_length) throw py::value_error("pad_to must be 0 or at least max_length");
  for (py::ssize_t i = 0; i < ids.size(); ++i) {
    const std::int64_t id = ids.data()[i];
    if (id < 0 || id >= texts) throw py::index_error("example id " + std::to_string(id) + " is not in the token store");
    require_text(tokens, offsets, id);
  }
  pyllmclf::RowLayout layout;
  layout.max_length = max_length;
  layout.pad_to = pad_to;
  layout.pad_token = pad_token;
  layout.prefix = prefix.data();
  layout.prefix_count = static_cast<std::int64_t>(prefix.size());
  layout.suffix = suffix.data();
  layout.suffix_count = static_cast<std::int64_t>(suffix.size());
  const auto size = pyllmclf::batch_size(offsets.data(), ids.data(), ids.size(), layout);
  if (size.total > std::numeric_limits<std::int32_t>::max()) {
    throw py::value_error("a batch of " + std::to_string(size.total) +
                          " tokens is more than cu_seqlens (int32) can hold");
  }
  Int32Array input_ids(size.total), positions(size.total), cu_seqlens(ids.size() + 1), lengths(ids.size());
  auto *input_ids_out = input_ids.mutable_data(), *positions_out = positions.mutable_data();
  auto *cu_seqlens_out = cu_seqlens.mutable_data(), *lengths_out = lengths.mutable_data();
  {
    py::gil_scoped_release release;
    pyllmclf::pack(tokens.data(), offsets.data(), ids.data(), ids.size(), layout, input_ids_out, positions_out,
                   cu_seqlens_out, lengths_out);
  }
  return py::make_tuple(input_ids, positions, cu_seqlens, size.max_seqlen, lengths);
}

py::dict build_config() {
  py::dict config;
  config["version"] = PYLLMCLF_VERSION;
#if defined(__clang__)
  config["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  config["compiler"] = "gcc " __VERSION__;
#else
  config["compiler"] = "unknown";
#endif
  config["simd"] = pyllmclf::simd_level();
#ifdef PYLLMCLF_WITH_CUDA
  config["cuda"] = PYLLMCLF_CUDA_COMPILER_VERSION;
  config["cuda_architectures"] = PYLLMCLF_CUDA_ARCHITECTURES;
#else
  config["cuda"] = py::none();
  config["cuda_architectures"] = "";
#endif
  return config;
}

py::tuple cuda_devices() {
  py::list devices;
#ifdef PYLLMCLF_WITH_CUDA
  std::string error;
  for (const auto& device : pyllmclf::cuda::devices(error)) {
    py::dict entry;
    entry["name"] = device.name;
    entry["capability"] = py::make_tuple(device.major, device.minor);
    entry["memory"] = device.memory;
    entry["code_version"] = device.code_version;
    devices.append(entry);
  }
#else
  const std::string error = "built without a CUDA compiler";
#endif
  return py::make_tuple(devices, error);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native core of pyllmclf.";
  module.def("build_config", &build_config,
             "Returns version, compiler, SIMD level and CUDA architectures of this build.");
  module.def("cuda_devices", &cuda_devices, "Returns (devices that the CUDA runtime sees, why there are none).");

  py::class_<pyllmclf::TokenStoreBuilder>(module, "TokenStoreBuilder", "Collects texts into one flat token array.")
      .def(py::init<>())
      .def("__len__", &pyllmclf::TokenStoreBuilder::size)
      .def("append_batch", &append_batch, py::arg("texts"), py::arg("goes_on") = std::vector<bool>{},
           "Appends each list of token ids as a new text, or to the previous text where goes_on is true.")
      .def(
          "finish",
          [](pyllmclf::TokenStoreBuilder& builder) {
            auto tokens = as_array(builder.take_tokens());
            auto offsets = as_array(builder.take_offsets());
            return py::make_tuple(tokens, offsets);
          },
          "Returns (tokens int32, offsets int64) and leaves the builder empty.");

  module.def("find_invalid_text", &find_invalid_text, py::arg("tokens").noconvert(), py::arg("offsets").noconvert(),
             py::arg("vocab_size"),
             "Returns the index of the first text with an id outside [0, vocab_size) or invalid offsets, -1 if none.");
  module.def("first_equal_texts", &first_equal_texts, py::arg("tokens").noconvert(), py::arg("offsets").noconvert(),
             py::arg("most_tokens"),
             "Returns, int64 [texts], for each text the first text with the same first most_tokens tokens.");
  module.def("sort_texts", &sort_texts, py::arg("tokens").noconvert(), py::arg("offsets").noconvert(),
             py::arg("ids").noconvert(), py::arg("most_tokens"),
             "Returns the ids, int64, sorted by the first most_tokens tokens of their texts.");
  module.def(
      "share_prefixes", &share_prefixes, py::arg("input_ids").noconvert(), py::arg("cu_seqlens").noconvert(),
      "Returns (rows, of), int64: a causal model's distinct rows, and for each row the index of its distinct row.");
  module.def("pack", &pack, py::arg("tokens").noconvert(), py::arg("offsets").noconvert(), py::arg("ids").noconvert(),
             py::kw_only(), py::arg("max_length"), py::arg("pad_to"), py::arg("pad_token"), py::arg("prefix"),
             py::arg("suffix"), "Returns (input_ids, positions, cu_seqlens, max_seqlen, lengths) of a batch.");
  pyllmclf::bind_cpu_ops(module);
#ifdef PYLLMCLF_WITH_CUDA
  pyllmclf::bind_cuda_ops(module);
#endif
}
