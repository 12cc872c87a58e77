"""What free and whitened pixels are moved in, and what of them is published."""

import types

import pytest
import torch

from distill_hub.augmentation.augment import normalize
from distill_hub.augmentation.zca import fit
from distill_hub.config import InputError
from distill_hub.matching import dc, dm, glad, pixels
from distill_hub.matching.space import Space
from distill_hub.options.glad import GladConfig
from distill_hub.running.seeds import cpu_generator

PLAIN = (0.0,) * 3, (1.0,) * 3


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (60, 3, 4, 4), dtype=torch.uint8, generator=cpu_generator(0))


def test_free_pixels_take_the_steps_of_the_papers_code():
    """SGD in normalised space without a bound, as PyTorch takes it."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    start = torch.rand(2, 3, 4, 4, generator=cpu_generator(1))
    goal = 9 * torch.rand(2, 3, 4, 4, generator=cpu_generator(2)) - 4
    z = normalize(start, mean, std).requires_grad_()
    optimizer = torch.optim.SGD([z], 0.3, momentum=0.5)
    own, velocity = start.clone(), torch.zeros_like(start)
    for _ in range(5):
        optimizer.zero_grad()
        (z - goal).square().sum().backward()
        optimizer.step()
        leaf = own.clone().requires_grad_()
        loss = (normalize(leaf, mean, std) - goal).square().sum()
        pixels.step(own, velocity, torch.autograd.grad(loss, leaf)[0], 0.3, std, free=True)
    torch.testing.assert_close(normalize(own, mean, std), z.detach(), rtol=1e-5, atol=1e-5)
    assert own.min() < 0 and own.max() > 1


def test_what_is_published(images):
    own = 3 * torch.rand(5, 3, 4, 4, generator=cpu_generator(1)) - 1
    assert Space(*PLAIN).published(own).keys() == {"images"}
    free = Space(*PLAIN, free=True).published(own)
    assert torch.equal(free["pixels"], own.half())
    assert torch.equal(free["images"], (own.half().float().clamp(0, 1) * 255).round().to(torch.uint8))
    zca = fit([images])
    whitened = Space(*PLAIN, free=True, zca=zca).published(zca.whiten(images))
    assert (whitened["images"].int() - images.int()).abs().max() <= 1  # half precision
    assert torch.equal(whitened["pixels"], zca.whiten(images).half())
    with pytest.raises(InputError, match=r"^pixels: 'free' .* 7e\+04 does not fit into half precision"):
        Space(*PLAIN, free=True).published(torch.full((1, 3, 4, 4), 7e4))


def test_images_are_whitened_where_pixels_are(images):
    assert Space(*PLAIN, free=True).of(images) is images
    zca = fit([images])
    space = Space(*PLAIN, free=True, zca=zca)
    assert torch.equal(space.of(images), zca.whiten(images)) and torch.equal(space.of(images / 255), zca.whiten(images))


def test_glads_settings_are_the_papers_above_16_px():
    source = types.SimpleNamespace(normalization="imagenet", mirrored=True)
    under_dm, under_dc = (glad.rules_of(GladConfig(under=name), 128, source, torch.float32) for name in ("dm", "dc"))
    assert isinstance(under_dm, dm.Rules) and (under_dm.steps, under_dm.rate, under_dm.real_batch_size) == (1000, 10, 256)
    assert isinstance(under_dc, dc.Rules) and (under_dc.steps, under_dc.rate, under_dc.outer) == (1000, 1, 1)
    assert glad.rules_of(GladConfig(), 16, source, torch.float32).steps == 100
    assert glad.rules_of(GladConfig(latent_learning_rate=7.0), 128, source, torch.float32).rate == 7
