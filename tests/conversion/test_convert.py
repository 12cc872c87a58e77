"""Published weights against a plain rewriting of their authors' networks, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from helpers import make_pipeline, refused, run_here
from safetensors.torch import load_file, save_file

from distill_hub.config import InputError
from distill_hub.conversion.convert import convert
from distill_hub.conversion.dit import dit
from distill_hub.data.classes import imagenet_classes
from distill_hub.generators import sit
from distill_hub.generators.dit import DiTGenerator
from distill_hub.running.seeds import cpu_generator

LOADED = {"classes": [], "revision": None, "device": "cpu", "dtype": torch.float32, **sit.DEFAULTS}


def positions(side, width):
    """Sines and cosines (1, side², width): the first half tells the column, the second the row."""
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in (column, row)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[None].float()


def original(width=384, layers=2, patch=2, side=4, classes=3, outputs=8, device="cpu"):
    """Random weights by the authors' names, for 4-channel latents of `side` patches along each edge."""
    draw = cpu_generator(3)
    shapes = {
        "x_embedder.proj": (width, 4, patch, patch),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (patch**2 * outputs, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for block in range(layers):
        shapes |= {
            f"blocks.{block}.attn.qkv": (3 * width, width),
            f"blocks.{block}.attn.proj": (width, width),
            f"blocks.{block}.mlp.fc1": (4 * width, width),
            f"blocks.{block}.mlp.fc2": (width, 4 * width),
            f"blocks.{block}.adaLN_modulation.1": (6 * width, width),
        }
    tensors = {"y_embedder.embedding_table.weight": (classes + 1, width)}
    for name, shape in shapes.items():
        tensors |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    if device == "meta":
        state = {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}
        return {**state, "pos_embed": torch.empty(1, side**2, width, device="meta")}
    state = {name: 0.03 * torch.randn(shape, generator=draw) for name, shape in tensors.items()}
    return {**state, "pos_embed": positions(side, width)}


def forward(state, z, time, class_id, heads):
    """What the authors' code makes of one latent (4, h, w) at a time; the formulas of the DiT's paper and code."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def normal(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    patch = state["x_embedder.proj.weight"].shape[-1]
    x = F.conv2d(z[None], state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=patch)
    side = x.shape[-1]
    x = x[0].flatten(1).T + state["pos_embed"][0]
    angles = time * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
    waves = torch.cat([angles.cos(), angles.sin()])
    condition = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", waves)))
    condition = F.silu(condition + state["y_embedder.embedding_table.weight"][class_id])
    for block in (f"blocks.{i}" for i in range(100) if f"blocks.{i}.mlp.fc1.weight" in state):
        shift, scale, gate, shift2, scale2, gate2 = linear(f"{block}.adaLN_modulation.1", condition).chunk(6)
        queries, keys, values = linear(f"{block}.attn.qkv", normal(x) * (1 + scale) + shift).chunk(3, dim=1)
        seen = []
        for q, k, v in zip(*(part.chunk(heads, dim=1) for part in (queries, keys, values)), strict=True):
            seen.append((q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v)
        x = x + gate * linear(f"{block}.attn.proj", torch.cat(seen, 1))
        hidden = F.gelu(linear(f"{block}.mlp.fc1", normal(x) * (1 + scale2) + shift2), approximate="tanh")
        x = x + gate2 * linear(f"{block}.mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", condition).chunk(2)
    x = linear("final_layer.linear", normal(x) * (1 + scale) + shift)
    x = x.view(side, side, patch, patch, -1).permute(4, 0, 2, 1, 3)
    return x.reshape(len(x), side * patch, side * patch)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A VAE's folder, and a place for the rest."""
    place = tmp_path_factory.mktemp("convert")
    make_pipeline().vae.save_pretrained(place / "vae")
    return place


def saved(state, file):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return file


LATENTS = torch.randn(2, 4, 8, 8, generator=cpu_generator(1))


def test_a_sit_says_what_it_said(places):
    state = original()
    run_here(
        "recipes/convert.py", "sit", str(saved(state, places / "sit.safetensors")), "--vae", str(places / "vae"),
        "--output_dir", str(places / "sit"),
    )  # fmt: skip
    generator = sit.load(str(places / "sit"), **LOADED)
    corruption = sit._Mixing(torch.zeros_like(LATENTS), torch.tensor([0.25, 0.9]))
    found = generator.residual(LATENTS, corruption, [1, None]).view_as(LATENTS) - LATENTS
    for place, (level, class_id) in enumerate([(0.25, 1), (0.9, 3)]):
        z = (1 - level) * LATENTS[place].double()
        expected = -forward(state, z, 1 - level, class_id, heads=6)[:4]
        torch.testing.assert_close(found[place].double(), expected, atol=2e-5, rtol=2e-5)
        assert expected.std() > 0.1
    assert generator.facts.license == "mit" and generator.class_names == []
    assert not (places / "sit.partial").exists()


def test_a_dit_says_what_it_said_at_its_own_timesteps(places):
    state = original()
    where = {"vae_revision": None, "license": "apache-2.0"}
    convert("dit", saved(state, places / "dit.safetensors"), str(places / "vae"), places / "dit", **where)
    generator = DiTGenerator.from_pretrained(str(places / "dit"))
    found = generator._forward(LATENTS, torch.tensor([500, 3]), torch.tensor([0, 3]))
    for place, (time, class_id) in enumerate([(500, 0), (3, 3)]):
        expected = forward(state, LATENTS[place].double(), time, class_id, heads=6)
        torch.testing.assert_close(found[place].double(), expected, atol=5e-5, rtol=5e-5)
    assert generator.facts.timestep_features == "dit" and generator.facts.license == "apache-2.0"
    assert generator.sample([0], [1]).shape == (1, 4, 8, 8)


def test_half_precision_and_the_names_of_imagenet(places):
    state = {name: tensor.half() for name, tensor in original(layers=1, patch=4, side=2, classes=1000, outputs=4).items()}
    where = {"vae_revision": None, "license": None}
    convert("sit", saved(state, places / "half.safetensors"), str(places / "vae"), places / "half", **where)
    stored = load_file(places / "half" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    generator = sit.load(str(places / "half"), **LOADED)
    assert generator.class_names == imagenet_classes()[1] and generator.transformer.dtype == torch.float32
    assert generator.latent_shape == (4, 8, 8)


@pytest.mark.parametrize(
    ("width", "layers", "heads", "outputs", "parameters"),
    [(384, 12, 6, 8, 33), (768, 12, 12, 8, 130), (1024, 24, 16, 8, 458), (1152, 28, 16, 8, 675)],
)
def test_the_published_sizes_fit(width, layers, heads, outputs, parameters):
    """Names and shapes, as the papers count their parameters, in millions (DiT, Tab. 4); diffusers has more copies."""
    state = original(width, layers, patch=2, side=16, classes=1000, outputs=outputs, device="meta")
    assert sum(tensor.numel() for name, tensor in state.items() if name != "pos_embed") / 1e6 == pytest.approx(
        parameters, abs=1
    )
    tensors, sizes = dit(state, "x")
    assert (sizes["num_attention_heads"], sizes["sample_size"], sizes["num_embeds_ada_norm"]) == (heads, 32, 1000)
    with torch.device("meta"):
        network = DiTTransformer2DModel(**sizes)
    network.load_state_dict(tensors, assign=True)


# What is refused.


def failed(places, state, **changes):
    file = saved(state, places / "bad.safetensors")
    how = {"kind": "sit", "vae": str(places / "vae"), "vae_revision": None, "license": None, **changes}
    with pytest.raises(InputError) as caught:
        convert(how.pop("kind"), file, how.pop("vae"), places / "bad", **how)
    assert not (places / "bad").exists() and "\n" not in str(caught.value)
    return str(caught.value)


def test_other_weights(places):
    state = original(layers=1)
    key = "blocks.0.mlp.fc1.weight"
    assert "lack transformer_blocks.0.ff.net.0.proj.weight" in failed(places, {k: v for k, v in state.items() if k != key})
    assert "have odd.weight" in failed(places, {**state, "odd.weight": torch.zeros(2)})
    assert "of the shape (3, 5)" in failed(places, {**state, key: torch.zeros(3, 5)})
    assert "no numbers" in failed(places, {**state, key: torch.full_like(state[key], math.nan)})
    assert "no precision" in failed(places, {**state, key: state[key].int()})
    assert "they are 100 wide" in failed(places, {**state, "x_embedder.proj.weight": torch.zeros(100, 4, 2, 2)})
    assert "4 dimensions" in failed(places, {**state, "x_embedder.proj.weight": torch.zeros(384, 16)})
    assert "sines and cosines" in failed(places, {**state, "pos_embed": torch.zeros(1, 16, 384)})
    assert "sines and cosines" in failed(places, {**state, "pos_embed": torch.zeros(1, 17, 384)})
    for lacking in ("pos_embed", "y_embedder.embedding_table.weight"):
        assert f"there is no {lacking} in it" in failed(places, {k: v for k, v in state.items() if k != lacking})


def test_a_vae_of_other_latents(places):
    state = original(layers=1)
    state["x_embedder.proj.weight"] = torch.zeros(384, 16, 2, 2)
    state |= {"final_layer.linear.weight": torch.zeros(64, 384), "final_layer.linear.bias": torch.zeros(64)}
    said = failed(places, state)
    assert said.startswith("vae: ") and "it has 4 latent channels, the weights are for 16" in said


def test_what_is_no_safetensors_file(places, capfd):
    for name in ("a.pt", "a.pth", "a.ckpt", "a.bin"):
        torch.save({}, places / name)
        assert "a pickle, which is not opened" in refused(capfd, "recipes/convert.py", "sit", str(places / name))
    (places / "text.safetensors").write_text("hello")
    words = ["--vae", str(places / "vae"), "--output_dir", str(places / "text")]
    assert "safetensors file" in refused(capfd, "recipes/convert.py", "sit", str(places / "text.safetensors"), *words)
    assert "a .safetensors file on this machine" in refused(capfd, "recipes/convert.py", "sit", "nowhere.safetensors")


def test_a_folder_that_is_not_empty(places, capfd):
    file = saved({"a": torch.zeros(1)}, places / "some.safetensors")
    (places / "full").mkdir()
    (places / "full" / "x").touch()
    words = ["--vae", str(places / "vae"), "--output_dir", str(places / "full")]
    assert "it exists" in refused(capfd, "recipes/convert.py", "dit", str(file), *words)
    assert [path.name for path in (places / "full").iterdir()] == ["x"]
