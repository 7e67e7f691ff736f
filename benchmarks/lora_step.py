#!/usr/bin/env python3
"""A LoRA training step and decoding on two CPU cores beside transformers + PEFT, on the same random checkpoint, interleaved; CPU seconds and memory.

    benchmarks/lora_step.py build/release/benchmarks/lora_step PEFT_PYTHON [--rounds 3] [--only tiny,mid]

PEFT_PYTHON is the interpreter of the environment that scripts/setup.sh --peers makes (venvs/peft/bin/python). Each figure is the best of the rounds.
Rank 16 on all seven linears of each decoder layer, AdamW, clipping; the second half of each row is the answer.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

SIZES = {
    "tiny": dict(hidden=128, ffn=352, layers=4, heads=4, kv=2, vocab=1000, batch=8, length=64, steps=20, tokens=64),
    "mid": dict(hidden=1024, ffn=2816, layers=8, heads=16, kv=4, vocab=8192, batch=4, length=256, steps=4, tokens=64),
}

PEER = r'''
import json, resource, sys, time
import torch
from transformers import Qwen2_5_VLForConditionalGeneration as Model, Qwen2_5_VLConfig
folder, what, *rest = sys.argv[1:]
torch.manual_seed(0)
if what == "make":
    s = json.loads(rest[0])
    head = s["hidden"] // s["heads"]
    section = [head // 2 - 2 * (head * 3 // 16), head * 3 // 16, head * 3 // 16]
    text = dict(vocab_size=s["vocab"], hidden_size=s["hidden"], intermediate_size=s["ffn"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
                num_key_value_heads=s["kv"], rope_theta=1e6, tie_word_embeddings=True, rope_scaling=dict(type="default", rope_type="default", mrope_section=section))
    vision = dict(depth=1, hidden_size=64, intermediate_size=128, num_heads=4, out_hidden_size=s["hidden"], patch_size=14, fullatt_block_indexes=[0])
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=5, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8,
                              tie_word_embeddings=True)
    Model(config).to(torch.bfloat16 if s.get("bf16") else torch.float32).save_pretrained(folder)
    flat = json.loads(open(folder + "/config.json").read())
    flat.update({k: v for k, v in flat.get("text_config", {}).items() if k not in ("model_type", "architectures")})
    flat.setdefault("rope_theta", 1e6)
    flat["rope_scaling"] = text["rope_scaling"]
    open(folder + "/fedumm.json", "w").write(json.dumps(flat))
    sys.exit()
batch, length, count = map(int, rest[:3])
dtype = getattr(torch, rest[3])
model = Model.from_pretrained(folder, dtype=dtype)
ids = torch.randint(10, 900, (batch, length))
def status(field):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(field + ":"))
def cpu():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime
def measure(run, warm):
    for p in model.parameters():
        p.data.sum()
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    run(warm)
    c, t = cpu(), time.time()
    run(count)
    print(json.dumps(dict(cpu=(cpu() - c) / count, wall=(time.time() - t) / count, memory=status("VmHWM") - before)))
if what == "decode":
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    with torch.no_grad():
        measure(lambda n: model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=False), 8)
    sys.exit()
torch.set_num_threads(int(rest[5]))
from peft import LoraConfig, get_peft_model
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=float(rest[4]), target_modules=r".*layers\.\d+\.(self_attn|mlp)\.[a-z]+_proj"))
if rest[6] == "1":
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
model.train()
labels = ids.clone()
labels[:, : length // 2] = -100
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0)
def steps(n):
    for _ in range(n):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1)
        optimizer.step()
        optimizer.zero_grad()
measure(steps, 2)
'''


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("peer", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="tiny,mid")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        peer = pathlib.Path(scratch) / "peer.py"
        peer.write_text(PEER)
        for name in args.only.split(","):
            size = SIZES[name]
            theirs, ours = pathlib.Path(scratch) / name, pathlib.Path(scratch) / f"{name}-fedumm"
            subprocess.run([args.peer, peer, theirs, "make", json.dumps(size)], check=True, stderr=subprocess.DEVNULL)
            ours.mkdir()
            for file in theirs.glob("*.safetensors*"):
                (ours / file.name).symlink_to(file)
            (ours / "config.json").write_text((theirs / "fedumm.json").read_text())

            def run(what, *rest):
                best = {}
                for _ in range(args.rounds):
                    for who, command in (("ours", [args.program, ours]), ("peer", [args.peer, peer, theirs])):
                        done = subprocess.run([*command, what, *map(str, rest)], capture_output=True, text=True)
                        if done.returncode:
                            sys.exit(f"{who} {what}: {done.stderr[-2000:]}")
                        result = json.loads(done.stdout.strip().splitlines()[-1])
                        if who not in best or result["cpu"] < best[who]["cpu"]:
                            best[who] = result
                return best["ours"], best["peer"]

            def line(title, pair):
                mine, other = pair
                print(f"{name}, {title}: CPU {mine['cpu'] * 1e3:.1f} ms, peer {other['cpu'] * 1e3:.1f} ms ({other['cpu'] / mine['cpu']:.2f}x); "
                      f"wall {mine['wall'] * 1e3:.1f} / {other['wall'] * 1e3:.1f} ms; memory {mine['memory'] / 1e6:.0f} / {other['memory'] / 1e6:.0f} MB "
                      f"({mine['memory'] / max(1, other['memory']):.2f})", flush=True)
                return pair

            shape = (size["batch"], size["length"], size["steps"])
            plain = line("step", run("train", *shape, "float32", 0, 2, 0))
            dropped = line("step with dropout", run("train", *shape, "float32", 0.1, 2, 0))
            print(f"{name}, dropout costs {100 * (dropped[0]['cpu'] / plain[0]['cpu'] - 1):.0f} %, of the peer {100 * (dropped[1]['cpu'] / plain[1]['cpu'] - 1):.0f} %")
            one = line("step on one thread", run("train", *shape, "float32", 0, 1, 0))
            print(f"{name}, two threads are {one[0]['wall'] / plain[0]['wall']:.2f}x one, of the peer {one[1]['wall'] / plain[1]['wall']:.2f}x")
            line("step with gradient checkpointing", run("train", *shape, "float32", 0, 2, 1))
            line("step in bfloat16", run("train", *shape, "bfloat16", 0, 2, 0))
            line("decoding a token", run("decode", 1, 64, size["tokens"], "float32"))


main()
