"""Damage encoded images at random; each is decoded, or refused with a ValueError.

python -m tests.bench.damaged_images --minutes 4 --seed 1
"""

import argparse
import collections
import io
import resource
import time

import numpy as np
import PIL.Image

from distill_hub.data.images import CODECS, decode


def encoded(generator: np.random.Generator) -> list[bytes]:
    """Return one noise image of 16 px in every format, mode, and with what else a file may hold."""
    grey = PIL.Image.fromarray(generator.integers(0, 256, (16, 16)).astype(np.uint8))
    colour = PIL.Image.fromarray(generator.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    deep = PIL.Image.fromarray(generator.integers(0, 65_536, (16, 16)).astype(np.uint16))
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 50  # orientation, description
    options = [{}, {"exif": exif}, *({"compression": name} for name in ("tiff_lzw", "jpeg", "tiff_deflate"))]
    made = []
    for kind in CODECS:
        for image in (
            deep,
            *(grey.convert(mode) for mode in ("1", "L", "P")),
            *(colour.convert(mode) for mode in ("RGB", "RGBA", "CMYK")),
        ):
            for option in options if kind == "TIFF" else options[:2]:
                buffer = io.BytesIO()
                try:
                    image.save(buffer, kind, **option)
                except (OSError, ValueError):  # a format that has no such mode
                    continue
                made.append(buffer.getvalue())
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    generator = np.random.default_rng(args.seed)
    files, outcomes, slowest = encoded(generator), collections.Counter(), 0.0
    end = time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        data = bytearray(files[generator.integers(len(files))])
        for place in generator.integers(0, len(data), generator.integers(1, 5)):
            data[place] = generator.integers(256)
        if generator.random() < 0.2:
            del data[generator.integers(1, len(data)) :]
        started = time.perf_counter()
        try:
            decode(bytes(data))
            outcomes["decoded"] += 1
        except ValueError:
            outcomes["refused"] += 1
        slowest = max(slowest, time.perf_counter() - started)  # anything else ends this bench with its traceback
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{len(files)} files, damaged {outcomes.total():,} times: {dict(outcomes)}")
    print(f"slowest {slowest:.2f} s, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
