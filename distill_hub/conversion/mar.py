"""The weights of a MAR and of its autoencoder, from the names of their authors' code to those of the networks here."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from distill_hub.config import InputError
from distill_hub.text import reason

HEADS = {768: 12, 1024: 16, 1280: 16}  # of the published sizes base, large and huge, by their width
State = Mapping[str, torch.Tensor]  # tensors by their names

# The autoencoder of MAR, KL-16 of latent diffusion: 256 px become 16 x 16 latents of 16 channels. It has attention where the
# encoder has 16 px and in both middles, but not on the decoder's way up.
MAR_VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4 + ["AttnDownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "block_out_channels": [128, 128, 256, 256, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 256,
    "scaling_factor": 0.2325,
}
# Parts of names in latent diffusion's autoencoders, and what diffusers calls them.
_LATENT_DIFFUSION = [
    (r"\.down\.(\d+)\.block\.(\d+)\.", r".down_blocks.\1.resnets.\2."),
    (r"\.down\.(\d+)\.attn\.(\d+)\.", r".down_blocks.\1.attentions.\2."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.(\d+)\.", r".up_blocks.\1.resnets.\2."),
    (r"\.up\.(\d+)\.attn\.(\d+)\.", r".up_blocks.\1.attentions.\2."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(\.attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
]


def mar_vae(state: State) -> dict[str, torch.Tensor]:
    """Rename an autoencoder of latent diffusion, as MAR's kl16 is one, for diffusers' `AutoencoderKL`.

    1x1 convolutions of its attention become linear layers; the blocks of its decoder, which are counted from the image, are
    counted from the latents.
    """
    renamed = {}
    levels = 1 + max((int(match[1]) for key in state if (match := re.match(r"decoder\.up\.(\d+)\.", key))), default=0)
    for key, tensor in state.items():
        name = key
        for original, ours in _LATENT_DIFFUSION:
            name = re.sub(original, ours, name)
        name = re.sub(r"\.up_blocks\.(\d+)\.", lambda match: f".up_blocks.{levels - 1 - int(match[1])}.", name)
        if re.search(r"\.attentions\.\d+\.to_.*weight$", name):
            tensor = tensor.flatten(1)
        renamed[name] = tensor
    return renamed


def mar(state: State, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of one of MAR's published networks, whose names are ours, and the sizes that their shapes tell.

    A patch is one latent, as in all that were published.

    Args:
        state: Tensors by their original names; may be on the meta device.
        name: What the user called them.

    Raises:
        InputError: When a tensor is missing that tells a size, or the width was not published: the number of attention heads
            is in no shape.
    """
    try:
        classes, width = state["class_emb.weight"].shape
        tokens = state["diffusion_pos_embed_learned"].shape[1]
        places = state["encoder_pos_embed_learned"].shape[1]
        head_width, channels = state["diffloss.net.input_proj.weight"].shape
    except (KeyError, ValueError) as error:
        valid = f"the weights of a MAR by its authors' code are needed ({reason(error)})"
        raise InputError("weights", name, valid) from error
    if width not in HEADS:
        raise InputError("weights", name, f"they are {width} wide; a MAR of {', '.join(map(str, HEADS))} is needed")

    def layers(prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

    sizes = {
        "in_channels": channels,
        "sample_size": round(tokens**0.5),
        "patch_size": 1,
        "width": width,
        "heads": HEADS[width],
        "encoder_layers": layers("encoder_blocks."),
        "decoder_layers": layers("decoder_blocks."),
        "head_width": head_width,
        "head_layers": layers("diffloss.net.res_blocks."),
        "buffer_size": places - tokens,
        "num_classes": classes,
    }
    return dict(state), sizes
