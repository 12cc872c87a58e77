"""DiffFit (Xie et al., ICCV 2023): fine-tune a transformer by its biases, norms, class embedding and new scales alone."""

import copy
import json
import shutil
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from torch import nn

FACTS = {
    "name": "difffit",
    "title": "DiffFit: Unlocking Transferability of Large Diffusion Models via Simple Parameter-Efficient Fine-Tuning",
    "paper": "https://arxiv.org/abs/2304.06648",
    "bibtex": """@inproceedings{xie2023difffit,
  title = {{DiffFit}: Unlocking Transferability of Large Diffusion Models via Simple Parameter-Efficient Fine-Tuning},
  author = {Xie, Enze and Yao, Lewei and Shi, Han and Liu, Zhili and Zhou, Daquan and Liu, Zhaoqiang and Li, Jiawei
            and Li, Zhenguo},
  booktitle = {International Conference on Computer Vision},
  year = {2023},
}""",
}


class ScaledLinear(nn.Linear):
    """A linear layer, its output scaled by a learnable vector γ that starts at 1. Shares the layer's own parameters."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")  # nothing to initialise
        self.weight, self.bias = linear.weight, linear.bias
        self.gamma = nn.Parameter(torch.ones_like(linear.bias))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return γ·(Wx + b)."""
        output = super().forward(input)
        return output * self.gamma.to(output.dtype)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Return the plain layer that does the same, up to rounding: weights γW and γb."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight = nn.Parameter(self.gamma[:, None] * self.weight, requires_grad=False)
        linear.bias = nn.Parameter(self.gamma * self.bias, requires_grad=False)
        return linear


def prepare(transformer: DiTTransformer2DModel) -> dict[str, nn.Parameter]:
    """Add the scales and let only DiffFit's parameters require gradients.

    These are, as in Minimax Diffusion's code, all biases, the weights of norms (a DiT has none), the class embedding, and
    scales on the outputs of attention and MLP in the first half of the blocks. Three things differ from a rule by name, as
    that code has it for another implementation of the DiT:

    - diffusers calls the whole modulation of a block "norm1", so the name "norm" would take most of the network;
    - diffusers keeps one copy of the timestep and class embedding per block. Where all copies are the same, as in the
      converted DiT-XL/2, they are trained as the one embedding that they are;
    - that code also scales the projections inside attention, a second time in the case of its output. Those are left out:
      the paper has one scale for each of the two branches.

    Args:
        transformer: Changed in place. May be on the meta device, where embeddings of several blocks count as the same.

    Returns:
        The parameters to train, by name.
    """
    blocks = transformer.transformer_blocks
    first = blocks[0].norm1.emb
    if all(_same(first, block.norm1.emb) for block in blocks):
        for block in blocks:
            block.norm1.emb = first
    for block in blocks[: len(blocks) // 2]:
        block.attn1.to_out[0] = ScaledLinear(block.attn1.to_out[0])
        block.ff.net[2] = ScaledLinear(block.ff.net[2])
    transformer.requires_grad_(False)
    chosen = {}
    for path, module in transformer.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if (
                name in ("bias", "gamma")
                or isinstance(module, nn.LayerNorm)
                or path.endswith("class_embedder.embedding_table")
            ):
                chosen[f"{path}.{name}"] = parameter.requires_grad_(True)
    return chosen


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(a.is_meta or torch.equal(a, b) for a, b in pairs)


def save(transformer: DiTTransformer2DModel, base: Path, folder: Path) -> None:
    """Fold the scales, and save the pipeline in the layout it came in: nothing that loads it need know of DiffFit.

    Args:
        transformer: As `prepare` left it, with its final weights; it becomes a plain one.
        base: Folder of the pipeline it came from; all but the transformer is copied.
        folder: Where to save; replaced if there.
    """
    blocks = transformer.transformer_blocks
    for block in blocks:
        for layers, place in ((block.attn1.to_out, 0), (block.ff.net, 2)):
            if isinstance(layers[place], ScaledLinear):
                layers[place] = layers[place].folded()
        if block is not blocks[0] and block.norm1.emb is blocks[0].norm1.emb:
            block.norm1.emb = copy.deepcopy(block.norm1.emb)
    copy_pipeline(base, folder, "vae", "scheduler")
    transformer.save_pretrained(folder / "transformer")
    _forget_places(folder)


def copy_pipeline(base: Path, folder: Path, *parts: str) -> None:
    """Copy the index and some parts of a pipeline to a folder, which is replaced if there."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in parts:
        shutil.copytree(base / part, folder / part)
    shutil.copy(base / "model_index.json", folder)
    _forget_places(folder)


def _forget_places(folder: Path) -> None:
    for file in (folder / "model_index.json", *folder.glob("*/config.json")):
        config = json.loads(file.read_bytes())
        if "_name_or_path" in config:  # where the author's disk holds what this was loaded from
            file.write_text(json.dumps({**config, "_name_or_path": ""}, indent=2))
