// model_header NAME config.json out.hpp: the program that moefold_model() runs (cmake/Models.cmake).
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/model/config_file.hpp>
#include <moefold/model/shape_text.hpp>

#include <cstdio>
#include <fstream>

int main(int count, char** arguments) try {
  if (count != 4) return std::fprintf(stderr, "usage: model_header NAME config.json out.hpp\n"), 2;
  const std::string name = arguments[1], config = arguments[2], header = arguments[3];
  const auto file = moefold::disk().open(config);
  std::vector<std::byte> bytes(std::size_t(std::min<std::uint64_t>(file->size(), 16 << 20)));
  file->read(0, bytes);
  const moefold::model_shape model = moefold::read_config(moefold::text_of(bytes), config);
  std::ofstream out(header, std::ios::trunc);
  out << moefold::write_shape(model, name, config) << std::flush;
  if (!out) return std::fprintf(stderr, "moefold: cannot write '%s'\n", header.c_str()), 1;
} catch (const std::exception& wrong) {
  std::fprintf(stderr, "%s\n", wrong.what());
  return 1;
}
