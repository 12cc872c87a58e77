"""Builders shared by tests."""

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel


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
