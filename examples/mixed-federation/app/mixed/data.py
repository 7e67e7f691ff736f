"""easy-VQA's questions as token ids, in the order that fedumm gives them."""
import json
import pathlib
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

IMAGE_TOKENS = 16  # a picture of 64x64 is 8x8 patches, merged 2x2


@dataclass
class Example:
    """One question: the ids of the whole sequence, and where its answer begins."""

    ids: list[int]
    num_prompt: int
    picture: int


class Questions:
    """The questions of a split ("train" or "test"), as many of them answered by yes as by no."""

    def __init__(self, data: str, model: str, split: str, seed: int = 0) -> None:
        self.folder = pathlib.Path(data) / split
        tokenizer = pathlib.Path(model) / "tokenizer.json"
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        # As declared: the library numbers special tokens anew where their ids are not the last ones.
        self.special = {token["content"]: token["id"] for token in json.loads(tokenizer.read_text())["added_tokens"]}
        groups: dict[str, list[tuple[str, str, int]]] = {}
        for text, answer, picture in json.loads((self.folder / "questions.json").read_text()):
            if {"not", "no"}.isdisjoint(text.removesuffix("?").split()):
                groups.setdefault(answer, []).append((text, answer, picture))
        few = min(len(groups["yes"]), len(groups["no"]))
        for answer in ("yes", "no"):
            groups[answer] = random.Random(seed).sample(groups[answer], few)
        self.examples = [self._encode(*question) for answer in sorted(groups) for question in sorted(groups[answer])]

    def _encode(self, text: str, answer: str, picture: int) -> Example:
        prompt = [self.special["<|vision_start|>"], *[self.special["<|image_pad|>"]] * IMAGE_TOKENS, self.special["<|vision_end|>"],
                  *self.tokenizer.encode(" " + text).ids, self.special["<|im_end|>"]]
        return Example(prompt + self.tokenizer.encode(" " + answer).ids + [self.special["<|im_end|>"]], len(prompt), picture)

    def pixels(self, picture: int) -> np.ndarray:
        """A picture as uint8 [64, 64, 3]."""
        with Image.open(self.folder / "images" / f"{picture}.png") as image:
            return np.asarray(image.convert("RGB"))
