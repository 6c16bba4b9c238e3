// flight: says where the ranks of a run stand, or parted, from the files their flight recorders wrote on a failure or a signal.
// All it does is in moefold/comm/flight_report.hpp.
#include <moefold/comm/flight_report.hpp>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace {

constexpr const char* usage =
    "flight [--calls N] [--all] FOLDER|FILE...\n"
    "  Reads what a run wrote into MOEFOLD_FLIGHT_DIR when it failed, or when it got SIGUSR1 (in a folder: moefold-flight-*.txt), and\n"
    "  prints where its ranks parted. Of several writings it takes the newest of each rank; name files to see an older one.\n"
    "  --calls N   the last N calls of each communicator [5]\n"
    "  --all       also of communicators on which the ranks agree\n"
    "  Ends with 0 if the ranks agree and none is missing, 1 if not, 2 if that cannot be said.\n";

std::string contents(const std::filesystem::path& file) {
  std::ifstream from(file, std::ios::binary);
  moefold::require<moefold::config_error>(bool(from), "moefold: cannot read '", file.string(), "'; give files or folders that exist");
  return {std::istreambuf_iterator<char>(from), {}};
}

std::vector<moefold::flight_dump> read(const std::vector<std::string>& places) {
  std::vector<std::filesystem::path> files;
  for (const std::string& place : places)
    if (std::filesystem::is_directory(place)) {
      for (const auto& entry : std::filesystem::directory_iterator(place))
        if (const std::string name = entry.path().filename().string(); name.starts_with("moefold-flight-") && name.ends_with(".txt"))
          files.push_back(entry.path());
    } else {
      files.push_back(place);
    }
  std::vector<moefold::flight_dump> dumps;
  for (const auto& file : files) dumps.push_back(moefold::parse_flight(contents(file), file.string()));
  return dumps;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> places;
  std::size_t calls = 5;
  bool all = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--help" || word == "-h") return std::fputs(usage, stdout), 0;
    if (word == "--all")
      all = true;
    else if (word == "--calls" && i + 1 < argc && std::strspn(argv[i + 1], "0123456789") == std::strlen(argv[i + 1]))
      calls = std::size_t(std::strtoull(argv[++i], nullptr, 10));
    else if (word.starts_with("-"))
      return std::fprintf(stderr, "flight: %s is not understood\n%s", word.c_str(), usage), 2;
    else
      places.push_back(word);
  }
  if (places.empty()) return std::fprintf(stderr, "flight: no file or folder is named\n%s", usage), 2;
  try {
    const moefold::flight_report report(read(places));
    std::printf("%s\n", report.verdict().c_str());
    for (const std::string& note : report.notes()) std::printf("note: %s\n", note.c_str());
    std::vector<std::string> reasons;  // those that the ranks gave, each once
    for (const auto& dump : report.dumps())
      if (std::find(reasons.begin(), reasons.end(), dump.reason) == reasons.end()) reasons.push_back(dump.reason);
    for (const std::string& reason : reasons) std::printf("written because of: %s\n", reason.c_str());
    std::printf("\n%s", report.table(calls, all).c_str());
    return report.diverged() ? 1 : 0;
  } catch (const std::exception& wrong) {
    std::fprintf(stderr, "flight: %s\n", wrong.what());
    return 2;
  }
}
