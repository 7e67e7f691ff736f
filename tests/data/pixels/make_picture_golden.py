"""PNG and JPEG files of many kinds, and the RGB pixels that Pillow reads from them.

png.safetensors and jpeg.safetensors hold, for each picture, "<name>.file" (the bytes of the file) and "<name>.rgb" (height, width, 3):
Image.open(...).convert("RGB"). "<name>.upright" is the picture after ImageOps.exif_transpose, where that changes it. A name that begins with
"refused" has no pixels: Pillow raises an error. JPEG files made from the read pixels again at qualities 75 and 90 are "<name>.again75" and
"<name>.again90".

Needs Pillow, NumPy and safetensors; made with Pillow 13.0.0:  python make_picture_golden.py
"""
import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

rng = np.random.default_rng(6)
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed_rows(values, depth):
    """Filter byte 0 and the samples of each row, packed to `depth` bits."""
    rows = b""
    for row in values:
        bits = np.array([[(int(v) >> (depth - 1 - i)) & 1 for i in range(depth)] for v in row.reshape(-1)], dtype=np.uint8)
        rows += b"\0" + np.packbits(bits.reshape(-1)).tobytes()
    return rows


def png(color, depth, width, height, interlaced=False, before=(), after=(), values=None):
    if values is None:
        values = rng.integers(0, 1 << depth, (height, width, CHANNELS[color]))
    if interlaced:
        parts = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        raw = b"".join(packed_rows(part, depth) for part in parts if part.size)
    else:
        raw = packed_rows(values, depth)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    chunks = [chunk(b"IHDR", header), *(chunk(*c) for c in before)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IDAT", zlib.compress(raw)), *(chunk(*c) for c in after), chunk(b"IEND", b"")])


def palette(n):
    return b"PLTE", rng.integers(0, 256, 3 * n, dtype=np.uint8).tobytes()


def gamma(value):
    return b"gAMA", struct.pack(">I", value)


SRGB, LINEAR = (b"sRGB", b"\0"), gamma(100000)
CHRM = b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ICC = b"iCCP", b"x\0\0" + zlib.compress(b"not a profile" * 20)
RAMP = np.array([0, 64, 128, 255]).reshape(1, 4, 1)
pngs = {
    "gamma_rgb8": png(RGB, 8, 4, 1, before=[LINEAR], values=np.repeat(RAMP, 3, 2)),
    "gamma_small_rgb8": png(RGB, 8, 4, 1, before=[gamma(22727)], values=np.repeat(RAMP, 3, 2)),
    "gamma_large_grey8": png(GREY, 8, 4, 1, before=[gamma(250000)], values=RAMP),
    "gamma_palette4": png(PALETTE, 4, 9, 5, before=[LINEAR, palette(16)]),
    "gamma_rgba8": png(RGBA, 8, 5, 4, before=[LINEAR]),
    "gamma_rgb16": png(RGB, 16, 5, 4, before=[LINEAR]),
    "gamma_grey16": png(GREY, 16, 5, 4, before=[LINEAR]),
    "srgb_chunk": png(RGB, 8, 5, 4, before=[SRGB, gamma(45455), CHRM]),
    "chromaticities": png(RGB, 8, 5, 4, before=[gamma(60000), CHRM]),
    "icc_profile": png(RGB, 8, 5, 4, before=[ICC]),
    "significant_bits": png(RGB, 8, 5, 4, before=[(b"sBIT", b"\5\6\5")]),
    "background": png(RGBA, 8, 5, 4, before=[(b"bKGD", struct.pack(">3H", 255, 0, 0))]),
    "grey16_small": png(GREY, 16, 5, 4, values=rng.integers(0, 256, (4, 5, 1))),
    "grey16_edges": png(GREY, 16, 6, 1, values=np.array([0, 255, 256, 257, 32768, 65535]).reshape(1, 6, 1)),
    "transparent_grey8": png(GREY, 8, 4, 1, before=[(b"tRNS", struct.pack(">H", 64))], values=RAMP),
    "transparent_grey1": png(GREY, 1, 11, 3, before=[(b"tRNS", struct.pack(">H", 1))]),
    "transparent_grey4": png(GREY, 4, 11, 3, before=[(b"tRNS", struct.pack(">H", 5))]),
    "transparent_grey16": png(GREY, 16, 4, 1, before=[(b"tRNS", struct.pack(">H", 64))], values=RAMP),
    "transparent_rgb8": png(RGB, 8, 4, 1, before=[(b"tRNS", struct.pack(">3H", 64, 64, 64))], values=np.repeat(RAMP, 3, 2)),
    "transparent_rgb16": png(RGB, 16, 5, 4, before=[(b"tRNS", struct.pack(">3H", 64, 64, 64))]),
    "transparent_palette8": png(PALETTE, 8, 16, 16, before=[palette(256), (b"tRNS", bytes(range(0, 200, 3)))]),
    "transparent_palette2": png(PALETTE, 2, 9, 5, before=[palette(4), (b"tRNS", b"\0")]),
    "palette_too_short": png(PALETTE, 8, 4, 4, before=[palette(3)], values=np.arange(16).reshape(4, 4, 1)),
    "palette4_too_short": png(PALETTE, 4, 16, 1, before=[palette(5)], values=np.arange(16).reshape(1, 16, 1)),
    "palette_in_rgb": png(RGB, 8, 5, 4, before=[palette(7)]),
    "text_after": png(RGB, 8, 5, 4, after=[(b"tEXt", b"Comment\0hello")]),
    "unknown_chunk": png(RGB, 8, 5, 4, before=[(b"teSt", b"abc")]),
    "refused_two_bits_rgb": png(RGB, 8, 2, 2)[:24] + b"\2" + png(RGB, 8, 2, 2)[25:],
}
for color, depths in ((GREY, (1, 2, 4, 8, 16)), (RGB, (8, 16)), (PALETTE, (1, 2, 4, 8)), (GREY_ALPHA, (8, 16)), (RGBA, (8, 16))):
    for depth in depths:
        for interlaced in (False, True):
            name = f"{dict(zip((0, 2, 3, 4, 6), ('grey', 'rgb', 'palette', 'grey_alpha', 'rgba')))[color]}{depth}" + "_interlaced" * interlaced
            before = [palette(1 << depth)] if color == PALETTE else []
            pngs[name] = png(color, depth, 13, 11, interlaced, before)
    pngs[f"color{color}_one_pixel_interlaced"] = png(color, 8, 1, 1, True, [palette(256)] if color == PALETTE else [])


def picture(w, h, mode="RGB"):
    small = rng.integers(0, 256, (max(2, h // 9), max(2, w // 9), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((w, h), Image.BICUBIC).convert(mode)


def jpeg(w, h, mode="RGB", turn=None, **options):
    buffer = io.BytesIO()
    if turn is not None:
        exif = Image.Exif()
        exif[0x010E] = "a description before the orientation"
        exif[0x0112] = turn
        options["exif"] = exif
    picture(w, h, mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def without(data, marker):
    """Without the first segment of that marker."""
    at = data.index(bytes([0xFF, marker]))
    return data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2:at + 4])[0]:]


def with_adobe(data, transform):
    return data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + data[2:]


whole = jpeg(64, 48, quality=90)
cmyk = jpeg(33, 29, "CMYK", quality=85)
jpegs = {
    "baseline_420": whole,
    "baseline_422": jpeg(45, 33, quality=80, subsampling=1),
    "baseline_444": jpeg(51, 37, quality=95, subsampling=0),
    "quality_100": jpeg(17, 9, quality=100),
    "quality_1": jpeg(70, 50, quality=1),
    "progressive": jpeg(70, 31, quality=85, progressive=True),
    "progressive_grey": jpeg(23, 31, "L", quality=85, progressive=True),
    "optimized": jpeg(40, 24, quality=60, optimize=True),
    "restart_markers": jpeg(48, 64, quality=85, restart_marker_rows=1),
    "grey": jpeg(40, 40, "L", quality=85),
    "grey_one_row": jpeg(57, 1, "L"),
    "one_pixel": jpeg(1, 1),
    "one_column": jpeg(1, 33),
    "cmyk": cmyk,
    "cmyk_progressive": jpeg(20, 28, "CMYK", progressive=True, quality=70),
    "cmyk_without_adobe": without(cmyk, 0xEE),
    "ycck": with_adobe(without(cmyk, 0xEE), 2),
    "rgb_by_adobe": with_adobe(without(jpeg(31, 18, quality=80, subsampling=0), 0xE0), 0),
    "kept_rgb": jpeg(31, 18, quality=80, subsampling=0, keep_rgb=True),
    "without_jfif": without(jpeg(31, 18, quality=80), 0xE0),
    "with_comment": jpeg(31, 18, comment=b"hello"),
    "with_bytes_after_the_end": whole + b"\0garbage",
    "refused_cut_in_half": whole[:len(whole) // 2],
    "refused_without_end_marker": whole[:-2],
    "refused_cut_in_header": whole[:200],
    "refused_progressive_cut": jpeg(70, 31, progressive=True)[:-60],
}
for turn in range(0, 10):
    jpegs[f"turn_{turn}"] = jpeg(20, 12, turn=turn)


def write(path, files):
    tensors = {}
    for name, data in files.items():
        tensors[name + ".file"] = np.frombuffer(data, np.uint8)
        try:
            image = Image.open(io.BytesIO(data))
            rgb = image.convert("RGB")
        except (OSError, SyntaxError) as error:
            assert name.startswith("refused"), (name, error)
            continue
        assert not name.startswith("refused"), name
        tensors[name + ".rgb"] = np.array(rgb)
        upright = ImageOps.exif_transpose(image).convert("RGB")
        if upright.size != rgb.size or np.any(np.array(upright) != np.array(rgb)):
            tensors[name + ".upright"] = np.array(upright)
        if path.startswith("jpeg"):
            for quality in (75, 90):
                buffer = io.BytesIO()
                Image.fromarray(np.array(rgb)).save(buffer, "JPEG", quality=quality)
                tensors[f"{name}.again{quality}"] = np.frombuffer(buffer.getvalue(), np.uint8)
    save_file(tensors, path)


write("png.safetensors", pngs)
write("jpeg.safetensors", jpegs)
