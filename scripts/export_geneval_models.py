"""Writes GenEval's object detector and colour classifier as TorchScript files for fedumm.

    python3 export_geneval_models.py --detector FOLDER --clip FOLDER OUT
    python3 export_geneval_models.py --tiny OUT

FOLDER is a model of transformers: Mask2Former for instance segmentation on COCO (GenEval's is
facebook/mask2former-swin-small-coco-instance) and CLIP (openai/clip-vit-large-patch14). OUT gets
detector.ts and colors.ts, for `fedumm evaluate geneval DIR --detector OUT/detector.ts --colors
OUT/colors.ts`. --tiny makes both with few random weights: they find nothing sensible, and are there
to try the way. Needs torch and transformers.

include/fedumm/model/geneval_models.h says what the files take and give. The detector's input is
resized to one square size (--size), because a traced model has one: GenEval's pictures are square.
"""

import argparse
import json
import pathlib
import sys

try:
    import torch
    import torch.nn.functional as F
    import transformers
    from transformers.models.mask2former import modeling_mask2former
except ImportError as error:
    print(f"export_geneval_models.py needs torch and transformers: {error}", file=sys.stderr)
    sys.exit(77)

# COCO's classes in its order, with GenEval's names.
CLASSES = """person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign
parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie
suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard
tennis racket|bottle|wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog
pizza|donut|cake|chair|couch|potted plant|bed|dining table|toilet|tv|laptop|computer mouse|tv remote
computer keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|book|clock|vase|scissors|teddy bear
hair drier|toothbrush""".replace("\n", "|").split("|")
COLORS = "red orange yellow green blue purple pink brown black white".split()
DETECTOR_MEAN, DETECTOR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
modeling_mask2former.requires_backends = lambda *_: None  # the loss wants scipy; a trace has none
MAX_OBJECTS = 100  # that the detector keeps of a picture, the best first


class Queries(torch.nn.Module):
    """Normalised pictures [1, 3, S, S] -> logits [Q, classes + 1] and mask logits [Q, s, s]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        out = self.model(pixel_values=pixels, return_dict=True)
        return out.class_queries_logits[0], out.masks_queries_logits[0]


class Detector(torch.nn.Module):
    """Instances as mmdet's Mask2Former gives them: the best pairs of query and class, each scored by
    its class probability times the mean probability inside its mask."""

    def __init__(self, queries, size: int):
        super().__init__()
        self.queries = queries
        self.size = size
        self.max_objects = MAX_OBJECTS
        self.register_buffer("mean", torch.tensor(DETECTOR_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(DETECTOR_STD).view(1, 3, 1, 1))

    def forward(self, picture):
        height, width = picture.size(0), picture.size(1)
        pixels = picture.permute(2, 0, 1).unsqueeze(0).float() / 255
        pixels = F.interpolate(pixels, [self.size, self.size], mode="bilinear", align_corners=False, antialias=True)
        logits, mask_logits = self.queries((pixels - self.mean) / self.std)
        scores = logits.softmax(-1)[:, :-1]
        num_classes = scores.size(1)
        best, index = scores.flatten().topk(min(self.max_objects, scores.numel()))
        classes = index % num_classes
        masks = mask_logits[torch.div(index, num_classes, rounding_mode="floor")]
        masks = F.interpolate(masks.unsqueeze(0), [height, width], mode="bilinear", align_corners=False)[0]
        inside = masks > 0
        area = inside.flatten(1).sum(1)
        mean_inside = (masks.sigmoid() * inside).flatten(1).sum(1) / (area + 1e-6)
        keep = area > 0
        inside = inside[keep]
        columns, rows = inside.any(1).int(), inside.any(2).int()
        left, top = columns.argmax(1), rows.argmax(1)
        right = width - columns.flip(1).argmax(1)
        bottom = height - rows.flip(1).argmax(1)
        boxes = torch.stack([left, top, right, bottom], 1).float()
        return boxes, (best * mean_inside)[keep], classes[keep], inside


class Embed(torch.nn.Module):
    """Normalised crops [n, 3, S, S] -> unit vectors [n, D]."""

    def __init__(self, clip):
        super().__init__()
        self.vision, self.projection = clip.vision_model, clip.visual_projection

    def forward(self, pixels):
        return F.normalize(self.projection(self.vision(pixel_values=pixels, return_dict=True).pooler_output), dim=-1)


class ColorClassifier(torch.nn.Module):
    def __init__(self, embed, texts):
        super().__init__()
        self.embed = embed
        self.register_buffer("texts", texts)  # [classes, D, colours]
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(CLIP_STD).view(1, 3, 1, 1))

    def forward(self, crops, class_index):
        pixels = crops.permute(0, 3, 1, 2).float() / 255
        return 100.0 * self.embed((pixels - self.mean) / self.std) @ self.texts[class_index]


def color_texts(clip, tokenize):
    """Unit vectors [classes, D, colours]: the mean of GenEval's three sentences for each colour."""
    rows = []
    for name in CLASSES:
        columns = []
        for color in COLORS:
            sentences = [f"a photo of a {color} {name}", f"a photo of a {color}-colored {name}",
                         f"a photo of a {color} object"]
            pooled = clip.text_model(**tokenize(sentences)).pooler_output
            vectors = F.normalize(clip.text_projection(pooled), dim=-1)
            columns.append(F.normalize(vectors.mean(0), dim=-1))
        rows.append(torch.stack(columns, 1))
    return torch.stack(rows)


def tiny_models():
    torch.manual_seed(0)
    swin = transformers.SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
                                   window_size=2, out_features=["stage1", "stage2", "stage3", "stage4"])
    detector = transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig(
        backbone_config=swin, num_labels=len(CLASSES), num_queries=5, feature_size=32, mask_feature_size=32,
        hidden_dim=32, encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2))
    detector.class_predictor.weight.mul_(100)  # scores above GenEval's threshold
    clip = transformers.CLIPModel(transformers.CLIPConfig(
        text_config=dict(vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=64, eos_token_id=299, bos_token_id=298),
        vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                           image_size=32, patch_size=16), projection_dim=16))

    def tokenize(sentences):
        width = max(map(len, sentences)) + 1
        ids = torch.tensor([[*s.encode()] + [299] * (width - len(s)) for s in sentences])
        return {"input_ids": ids}

    return detector, clip, tokenize, "tiny random Mask2Former", "tiny random CLIP", 64


def save(module, path, about):
    module.save(str(path), _extra_files={"fedumm.json": json.dumps(about)})
    print(f"{path}: {about['name']}, {path.stat().st_size / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--detector", help="folder of a Mask2Former model")
    parser.add_argument("--clip", help="folder of a CLIP model")
    parser.add_argument("--size", type=int, default=800, help="side of the detector's input, a multiple of 32")
    parser.add_argument("--tiny", action="store_true", help="both with few random weights")
    args = parser.parse_args()
    if args.tiny == bool(args.detector or args.clip) or bool(args.detector) != bool(args.clip):
        parser.error("give --tiny, or --detector and --clip")
    torch.set_grad_enabled(False)
    if args.tiny:
        model, clip, tokenize, detector_name, clip_name, size = tiny_models()
    else:
        model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(args.detector)
        clip = transformers.CLIPModel.from_pretrained(args.clip, attn_implementation="eager")
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.clip)
        tokenize = lambda sentences: tokenizer(sentences, padding=True, return_tensors="pt")
        detector_name, clip_name, size = args.detector, args.clip, args.size
    if model.config.num_labels != len(CLASSES):
        parser.error(f"the detector knows {model.config.num_labels} classes, not COCO's {len(CLASSES)} things")
    args.out.mkdir(parents=True, exist_ok=True)
    queries = torch.jit.trace(Queries(model.eval()), torch.rand(1, 3, size, size), check_trace=False)
    save(torch.jit.script(Detector(queries, size).eval()), args.out / "detector.ts",
         {"name": detector_name, "classes": CLASSES})
    side = clip.config.vision_config.image_size
    embed = torch.jit.trace(Embed(clip.eval()), torch.rand(2, 3, side, side), check_trace=False)
    save(torch.jit.script(ColorClassifier(embed, color_texts(clip, tokenize)).eval()), args.out / "colors.ts",
         {"name": clip_name, "classes": CLASSES, "colors": COLORS, "size": side})


if __name__ == "__main__":
    main()
