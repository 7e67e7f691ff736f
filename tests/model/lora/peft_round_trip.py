"""Adapters go from C++ to PEFT and back.

C++ makes an adapter and writes its folder; PEFT loads it, must give the same output, and saves it
again: the same tensors byte for byte, and the same configuration except for what PEFT derives. C++
loads PEFT's folder and must give PEFT's output, there with a new value of every tensor. Last, C++
loads the state_dict() of a PEFT adapter with another name and another init_lora_weights.

Runs with the Python of $FEDUMM_VENVS/peft, which scripts/setup.sh --peers makes, or with its own if
that has the packages. Without them it exits with 77, which CTest counts as skipped; with
FEDUMM_REQUIRE_PEERS=1 that is a failure.

usage: peft_round_trip.py PROGRAM DATA_FOLDER WORK_FOLDER
"""

import json
import os
import pathlib
import subprocess
import sys

VENV_PYTHON = pathlib.Path(os.environ.get("FEDUMM_VENVS", "/nonexistent")) / "peft/bin/python"
TOLERANCE = 2e-6
DERIVED = ("auto_mapping", "inference_mode", "base_model_name_or_path")

try:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file, save_file
except ImportError as error:
    if VENV_PYTHON.exists() and pathlib.Path(sys.executable) != VENV_PYTHON:
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])
    print(f"skipped, no PEFT here: {error}")
    sys.exit(1 if os.environ.get("FEDUMM_REQUIRE_PEERS") == "1" else 77)


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = torch.nn.Linear(16, 16)
        self.k_proj = torch.nn.Linear(16, 8)
        self.v_proj = torch.nn.Linear(16, 8)
        self.o_proj = torch.nn.Linear(8, 16, bias=False)

    def forward(self, x):
        mixed = torch.tanh(self.k_proj(x)) * torch.sigmoid(self.v_proj(x))
        return self.o_proj(mixed) + torch.tanh(self.q_proj(x))


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()
        self.norm = torch.nn.LayerNorm(16)

    def forward(self, x):
        return x + self.self_attn(self.norm(x))


class Net(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.embed_tokens = torch.nn.Embedding(20, 16)
        self.model.layers = torch.nn.ModuleList([Layer(), Layer()])
        self.lm_head = torch.nn.Linear(16, 20, bias=False)
        self.load_state_dict(load_file(weights))

    def forward(self, ids):
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.lm_head(x)


def config_of(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    for field in DERIVED:
        config.pop(field)
    for field in ("target_modules", "exclude_modules"):
        if isinstance(config[field], list):
            config[field] = sorted(config[field])
    return config


def main():
    program, data, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    ours, theirs = work / "from_cpp", work / "from_peft"
    theirs.mkdir(parents=True, exist_ok=True)
    subprocess.run([program, "write", ours], check=True)

    ids = load_file(data / "input.safetensors")["input_ids"]
    model = PeftModel.from_pretrained(Net(data / "base.safetensors"), ours).eval()
    with torch.no_grad():
        difference = (model(ids) - load_file(ours / "output.safetensors")["output"]).abs().max()
    print(f"largest difference from the C++ output: {difference:g}")
    assert difference <= TOLERANCE

    model.save_pretrained(theirs)
    weights = "adapter_model.safetensors"
    assert (theirs / weights).read_bytes() == (ours / weights).read_bytes()
    assert config_of(theirs) == config_of(ours), (config_of(theirs), config_of(ours))

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.mul_(-1.5)
        save_file({"output": model(ids).contiguous()}, theirs / "output.safetensors")
    model.save_pretrained(theirs)
    subprocess.run([program, "check", theirs], check=True)

    # What travels from a Python node: the filtered state_dict() of an adapter with a name.
    named = work / "named"
    named.mkdir(exist_ok=True)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights="orthogonal")
    model = get_peft_model(Net(data / "base.safetensors"), config, adapter_name="vqa").eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.mul_(2.5)
        save_file({"output": model(ids).contiguous()}, named / "output.safetensors")
    state = {k: v.contiguous() for k, v in model.state_dict().items() if "lora_" in k}
    assert all(".vqa.weight" in key for key in state)
    save_file(state, named / weights)
    model.peft_config["vqa"].save_pretrained(named)
    subprocess.run([program, "check", named], check=True)


main()
