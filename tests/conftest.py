"""What all tests share: no network, one cache for fitted models, and a tiny generator and teacher in the real formats."""

import json
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """Keep the user's caches out of the tests, and the tests out of the user's caches."""
    os.environ["DISTILL_HUB_CACHE"] = str(tmp_path_factory.mktemp("distill_hub_cache"))


def make_pipeline(num_classes: int = 3, *, learned_variance: bool = False) -> DiTPipeline:
    """Build a random DiT (4x8x8 latents, 16 px images) as diffusers itself would hold it."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.7,
    )
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8 if learned_variance else 4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=num_classes,
    )
    # A fresh DiT ignores its class (zero-initialised modulation does in the original; here it is merely faint).
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    return DiTPipeline(transformer.eval(), vae.eval(), scheduler)


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Path:
    """A three-class pipeline saved by diffusers' own `save_pretrained`, with class names as the DiT repositories have them."""
    folder = tmp_path_factory.mktemp("pipeline")
    make_pipeline().save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": {"0": "zero", "2": "two", "1": "one"}}))
    return folder
