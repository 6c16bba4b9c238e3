#pragma once
// A dataset from what a user says of it: files and their format, how they are mixed, what a document is.
//
//   files a b c                one text, a then b then c            files a b, weights 3 1      three samples of a for one of b
//   format megatron            a.bin and a.idx                      pack                        sequences of whole documents
#include <moefold/train/data.hpp>
#include <moefold/train/token_index.hpp>

namespace moefold {

struct data_options {
  std::vector<std::string> files;
  data_format format = data_format::bytes;
  std::vector<double> weights;     // one for each file: how many samples come from it, in proportion; empty: the files are one text
  bool shuffle = true;             // false: sequence i of a file is sample i
  std::int32_t document_end = -1;  // attention does not cross the end of a document, which is this token; -1: no token ends one
  bool document_marks = false;     // nor where the file says one ends: Megatron's documents, and the end of each file
  bool pack = false;               // sequences are filled with whole documents, marked in one of these ways, instead of being cut
  double held_out_share = 0.05;    // of each source, at its end, for evaluation; 1: all of it, and none is trained on
  extent_t vocabulary = 0;         // of the model, so that tokens of large files are checked as they are read; 0: not known
};

/// One file as tokens. Bytes of up to 64 MiB are read at once, and stay what they are when somebody edits the file; others are read sample by sample,
/// and an error says if they change. keep_documents: remember where the file says documents begin.
inline shared_tokens open_tokens(storage& from, const std::string& path, data_format format, bool keep_documents) {
  switch (format) {
    case data_format::bytes:
      if (from.open(path)->size() <= std::uint64_t{1} << 26) return std::make_shared<token_stream>(token_stream::from_files({path}, from));
      return open_plain_tokens(from, path, token_kind::u8);
    case data_format::u16: return open_plain_tokens(from, path, token_kind::u16);
    case data_format::u32: return open_plain_tokens(from, path, token_kind::u32);
    case data_format::llmc: return open_llmc_tokens(from, path);
    case data_format::megatron: break;
  }
  return open_megatron_tokens(from, path, keep_documents);
}

/// Throws config_error for options that contradict each other, and what opening the files throws.
inline dataset make_dataset(const data_options& options, extent_t sequence, std::uint64_t seed, storage& from = disk()) {
  require<config_error>(!options.files.empty(), "moefold: no data file given; name at least one");
  require<config_error>(options.weights.empty() || options.weights.size() == options.files.size(), "moefold: ", options.files.size(),
                        options.files.size() == 1 ? " data file has " : " data files have ", options.weights.size(),
                        " weights; give each file one, or none to any");
  require<config_error>(options.document_end >= -1, "moefold: documents end after a token, 0 or above, or -1 for none (given ",
                        options.document_end, ")");
  document_rule rule{options.document_end, options.document_marks, options.pack};
  if (options.pack && options.document_end < 0) rule.of_source = true;  // what else
  std::vector<shared_tokens> files;
  for (const std::string& path : options.files) files.push_back(open_tokens(from, path, options.format, rule.of_source));
  if (options.weights.empty() && files.size() > 1) files = {std::make_shared<joined_tokens>(std::move(files))};
  std::vector<token_sequences> sources;
  for (shared_tokens& file : files) sources.emplace_back(std::move(file), sequence, rule);
  dataset data(std::move(sources), options.weights.empty() ? token_blend() : token_blend(options.weights), seed, options.held_out_share,
               options.shuffle);
  data.end_documents_after(options.document_end);
  data.set_vocabulary(options.vocabulary);
  return data;
}

}  // namespace moefold
