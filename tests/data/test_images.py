import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from source_files import encode

from distill_hub.data.images import decode, size_of

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)


# What each orientation means, by hand: https://exiftool.org/TagNames/EXIF.html, tag 0x0112.
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation(kind, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encode(np.stack([RAMP] * 3, 2), kind, exif=exif, **{"lossless": True} if kind == "WEBP" else {})
    assert (np.asarray(decode(data)) == TURNED[orientation](RAMP)[..., None]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_by_its_range(kind):
    deep = np.array([[0, 128, 129, 257, 40_000, 65_535]], np.uint16)
    assert np.asarray(decode(encode(deep, kind)))[0, :, 0].tolist() == [0, 0, 1, 1, 156, 255]  # rounded v / 257


def test_big_endian_tiff():
    data = encode(PIL.Image.fromarray(np.full((4, 4), 40_000, ">u2")), "TIFF")
    assert (np.asarray(decode(data)) == 156).all()


@pytest.mark.parametrize(("values", "kind"), [(np.float32, "floats"), (np.int32, "32-bit")])
def test_values_of_unknown_range_are_refused(values, kind):
    with pytest.raises(ValueError, match=kind):
        decode(encode(np.ones((4, 4), values), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "value", "rgb"),
    [
        ("1", 1, (255, 255, 255)), ("L", 7, (7, 7, 7)), ("LA", (7, 0), (7, 7, 7)), ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
    ],
)  # fmt: skip
def test_modes_become_rgb(mode, value, rgb):
    found = decode(encode(PIL.Image.new(mode, (3, 2), value), "TIFF"))
    assert found.mode == "RGB" and found.size == (3, 2) and found.getpixel((0, 0)) == rgb


def test_palette_and_first_frame_of_a_gif():
    first, second = PIL.Image.new("RGB", (4, 4), (255, 0, 0)), PIL.Image.new("RGB", (4, 4), (0, 0, 255))
    assert decode(encode(first, "GIF", save_all=True, append_images=[second])).getpixel((0, 0)) == (255, 0, 0)


def test_camera_files_of_several_pictures():
    frames = [PIL.Image.new("RGB", (8, 8), color) for color in ("white", "black")]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((0, 0)) == (255, 255, 255)


def test_no_program_is_started_for_postscript(monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    data = encode(PIL.Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(ValueError, match="not in a format that is read"):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_a_cut_file_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    data = encode(noise, kind)
    with pytest.raises(ValueError):
        decode(data[: len(data) // 2])


def test_a_bomb_is_refused_by_its_header():
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    for read in (decode, size_of):
        with pytest.raises(ValueError, match="px a side"):
            read(data)


def test_damaged_bytes_end_in_one_reason():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        data = encode(noise, kind, **{"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {})
        for _ in range(300):
            damaged = bytearray(data)
            for place in generator.integers(0, len(data), 3):
                damaged[place] = generator.integers(256)
            try:
                decode(bytes(damaged))
            except ValueError as error:
                assert str(error) and "\n" not in str(error)
