"""Training goes on from published weights: which are kept, what is drawn anew, what the record says."""

import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from distill_hub.artifact.describe import hash_of_weights
from distill_hub.classifiers import load_classifier, save_network
from distill_hub.config import InputError, check_settings, parse
from distill_hub.networks.build import build
from distill_hub.options.fit_classifier import FitClassifierConfig
from distill_hub.publishing.trained import read_classifier
from distill_hub.teachers.fit import fit_classifier
from distill_hub.teachers.pretrained import open_pretrained

NAMES = ["ant", "bee", "cat"]


def timm_folder(folder, name, **more):
    """A network as timm's own `save_for_hf`, and so its `push_to_hub`, leaves it; not normalised as by default."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **more)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    config = {"label_names": NAMES, "pretrained_cfg": {"license": "apache-2.0"}}
    timm.models.save_for_hf(
        model, folder, safe_serialization=True, model_config=config, data_config={"mean": (0.1, 0.2, 0.3)}
    )
    return model.eval()


@pytest.fixture
def few(digits):
    """Sixteen digits to train on."""
    return dataclasses.replace(digits, train=digits.train.select(np.arange(16), "train"))


def still(folder, source, pretrained, **more):
    """Train with a rate that moves no weight; return the tensors of the folder and its record."""
    how = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-30, "weight_decay": 0, **more}
    fit_classifier(source, FitClassifierConfig(pretrained=str(pretrained), **how, output_dir=folder))
    return load_file(folder / "model.safetensors"), read_classifier(folder)


def test_a_network_of_ours_keeps_all_but_its_head(tmp_path, few):
    torch.manual_seed(0)
    save_network(build("convnet-2-w8", 3, 32), tmp_path / "base", "convnet-2-w8", NAMES, 32, mean=[0.1] * 3, std=[0.2] * 3)
    before = load_file(tmp_path / "base" / "model.safetensors")
    after, record = still(tmp_path / "own", few, tmp_path / "base", image_size=16)
    assert before.keys() == after.keys() and after["classifier.weight"].shape == (10, 8 * 4 * 4)
    for name in before.keys() - {"classifier.weight", "classifier.bias"}:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-20)
    assert (record.network, record.image_size, record.settings["learning_rate"]) == ("convnet-2-w8", 16, 1e-30)
    assert (record.pretrained.id, record.pretrained.revision) == ("base", None)
    assert record.pretrained.sha256 == hash_of_weights(before)
    again, _ = still(tmp_path / "again", few, tmp_path / "base", image_size=16)
    assert all(torch.equal(again[name], tensor) for name, tensor in after.items())  # the head, too, is of the seed
    loaded = load_classifier(str(tmp_path / "own"), few.classes)
    assert (loaded.mean, loaded.std, loaded.image_size) == ([0.1] * 3, [0.2] * 3, 16)
    assert open_pretrained(str(tmp_path / "base")).image_size == 32
    config = FitClassifierConfig(
        pretrained=str(tmp_path / "base"), epochs=1, batch_size=16, image_size=16, output_dir=tmp_path / "default"
    )
    fit_classifier(few, config)
    assert read_classifier(tmp_path / "default").settings["learning_rate"] == 0.01


def test_a_network_of_timms_layout_goes_on_as_timm_builds_it(tmp_path, few):
    base = timm_folder(tmp_path / "base", "test_vit")
    after, record = still(tmp_path / "own", few, tmp_path / "base", image_size=32)
    reference = timm.create_model(
        f"local-dir:{tmp_path / 'base'}", pretrained=True, num_classes=10, img_size=32
    ).state_dict()
    assert after.keys() == reference.keys() and not torch.equal(
        after["pos_embed"][0, :5], base.state_dict()["pos_embed"][0, :5]
    )
    for name in after.keys() - {"head.weight", "head.bias"}:
        torch.testing.assert_close(after[name], reference[name], rtol=0, atol=1e-6)
    assert (record.network, record.pretrained.license) == ("timm/test_vit", "apache-2.0")
    loaded = load_classifier(str(tmp_path / "own"), few.classes)
    assert (loaded.license, loaded.mean, loaded.image_size) == ("apache-2.0", [0.1, 0.2, 0.3], 32)


def test_what_cannot_be_gone_on_from_is_refused_by_name(tmp_path):
    def refused(name):
        with pytest.raises(InputError) as caught:
            open_pretrained(str(tmp_path / name)).with_new_head(10, 160)
        assert caught.value.field == "pretrained"
        return str(caught.value)

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
    config = ViTConfig(**shape, image_size=32, id2label=dict(enumerate(NAMES)))
    ViTForImageClassification(config).save_pretrained(tmp_path / "transformers")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "transformers")
    assert "a network of timm's or ours is needed; this is a vit of transformers" in refused("transformers")
    timm_folder(tmp_path / "other", "test_resnet", act_layer="silu")
    assert "model_args in its config.json make another network of it" in refused("other")
    timm_folder(tmp_path / "grey", "test_resnet")
    content = json.loads((tmp_path / "grey" / "config.json").read_text())
    content["pretrained_cfg"]["label_names"], content["label_names"] = None, ["\x1b[31m", "b", "c"]
    (tmp_path / "grey" / "config.json").write_text(json.dumps(content))
    assert "a name must be printable" in refused("grey")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pretrained", "nowhere/"], "pretrained: 'nowhere/' .* .there is no such folder."),
        (["--pretrained", "timm/x", "--network", "convnet-2"], "network: 'convnet-2' .* --pretrained has a network already"),
        (["--pretrained_revision", "main"], "pretrained_revision: 'main' .* no --pretrained is named"),
    ],
)
def test_words_that_do_not_go_together(words, said):
    with pytest.raises(InputError, match=said):
        check_settings(parse(FitClassifierConfig, words))


def test_a_network_from_scratch_says_nothing_of_weights_that_it_came_from(tmp_path, few):
    fit_classifier(few, FitClassifierConfig(network="convnet-1-w4", epochs=1, batch_size=16, output_dir=tmp_path / "c"))
    record = json.loads((tmp_path / "c" / "config.json").read_text())["distill_hub"]
    assert (
        record.keys().isdisjoint({"pretrained", "trained_on", "test_resize"}) and record["settings"]["learning_rate"] == 0.1
    )
