"""What the tokenizers library makes of added tokens that are looked for in the normalised text, in the text as it stands, or both.

added_tokens.json lists variants of tiny_tokenizer.json: with or without its normalizer (NFC), other added tokens after its own, and texts with
their ids. Made with tokenizers 0.23.3:  python make_added_tokens_golden.py
"""
import itertools
import json
import pathlib
import random

from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent
TINY = json.loads((HERE / "tiny_tokenizer.json").read_text())
vocab = TINY["model"]["vocab"]
rng = random.Random(16)
E_ACUTE, E_AND_ACUTE = "\u00e9", "e\u0301"


def token(content, normalized, special=False):
    return dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=normalized, special=special)


VARIANTS = [
    [token("caf" + E_ACUTE, True)],
    [token("caf" + E_ACUTE, False)],
    [token("caf" + E_AND_ACUTE, True)],
    [token("caf" + E_AND_ACUTE, False)],
    [token("ab", True), token("bc", False)],
    [token("bc", True), token("ab", False), token("abc", True)],
    [token("abc", False), token("abcd", True)],
    [token("e", False), token(E_ACUTE, True)],
    [token("e", True), token("a" + E_ACUTE, True)],
    [token("\u1ec7", True), token("\u1eb9", True)],  # a base with two marks, and with one of them
    [token("caf" + E_ACUTE, True), token("caf" + E_AND_ACUTE, True)],  # equal after NFC
    [token("caf" + E_AND_ACUTE, True), token("caf" + E_ACUTE, True, special=True)],
    [token("<|x|>", False, special=True), token("<|y|>", True, special=True), token("x|><", True)],
    [token("\uac00", True), token("\u1100", False)],  # a Hangul syllable and its first letter
    [token("\u212b", True)],  # the Angstrom sign, whose normal form is another character
    [token("\u212b", False)],
    [token(" ", True), token("\u0301", True)],
]
PIECES = ["caf", "e", E_ACUTE, E_AND_ACUTE, "\u0301", "\u0323", "\u0302", "a", "b", "c", "d", "abc", " ", "  ", "\n", "<|x|>", "<|y|>", "x|>",
          "<|im_end|>", "caf" + E_ACUTE, "caf" + E_AND_ACUTE, "\u1ec7", "e\u0323\u0302", "e\u0302\u0323", "\uac00", "\u1100\u1161", "\u1100",
          "\u1161", "\u212b", "\u00c5", "A\u030a", "\u4e2d", "!", "7"]

out = []
for added in VARIANTS:
    for normalizer in (True, False):
        variant = json.loads(json.dumps(TINY))
        first = max(t["id"] for t in variant["added_tokens"]) + 1
        free = itertools.count(first)
        tokens = [dict(t, id=vocab[t["content"]] if t["content"] in vocab else next(free)) for t in added]
        variant["added_tokens"] += tokens
        if not normalizer:
            variant["normalizer"] = None
        tokenizer = Tokenizer.from_str(json.dumps(variant))
        texts = sorted({"".join(rng.choices(PIECES, k=rng.randint(1, 8))) for _ in range(24)} | {"caf" + E_ACUTE, "a caf" + E_AND_ACUTE + "!"})
        cases = [dict(text=t, ids=tokenizer.encode(t, add_special_tokens=False).ids) for t in texts]
        out.append(dict(normalizer=normalizer, added_tokens=tokens, cases=cases))
(HERE / "added_tokens.json").write_text(json.dumps(out, indent=0))
