#pragma once
// A plan as a run: the header of a struct that says what the plan says, ready for MOEFOLD_RUNS and the program `train`. It checks itself when it is compiled:
// that the mapping is legal, and that it fits the GPU it was planned for.
//
//   struct my_run : moefold::run_defaults {
//     static constexpr moefold::model_shape model = moefold::mixtral_8x22b;
//     using fold = moefold::folding<moefold::mesh<moefold::tp<2>, moefold::dp<8>, moefold::pp<8>>, ...>;
#include <moefold/model/shape_text.hpp>
#include <moefold/model/zoo.hpp>
#include <moefold/plan/report.hpp>

#include <cctype>

namespace moefold {

/// What the engine cannot run and a plan can ask for. Throws config_error.
inline void require_runnable(const plan_question& q) {
  require<config_error>(
      !shards_weights(q.job.strategy), "moefold: no run can be written for the strategy ", name_of(q.job.strategy),
      ": this library shards optimizer state, not weights (ZeRO-3); it is planned to be compared with. Take folding or mcore");
}

/// The name of the struct: that of the file, without folder and ending. Throws config_error where it is no C++ name.
inline std::string run_name_of(const std::string& file) {
  std::string name = file.substr(file.find_last_of('/') + 1);
  const bool header = name.size() > 4 && name.ends_with(".hpp");
  if (header) name.resize(name.size() - 4);
  bool fits = header && std::isdigit(static_cast<unsigned char>(name[0])) == 0;
  for (const char c : name) fits = fits && (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_');
  require<config_error>(fits, "moefold: --emit-run needs a file whose name is also the name of a struct, like my_run.hpp (given '", file,
                        "')");
  return name;
}

namespace detail {

/// One mesh, innermost axis first; axes of one rank are left out, but a mesh names at least one. A strategy's tied experts are not a mesh of their own order.
inline std::string mesh_text(std::initializer_list<std::pair<const char*, extent_t>> axes) {
  std::string text;
  for (const auto& [name, ranks] : axes)
    if (ranks > 1) text += sentence(text.empty() ? "" : ", ", "moefold::", name, "<", ranks, ">");
  if (text.empty()) text = sentence("moefold::", axes.begin()->first, "<1>");
  return "moefold::mesh<" + text + ">";
}

inline std::string recompute_text(const recompute_rule& rule) {
  if (rule.full) return "moefold::recompute_full";
  std::string parts;
  for (std::size_t i = 0; i < recompute_parts; ++i)
    if (rule.has(recompute_part(i))) parts += sentence(parts.empty() ? "" : ", ", "moefold::recompute_part::", name_of(recompute_part(i)));
  return "moefold::selective<" + parts + ">";
}

inline std::string tokens_text(const token_rule& rule) {
  if (!rule.drops()) return "moefold::dropless";
  return sentence("moefold::capacity<", rule.percent, rule.full_sequence ? ", moefold::full_sequence" : "",
                  rule.by_position ? ", moefold::by_position" : "", rule.padded ? ", moefold::padded" : "", ">");
}

/// The C++ name of a GPU that the library knows; empty of any other.
inline std::string gpu_constant(const gpu_spec& gpu) {
  struct known {
    const gpu_spec* gpu;
    const char* name;
  };
  for (const known& k : {known{&h100_80gb, "h100_80gb"}, known{&h200_141gb, "h200_141gb"}, known{&b200_180gb, "b200_180gb"},
                         known{&gb200_186gb, "gb200_186gb"}, known{&laptop_core, "laptop_core"}})
    if (std::string_view(k.gpu->name) == gpu.name && k.gpu->memory == gpu.memory) return k.name;
  return {};
}

}  // namespace detail

/// The header. name: of the struct; command: what was typed. Throws config_error where the engine has no such strategy.
inline std::string run_header(const plan_question& q, const prediction& p, const std::string& name, const std::string& command) {
  require_runnable(q);
  const plan_mapping& m = p.mapping;
  const plan_job& job = q.job;
  const known_model* known = nullptr;
  for (const known_model& k : known_models)
    if (*k.shape == job.model) known = &k;
  const std::string gpu = detail::gpu_constant(q.cluster.gpu);
  const bool fits = p.fits && !gpu.empty(), eighths = q.precision == "fp8";
  const extent_t micro_batches = micro_batches_of(job, m);

  std::string out = "#pragma once\n";
  const auto line = [&](const auto&... parts) { out += sentence(parts..., "\n"); };
  line("// ", describe(m));
  line("// Predicted on ", job.gpus, " GPUs of ", q.cluster.name, ": ", detail::seconds_text(p.step_seconds), " a step of ",
       job.global_batch, " sequences, MFU ", detail::percent_text(p.mfu), " % (causal ", detail::percent_text(p.mfu_causal), " %), ",
       gigabytes_text(double(p.memory.total())), " of ", gigabytes_text(double(q.cluster.gpu.memory)), " on a GPU.");
  line("// Written by: ", command);
  line("// Train it:   cmake --preset train -DMOEFOLD_RUNS=", name, ".hpp && cmake --build build/train --target train");
  line("//             build/train/bin/train --run ", name, " --global-batch ", job.global_batch, " --micro-batch ", m.micro_batch);
  if (eighths) line("#include <moefold/core/fp8_precision.hpp>");
  if (known != nullptr) line("#include <moefold/model/", known->header, ".hpp>");
  if (m.vpp > 1) line("#include <moefold/schedule/interleaved.hpp>");
  if (job.schedule != plan_schedule::one_f_one_b) line("#include <moefold/schedule/zero_bubble.hpp>");
  if (fits) line("#include <moefold/train/fits.hpp>");
  line("#include <moefold/train/run.hpp>\n");
  if (job.facts.tokens.drops()) {
    line("struct ", name, "_moe : moefold::balanced_moe {");
    line("  using tokens = ", detail::tokens_text(job.facts.tokens), ";\n};\n");
  }
  line("struct ", name, " : moefold::run_defaults {");
  if (known != nullptr)
    line("  static constexpr moefold::model_shape model = moefold::", known->constant, ";");
  else
    line("  static constexpr moefold::model_shape model{  // ", q.model, shape_fields(job.model, "      "), "};");
  line("  static constexpr moefold::extent_t sequence = ", job.sequence, ";");
  line("  using fold = moefold::folding<", detail::mesh_text({{"tp", m.tp}, {"cp", m.cp}, {"dp", m.dp}, {"pp", m.pp}}), ",");
  line("                                ", detail::mesh_text({{"etp", m.etp}, {"ep", m.ep}, {"edp", m.edp}, {"pp", m.pp}}), ">;");
  if (eighths) line("  using device_precision = moefold::fp8<>;");
  if (job.facts.tokens.drops()) line("  using moe = ", name, "_moe;");
  if (m.vpp > 1) line("  using schedule = moefold::interleaved<", m.vpp, ">;");
  if (job.schedule == plan_schedule::zero_bubble) line("  using schedule = moefold::zero_bubble;");
  if (job.schedule == plan_schedule::zero_bubble_h1) line("  using schedule = moefold::zero_bubble_h1;");
  if (m.recompute.any()) line("  static constexpr moefold::recompute_rule recompute = ", detail::recompute_text(m.recompute), ";");
  line("};");
  line("static_assert(moefold::check_run<", name, ">::ok);");
  if (fits) line("static_assert(moefold::fits<", name, ", moefold::", gpu, ", ", job.gpus, ", ", m.micro_batch, ", ", micro_batches, ">);");
  return out;
}

}  // namespace moefold
