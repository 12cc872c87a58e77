"""Published tensors of MAR: their names and shapes are written out from its code, and their numbers go through both."""

import json

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from helpers import refused, run_here
from safetensors.torch import save_file
from torch import nn

from distill_hub.config import InputError
from distill_hub.conversion.convert import _filled
from distill_hub.conversion.mar import MAR_VAE, mar, mar_vae
from distill_hub.generators.mar import DEFAULTS, load
from distill_hub.networks.mar import MAR


class Resnet(nn.Module):
    """A residual block of latent diffusion's autoencoder."""

    def __init__(self, before: int, after: int, groups: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, before, eps=1e-6), nn.GroupNorm(groups, after, eps=1e-6)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x):
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attend(nn.Module):
    """Attention among all places, one head, by 1x1 convolutions."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = (torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5).softmax(2)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).view_as(x))


def holder(**modules):
    result = nn.Module()
    for name, module in modules.items():
        setattr(result, name, module)
    return result


def middle(width, groups):
    return holder(block_1=Resnet(width, width, groups), attn_1=Attend(width, groups), block_2=Resnet(width, width, groups))


class Original(nn.Module):
    """KL-16 as latent diffusion has it, its widths given: five levels, two blocks each, attention in the encoder's last."""

    def __init__(self, widths=(128, 128, 256, 256, 512), channels=16, groups=32):
        super().__init__()
        last = widths[-1]
        down, before = [], widths[0]
        for level, width in enumerate(widths):
            blocks = nn.ModuleList([Resnet(before, width, groups), Resnet(width, width, groups)])
            attention = nn.ModuleList([Attend(width, groups) for _ in range(2)] if level == 4 else [])
            down.append(holder(block=blocks, attn=attention))
            if level < 4:
                down[-1].downsample = holder(conv=nn.Conv2d(width, width, 3, stride=2))
            before = width
        self.encoder = holder(
            conv_in=nn.Conv2d(3, widths[0], 3, padding=1),
            down=nn.ModuleList(down),
            mid=middle(last, groups),
            norm_out=nn.GroupNorm(groups, last, eps=1e-6),
            conv_out=nn.Conv2d(last, 2 * channels, 3, padding=1),
        )
        up, before = [], last
        for level in reversed(range(5)):
            sizes = [before, widths[level], widths[level]]
            up.insert(0, holder(block=nn.ModuleList([Resnet(size, widths[level], groups) for size in sizes])))
            if level:
                up[0].upsample = holder(conv=nn.Conv2d(widths[level], widths[level], 3, padding=1))
            before = widths[level]
        self.decoder = holder(
            conv_in=nn.Conv2d(channels, last, 3, padding=1),
            mid=middle(last, groups),
            up=nn.ModuleList(up),
            norm_out=nn.GroupNorm(groups, widths[0], eps=1e-6),
            conv_out=nn.Conv2d(widths[0], 3, 3, padding=1),
        )
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, images):
        part = self.encoder
        x = part.conv_in(images)
        for level in part.down:
            for place, block in enumerate(level.block):
                x = block(x)
                x = level.attn[place](x) if len(level.attn) else x
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        x = part.mid.block_2(part.mid.attn_1(part.mid.block_1(x)))
        return self.quant_conv(part.conv_out(F.silu(part.norm_out(x))))

    def decode(self, latents):
        part = self.decoder
        x = part.conv_in(self.post_quant_conv(latents))
        x = part.mid.block_2(part.mid.attn_1(part.mid.block_1(x)))
        for level in reversed(part.up):
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2))
        return part.conv_out(F.silu(part.norm_out(x)))


def test_the_autoencoder_fits_by_name_and_shape():
    with torch.device("meta"):
        original, ours = Original(), AutoencoderKL(**MAR_VAE)
    renamed = {name: tensor.shape for name, tensor in mar_vae(original.state_dict()).items()}
    assert renamed == {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert round(4e-6 * sum(shape.numel() for shape in renamed.values())) == 266  # megabytes, as the file on the Hub has


def test_the_autoencoder_computes_the_same():
    torch.manual_seed(0)
    original = Original(widths=(8, 8, 16, 16, 32), channels=4, groups=4).double()
    small = {"block_out_channels": [8, 8, 16, 16, 32], "latent_channels": 4, "norm_num_groups": 4}
    ours = AutoencoderKL(**{**MAR_VAE, **small}).double()
    ours.load_state_dict(mar_vae(original.state_dict()))
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        moments = original.encode(images)
        torch.testing.assert_close(ours.encode(images).latent_dist.parameters, moments)
        torch.testing.assert_close(ours.decode(moments[:, :4]).sample, original.decode(moments[:, :4]))


def block(width):
    layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (4 * width, width)}
    layers = {**layers, "mlp.fc2": (width, 4 * width)}
    norms = {f"{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    return {**norms, **linear(layers)}


def linear(layers):
    return {
        f"{name}.{part}": shape
        for name, weight in layers.items()
        for part, shape in (("weight", weight), ("bias", weight[:1]))
    }


def published(width, depth, head_depth, head_width):
    """Names and shapes of the tensors of MAR's published networks."""
    shapes = {
        "fake_latent": (1, width),
        "mask_token": (1, 1, width),
        "class_emb.weight": (1000, width),
        "encoder_pos_embed_learned": (1, 320, width),
        "decoder_pos_embed_learned": (1, 320, width),
        "diffusion_pos_embed_learned": (1, 256, width),
        **linear({"z_proj": (width, 16), "decoder_embed": (width, width)}),
    }
    for norm in ("z_proj_ln", "encoder_norm", "decoder_norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for side in ("encoder", "decoder"):
        for place in range(depth):
            shapes |= {f"{side}_blocks.{place}.{name}": shape for name, shape in block(width).items()}
    head = {
        "time_embed.mlp.0": (head_width, 256),
        "time_embed.mlp.2": (head_width, head_width),
        "cond_embed": (head_width, width),
        "input_proj": (head_width, 16),
        "final_layer.linear": (32, head_width),
        "final_layer.adaLN_modulation.1": (2 * head_width, head_width),
    }
    for place in range(head_depth):
        name = f"res_blocks.{place}"
        head |= {f"{name}.mlp.{layer}": (head_width, head_width) for layer in (0, 2)}
        head[f"{name}.adaLN_modulation.1"] = (3 * head_width, head_width)
        shapes |= {f"diffloss.net.{name}.in_ln.{part}": (head_width,) for part in ("weight", "bias")}
    return {**shapes, **{f"diffloss.net.{name}": shape for name, shape in linear(head).items()}}


@pytest.mark.parametrize(
    ("sizes", "megabytes"), [((768, 12, 6, 1024), 832), ((1024, 16, 8, 1280), 1910), ((1280, 20, 12, 1536), 3770)]
)
def test_published_networks_fit_by_name_and_shape(sizes, megabytes):
    shapes = published(*sizes)
    state, config = mar({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, "x")
    assert config["heads"] == (12 if sizes[0] == 768 else 16)
    with torch.device("meta"):
        network = MAR(**config)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == shapes
    assert state.keys() == shapes.keys()
    stored = 4e-6 * sum(tensor.numel() for tensor in state.values())
    assert stored == pytest.approx(megabytes, rel=0.003)  # what the Hub says of the files, to three digits


def test_a_mar_is_converted_with_its_autoencoder(tmp_path, monkeypatch):
    small = {"block_out_channels": [8, 8, 16, 16, 32], "latent_channels": 4, "norm_num_groups": 4}
    monkeypatch.setattr("distill_hub.conversion.convert.MAR_VAE", {**MAR_VAE, **small})
    torch.manual_seed(0)
    sizes = {
        "in_channels": 4,
        "sample_size": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "head_width": 32,
        "head_layers": 1,
    }
    network, pixels = MAR(**sizes, buffer_size=2, num_classes=3), Original(widths=(8, 8, 16, 16, 32), channels=4, groups=4)
    network.initialize()
    for name, module in (("mar", network), ("kl16", pixels)):
        save_file(module.state_dict(), tmp_path / f"{name}.safetensors")
    run_here(
        "recipes/convert.py", "mar", str(tmp_path / "mar.safetensors"), "--vae", str(tmp_path / "kl16.safetensors"),
        "--output_dir", str(tmp_path / "folder"),
    )  # fmt: skip
    how = {**DEFAULTS, "sample_steps": 2, "head_steps": 2}
    generator = load(str(tmp_path / "folder"), classes=[], revision=None, device="cpu", dtype=torch.float32, **how)
    found = generator.facts.modules[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
    assert generator.facts.license == "mit" and generator.latent_shape == (4, 2, 2)
    assert (
        json.loads((tmp_path / "folder/scheduler/scheduler_config.json").read_text())["beta_schedule"] == "squaredcos_cap_v2"
    )
    latents = generator.sample([0, None], [1, 2])
    with torch.no_grad():
        plain = pixels.decode(latents / MAR_VAE["scaling_factor"])
    torch.testing.assert_close(generator.decode(latents), (plain / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_weights_of_no_mar(tmp_path, capfd):
    state = {name: torch.zeros(shape) for name, shape in published(768, 1, 1, 8).items()}
    for change, said in (
        ({"class_emb.weight": None}, "class_emb.weight"),
        ({"class_emb.weight": torch.zeros(3, 100)}, "they are 100 wide"),
        ({"odd": torch.zeros(1)}, "have odd"),
    ):
        changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        with pytest.raises(InputError, match=said) as caught:
            tensors, sizes = mar(changed, "x")
            _filled(MAR, sizes, tensors, "weights", "x")
        assert caught.value.field == "weights"
    save_file({"a": torch.zeros(1)}, tmp_path / "mar.safetensors")
    assert "name the autoencoder" in refused(capfd, "recipes/convert.py", "mar", str(tmp_path / "mar.safetensors"))
