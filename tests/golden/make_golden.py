#!/usr/bin/env python3
"""Makes the golden models of this folder: tiny Hugging Face models with their loss and all gradients, as transformers computes them.

    python3 make_golden.py                  remakes every folder beside this script
    python3 make_golden.py --into DIR       makes them somewhere else
    python3 make_golden.py --check          recomputes loss and gradients from the committed weights and says how far they are off

Needs torch, transformers >= 5 and safetensors; nothing else in the project does. One folder per model:
    config.json          as save_pretrained writes it
    model.safetensors    fp32 weights under published names, one tensor per expert
    tokens.u16           SEQUENCES * LENGTH + 1 tokens, little-endian: sequence i is tokens [i * LENGTH, (i + 1) * LENGTH], labels shifted by one
    loss.txt             mean cross-entropy over all tokens in nats, without auxiliary losses
    gradients.safetensors of that loss, under the names and in the shapes of the weights
    fused.safetensors    of Mixtral alone: the weights again, as transformers holds them in memory, all experts in one tensor
All of it in fp32 on one CPU thread with eager attention (scores and softmax written out) and experts one after the other.
Weights are drawn larger than a model starts with, norms and biases too, so that every gradient says something; routing with a margin, so that
rounding elsewhere does not choose other experts, and every expert with some tokens.
"""
import argparse
import pathlib
import shutil
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

SEQUENCES, LENGTH = 8, 16
ATTENTION = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, max_position_embeddings=64)
COMMON = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None, use_cache=False, dtype="float32", **ATTENTION)
MODELS = {
    # two experts of four, SwiGLU experts as wide as published: the plainest of them
    "mixtral": transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, **COMMON),
    # biases of query, key and value, a gated shared expert, weights that are not renormalised
    "qwen2_moe": transformers.Qwen2MoeConfig(
        vocab_size=66, hidden_size=16, intermediate_size=24, moe_intermediate_size=8, shared_expert_intermediate_size=24,
        num_hidden_layers=2, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False, qkv_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **COMMON),
    # norms of query and key heads, heads wider than hidden, renormalised weights, tied embeddings, a dense layer first
    "qwen3_moe": transformers.Qwen3MoeConfig(
        vocab_size=64, hidden_size=16, intermediate_size=40, moe_intermediate_size=8, num_hidden_layers=4, num_local_experts=8,
        num_experts_per_tok=4, norm_topk_prob=True, mlp_only_layers=[0], tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **COMMON),
    # sigmoid scores, a bias that only chooses, groups, scaled weights, a shared expert without gate, a dense layer first
    "glm4_moe": transformers.Glm4MoeConfig(
        vocab_size=64, hidden_size=16, intermediate_size=40, moe_intermediate_size=8, n_shared_experts=2, num_hidden_layers=4,
        n_routed_experts=8, num_experts_per_tok=4, n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5,
        first_k_dense_replace=1, use_qk_norm=True, attention_bias=True, num_nextn_predict_layers=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}, **COMMON),
    # dense, for upcycling
    "llama": transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, **COMMON),
}


def build(config):
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model.train(False)


def draw(model, seed):
    """Every parameter and buffer of weights from one seeded stream, in the order of their names."""
    stream = torch.Generator().manual_seed(seed)
    tensors = dict(model.named_parameters())
    tensors.update((name, t) for name, t in model.named_buffers() if name.endswith("e_score_correction_bias"))
    with torch.no_grad():
        for name in sorted(tensors):
            t = tensors[name]
            noise = torch.randn(t.shape, generator=stream)
            if "norm" in name:
                t.copy_(1 + 0.2 * noise)
            elif name.endswith("e_score_correction_bias"):
                t.copy_(0.1 * noise)
            elif name.endswith("bias"):
                t.copy_(0.2 * noise)
            elif "embed_tokens" in name:
                t.copy_(0.5 * noise)
            else:
                t.copy_(noise / t.shape[-1] ** 0.5)


def loss_and_gradients(model, tokens):
    inputs = torch.stack([tokens[i * LENGTH:(i + 1) * LENGTH] for i in range(SEQUENCES)]).long()
    labels = torch.stack([tokens[i * LENGTH + 1:(i + 1) * LENGTH + 1] for i in range(SEQUENCES)]).long()
    model.zero_grad()
    logits = model(input_ids=inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    loss.backward()
    return loss.item()


def save(model, folder):
    """save_pretrained, which splits the experts: {config.json, model.safetensors}."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(pathlib.Path(scratch) / name, folder / name)


def save_gradients(model, file):
    """Gradients go where the weights were, through the same save_pretrained: the names cannot differ."""
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        for p in model.parameters():
            p.copy_(p.grad if p.grad is not None else torch.zeros_like(p))
        model.save_pretrained(scratch)
        tensors = load_file(pathlib.Path(scratch) / "model.safetensors")
        for name, p in model.named_parameters():
            p.copy_(weights[name])
    tensors = {name: t for name, t in tensors.items() if not name.endswith("e_score_correction_bias")}  # has no gradient
    save_file(tensors, file, metadata={"format": "pt"})


def margins(model, tokens):
    """The smallest distance between the last chosen and the first refused expert, over all layers and tokens."""
    inputs = torch.stack([tokens[i * LENGTH:(i + 1) * LENGTH] for i in range(SEQUENCES)]).long()
    least, hooks = [1e9], []

    def seen(module, arguments, result):
        logits = result[0] if isinstance(result, tuple) else result
        scores, k = logits.float(), module.top_k
        if hasattr(module, "e_score_correction_bias"):
            scores = scores.sigmoid() + module.e_score_correction_bias
            groups = scores.view(len(scores), module.num_group, -1).topk(2).values.sum(-1).sort(descending=True).values
            least[0] = min(least[0], (groups[:, module.topk_group - 1] - groups[:, module.topk_group]).min().item())
            return
        ordered = scores.sort(descending=True).values
        least[0] = min(least[0], (ordered[:, k - 1] - ordered[:, k]).min().item())

    for name, module in model.named_modules():
        if name.endswith(".mlp.gate") and hasattr(module, "top_k"):
            hooks.append(module.register_forward_hook(seen))
    with torch.no_grad():
        model(input_ids=inputs)
    for hook in hooks:
        hook.remove()
    return least[0]


def make(name, config, into):
    folder = into / name
    folder.mkdir(parents=True, exist_ok=True)
    model = build(config)
    for seed in range(1, 1000):
        draw(model, seed)
        tokens = torch.randint(config.vocab_size, (SEQUENCES * LENGTH + 1,), generator=torch.Generator().manual_seed(1000 + seed))
        margin = margins(model, tokens)
        loss = loss_and_gradients(model, tokens)
        unused = min(expert.abs().max().item() for p in model.parameters() for expert in (p.grad if p.dim() == 3 else [p.grad]))
        if margin > 5e-4 and unused > 1e-4:
            break
    (folder / "tokens.u16").write_bytes(tokens.numpy().astype("<u2").tobytes())
    (folder / "loss.txt").write_text(f"{loss:.9g}\n")
    save_gradients(model, folder / "gradients.safetensors")
    save(model, folder)
    if name == "mixtral":
        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "fused.safetensors", metadata={"format": "pt"})
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:10} seed {seed} loss {loss:.7f} routing margin {margin:.1e} {size} bytes, {len(load_file(folder / 'model.safetensors'))} tensors")


def check(name, folder):
    """The committed files against transformers of today: loaded as a user would, largest deviations."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / name, attn_implementation="eager", dtype=torch.float32)
    tokens = torch.frombuffer(bytearray((folder / name / "tokens.u16").read_bytes()), dtype=torch.uint16).to(torch.int64)
    loss = loss_and_gradients(model, tokens)
    with tempfile.TemporaryDirectory() as scratch:
        save_gradients(model, pathlib.Path(scratch) / "g.safetensors")
        mine = load_file(pathlib.Path(scratch) / "g.safetensors")
    theirs = load_file(folder / name / "gradients.safetensors")
    assert mine.keys() == theirs.keys()
    worst = max((mine[n] - theirs[n]).abs().max().item() for n in mine)
    print(f"{name:10} loss off by {abs(loss - float((folder / name / 'loss.txt').read_text())):.1e}, gradients by at most {worst:.1e}")


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parent
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--into", type=pathlib.Path, default=here)
    arguments.add_argument("--check", action="store_true")
    arguments = arguments.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, config in MODELS.items():
        check(name, arguments.into) if arguments.check else make(name, config, arguments.into)
