"""The network of MAR (Li et al., NeurIPS 2024): a masked transformer, and the small diffusion head that draws its tokens.

Its tensors are called as in MAR's own code, so published weights fit without renaming.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

_FREQUENCIES = 128  # that tell the head its timestep
_norm = {"eps": 1e-6}


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """Attend to all places (B, N, width), or to those that are `seen`, (B, N)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, width/heads)
        mask = None if seen is None else seen[:, None, None, :]
        return self.proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers with a GELU between them, four times as wide there."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return another (..., width)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm block of a vision transformer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, **_norm), nn.LayerNorm(width, **_norm)
        self.attn, self.mlp = Attention(width, heads), MLP(width)

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Return another (B, N, width); see `Attention`."""
        x = x + self.attn(self.norm1(x), seen)
        return x + self.mlp(self.norm2(x))


class TimestepEmbedder(nn.Module):
    """Sinusoids of a timestep, and an MLP on them."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Embed (N,) timesteps to (N, width)."""
        exponents = torch.arange(_FREQUENCIES, dtype=torch.float32, device=timesteps.device) / _FREQUENCIES
        angles = timesteps[:, None].float() * torch.exp(-math.log(10_000) * exponents)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], 1).to(self.mlp[0].weight.dtype))


class HeadBlock(nn.Module):
    """A residual MLP, its input shifted and scaled and its output gated by the condition."""

    def __init__(self, width: int):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, **_norm)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return another (N, width) of x, given the condition y of the same shape."""
        shift, scale, gate = self.adaLN_modulation(y).chunk(3, 1)
        return x + gate * self.mlp(self.in_ln(x) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    """From the head's width to its output."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, **_norm)
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return (N, channels) of x, given the condition y, each (N, width)."""
        shift, scale = self.adaLN_modulation(y).chunk(2, 1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class Head(nn.Module):
    """The diffusion model of one token, given what the transformer says of its place (Sec. 3.2)."""

    def __init__(self, channels: int, condition_width: int, width: int, layers: int):
        super().__init__()
        self.time_embed = TimestepEmbedder(width)
        self.cond_embed = nn.Linear(condition_width, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList([HeadBlock(width) for _ in range(layers)])
        self.final_layer = FinalLayer(width, 2 * channels)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Predict noise and, within its range, log variance, (N, 2 * channels).

        Args:
            noisy: Tokens, (N, channels).
            timesteps: (N,) in [0, 1000).
            condition: (N, condition width).
        """
        x = self.input_proj(noisy)
        y = self.time_embed(timesteps) + self.cond_embed(condition)
        for block in self.res_blocks:
            x = block(x, y)
        return self.final_layer(x, y)


class _DiffLoss(nn.Module):
    """A level of names that MAR's own weights have."""

    def __init__(self, head: Head):
        super().__init__()
        self.net = head


class MAR(ModelMixin, ConfigMixin):
    """A transformer that sees some tokens of an image and says of every place what its head needs to draw the token there.

    Tokens are patches of the latents, L of D values each. What the arguments may be, `networks.configs.MarConfig` says.

    Args:
        in_channels: Of the latents.
        sample_size: Their side.
        patch_size: Side of a patch.
        width: Of the transformer.
        heads: Of its attention.
        encoder_layers: Blocks that see the tokens that are there.
        decoder_layers: Blocks that see all places.
        head_width: Of the head.
        head_layers: Its blocks.
        buffer_size: Places in front of the tokens, which hold the class.
        num_classes: How many classes.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        sample_size: int = 16,
        patch_size: int = 1,
        width: int = 768,
        heads: int = 12,
        encoder_layers: int = 12,
        decoder_layers: int = 12,
        head_width: int = 1024,
        head_layers: int = 6,
        buffer_size: int = 64,
        num_classes: int = 1000,
    ):
        super().__init__()
        self.tokens, self.token_channels = (sample_size // patch_size) ** 2, in_channels * patch_size**2  # L, D
        places = self.tokens + buffer_size
        self.class_emb = nn.Embedding(num_classes, width)
        self.fake_latent = nn.Parameter(torch.empty(1, width))  # in place of a class's embedding: no class
        self.z_proj = nn.Linear(self.token_channels, width)
        self.z_proj_ln = nn.LayerNorm(width, **_norm)
        self.encoder_pos_embed_learned = nn.Parameter(torch.empty(1, places, width))
        self.encoder_blocks = nn.ModuleList([Block(width, heads) for _ in range(encoder_layers)])
        self.encoder_norm = nn.LayerNorm(width, **_norm)
        self.decoder_embed = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.empty(1, places, width))
        self.decoder_blocks = nn.ModuleList([Block(width, heads) for _ in range(decoder_layers)])
        self.decoder_norm = nn.LayerNorm(width, **_norm)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.empty(1, self.tokens, width))
        self.diffloss = _DiffLoss(Head(self.token_channels, width, head_width, head_layers))

    @property
    def head(self) -> Head:
        """What draws a token."""
        return self.diffloss.net

    def initialize(self) -> None:
        """Start as MAR's own code does: the head's blocks as the identity, its output as zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if "." not in name or name == "class_emb.weight":  # tables, and the two vectors
                nn.init.normal_(parameter, std=0.02)
        for layer in (self.head.time_embed.mlp[0], self.head.time_embed.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        modulations = [block.adaLN_modulation[1] for block in (*self.head.res_blocks, self.head.final_layer)]
        for layer in (*modulations, self.head.final_layer.linear):
            nn.init.zeros_(layer.weight)

    def patchify(self, latents: torch.Tensor) -> torch.Tensor:
        """Cut latents (B, channels, h, w) into tokens (B, L, D), row by row."""
        patch = self.config.patch_size
        cut = latents.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, c, h/p, p, w/p, p)
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def unpatchify(self, tokens: torch.Tensor) -> torch.Tensor:
        """Undo `patchify`."""
        patch, channels = self.config.patch_size, self.config.in_channels
        side = self.config.sample_size // patch
        cut = tokens.unflatten(2, (channels, patch, patch)).unflatten(1, (side, side))
        return cut.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def forward(self, tokens: torch.Tensor, masked: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return the head's condition of every place, (B, L, width).

        Args:
            tokens: (B, L, D); of masked places they are not seen.
            masked: bool (B, L). Images may have different counts: the encoder takes as many places as the image with the
                fewest masked ones needs, and attention passes over what the others have too many. The numbers are those of
                leaving masked tokens out, as MAR's code does.
            embedding: Of the classes, (B, width), or what stands in for it.
        """
        count, buffer = len(tokens), self.config.buffer_size
        first = embedding[:, None].expand(-1, buffer, -1)
        x = self.z_proj_ln(torch.cat([first, self.z_proj(tokens)], 1) + self.encoder_pos_embed_learned)
        hidden = torch.cat([masked.new_zeros(count, buffer), masked], 1)
        seen = (~hidden).sum(1)
        places = hidden.to(torch.int8).argsort(dim=1, stable=True)[:, : int(seen.max())]  # seen ones first
        alike = bool((seen == places.shape[1]).all())
        x = x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
        for block in self.encoder_blocks:
            x = block(x, None if alike else ~hidden.gather(1, places))
        x = self.decoder_embed(self.encoder_norm(x))
        empty = self.mask_token.to(x.dtype).expand(count, hidden.shape[1], -1)
        x = empty.scatter(1, places[..., None].expand(-1, -1, x.shape[2]), x)
        x = torch.where(hidden[..., None], empty, x) + self.decoder_pos_embed_learned
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_norm(x)[:, buffer:] + self.diffusion_pos_embed_learned
