#pragma once
// config.json as Hugging Face's transformers writes it, read into a model_shape and written from one. A field changes the model, is known to change
// nothing, or is an error that names it: nothing a file asks for is silently left out.
//
//   {"model_type": "mixtral", "hidden_size": 4096, "num_local_experts": 8, ...}   <->   model_shape{.hidden = 4096, .experts = 8, ...}
// Old files (rope_theta, rope_scaling, num_experts) and those of transformers 5 (rope_parameters, num_local_experts, layer_types) are both read.
#include <moefold/checkpoint/json.hpp>
#include <moefold/model/names.hpp>

#include <initializer_list>
#include <limits>
#include <set>

namespace moefold {

namespace detail {

/// Reads the fields of one config.json and knows which it has seen. null is as good as not there.
class config_fields {
 public:
  config_fields(const json_value& object, const std::string& file) : object_(object), file_(file) {}

  /// The value of a field; null where it is not there.
  const json_value* find(const char* name) {
    seen_.insert(name);
    const json_value* value = object_.find(name);
    return value && value->kind() != json_kind::null ? value : nullptr;
  }
  bool has(const char* name) const { return object_.find(name) != nullptr; }  // null too
  const json_value& at(const char* name) {
    const json_value* value = find(name);
    if (!value) object_.require(false, "'", name, "' is missing; a config.json of this family has it");
    return *value;
  }
  extent_t count(const json_value& v, extent_t least, extent_t most) {
    const auto number = v.integer<std::int64_t>();
    v.require(number >= least && number <= most, "found ", number, ", needs ", least, " to ", most);
    return number;
  }
  extent_t count(const char* name, extent_t most = 1 << 24) { return count(at(name), 1, most); }
  extent_t count_or(const char* name, extent_t otherwise, extent_t least = 1, extent_t most = 1 << 24) {
    const json_value* v = find(name);
    return v ? count(*v, least, most) : otherwise;
  }
  double number(const json_value& v) {
    const double x = v.number();
    v.require(x > 0 && x < 1e300, "found ", x, ", needs a finite number above 0");
    return x;
  }
  double number_or(const char* name, double otherwise) {
    const json_value* v = find(name);
    return v ? number(*v) : otherwise;
  }
  bool flag_or(const char* name, bool otherwise) {
    const json_value* v = find(name);
    return v ? v->boolean() : otherwise;
  }
  /// A field that must not ask for anything else. `why` says what else would mean.
  template <class T>
  void only(const char* name, const T& needed, const char* why) {
    const json_value* v = find(name);
    if (!v) return;
    if constexpr (std::same_as<T, bool>)
      v->require(v->boolean() == needed, "found ", !needed, ", needs ", needed, ": ", why);
    else if constexpr (std::is_arithmetic_v<T>)
      v->require(v->number() == double(needed), "found ", v->number(), ", needs ", needed, ": ", why);
    else
      v->require(v->text() == needed, "found '", shown_text(v->text()), "', needs '", needed, "': ", why);
  }
  /// The same of a field whose absence means something.
  template <class T>
  void needed(const char* name, const T& found, const T& needed, const char* why) {
    object_.require(found == needed, "'", name, "' needs to be ", needed, " (not given means ", found, "): ", why);
  }
  /// Fields that change nothing here.
  void ignore(std::initializer_list<const char*> names) { seen_.insert(names.begin(), names.end()); }
  /// Throws for the first field that nobody asked for.
  void done() const {
    for (const json_value& member : object_.members())
      member.require(seen_.contains(member.key()), "this field is not supported; remove it if it says nothing about the model");
  }
  const std::string& file() const { return file_; }

 private:
  const json_value& object_;
  const std::string& file_;
  std::set<std::string, std::less<>> seen_;
};

inline constexpr double no_theta = 0;

/// rope_theta of old files, rope_parameters of new ones, or both alike. rotated: what a family takes where no partial_rotary_factor is given.
inline double read_rope(config_fields& fields, double rotated) {
  double theta = fields.number_or("rope_theta", no_theta);
  const json_value* partial = fields.find("partial_rotary_factor");
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json_value* object = fields.find(name);
    if (!object) continue;
    config_fields inner(*object, fields.file());
    for (const char* type : {"rope_type", "type"}) inner.only(type, std::string("default"), "scaled RoPE is not built");
    if (const json_value* t = inner.find("rope_theta")) {
      t->require(theta == no_theta || theta == inner.number(*t), "two values of rope_theta differ");
      theta = inner.number(*t);
    }
    if (const json_value* p = inner.find("partial_rotary_factor")) partial = p;
    inner.done();
  }
  require_file(theta != no_theta, fields.file(), 0,
               "'rope_theta' is missing; a config.json of this family has it, there or in 'rope_parameters'");
  if (partial)
    partial->require(partial->number() == 1, "found ", partial->number(), ", needs 1: RoPE rotates whole heads here");
  else
    require_file(rotated == 1, fields.file(), 0, "'partial_rotary_factor' is missing, which means ", rotated,
                 " in this family; needs 1: RoPE rotates whole heads here");
  return theta;
}

/// How many of the first layers are dense, from mlp_only_layers and decoder_sparse_step (layer l is dense unless (l + 1) % step == 0).
inline extent_t read_dense_layers(config_fields& fields, extent_t layers) {
  std::vector<bool> dense(std::size_t(layers), false);
  const extent_t step = fields.count_or("decoder_sparse_step", 1);
  for (extent_t l = 0; l < layers; ++l) dense[std::size_t(l)] = (l + 1) % step != 0;
  if (const json_value* list = fields.find("mlp_only_layers"))
    for (const json_value& layer : list->array()) dense[std::size_t(fields.count(layer, 0, layers - 1))] = true;
  extent_t first = 0;
  while (first < layers && dense[std::size_t(first)]) ++first;
  for (extent_t l = first; l < layers; ++l)
    require_file(!dense[std::size_t(l)], fields.file(), 0, "'mlp_only_layers' or 'decoder_sparse_step': layer ", l,
                 " is dense behind the MoE layer ", first, "; only the first layers may be");
  return first;
}

inline extent_t read_dense_width(config_fields& fields, extent_t dense_layers) {
  const extent_t width = fields.count_or("intermediate_size", 0);  // written where no layer has it, too
  return dense_layers == 0 ? 0 : width > 0 ? width : fields.count("intermediate_size");
}

/// layer_types of transformers 5: full attention, or a window where the model has one.
inline void read_layer_types(config_fields& fields, const model_shape& m) {
  const json_value* types = fields.find("layer_types");
  if (!types) return;
  types->require(extent_t(types->array().size()) == m.layers, "found ", types->array().size(), " layers, needs ", m.layers);
  for (const json_value& type : types->array())
    type.require(type.text() == "full_attention" || (type.text() == "sliding_attention" && m.sliding_window > 0),
                 "'layer_types' asks for '", shown_text(type.text()),
                 "'; only full_attention, and sliding_attention with a sliding_window, are built");
}

/// E, k and F. Both names of the number of experts are taken: transformers knows them as one.
inline void read_experts(config_fields& fields, model_shape& m, const char* experts, const char* alias, const char* ffn) {
  const json_value* other = fields.find(alias);
  m.experts = fields.find(experts) || !other ? fields.count(experts, 1 << 16) : fields.count(*other, 1, 1 << 16);
  if (other) other->require(fields.count(*other, 1, 1 << 16) == m.experts, "it differs from '", experts, "'");
  m.top_k = fields.count("num_experts_per_tok", m.experts);
  m.ffn = fields.count(ffn);
}

/// Qwen writes a window that it only uses where use_sliding_window says so.
inline extent_t read_window(config_fields& fields, bool always) {
  const extent_t width = fields.count_or("sliding_window", 0, 0);
  return always || fields.flag_or("use_sliding_window", false) ? width : 0;
}
inline void no_bias(config_fields& fields) {
  fields.only("attention_bias", false, "the output projection of this family would have one too");
}

inline void read_softmax(config_fields& fields, model_shape& m, model_family family) {
  if (family == model_family::mixtral) {
    read_experts(fields, m, "num_local_experts", "num_experts", "intermediate_size");
    m.sliding_window = read_window(fields, true);
    return no_bias(fields);
  }
  read_experts(fields, m, "num_experts", "num_local_experts", "moe_intermediate_size");
  m.score = fields.flag_or("norm_topk_prob", false) ? score_function::softmax_after : score_function::softmax_before;
  m.dense_layers = read_dense_layers(fields, m.layers);
  m.dense_ffn = read_dense_width(fields, m.dense_layers);
  m.sliding_window = read_window(fields, false);
  if (family == model_family::qwen3_moe) {
    m.qk_norm = true;
    return no_bias(fields);
  }
  m.shared_ffn = fields.count("shared_expert_intermediate_size");
  m.shared_gate = true;
  m.qkv_bias = fields.flag_or("qkv_bias", true);
}

inline void read_glm(config_fields& fields, model_shape& m) {
  read_experts(fields, m, "n_routed_experts", "num_local_experts", "moe_intermediate_size");
  m.score = score_function::sigmoid;
  m.expert_bias = true;  // files of this family always hold it
  m.dense_layers = fields.count_or("first_k_dense_replace", 1, 0, m.layers);
  m.dense_ffn = read_dense_width(fields, m.dense_layers);
  m.weight_scale = fields.number_or("routed_scaling_factor", 1);
  m.expert_groups = fields.count_or("n_group", 1);
  m.chosen_groups = fields.count_or("topk_group", 1);
  m.shared_ffn = fields.count_or("n_shared_experts", 1, 0, 1 << 16) * m.ffn;
  m.qkv_bias = fields.flag_or("attention_bias", false);
  m.qk_norm = fields.flag_or("use_qk_norm", false);
  fields.only("moe_layer_freq", 1, "every layer behind the dense ones is an MoE layer");
  fields.only("scoring_func", std::string("sigmoid"), "this family scores by sigmoid");
  fields.only("topk_method", std::string("noaux_tc"), "this family chooses by a bias and groups");
  fields.needed("norm_topk_prob", fields.flag_or("norm_topk_prob", true), m.top_k > 1,
                "sigmoid scores are divided by their sum where a token uses several experts, and only there");
  const bool ahead = fields.find("num_nextn_predict_layers") || fields.find("num_mtp_layers");
  fields.needed("num_nextn_predict_layers", ahead ? 0 : 1, 0, "predicting several tokens ahead is not built");
  for (const char* name : {"num_nextn_predict_layers", "num_mtp_layers"})
    fields.only(name, 0, "predicting several tokens ahead is not built");
}

/// No layer has experts; what a shape says of them is the least there is.
inline void read_dense(config_fields& fields, model_shape& m, model_family family) {
  m.dense_layers = m.layers;
  m.dense_ffn = m.ffn = fields.count("intermediate_size");
  m.experts = m.top_k = 1;
  m.score = score_function::softmax_before;
  m.qk_norm = family == model_family::qwen3;
  m.qkv_bias = family == model_family::qwen2;
  if (family == model_family::mistral)
    fields.needed("sliding_window", extent_t{fields.has("sliding_window") ? 0 : 4096}, extent_t{0}, "say null if all tokens are seen");
  if (family != model_family::llama) m.sliding_window = read_window(fields, family == model_family::mistral);
  no_bias(fields);
}

}  // namespace detail

/// The shape that a config.json says. `file` is its name, for errors: format_error with the byte and the field where it asks for something that is not
/// built, is malformed, or contradicts itself.
inline model_shape read_config(std::string_view text, const std::string& file) {
  using detail::config_fields;
  const json_value root = read_json(text, file);
  config_fields fields(root, file);
  const json_value& type = fields.at("model_type");
  for (const char* latent : {"kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"})
    if (const json_value* v = fields.find(latent))
      v->require(false, "latent attention is not built; only ordinary heads (num_key_value_heads, head_dim) are");
  model_family family{};
  bool known = false;
  std::string families;
  for (int f = 0; f < family_count; ++f) {
    if (type.text() == name_of(model_family(f))) family = model_family(f), known = true;
    families += sentence(f == 0 ? "" : ", ", name_of(model_family(f)));
  }
  type.require(known, "found '", shown_text(type.text()), "'; built are ", families);
  using enum model_family;
  const bool dense = family >= llama, glm = family == glm4_moe;

  model_shape m;
  m.layers = fields.count("num_hidden_layers", 1 << 16);
  m.hidden = fields.count("hidden_size");
  m.heads = fields.count("num_attention_heads");
  m.kv_heads = fields.count_or("num_key_value_heads", m.heads);
  if (!fields.find("head_dim"))
    root.require(m.hidden % m.heads == 0, "without 'head_dim', 'hidden_size' ", m.hidden, " must be a multiple of 'num_attention_heads' ",
                 m.heads);
  m.head_dim = fields.count_or("head_dim", std::max(m.hidden / m.heads, extent_t{1}));
  m.vocabulary = fields.count("vocab_size");
  m.norm_eps = fields.number(fields.at("rms_norm_eps"));
  m.init_std = fields.number_or("initializer_range", 0.02);
  m.rope_theta = detail::read_rope(fields, glm ? 0.5 : 1);
  m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
  fields.only("hidden_act", std::string("silu"), "experts are SwiGLU");
  fields.only("attention_dropout", 0, "there is no dropout");
  fields.only("mlp_bias", false, "matrices of an MLP have no bias");

  if (dense)
    detail::read_dense(fields, m, family);
  else if (glm)
    detail::read_glm(fields, m);
  else
    detail::read_softmax(fields, m, family);
  detail::read_layer_types(fields, m);
  fields.ignore({"architectures", "transformers_version", "torch_dtype", "dtype", "bos_token_id", "eos_token_id", "pad_token_id",
                 "use_cache", "_name_or_path", "pretraining_tp", "return_dict", "output_attentions", "output_hidden_states"});
  fields.ignore({"max_position_embeddings", "max_window_layers"});                         // lengths are the run's
  fields.ignore({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"});  // balance is the run's
  fields.done();

  const double expert = 3.0 * double(m.hidden) * double(m.ffn) * double(m.experts),
               shared = 3.0 * double(m.hidden) * double(m.shared_ffn + m.dense_ffn);
  const double heads = 2.0 * double(m.hidden) * double(m.head_dim) * double(m.heads + m.kv_heads),
               tables = 2.0 * double(m.vocabulary) * double(m.hidden);
  root.require(double(m.layers) * (expert + shared + heads) + tables < 1e18, "the model would have more than 10^18 parameters");
  try {
    root.require(family_of(m) == family || (dense && family_of(m) == llama), "its numbers are those of the family ", name_of(family_of(m)));
  } catch (const format_error&) {
    throw;
  } catch (const config_error& wrong) {
    std::string_view what = wrong.what();
    if (what.starts_with("moefold: ")) what.remove_prefix(9);
    require_file(false, file, 0, what);
  }
  return m;
}

/// The config.json of a shape, as transformers loads it. dtype: of the weights beside it, as torch names it. positions: the longest sequence, which no
/// weight depends on. Throws config_error where no family is this model (family_of).
inline std::string write_config(const model_shape& m, std::string_view dtype = "bfloat16", extent_t positions = 4096) {
  const model_family family = family_of(m);
  using enum model_family;
  const bool dense = family >= llama, glm = family == glm4_moe, qwen = family == qwen2_moe || family == qwen3_moe;
  constexpr const char* classes[] = {"Mixtral", "Qwen2Moe", "Qwen3Moe", "Glm4Moe", "Llama", "Mistral", "Qwen2", "Qwen3"};
  json_writer out(2);
  const auto put = [&](const char* key, const auto& value) { out.key(key).value(value); };
  out.begin('{').key("architectures").begin('[').value(sentence(classes[int(family)], "ForCausalLM")).end();
  put("model_type", name_of(family));
  put("dtype", dtype);
  put("torch_dtype", dtype);
  put("vocab_size", m.vocabulary);
  put("hidden_size", m.hidden);
  put("intermediate_size", m.dense_ffn > 0 ? m.dense_ffn : m.ffn);
  put("num_hidden_layers", m.layers);
  put("num_attention_heads", m.heads);
  put("num_key_value_heads", m.kv_heads);
  put("head_dim", m.head_dim);
  put("hidden_act", "silu");
  put("max_position_embeddings", positions);
  put("initializer_range", m.init_std);
  put("rms_norm_eps", m.norm_eps);
  put("tie_word_embeddings", m.tied_embeddings);
  put("attention_dropout", 0.0);
  put("rope_theta", m.rope_theta);
  out.key("rope_parameters").begin('{');
  put("rope_type", "default");
  put("rope_theta", m.rope_theta);
  if (glm) put("partial_rotary_factor", 1.0);
  out.end();
  if (!dense) {
    put("num_experts_per_tok", m.top_k);
    put(glm ? "n_routed_experts" : qwen ? "num_experts" : "num_local_experts", m.experts);
    if (family != mixtral) put("moe_intermediate_size", m.ffn);
  }
  if (qwen) {
    put("norm_topk_prob", m.score == score_function::softmax_after);
    put("decoder_sparse_step", 1);
    out.key("mlp_only_layers").begin('[');
    for (extent_t l = 0; l < m.dense_layers; ++l) out.value(l);
    out.end();
  }
  if (qwen || family == qwen2 || family == qwen3) {
    put("use_sliding_window", m.sliding_window > 0);
    put("max_window_layers", m.layers);
  }
  if (m.sliding_window > 0) put("sliding_window", m.sliding_window);
  if (m.sliding_window > 0 && (family == qwen2_moe || family == qwen2 || family == qwen3)) {  // in all layers
    out.key("layer_types").begin('[');
    for (extent_t l = 0; l < m.layers; ++l) out.value("sliding_attention");
    out.end();
  }
  if (family == qwen2_moe) {
    put("shared_expert_intermediate_size", m.shared_ffn);
    put("qkv_bias", m.qkv_bias);
  }
  if (family == qwen3_moe || family == qwen3) put("attention_bias", false);
  if (glm) {
    put("partial_rotary_factor", 1.0);
    put("n_shared_experts", m.shared_ffn / m.ffn);
    put("first_k_dense_replace", m.dense_layers);
    put("norm_topk_prob", m.top_k > 1);
    put("routed_scaling_factor", m.weight_scale);
    put("n_group", m.expert_groups);
    put("topk_group", m.chosen_groups);
    put("attention_bias", m.qkv_bias);
    put("use_qk_norm", m.qk_norm);
    put("num_nextn_predict_layers", 0);
  }
  return out.end().text() + "\n";
}

}  // namespace moefold
