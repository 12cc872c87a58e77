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
from distill_hub.running.run import Run
from distill_hub.running.seeds import draw_seed
from distill_hub.teachers.fit import Fit, classifier_task, fit_classifier
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
    data = {} if more.get("in_chans") else {"mean": (0.1, 0.2, 0.3)}
    timm.models.save_for_hf(model, folder, safe_serialization=True, model_config=config, data_config=data)
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
    start = open_pretrained(str(tmp_path / "base"))
    torch.manual_seed(draw_seed(0, "classifier weights"))
    head = start.with_new_head(10, 16).classifier
    torch.testing.assert_close(after["classifier.weight"], head.weight, rtol=0, atol=1e-20)
    loaded = load_classifier(str(tmp_path / "own"), few.classes)
    assert (loaded.mean, loaded.std, loaded.image_size) == ([0.1] * 3, [0.2] * 3, 16)
    config = FitClassifierConfig(pretrained=start.name, batch_size=16, image_size=16)
    fit = Fit(Run(tmp_path / "default", {}), few, classifier_task(config, few, start), config, start)
    assert (start.image_size, fit.learning_rate) == (32, 0.01)


def test_the_names_of_its_classes_are_not_asked_for(tmp_path, few):
    """Which timm's `push_to_hub` leaves out unless it is told them."""
    torch.manual_seed(0)
    base = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(base, tmp_path / "base", safe_serialization=True)
    after, record = still(tmp_path / "own", few, tmp_path / "base", image_size=32)
    assert after["fc.weight"].shape == (10, 96) and record.network == "timm/test_resnet"
    torch.testing.assert_close(after["conv1.0.weight"], base.state_dict()["conv1.0.weight"], rtol=0, atol=1e-20)
    with pytest.raises(InputError, match=r"^teacher: .* its class names are not known"):
        load_classifier(str(tmp_path / "base"), few.classes)


def test_a_network_without_a_head_gets_one(tmp_path, monkeypatch):
    """As timm has those that were trained without labels."""
    base = timm.create_model("test_vit", num_classes=0, pretrained_cfg_overlay={"num_classes": 0}).eval()
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: True)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: timm.models.PretrainedCfg())
    monkeypatch.setattr(timm, "create_model", lambda *args, real=timm.create_model, **more: (
        base if more.pop("pretrained", False) else real(*args, **more)))  # fmt: skip
    start = open_pretrained("timm/test_vit")
    own = start.with_new_head(10, start.image_size).eval()
    image = torch.rand(2, 3, start.image_size, start.image_size)
    torch.testing.assert_close(own.forward_head(own.forward_features(image), pre_logits=True), base(image))
    assert own(image).shape == (2, 10)


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
    timm_folder(tmp_path / "grey", "test_resnet", in_chans=1)
    file = tmp_path / "grey" / "config.json"
    content = json.loads(file.read_text())
    content["pretrained_cfg"] |= {"mean": [0.5], "std": [0.5]}
    file.write_text(json.dumps(content))
    assert "this one sees grey alone" in refused("grey")
    file.write_text(json.dumps({**content, "label_names": ["\x1b[31m", "b", "c"]}))
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
