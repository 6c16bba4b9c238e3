#pragma once
// Many short texts in one block of memory: the names of a model file, of which there may be a million. A text costs its bytes and four more.
//
//   "wq" "wk" "norm"   ->   bytes  wqwknorm   ends  2 4 8
#include <moefold/core/error.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace moefold {

class text_list {
 public:
  std::size_t size() const { return ends_.size(); }
  std::string_view operator[](std::size_t i) const {
    const std::size_t begin = i == 0 ? 0 : ends_.at(i - 1);
    return std::string_view(bytes_).substr(begin, ends_.at(i) - begin);
  }
  /// Throws error where all texts together would exceed 4 GiB.
  void add(std::string_view text) {
    require(text.size() <= std::numeric_limits<std::uint32_t>::max() - bytes_.size(), "moefold: a list of texts holds at most 4 GiB");
    bytes_ += text;
    ends_.push_back(std::uint32_t(bytes_.size()));
  }

 private:
  std::string bytes_;
  std::vector<std::uint32_t> ends_;
};

}  // namespace moefold
