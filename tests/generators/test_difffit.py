"""DiffFit: exactly which parameters train, counted by hand; and a saved folder that plain diffusers reads unchanged."""

import json
import shutil

import pytest
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from helpers import make_pipeline
from safetensors.torch import load_file
from torch import nn

from distill_hub.generators.difffit import ScaledLinear, prepare, save
from distill_hub.running.seeds import cpu_generator

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def expected_names(layers, *, shared):
    """The rule spelled out; `shared`: one timestep and class embedding for all blocks."""
    names = {"pos_embed.proj.bias", "proj_out_1.bias", "proj_out_2.bias"}
    for block in range(layers):
        inside = ["norm1.linear.bias", "ff.net.0.proj.bias", "ff.net.2.bias", "attn1.to_out.0.bias"]
        inside += ["attn1.to_q.bias", "attn1.to_k.bias", "attn1.to_v.bias"]
        if block < layers // 2:
            inside += ["attn1.to_out.0.gamma", "ff.net.2.gamma"]
        if block == 0 or not shared:
            inside += [f"norm1.emb.timestep_embedder.linear_{i}.bias" for i in (1, 2)]
            inside += ["norm1.emb.class_embedder.embedding_table.weight"]
        names |= {f"transformer_blocks.{block}.{name}" for name in inside}
    return names


def count(parameters, ending):
    return sum(parameter.numel() for name, parameter in parameters.items() if name.endswith(ending))


def assert_nothing_else_trains(transformer, chosen):
    training = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    assert training == chosen.keys()
    parameters = dict(transformer.named_parameters())
    assert all(parameters[name] is parameter for name, parameter in chosen.items())


def test_dit_xl_trains_these_1675040_numbers():
    with torch.device("meta"):
        transformer = DiTTransformer2DModel(
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            dropout=0.0,
            norm_num_groups=32,
            attention_bias=True,
            sample_size=32,
            patch_size=2,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            upcast_attention=False,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
        )
    chosen = prepare(transformer)
    assert chosen.keys() == expected_names(28, shared=True)
    # D = 1152. A block's biases: modulation 6 D; query, key, value and output 4 D; MLP 4 D + D. 28 * 15 D = 483,840.
    # Patches D, timestep embedding 2 D, last modulation 2 D, output 2 * 2 * 8 = 32: together 5,792.
    assert count(chosen, "bias") == 483_840 + 5_792 == 489_632
    assert count(chosen, "gamma") == 14 * 2 * 1152 == 32_256
    assert count(chosen, "embedding_table.weight") == 1001 * 1152 == 1_153_152
    assert sum(parameter.numel() for parameter in chosen.values()) == 1_675_040
    # By "norm" in their names, 28 * 6 D * D weights of the modulation would train, and the timestep embedding's.
    assert [name for name in chosen if name.endswith("weight")] == [
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    ]
    assert_nothing_else_trains(transformer, chosen)


def test_embeddings_that_differ_train_apart():
    transformer = make_pipeline().transformer
    chosen = prepare(transformer)
    assert chosen.keys() == expected_names(2, shared=False)
    # D = 32. Two blocks of 15 D biases and 2 D of the timestep embedding; patches D, last modulation 2 D, output 2 * 2 * 4.
    assert count(chosen, "bias") == 2 * 17 * 32 + 3 * 32 + 16 == 1200
    assert count(chosen, "gamma") == 2 * 32
    assert count(chosen, "embedding_table.weight") == 2 * (3 + 1) * 32
    assert_nothing_else_trains(transformer, chosen)


def test_one_number_of_difference_keeps_embeddings_apart():
    transformer = equal_embeddings(make_pipeline().transformer)
    transformer.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.weight.data[3, 5] += 1
    assert prepare(transformer).keys() == expected_names(2, shared=False)


def equal_embeddings(transformer):
    first, second = (block.norm1.emb for block in transformer.transformer_blocks)
    second.load_state_dict(first.state_dict())
    return transformer


def forward(transformer):
    draw = cpu_generator(0)
    noisy = torch.randn(4, 4, 8, 8, generator=draw).to(transformer.dtype)
    return transformer(noisy, timestep=torch.tensor([0, 10, 500, 999]), class_labels=torch.tensor([0, 1, 2, 3])).sample


def test_a_prepared_model_is_the_same_model():
    for transformer in (make_pipeline().transformer, equal_embeddings(make_pipeline().transformer)):
        before = forward(transformer)
        prepare(transformer)
        assert torch.equal(forward(transformer), before)


def test_all_that_is_chosen_gets_a_gradient():
    for transformer, shared in ((make_pipeline().transformer, False), (equal_embeddings(make_pipeline().transformer), True)):
        chosen = prepare(transformer)
        assert chosen.keys() == expected_names(2, shared=shared)
        forward(transformer).square().sum().backward()
        for name, parameter in transformer.named_parameters():
            assert (parameter.grad is not None) == (name in chosen), name
        # A key's bias adds the same to all of a query's scores, which softmax does not see.
        assert all(p.grad.abs().sum() > 0 for name, p in chosen.items() if not name.endswith("to_k.bias"))


class TestScaledLinear:
    def test_it_starts_as_the_layer_and_shares_its_parameters(self):
        linear = nn.Linear(16, 8)
        scaled, inputs = ScaledLinear(linear), torch.randn(5, 3, 16, generator=cpu_generator(0))
        assert scaled.weight is linear.weight and scaled.bias is linear.bias
        assert torch.equal(scaled.gamma, torch.ones(8))
        assert torch.equal(scaled(inputs), linear(inputs))

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
    def test_the_scale_its_gradient_and_the_folded_layer(self, dtype, tolerance):
        draw = cpu_generator(1)
        linear = nn.Linear(16, 8, dtype=dtype)
        scaled = ScaledLinear(linear)
        inputs, outer = torch.randn(5, 16, generator=draw, dtype=dtype), torch.randn(5, 8, generator=draw, dtype=dtype)
        scaled.gamma.data = torch.randn(8, generator=draw, dtype=dtype)
        plain = inputs @ linear.weight.detach().T + linear.bias.detach()
        output = scaled(inputs)
        torch.testing.assert_close(output, plain * scaled.gamma, rtol=0, atol=tolerance)
        torch.testing.assert_close(scaled.folded()(inputs), output, rtol=0, atol=tolerance)
        assert type(scaled.folded()) is nn.Linear
        (gradient,) = torch.autograd.grad((output * outer).sum(), scaled.gamma)
        torch.testing.assert_close(gradient, (plain * outer).sum(0), rtol=0, atol=10 * tolerance)

    def test_under_autocast_the_output_stays_in_half_precision(self):
        scaled = ScaledLinear(nn.Linear(16, 8))
        with torch.autocast("cpu", torch.bfloat16):
            output = scaled(torch.randn(5, 16, generator=cpu_generator(2)))
        assert output.dtype == torch.bfloat16
        output.float().sum().backward()
        assert scaled.gamma.grad.dtype == torch.float32 and scaled.gamma.grad.abs().sum() > 0


class Saved:
    """A fine-tuning in random numbers, saved: what it was before, and the folder."""

    def __init__(self, base, folder):
        # Loaded from a folder, as a run loads it: the model then knows the author's path.
        transformer = DiTPipeline.from_pretrained(base).transformer.eval()
        assert str(base) in transformer.config._name_or_path
        self.base, self.folder = base, folder
        self.chosen = prepare(transformer)
        draw = cpu_generator(5)
        with torch.no_grad():
            for parameter in self.chosen.values():
                parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
            self.output = forward(transformer)
        self.tuned = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
        (folder / "transformer").mkdir(parents=True)
        (folder / "transformer" / "left_over.safetensors").touch()
        save(transformer, base, folder)
        self.transformer = transformer


@pytest.fixture(scope="module")
def apart(pipeline_folder, tmp_path_factory):
    return Saved(pipeline_folder, tmp_path_factory.mktemp("apart") / "generator")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    pipeline = make_pipeline()
    equal_embeddings(pipeline.transformer)
    pipeline.save_pretrained(base)
    return Saved(base, tmp_path_factory.mktemp("shared") / "generator")


@pytest.fixture(params=["apart", "shared"])
def saved(request):
    return request.getfixturevalue(request.param)


def test_plain_diffusers_loads_the_folded_weights(saved):
    loaded = DiTPipeline.from_pretrained(saved.folder).transformer
    assert type(loaded.transformer_blocks[0].ff.net[2]) is nn.Linear
    weights, base = loaded.state_dict(), load_file(saved.base / WEIGHTS)
    assert weights.keys() == base.keys()
    frozen = 0
    for name, tensor in weights.items():
        module, kind = name.rsplit(".", 1)
        expected = saved.tuned[name]
        if (gamma := saved.tuned.get(f"{module}.gamma")) is not None:
            expected = gamma[:, None] * expected if kind == "weight" else gamma * expected
            assert not torch.equal(tensor, base[name])
        elif kind == "weight" and not name.endswith("embedding_table.weight"):
            frozen += 1
            assert torch.equal(tensor, base[name]), name
        assert torch.equal(tensor, expected), name
    # Patches and the two output layers; two blocks of modulation, 4 attention, 2 MLP and 2 timestep embedding layers, of
    # which the first has two folded.
    assert frozen == 3 + 2 * 9 - 2


def test_it_computes_the_same_as_before_folding(saved):
    with torch.no_grad():
        loaded = forward(DiTPipeline.from_pretrained(saved.folder).transformer.eval())
        base = forward(DiTPipeline.from_pretrained(saved.base).transformer.eval())
        left = forward(saved.transformer)
    torch.testing.assert_close(loaded, saved.output, rtol=0, atol=1e-5)
    assert torch.equal(left, loaded)
    assert (loaded - base).abs().max() > 0.1


def test_equal_embeddings_are_trained_as_one_and_saved_once_per_block(shared):
    assert shared.chosen.keys() == expected_names(2, shared=True)
    weights, base = (load_file(folder / WEIGHTS) for folder in (shared.folder, shared.base))
    names = [name for name in weights if name.startswith("transformer_blocks.0.norm1.emb.")]
    assert len(names) == 5  # weights and biases of two layers, and the table
    for name in names:
        assert torch.equal(weights[name], weights[name.replace("blocks.0", "blocks.1")])
        trained = name.endswith(("bias", "embedding_table.weight"))
        assert torch.equal(weights[name], base[name]) != trained


def test_different_embeddings_stay_different(apart):
    weights = load_file(apart.folder / WEIGHTS)
    name = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    assert not torch.equal(weights[name], weights[name.replace("blocks.0", "blocks.1")])


def test_all_else_is_the_base_byte_for_byte(saved):
    files, originals = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (saved.folder, saved.base)
    )
    assert files.keys() == originals.keys()
    differing = {str(file) for file in files if files[file] != originals[file]}
    assert differing <= {"transformer/config.json", WEIGHTS}


def test_names_of_classes_stay(apart):
    assert json.loads((apart.folder / "model_index.json").read_text())["id2label"] == {"0": "zero", "2": "two", "1": "one"}


def test_no_path_of_the_authors_machine_is_written(saved):
    texts = [file.read_text() for file in saved.folder.rglob("*.json")]
    assert len(texts) == 4  # the index, and one config each of transformer, VAE and scheduler
    assert not any("/" in text or str(saved.base.name) in text for text in texts)
    own, base = (json.loads((folder / "transformer" / "config.json").read_text()) for folder in (saved.folder, saved.base))
    assert own == {**base, "_name_or_path": ""}


def test_nor_one_that_the_base_holds(saved, tmp_path):
    """As diffusers writes it when a pipeline is loaded from a folder and saved again."""
    base = shutil.copytree(saved.base, tmp_path / "base")
    pipeline = DiTPipeline.from_pretrained(base, use_safetensors=True)
    pipeline.save_pretrained(tmp_path / "again")
    assert str(base) in (tmp_path / "again" / "vae" / "config.json").read_text()
    save(pipeline.transformer, tmp_path / "again", tmp_path / "tuned")
    assert not any(str(tmp_path) in file.read_text() for file in (tmp_path / "tuned").rglob("*.json"))
