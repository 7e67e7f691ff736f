"""Adapters and merged checkpoints go both ways between fedumm and PEFT on transformers 4.51 and 5.

On a small Qwen2.5-VL, with PEFT and transformers of both environments:
  - an adapter that PEFT made gives PEFT's logits in fedumm, and one that fedumm wrote gives
    fedumm's logits in PEFT, with no key missing or left over;
  - an adapter of one transformers, converted by `fedumm convert`, loads in the other;
  - what `fedumm merge` writes loads in transformers and is merge_and_unload's model, bit for bit in
    bfloat16;
  - DoRA and modules_to_save are refused by name.
The same for adapters of the DiT, on torch modules under the names of BLIP-3o.

Runs itself with the Pythons of $FEDUMM_VENVS/peft451 and peft, which scripts/setup.sh --peers makes.
Without them it exits with 77, which CTest counts as skipped; with FEDUMM_REQUIRE_PEERS=1 that is a
failure.

usage: peft_exchange.py PROGRAM FEDUMM RELEASE_FOLDER WORK_FOLDER [STAGES]
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

VENVS = pathlib.Path(os.environ.get("FEDUMM_VENVS", "/nonexistent"))
RUNS = (("peft451", "prepare,make"), ("peft", "make,check"), ("peft451", "check"))
LAYOUTS = ("published", "transformers-5")
TOLERANCE = 1e-4
VOCABULARY = 12000  # makes the merged bfloat16 checkpoint larger than one shard of 1 MB
WEIGHTS = "adapter_model.safetensors"


def drive():
    pythons = [VENVS / name / "bin/python" for name, _ in RUNS]
    if missing := [str(python) for python in pythons if not python.exists()]:
        print(f"not installed (scripts/setup.sh --peers): {missing[0]}")
        return 1 if os.environ.get("FEDUMM_REQUIRE_PEERS") == "1" else 77
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore")
    shutil.rmtree(sys.argv[4], ignore_errors=True)
    for python, (_, stages) in zip(pythons, RUNS):
        subprocess.run([python, *sys.argv, stages], check=True, env=environment)
    return 0


if len(sys.argv) == 5:
    sys.exit(drive())

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import Qwen2_5_VLForConditionalGeneration  # noqa: E402

PROGRAM, FEDUMM, RELEASE, WORK = sys.argv[1], sys.argv[2], *map(pathlib.Path, sys.argv[3:5])
IS_NEW = not transformers.__version__.startswith("4.51.")
LAYOUT, OTHER = LAYOUTS[IS_NEW], LAYOUTS[not IS_NEW]
FLOAT, BFLOAT16, INPUT = WORK / "float32", WORK / "bfloat16", WORK / "input.safetensors"
DIT_INPUT = WORK / "dit_input.safetensors"


def run(*command, error=None):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if error is None:
        assert result.returncode == 0, (command, result.stdout, result.stderr)
    else:
        assert result.returncode != 0 and error in result.stderr, (command, error, result.stderr)


def release_tensors():
    tensors = {}
    for file in sorted(RELEASE.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def prepare():
    """The release folder without BLIP-3o's parts, with a head and a larger vocabulary."""
    torch.manual_seed(1)
    tensors = {name: tensor for name, tensor in release_tensors().items()
               if not name.startswith(("model.dit.", "model.gen_", "model.latent_"))}
    embedding = tensors["model.embed_tokens.weight"]
    more = torch.randn(VOCABULARY - len(embedding), embedding.shape[1]).to(embedding) * 0.3
    tensors["model.embed_tokens.weight"] = torch.cat([embedding, more])
    tensors["lm_head.weight"] = torch.randn(VOCABULARY, embedding.shape[1]).to(embedding) * 0.1
    config = json.loads((RELEASE / "config.json").read_text())
    config = {key: value for key, value in config.items()
              if not key.startswith(("gen_", "mm_", "use_mm_", "n_query"))}
    config.update(model_type="qwen2_5_vl", architectures=["Qwen2_5_VLForConditionalGeneration"],
                  vocab_size=VOCABULARY, tie_word_embeddings=False)
    for folder, dtype in ((FLOAT, torch.float32), (BFLOAT16, torch.bfloat16)):
        folder.mkdir(parents=True)
        name = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(dict(config, torch_dtype=name), indent=2))
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()},
                  folder / "model.safetensors", {"format": "pt"})
    image = [config["vision_start_token_id"]] + [config["image_token_id"]] * 6
    ids = [3, 14, 15, *image, config["vision_end_token_id"], 92, 65, 35, 8]
    save_file({"input_ids": torch.tensor([ids]), "image_grid_thw": torch.tensor([[1, 4, 6]]),
               "pixel_values": torch.randn(24, 3 * 2 * 14 * 14)}, INPUT)
    save_file({path: torch.randn(3, weight.shape[1]) for path, weight in dit_weights().items()},
              DIT_INPUT)


def configs(layout):
    """What differs between the layouts is the names in patterns and whole paths."""
    decoder = ("model." if layout == "published" else "model.language_model.") + "layers."
    tower = ("" if layout == "published" else "model.") + "visual.blocks."
    common = dict(r=4, lora_alpha=8, init_lora_weights=False)
    pattern = decoder.replace(".", r"\.") + r"\d+\.(self_attn|mlp)\..*_proj"
    return {
        "names": LoraConfig(target_modules=["q_proj", "v_proj", "down_proj", "qkv"], **common),
        "head": LoraConfig(target_modules=["lm_head", "o_proj"], task_type="CAUSAL_LM", **common),
        "pattern": LoraConfig(target_modules=pattern, use_rslora=True,
                              rank_pattern={"layers.1.self_attn.q_proj": 2, "up_proj": 3},
                              alpha_pattern={f"{decoder}0.self_attn.o_proj": 5.0}, **common),
        # A module that is named exactly passes layers_to_transform.
        "layers": LoraConfig(target_modules=["k_proj", f"{decoder}0.self_attn.q_proj"],
                             layers_to_transform=[1], **common),
        "excluded": LoraConfig(target_modules="all-linear",
                               exclude_modules=[f"{tower}1.attn.qkv", "gate_proj"], **common),
    }


def base_model(folder=FLOAT):
    dtype = torch.float32 if folder == FLOAT else torch.bfloat16
    model, found = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, torch_dtype=dtype, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def logits_of(model):
    inputs = load_file(INPUT)
    dtype = next(model.parameters()).dtype
    ids = inputs["input_ids"]
    extra = {}
    if IS_NEW:  # where the picture is
        extra["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids),
                     pixel_values=inputs["pixel_values"].to(dtype),
                     image_grid_thw=inputs["image_grid_thw"], **extra).logits.contiguous()


def load_adapter(model, folder):
    """PEFT's model. Fails unless each key of the file has its place and each place its key."""
    loaded = PeftModel.from_pretrained(model, folder).eval()
    result = loaded.load_adapter(folder, "again")
    missing = [key for key in result.missing_keys if "again" in key]
    assert not missing and not result.unexpected_keys, (folder, missing, result.unexpected_keys)
    keys = {key for key in loaded.state_dict() if ".lora_" in key and ".default." in key}
    stored = {key.replace(".weight", ".default.weight") for key in load_file(folder / WEIGHTS)}
    assert keys == stored, (folder, keys ^ stored)
    return loaded


def assert_close(ours, theirs, what, tolerance=TOLERANCE):
    difference = (ours - theirs).abs().max().item()
    print(f"  {what}: largest difference {difference:.2g}")
    assert difference <= tolerance, what


def assert_fedumm_gives(expected, adapter, work):
    run(PROGRAM, "logits", FLOAT, adapter, INPUT, work)
    assert_close(load_file(work)["logits"], expected, f"fedumm with {adapter.relative_to(WORK)}")


def make():
    """PEFT's adapters, and fedumm's output with them."""
    folder = WORK / LAYOUT
    folder.mkdir()
    plain = logits_of(base_model())
    for name, config in configs(LAYOUT).items():
        adapter = folder / f"{name}.peft"
        torch.manual_seed(2)
        model = get_peft_model(base_model(), config).eval()
        model.save_pretrained(adapter, save_embedding_layers=False)
        expected = logits_of(model)
        assert (expected - plain).abs().max() > 100 * TOLERANCE, "the adapter changes nothing"
        save_file({"logits": expected}, folder / f"{name}.peft.logits.safetensors")
        assert_fedumm_gives(expected, adapter, folder / "fedumm.safetensors")

    common = dict(r=4, target_modules=["q_proj"], init_lora_weights=False)
    refused = {"use_dora": dict(use_dora=True), "lm_head": dict(modules_to_save=["lm_head"]),
               "embed_tokens": dict(modules_to_save=["embed_tokens"])}
    for word, field in refused.items():
        get_peft_model(base_model(), LoraConfig(**common, **field)).save_pretrained(folder / word)
        run(PROGRAM, "logits", FLOAT, folder / word, INPUT, folder / "none", error=word)
    # Without being asked to, PEFT puts the base weights of the head into the file.
    config = LoraConfig(**{**common, "target_modules": ["lm_head"]})
    get_peft_model(base_model(), config).save_pretrained(folder / "embedding")
    run(PROGRAM, "logits", FLOAT, folder / "embedding", INPUT, folder / "none",
        error="save_embedding_layers")
    make_dit()


def check():
    folder = WORK / LAYOUT
    for name in configs(LAYOUT):
        # fedumm's own, in this layout, and in the other and converted.
        written = {}
        for layout in LAYOUTS:
            written[layout] = folder / f"{name}.fedumm.{layout}"
            configs(layout)[name].save_pretrained(folder / "config")
            run(PROGRAM, "new", FLOAT, folder / "config/adapter_config.json", layout,
                written[layout])
        converted = folder / f"{name}.fedumm.converted"
        convert(written[OTHER], converted)
        for adapter in (written[LAYOUT], converted):
            assert_fedumm_gives(logits_of(load_adapter(base_model(), adapter)), adapter,
                                folder / "fedumm.safetensors")
        # What PEFT on the other transformers wrote.
        converted = folder / f"{name}.peft.converted"
        convert(WORK / OTHER / f"{name}.peft", converted)
        expected = load_file(WORK / OTHER / f"{name}.peft.logits.safetensors")["logits"]
        assert_close(logits_of(load_adapter(base_model(), converted)), expected,
                     f"{name} of the other transformers")
        check_merged(name, folder / f"{name}.peft", folder / f"{name}.merged")
    check_loose_pattern(folder)
    check_dit()


def check_loose_pattern(folder):
    """PEFT refuses a pattern that matches an activation; fedumm writes what it matched here."""
    config = LoraConfig(r=4, init_lora_weights=False,
                        target_modules=r"model\.(language_model\.)?layers\.\d+\.(self_attn|mlp)\..*")
    try:
        get_peft_model(base_model(), config)
        raise AssertionError("PEFT takes the pattern")
    except ValueError as error:
        assert "is not supported" in str(error), error
    config.save_pretrained(folder / "config")
    adapter = folder / "loose_pattern.fedumm"
    run(PROGRAM, "new", FLOAT, folder / "config/adapter_config.json", LAYOUT, adapter)
    assert_fedumm_gives(logits_of(load_adapter(base_model(), adapter)), adapter,
                        folder / "fedumm.safetensors")


def convert(adapter, out):
    run(FEDUMM, "convert", "--model", FLOAT, "--adapter", adapter, "--names", LAYOUT, "--out", out)


def check_merged(name, adapter, out):
    run(FEDUMM, "merge", "--model", BFLOAT16, "--adapter", adapter, "--out", out, "--shard-mb", 1,
        "--threads", 1)
    shards = sorted(out.glob("model-*-of-*.safetensors"))
    assert len(shards) > 1 and (out / "model.safetensors.index.json").exists(), list(out.iterdir())
    theirs = load_adapter(base_model(BFLOAT16), adapter).merge_and_unload()
    merged = base_model(out)
    weights, changed = dict(merged.state_dict()), 0
    for key, tensor in theirs.state_dict().items():
        ours = weights.pop(key)
        assert ours.dtype == tensor.dtype == torch.bfloat16, key
        assert torch.equal(ours, tensor), (name, key)
    assert not weights, list(weights)
    for key, tensor in base_model(BFLOAT16).state_dict().items():
        changed += not torch.equal(tensor, merged.state_dict()[key])
    assert changed == len(load_file(adapter / WEIGHTS)) // 2, changed
    assert torch.equal(logits_of(merged), logits_of(theirs)), name
    print(f"  {out.relative_to(WORK)}: {len(shards)} shards, {changed} changed weights, equal bits")


def dit_weights():
    """The DiT's linears by module path."""
    return {name.removesuffix(".weight"): tensor.float() for name, tensor in
            release_tensors().items() if name.startswith("model.dit.") and tensor.dim() == 2}


def dit_modules():
    root, tensors = torch.nn.Module(), release_tensors()
    for path, weight in dit_weights().items():
        *parents, name = path.split(".")
        module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        bias = tensors.get(f"{path}.bias")
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        with torch.no_grad():
            linear.weight.copy_(weight)
            if bias is not None:
                linear.bias.copy_(bias)
        module.add_module(name, linear)
    return root


def dit_configs():
    common = dict(r=4, lora_alpha=8, init_lora_weights=False)
    return {
        "dit_names": LoraConfig(target_modules=["to_q", "to_k", "to_v", "to_out.0", "linear_1",
                                                "linear_2", "linear_3"], **common),
        "dit_paths": LoraConfig(target_modules=["model.dit.model.layers.0.attn2.to_out.0",
                                                "model.dit.model.patch_embedder.proj"], **common),
        "dit_pattern": LoraConfig(target_modules=r"model\.dit\.model\.layers\.\d+\.(attn1\.to_.|"
                                                 r"attn2\.to_(.|out\.0)|feed_forward\.linear_.)",
                                  **common),
    }


def dit_outputs(model):
    modules = dict(model.base_model.model.named_modules())
    with torch.no_grad():
        return {path: modules[path](x) for path, x in load_file(DIT_INPUT).items()}


def assert_fedumm_gives_dit(model, adapter):
    out = WORK / LAYOUT / "fedumm.safetensors"
    run(PROGRAM, "linears", RELEASE, adapter, DIT_INPUT, out)
    ours, theirs = load_file(out), dit_outputs(model)
    assert ours.keys() == theirs.keys()
    plain, inputs, changed = dit_modules(), load_file(DIT_INPUT), 0
    for path in ours:
        with torch.no_grad():
            changed += not torch.equal(plain.get_submodule(path)(inputs[path]), theirs[path])
    keys = {key.removeprefix("base_model.model.").partition(".lora_")[0]
            for key in load_file(adapter / WEIGHTS)}
    assert keys <= ours.keys() and changed == len(keys) > 0, (keys, changed)
    flat = [torch.cat([outputs[path].flatten() for path in sorted(ours)])
            for outputs in (ours, theirs)]
    assert_close(*flat, f"DiT with {adapter.relative_to(WORK)}, {changed} modules", 1e-5)


def make_dit():
    for name, config in dit_configs().items():
        torch.manual_seed(3)
        model = get_peft_model(dit_modules(), config).eval()
        model.save_pretrained(WORK / LAYOUT / f"{name}.peft")
        assert_fedumm_gives_dit(model, WORK / LAYOUT / f"{name}.peft")


def check_dit():
    for name, config in dit_configs().items():
        adapter = WORK / LAYOUT / f"{name}.fedumm"
        config.save_pretrained(WORK / LAYOUT / "config")
        run(PROGRAM, "new", RELEASE, WORK / LAYOUT / "config/adapter_config.json", LAYOUT, adapter)
        assert_fedumm_gives_dit(load_adapter(dit_modules(), adapter), adapter)


print(f"PEFT {peft.__version__} on transformers {transformers.__version__}: {sys.argv[5]}")
torch.set_num_threads(1)
for stage in sys.argv[5].split(","):
    {"prepare": prepare, "make": make, "check": check}[stage]()
