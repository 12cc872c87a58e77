"""The weights of a DiT or SiT, from the names of their authors' code to those of diffusers.

Both networks are one there, and a `DiTTransformer2DModel` in diffusers. Three things differ beside the names: diffusers
holds query, key and value apart, has a copy of the timestep and class embedding in every block, and computes the positions.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed

from distill_hub.config import InputError

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the published sizes S, B, L and XL, by their width
_POSITIONS = "pos_embed"
_PARTS = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_PARTS_OF_BLOCKS = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_EMBEDDERS = {
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}
_BLOCK = re.compile(r"blocks\.([0-9]{1,3})\.(.+)")


def dit(state: Mapping[str, torch.Tensor], name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of a `DiTTransformer2DModel`, and its configuration, read off their shapes.

    Args:
        state: Tensors by their original names; may be on the meta device. What has no other name here keeps its own.
        name: What the user called them.

    Raises:
        InputError: When they are others than a DiT's or SiT's, or of a width that was not published: the number of attention
            heads is in no shape.
    """
    sizes = _sizes(state, name)
    _check_positions(state[_POSITIONS], name)
    return _renamed(state), sizes


def _sizes(state: Mapping[str, torch.Tensor], name: str) -> dict[str, Any]:
    width, channels, patch, _ = _shape(state, "x_embedder.proj.weight", 4, name)
    classes, _ = _shape(state, "y_embedder.embedding_table.weight", 2, name)
    outputs, _ = _shape(state, "final_layer.linear.weight", 2, name)
    _, tokens, _ = _shape(state, _POSITIONS, 3, name)
    if width not in HEADS:
        raise InputError("weights", name, f"they are {width} wide; a DiT or SiT of {', '.join(map(str, HEADS))} is needed")
    return {
        "num_attention_heads": HEADS[width],
        "attention_head_dim": width // HEADS[width],
        "in_channels": channels,
        "out_channels": outputs // patch**2,
        "num_layers": _layers(state),
        "sample_size": math.isqrt(tokens) * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": classes - 1,  # the last row stands for no class
        "norm_eps": 1e-6,  # diffusers' own conversion leaves 1e-5 for the second norm of a block
    }


def _renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    result = {}
    for name, tensor in state.items():
        part, _, kind = name.rpartition(".")  # weight or bias
        block = _BLOCK.fullmatch(part)
        if name == _POSITIONS:
            continue
        if part in _PARTS:
            result[f"{_PARTS[part]}.{kind}"] = tensor
        elif part in _EMBEDDERS:
            for place in range(_layers(state)):
                result[f"transformer_blocks.{place}.{_EMBEDDERS[part]}.{kind}"] = tensor.clone()
        elif block and block[2] == "attn.qkv":
            for which, rows in zip("qkv", tensor.chunk(3), strict=True):
                result[f"transformer_blocks.{block[1]}.attn1.to_{which}.{kind}"] = rows.clone()
        elif block and block[2] in _PARTS_OF_BLOCKS:
            result[f"transformer_blocks.{block[1]}.{_PARTS_OF_BLOCKS[block[2]]}.{kind}"] = tensor
        else:
            result[name] = tensor
    return result


def _check_positions(positions: torch.Tensor, name: str) -> None:
    """Refuse positions (1, tokens, width) that are not the sines and cosines that diffusers' network computes."""
    side = math.isqrt(positions.shape[1])
    expected = get_2d_sincos_pos_embed(positions.shape[2], side, base_size=side, output_type="pt")
    fits = expected.shape == positions.shape[1:]
    if not fits or not (positions.is_meta or (positions[0].float() - expected).abs().max() < 0.01):  # half precision, too
        raise InputError("weights", name, f"{_POSITIONS} holds others than the sines and cosines of a DiT or SiT")


def _layers(state: Mapping[str, torch.Tensor]) -> int:
    return 1 + max((int(match[1]) for name in state if (match := _BLOCK.fullmatch(name))), default=-1)


def _shape(state: Mapping[str, torch.Tensor], key: str, dimensions: int, name: str) -> torch.Size:
    if key not in state:
        raise InputError("weights", name, f"there is no {key} in it, as in the weights of a DiT or SiT by its authors' code")
    if state[key].ndim != dimensions:
        raise InputError(
            "weights", name, f"{key} has the shape {tuple(state[key].shape)}; {dimensions} dimensions are needed"
        )
    return state[key].shape
