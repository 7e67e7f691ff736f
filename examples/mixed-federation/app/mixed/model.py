"""The understanding half of fedumm's backbone in transformers, and the adapter on it in PEFT."""
import json
import pathlib

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from mixed.data import Example, Questions

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])  # CLIP's
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def load_backbone(folder: str) -> Qwen2_5_VLForConditionalGeneration:
    """What draws (the DiT, its queries and its pixel codec) has no place in this class, and is left out."""
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    ids = {key: config.pop(key) for key in list(config) if key.endswith("_token_id")}
    vision = config.pop("vision_config")
    for key in ("model_type", "dit", "n_query"):
        config.pop(key)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        text_config={**config, "bos_token_id": None, "eos_token_id": None}, vision_config=vision,
        tie_word_embeddings=config["tie_word_embeddings"], **ids))
    weights = {to_transformers(name): tensor
               for name, tensor in load_file(str(pathlib.Path(folder) / "model.safetensors")).items()
               if not name.startswith(("model.dit.", "model.latent_queries", "pixel_codec."))}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # tied to the embeddings
        raise ValueError(f"{folder} does not fit: missing {missing}, unexpected {unexpected}")
    return model.requires_grad_(False)


def to_transformers(name: str) -> str:
    """Checkpoints call the decoder `model`; transformers has put it below `language_model` since."""
    if name.startswith("visual."):
        return "model." + name
    return name.replace("model.layers.", "model.language_model.layers.").replace(
        "model.embed_tokens.", "model.language_model.embed_tokens.").replace("model.norm.", "model.language_model.norm.")


def attach(model: Qwen2_5_VLForConditionalGeneration, adapter: dict[str, np.ndarray], alpha: float):
    """Put those LoRA tensors of `adapter` that this model has a place for on it; returns it and their keys."""
    modules = dict(model.named_modules())
    keys, targets = {}, {}
    for key, value in adapter.items():
        module, _, kind = to_transformers(key.removeprefix("base_model.model.")).partition(".lora_")
        if module in modules and kind:
            keys[key] = "base_model.model." + to_transformers(key.removeprefix("base_model.model."))
            targets[module] = value.shape[0] if kind == "A.weight" else targets.get(module)
    ranks = {rank for rank in targets.values()}
    if len(ranks) != 1:
        raise ValueError(f"the adapter has no tensor for this model, or several ranks: {ranks}")
    peft = get_peft_model(model, LoraConfig(r=ranks.pop(), lora_alpha=alpha, target_modules=list(targets)))
    set_peft_model_state_dict(peft, {theirs: torch.from_numpy(adapter[ours].copy()) for ours, theirs in keys.items()})
    return peft, keys


def detach(peft, keys: dict[str, str]) -> dict[str, np.ndarray]:
    """The trained tensors under the keys that they came with."""
    state = get_peft_model_state_dict(peft)
    return {ours: state[theirs].detach().numpy() for ours, theirs in keys.items()}


def patches(pictures: np.ndarray) -> torch.Tensor:
    """Pictures of 64x64 as rows of patches in the order of the tower."""
    x = (torch.from_numpy(pictures).float() / 255 - MEAN) / STD
    x = x.permute(0, 3, 1, 2).reshape(len(pictures), 3, 4, 2, 8, 4, 2, 8).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(len(pictures) * 64, 3 * 2 * 8 * 8)


def answer_logits(model, questions: Questions, batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model says where an answer's tokens are due, and those tokens."""
    width = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    due = torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, :len(example.ids)] = torch.tensor(example.ids)
        mask[row, :len(example.ids)] = 1
        due[row, example.num_prompt:len(example.ids)] = True
    pictures = np.stack([questions.pixels(example.picture) for example in batch])
    image = model.config.image_token_id
    logits = model(input_ids=ids, attention_mask=mask, pixel_values=patches(pictures),
                   image_grid_thw=torch.tensor([[1, 8, 8]] * len(batch)), mm_token_type_ids=(ids == image).long(),
                   use_cache=False).logits
    return logits[:, :-1][due[:, 1:]], ids[due]


@torch.no_grad()
def accuracy(model, questions: Questions, examples: list[Example]) -> float:
    """The share of questions whose answer's first token is the likeliest one."""
    right = 0
    for begin in range(0, len(examples), 128):
        batch = [Example(e.ids[:e.num_prompt + 1], e.num_prompt, e.picture) for e in examples[begin:begin + 128]]
        logits, wanted = answer_logits(model, questions, batch)
        right += int((logits.argmax(-1) == wanted).sum())
    return right / len(examples)
