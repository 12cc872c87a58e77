"""Encoded images against the VAE itself, image by image, and draws against the numbers kept."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from diffusers import AutoencoderKL
from PIL import Image as PILImage
from PIL import ImageOps

from distill_hub.data.classes import SourceClass
from distill_hub.data.sources import Source, Split
from distill_hub.generating.latents import Latents, encode
from distill_hub.generators.dit import DiTGenerator
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator

IMAGES = [
    PILImage.fromarray(np.random.default_rng(seed).integers(256, size=(16, 16, 3), dtype=np.uint8)) for seed in range(7)
]


@pytest.fixture(scope="module")
def source():
    dataset = Dataset.from_dict({"image": IMAGES}, features=Features({"image": Image()}))
    train = Split("tiny", "train", dataset, np.arange(7) % 2, "image")
    return Source("tiny", train, train, [SourceClass("zero", 0), SourceClass("one", 1)], "label")


@pytest.fixture(scope="module")
def generator(pipeline_folder):
    return DiTGenerator.from_pretrained(str(pipeline_folder))


@pytest.fixture(scope="module")
def encoded(source, generator, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("encoded"), {})
    return encode(run, generator, source, rows=range(7), mirrored=True, batch_size=3)  # 3 + 3 + 1


@torch.no_grad()
def posterior(vae, image):
    """Mean and deviation of one image, (4, 8, 8) each, scaled by the 0.7 of the VAE's config."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    distribution = vae.encode(pixels).latent_dist
    return 0.7 * distribution.mean[0], 0.7 * distribution.logvar[0].exp().sqrt()


def test_what_is_kept_is_the_vaes_posterior_of_both_ways(encoded, pipeline_folder):
    vae, kept = AutoencoderKL.from_pretrained(pipeline_folder, subfolder="vae"), encoded.rows(0, 7)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in kept.items()} == {
        name: ((7, 2, 4, 8, 8), torch.float16) for name in ("mean", "std")
    }
    for row, image in enumerate(IMAGES):
        for way, shown in enumerate((image, ImageOps.mirror(image))):
            mean, deviation = posterior(vae, shown)
            for name, expected in (("mean", mean), ("std", deviation)):
                # float16 has 11 bits: it rounds by at most 2^-11 of a number.
                torch.testing.assert_close(kept[name][row, way].float(), expected, rtol=2**-11, atol=1e-5)
    # Mirroring an image is not mirroring its latent, nor leaving it.
    for other in (kept["mean"][:, 1], kept["mean"][:, 1].flip(3)):
        assert (kept["mean"][:, 0] - other).abs().amax((1, 2, 3)).min() > 0.01


def test_of_some_images_those_alone_are_encoded(encoded, source, generator, tmp_path):
    some = encode(Run(tmp_path / "out", {}), generator, source, rows=[1, 4, 6], mirrored=True, batch_size=3)
    assert len(some) == 3
    for name, tensor in some.rows(0, 3).items():
        torch.testing.assert_close(tensor, encoded.rows(0, 7)[name][[1, 4, 6]], rtol=1e-2, atol=1e-2)


def test_not_mirrored_is_one_way(encoded, source, generator, tmp_path):
    stage = encode(Run(tmp_path / "out", {}), generator, source, rows=range(7), mirrored=False, batch_size=3)
    once, both = stage.rows(0, 7), encoded.rows(0, 7)
    assert once.keys() == both.keys() == {"mean", "std"}
    for name in once:
        assert torch.equal(once[name], both[name][:, :1])
    latents = Latents(stage)
    assert (latents.count, latents.ways, latents.shape) == (7, 1, (4, 8, 8))
    zero = torch.zeros(7, 4, 8, 8)
    drawn = latents.draw(torch.arange(7), torch.zeros(7, dtype=torch.int64), zero)
    assert torch.equal(drawn, once["mean"][:, 0].float())


def test_a_draw_is_mean_plus_deviation_times_noise_of_the_rows_asked(encoded):
    latents, kept = Latents(encoded), encoded.rows(0, 7)
    assert (latents.count, latents.ways, latents.shape) == (7, 2, (4, 8, 8))
    every = torch.cartesian_prod(torch.arange(7), torch.arange(2))
    # All of them in random order, chunk after chunk; single ones; one image twice, in both ways and in the same.
    shuffled = every[torch.randperm(14, generator=cpu_generator(0))]
    for asked in (shuffled, *every.split(1), torch.tensor([[2, 0], [3, 1], [2, 1], [6, 0], [2, 0]])):
        rows, ways = asked.T
        noise = torch.randn(len(asked), 4, 8, 8, generator=cpu_generator(1))
        drawn = latents.draw(rows, ways, noise)
        assert drawn.dtype == torch.float32
        for place, (row, way) in enumerate(asked.tolist()):
            expected = kept["mean"][row, way].float() + kept["std"][row, way].float() * noise[place]
            assert torch.equal(drawn[place], expected)
