"""ZCA whitening against NumPy, and what it is for."""

import hashlib
import re

import numpy as np
import pytest
import torch

from distill_hub.augmentation.zca import fit
from distill_hub.config import InputError
from distill_hub.publishing.card import cards_folder


@pytest.fixture(scope="module")
def images():
    """Smooth images, neighbours alike, as photographs are."""
    noise = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    return ((smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255).round().to(torch.uint8)


def test_it_is_numpys(images):
    flat = images.numpy().reshape(400, -1) / 255
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    transform = vectors @ np.diag((values + 0.1) ** -0.5) @ vectors.T
    zca = fit(images.split(150))
    assert np.abs(zca.transform.numpy() - transform).max() < 1e-5
    assert np.abs(zca.whiten(images, batch_size=7).numpy().reshape(400, -1) - (flat - flat.mean(0)) @ transform).max() < 1e-5
    assert (zca.images, zca.eps) == (400, 0.1)


def test_the_covariance_is_flattened_and_with_a_small_eps_white(images):
    assert np.abs(np.cov(fit([images], eps=1e-8).whiten(images).flatten(1).T.double()) - np.eye(192)).max() < 1e-2
    before, after = (np.linalg.eigvalsh(np.cov(x.flatten(1).T)) for x in (images / 255, fit([images]).whiten(images)))
    np.testing.assert_allclose(after, before / (before + 0.1), atol=1e-4)


def test_it_can_be_undone_and_takes_floats_as_they_are(images):
    zca = fit([images])
    assert (zca.restore(zca.whiten(images)) - images / 255).abs().max() < 1e-5
    free = 3 * torch.rand(5, 3, 8, 8) - 1
    assert (zca.restore(zca.whiten(free)) - free).abs().max() < 1e-5
    assert torch.equal(zca.whiten(images), zca.whiten(images.float() / 255))


def test_the_hash_is_of_whole_numbers_whatever_their_order(images):
    flat = images.numpy().reshape(400, -1).astype("<i8")
    expected = hashlib.sha256(np.int64(400).tobytes() + flat.sum(0).tobytes() + (flat.T @ flat).tobytes()).hexdigest()
    assert fit(images.split(150)).sha256 == fit(images.flip(0).split(33)).sha256 == expected
    other = images.clone()
    other[7, 1, 2, 3] ^= 1
    assert fit([other]).sha256 != expected


def test_the_lines_in_format_md_do_the_same(images):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    block = text[text.index("### Free pixels") : text.index("## The label contract")]
    functions = re.search(r"(def fit.*?)```", block, re.DOTALL).group(1)
    exec(functions, theirs := {"np": np})
    whitened = theirs["whiten"](images.numpy(), *theirs["fit"](images.numpy()))
    assert np.abs(fit([images]).whiten(images).numpy() - whitened).max() < 1e-5


def test_large_images_are_refused_with_the_memory_they_would_take():
    with pytest.raises(InputError, match=r"images of 128 pixels take 19 GB of memory .* at most 64"):
        fit([torch.zeros(2, 3, 128, 128, dtype=torch.uint8)])
