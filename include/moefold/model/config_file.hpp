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
  for (const model_family f : {model_family::mixtral, model_family::qwen2_moe, model_family::qwen3_moe, model_family::glm4_moe})
    if (type.text() == name_of(f)) family = f, known = true;
  type.require(known, "found '", shown_text(type.text()), "'; mixtral, qwen2_moe, qwen3_moe and glm4_moe are built");
  const bool mixtral = family == model_family::mixtral, glm = family == model_family::glm4_moe;

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

  const char* const routed = glm ? "n_routed_experts" : mixtral ? "num_local_experts" : "num_experts";
  const char* const routed_too = glm || !mixtral ? "num_local_experts" : "num_experts";  // transformers takes either
  m.experts = fields.find(routed) ? fields.count(routed, 1 << 16) : fields.count(routed_too, 1 << 16);
  if (const json_value* v = fields.find(routed_too))
    v->require(fields.count(*v, 1, 1 << 16) == m.experts, "it differs from '", routed, "'");
  m.top_k = fields.count("num_experts_per_tok", m.experts);
  m.ffn = fields.count(mixtral ? "intermediate_size" : "moe_intermediate_size");

  if (mixtral) {
    m.score = score_function::softmax_after;
    m.sliding_window = fields.count_or("sliding_window", 0, 0);
    fields.only("attention_bias", false, "this family has no biases");
  } else if (!glm) {
    m.score = fields.flag_or("norm_topk_prob", false) ? score_function::softmax_after : score_function::softmax_before;
    m.dense_layers = detail::read_dense_layers(fields, m.layers);
    const bool window = fields.flag_or("use_sliding_window", false);
    const extent_t width = fields.count_or("sliding_window", 0, 0);
    m.sliding_window = window ? width : 0;
  } else {
    m.score = score_function::sigmoid;
    m.dense_layers = fields.count_or("first_k_dense_replace", 1, 0, m.layers);
    fields.only("moe_layer_freq", 1, "every layer behind the dense ones is an MoE layer");
    root.require(fields.flag_or("norm_topk_prob", true) == (m.top_k > 1), "'norm_topk_prob' (true unless given) needs ", m.top_k > 1,
                 ": sigmoid scores are divided by their sum where a token uses several experts, and only there");
    fields.only("scoring_func", std::string("sigmoid"), "this family scores by sigmoid");
    fields.only("topk_method", std::string("noaux_tc"), "this family chooses by a bias and groups");
    m.weight_scale = fields.number_or("routed_scaling_factor", 1);
    m.expert_groups = fields.count_or("n_group", 1);
    m.chosen_groups = fields.count_or("topk_group", 1);
    m.expert_bias = true;  // files of this family always hold it
    m.shared_ffn = fields.count_or("n_shared_experts", 1, 0, 1 << 16) * m.ffn;
    m.qkv_bias = fields.flag_or("attention_bias", false);
    m.qk_norm = fields.flag_or("use_qk_norm", false);
    const char* const predicts = "predicting several tokens ahead is not built";
    root.require(fields.find("num_nextn_predict_layers") || fields.find("num_mtp_layers"),
                 "'num_nextn_predict_layers' is missing, which means 1 in this family; needs 0: ", predicts);
    for (const char* ahead : {"num_nextn_predict_layers", "num_mtp_layers"}) fields.only(ahead, 0, predicts);
  }
  if (!mixtral) {
    const extent_t width = fields.count_or("intermediate_size", 0);
    if (m.dense_layers > 0) root.require(width > 0, "'intermediate_size', the width of the dense layers, is missing");
    m.dense_ffn = m.dense_layers > 0 ? width : 0;
  }
  if (family == model_family::qwen2_moe) {
    m.shared_ffn = fields.count("shared_expert_intermediate_size");
    m.shared_gate = true;
    m.qkv_bias = fields.flag_or("qkv_bias", true);
  } else if (family == model_family::qwen3_moe) {
    m.qk_norm = true;
    fields.only("attention_bias", false, "this family's output projection would have one too");
  }
  detail::read_layer_types(fields, m);
  fields.ignore({"architectures", "transformers_version", "torch_dtype", "dtype", "bos_token_id", "eos_token_id", "pad_token_id",
                 "use_cache", "_name_or_path", "return_dict", "output_attentions", "output_hidden_states"});
  fields.ignore({"max_position_embeddings", "max_window_layers"});                         // lengths are the run's
  fields.ignore({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"});  // balance is the run's
  fields.done();

  const double expert = 3.0 * double(m.hidden) * double(m.ffn) * double(m.experts),
               shared = 3.0 * double(m.hidden) * double(m.shared_ffn + m.dense_ffn);
  const double heads = 2.0 * double(m.hidden) * double(m.head_dim) * double(m.heads + m.kv_heads),
               tables = 2.0 * double(m.vocabulary) * double(m.hidden);
  root.require(double(m.layers) * (expert + shared + heads) + tables < 1e18, "the model would have more than 10^18 parameters");
  try {
    root.require(family_of(m) == family, "its numbers are those of the family ", name_of(family_of(m)));
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
  const bool mixtral = family == model_family::mixtral, glm = family == model_family::glm4_moe;
  constexpr const char* classes[] = {"MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "Glm4MoeForCausalLM"};
  json_writer out(2);
  const auto put = [&](const char* key, const auto& value) { out.key(key).value(value); };
  out.begin('{').key("architectures").begin('[').value(classes[int(family)]).end();
  put("model_type", name_of(family));
  put("dtype", dtype);
  put("torch_dtype", dtype);
  put("vocab_size", m.vocabulary);
  put("hidden_size", m.hidden);
  put("intermediate_size", mixtral || m.dense_ffn == 0 ? m.ffn : m.dense_ffn);
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
  put("num_experts_per_tok", m.top_k);
  put(glm ? "n_routed_experts" : mixtral ? "num_local_experts" : "num_experts", m.experts);
  if (!mixtral) put("moe_intermediate_size", m.ffn);
  if (mixtral) {
    if (m.sliding_window > 0) put("sliding_window", m.sliding_window);
  } else if (!glm) {
    put("norm_topk_prob", m.score == score_function::softmax_after);
    put("decoder_sparse_step", 1);
    out.key("mlp_only_layers").begin('[');
    for (extent_t l = 0; l < m.dense_layers; ++l) out.value(l);
    out.end();
    put("use_sliding_window", m.sliding_window > 0);
    if (m.sliding_window > 0) put("sliding_window", m.sliding_window);
    put("max_window_layers", m.layers);
  } else {
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
  if (family == model_family::qwen2_moe) {
    put("shared_expert_intermediate_size", m.shared_ffn);
    put("qkv_bias", m.qkv_bias);
  }
  if (family == model_family::qwen3_moe) put("attention_bias", false);
  return out.end().text() + "\n";
}

/// A C++ header that defines the shape as a constant `name`, a valid identifier. from: what it was made of, for its first line.
inline std::string write_shape(const model_shape& m, const std::string& name, const std::string& from) {
  // All fields by name; a field that this list does not know is a compile error here.
  const auto& [layers, hidden, heads, kv_heads, head_dim, experts, top_k, ffn, vocabulary, rope_theta, norm_eps, init_std, score,
               weight_scale, expert_groups, chosen_groups, expert_bias, activation, shared_ffn, shared_gate, qkv_bias, qk_norm,
               sliding_window, tied_embeddings, dense_layers, dense_ffn] = m;
  std::string fields;
  const auto put = [&](const char* field, const auto& value) {
    fields += sentence(fields.empty() ? "" : ",", "\n    .", field, " = ", value);
  };
  const auto real = [](double x) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.17g", x);
    return std::string(digits);
  };
  constexpr const char* scores[] = {"softmax_after", "softmax_before", "sigmoid"};
  put("layers", layers);
  put("hidden", hidden);
  put("heads", heads);
  put("kv_heads", kv_heads);
  put("head_dim", head_dim);
  put("experts", experts);
  put("top_k", top_k);
  put("ffn", ffn);
  put("vocabulary", vocabulary);
  put("rope_theta", real(rope_theta));
  put("norm_eps", real(norm_eps));
  put("init_std", real(init_std));
  put("score", sentence("moefold::score_function::", scores[int(score)]));
  put("weight_scale", real(weight_scale));
  put("expert_groups", expert_groups);
  put("chosen_groups", chosen_groups);
  put("expert_bias", expert_bias);
  put("activation", sentence("moefold::activation_function::", activation == activation_function::swiglu ? "swiglu" : "gelu"));
  put("shared_ffn", shared_ffn);
  put("shared_gate", shared_gate);
  put("qkv_bias", qkv_bias);
  put("qk_norm", qk_norm);
  put("sliding_window", sliding_window);
  put("tied_embeddings", tied_embeddings);
  put("dense_layers", dense_layers);
  put("dense_ffn", dense_ffn);
  return sentence("#pragma once\n// Made from ", shown_text(from, 1000), "; do not edit.\n#include <moefold/core/model_shape.hpp>\n\n",
                  "inline constexpr moefold::model_shape ", name, "{", fields, "};\n");
}

}  // namespace moefold
