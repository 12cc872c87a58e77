import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from timm.models._hub import save_for_hf
from torch import nn
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from distill_hub.artifact.describe import weights_sha256
from distill_hub.classifiers import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Classifier,
    load_classifier,
    save_network,
)
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.networks.build import ConvNet, build

OWN = ["ant", "bee", "cow"]  # the order of the network
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def classes(*names):
    return [SourceClass(name, index) for index, name in enumerate(names)]


def images(count, size, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def standardised(x, mean, std):
    return torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)


def scrambled(model, seed=0):
    """Random weights and running statistics, so that nothing is 0 or 1 by default."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
            elif tensor.is_floating_point():
                around = 1.0 if name.endswith(("weight", "running_var")) else 0.0
                tensor.copy_(around + 0.4 * torch.rand(tensor.shape, generator=generator) - 0.2)
    return model.eval()


# A saved ConvNet


@pytest.fixture
def convnet(tmp_path):
    model = scrambled(ConvNet(3, 2, 16))
    save_network(model, tmp_path, "convnet-2", OWN, 16)
    return model, tmp_path


@pytest.mark.parametrize(
    "name", ["convnet-2-bn", "resnetap-10", "resnet-18-bn", "shufflenet-v2", "timm/test_resnet", "timm/test_vit"]
)
@torch.no_grad()
def test_any_network_that_is_saved_loads_with_the_same_logits(tmp_path, name):
    model = scrambled(build(name, 3, 32))
    save_network(model, tmp_path, name, OWN, 32, mean=MEAN, std=STD, record={"epochs": 7})
    loaded = load_classifier(str(tmp_path), classes("cow", "ant"))
    x = images(2, 32)
    expected = model(standardised(x, MEAN, STD))
    assert (expected[0] != expected[1]).all()
    torch.testing.assert_close(loaded.logits(x), expected[:, [2, 0]], rtol=1e-4, atol=1e-5)
    assert (loaded.architecture, loaded.image_size) == (name.removeprefix("timm/"), 32)
    assert weights_sha256(loaded.model) == weights_sha256(model)
    assert json.loads((tmp_path / "config.json").read_text())["distill_hub"] == {"epochs": 7}


def convnet_logits(model, x):
    return model(standardised(x, IMAGENET_MEAN, IMAGENET_STD))


def test_a_saved_convnet_loads_with_the_same_logits(convnet):
    model, folder = convnet
    loaded = load_classifier(str(folder), classes(*OWN))
    x = images(4, 16)
    torch.testing.assert_close(loaded.logits(x), convnet_logits(model, x), rtol=1e-6, atol=1e-6)
    assert (loaded.id, loaded.architecture, loaded.image_size) == (str(folder), "convnet-2", 16)
    assert weights_sha256(loaded.model) == weights_sha256(model)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())


def test_logits_come_in_the_order_of_the_source(convnet):
    model, folder = convnet
    x = images(4, 16)
    loaded = load_classifier(str(folder), classes("cow", "ant", "bee"))
    torch.testing.assert_close(loaded.logits(x), convnet_logits(model, x)[:, [2, 0, 1]], rtol=1e-6, atol=1e-6)
    assert loaded.columns == [2, 0, 1]


def test_a_subset_of_classes_gets_its_own_logits_only(convnet):
    model, folder = convnet
    x = images(4, 16)
    loaded = load_classifier(str(folder), classes("cow", "bee"))
    torch.testing.assert_close(loaded.logits(x), convnet_logits(model, x)[:, [2, 1]], rtol=1e-6, atol=1e-6)


def test_a_class_the_network_does_not_know_is_named(convnet):
    with pytest.raises(InputError) as caught:
        load_classifier(str(convnet[1]), classes("ant", "dog"))
    assert caught.value.field == "teacher" and str(caught.value).endswith("for: dog")


def test_the_embedding_is_what_the_last_layer_sees(convnet):
    model, folder = convnet
    x = images(4, 16)
    logits, embedding = load_classifier(str(folder), classes("cow", "ant", "bee"))(x)
    assert embedding.shape == (4, 128 * 4 * 4)
    expected = model.features(standardised(x, IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(embedding, expected, rtol=1e-6, atol=1e-6)
    head = embedding @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(head[:, [2, 0, 1]], logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load_classifier(str(folder), classes(*OWN)).embed(x), expected, rtol=1e-6, atol=1e-6)


def test_gradients_reach_the_images_and_not_the_weights(convnet):
    loaded = load_classifier(str(convnet[1]), classes(*OWN))
    x = images(2, 16).requires_grad_()
    loaded.logits(x).sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in loaded.model.parameters())


def test_other_sizes_are_scaled_as_pil_scales(convnet):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    small = np.asarray(PILImage.fromarray(pixels).resize((16, 16), PILImage.Resampling.BILINEAR))
    large, small = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in (pixels, small))
    # What the network is given; PIL rounds to whole grey values.
    seen = []
    loaded = load_classifier(str(convnet[1]), classes(*OWN))
    loaded.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loaded.logits(large)
    expected = standardised(small, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1.5 / 255 / min(IMAGENET_STD))


# Folders of timm and transformers


def timm_folder(folder, *, safe=True):
    model = scrambled(timm.create_model("test_resnet", num_classes=3))
    model.pretrained_cfg.update(mean=MEAN, std=STD, input_size=(3, 32, 32), license="mit")
    save_for_hf(model, folder, model_config={"label_names": OWN}, safe_serialization=safe)
    return model


def resnet_folder(folder):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(OWN))
    )
    model = scrambled(ResNetForImageClassification(config))
    model.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return model


def vit_folder(folder):
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(OWN)),
    )
    model = scrambled(ViTForImageClassification(config))
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return model


def convnet_folder(folder):
    save_network(scrambled(ConvNet(3, 2, 16)), folder, "convnet-2", OWN, 16)


def timm_forward(model, x):
    return model(x), model.forward_head(model.forward_features(x), pre_logits=True)


def resnet_forward(model, x):
    return model(pixel_values=x).logits, model.resnet(pixel_values=x).pooler_output.flatten(1)


def vit_forward(model, x):
    return model(pixel_values=x).logits, model.vit(pixel_values=x).last_hidden_state[:, 0]


@pytest.mark.parametrize(
    ("write", "forward", "architecture"),
    [
        (timm_folder, timm_forward, "test_resnet"),
        (resnet_folder, resnet_forward, "resnet"),
        (vit_folder, vit_forward, "vit"),
    ],
)
@torch.no_grad()
def test_a_folder_of_another_library_gives_what_that_library_gives(tmp_path, write, forward, architecture):
    model = write(tmp_path)
    x = images(3, 32)
    logits, embedding = forward(model, standardised(x, MEAN, STD))
    assert logits.std() > 0 and (logits[0] != logits[1]).all()
    loaded = load_classifier(str(tmp_path), classes("cow", "ant"))
    torch.testing.assert_close(loaded.logits(x), logits[:, [2, 0]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.embed(x), embedding, rtol=1e-5, atol=1e-5)
    assert (loaded.architecture, loaded.image_size) == (architecture, 32)
    assert weights_sha256(loaded.model) == weights_sha256(model)


def test_the_licence_of_a_timm_folder_is_kept(tmp_path):
    timm_folder(tmp_path)
    assert load_classifier(str(tmp_path), classes(*OWN)).license == "mit"


# Folders that cannot be used


def refused(name):
    with pytest.raises(InputError) as caught:
        load_classifier(str(name), classes(*OWN))
    assert caught.value.field == "teacher" and repr(str(name)) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("write", [convnet_folder, timm_folder, resnet_folder])
def test_truncated_weights_are_refused(tmp_path, write):
    write(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    refused(tmp_path)


@pytest.mark.parametrize("write", [convnet_folder, timm_folder, resnet_folder])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_missing_file_is_refused(tmp_path, write, file):
    write(tmp_path)
    (tmp_path / file).unlink()
    refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"architecture": "convnet-2"}', '{"architecture": 3}'])
def test_a_broken_config_is_refused(tmp_path, text):
    convnet_folder(tmp_path)
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    convnet_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_classes": 4, "label_names": [*OWN, "dog"]}))
    refused(tmp_path)


def test_pickled_weights_are_never_opened(tmp_path):
    timm_folder(tmp_path, safe=False)
    assert (tmp_path / "pytorch_model.bin").exists()
    refused(tmp_path)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    refused(tmp_path / "none")


def test_a_network_without_a_linear_head_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="3 outputs"):
        Classifier(model, id="m", architecture="m", classes=classes(*OWN), class_names=OWN, image_size=4)


def test_the_embedding_is_taken_before_the_last_of_several_layers_that_fit():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    loaded = Classifier(model, id="m", architecture="m", classes=classes(*OWN), class_names=OWN, image_size=4)
    x = images(2, 4)
    hidden = model[:4](standardised(x, IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(loaded.embed(x), hidden, rtol=1e-6, atol=1e-6)


# Accuracy


def brightest_channel():
    """Says 'ant' for the reddest, 'bee' for the greenest, 'cow' for the bluest image."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        model[2].weight.copy_(torch.eye(3))
        model[2].bias.zero_()
    return model


@pytest.mark.parametrize("batch_size", [1, 3, 8, 256])
def test_predictions_are_places_in_the_source(batch_size):
    teacher = Classifier(
        brightest_channel(), id="m", architecture="m", classes=classes("cow", "ant", "bee"), class_names=OWN, image_size=4,
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    channel = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2])
    pixels = torch.full((8, 3, 4, 4), 100, dtype=torch.uint8)
    pixels[torch.arange(8), channel] = 101
    right = torch.tensor([1, 2, 0])[channel]  # the place of each channel's class in the source
    assert torch.equal(teacher.predict(pixels, batch_size), right)


def test_predict_sees_images_between_0_and_1():
    seen = []
    teacher = Classifier(
        brightest_channel(), id="m", architecture="m", classes=classes(*OWN), class_names=OWN, image_size=4,
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    teacher.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    teacher.predict(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([0.0, 0.2, 1.0]))


# Hashes of weights


def small():
    return scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)))


def test_weights_sha256_is_over_sorted_names_and_bytes():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.copy_(torch.tensor([3.0]))
    data = b"bias" + np.float32([3]).tobytes() + b"weight" + np.float32([1, 2]).tobytes()
    assert weights_sha256(model) == hashlib.sha256(data).hexdigest()
    twice = data + data
    assert weights_sha256(model, model) == hashlib.sha256(twice).hexdigest()


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean", "2.bias"])
def test_one_weight_changes_the_hash(name):
    model = small()
    before = weights_sha256(model)
    tensor = model.state_dict()[name].view(-1)
    tensor[-1] = torch.nextafter(tensor[-1], torch.tensor(10.0))
    assert weights_sha256(model) != before


def test_file_and_memory_layout_do_not_change_the_hash(tmp_path):
    model = small()
    before = weights_sha256(model)
    save_file(dict(reversed(model.state_dict().items())), tmp_path / "a.safetensors", metadata={"format": "pt"})
    loaded = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    loaded.load_state_dict(load_file(tmp_path / "a.safetensors"))
    assert weights_sha256(loaded) == before
    assert weights_sha256(loaded.to(memory_format=torch.channels_last).requires_grad_(False)) == before


def test_half_precision_weights_can_be_hashed():
    assert len({weights_sha256(small().to(kind)) for kind in (torch.float32, torch.float16, torch.bfloat16)}) == 3
