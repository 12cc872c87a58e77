"""Folders of teachers that a stranger wrote: read as they say, compared with transformers itself, or refused in one line."""

import io
import json
import logging
import sys

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessor,
)
from transformers.models.levit import LevitImageProcessor

from distill_hub.classifiers import load_classifier, save_network
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.networks.build import ConvNet

CLASSES = [SourceClass("ant", 0), SourceClass("bee", 1)]
NAMES = ["ant", "bee"]


def edit(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def refused(folder):
    with pytest.raises(InputError) as caught:
        load_classifier(str(folder), CLASSES)
    said = str(caught.value)
    assert caught.value.field == "teacher" and said.isprintable() and len(said) < 600
    return said


@pytest.fixture
def own(tmp_path):
    torch.manual_seed(0)
    save_network(ConvNet(2, 2, 16, 16), tmp_path, "convnet-2-w16", NAMES, 16)
    return tmp_path


def timm_folder(folder, **arguments):
    """One of timm's smallest, of 32 px."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, **arguments)
    save_network(model, folder, "timm/test_resnet", NAMES, 32)
    return model.eval()


def in_data(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", pretrained_cfg={**config["pretrained_cfg"], **changes})


def test_names_may_be_written_as_id2label(own):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = load_classifier(str(own), CLASSES).logits(x)
    edit(own / "config.json", label_names={"1": "bee", "0": "ant"})
    assert torch.equal(load_classifier(str(own), CLASSES).logits(x), before)
    for names in (
        {"0": "ant", "2": "bee"},
        {"0": "ant"},
        ["ant"],
        ["ant", 3],
        ["ant", None],
        "ant",
        None,
        [],
        ["ant", "\u202ebee"],
        ["x" * 9999, "bee"],
    ):
        edit(own / "config.json", label_names=names)
        assert "config.json" in refused(own)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"input_size": size}
            for size in (None, "x", [], 3, ["3", "16", "16"], [3, 16], [3, 0, 0], [3, -5, -5], [2, 16, 16])
        ),
        *({"input_size": size} for size in ([3, 16, 8], [3, 16.5, 16.5], [3, 10**9, 10**9], [True, 16, 16])),
        *({"mean": mean} for mean in (None, [0.5, 0.5], "x", ["x"] * 3, [float("nan")] * 3, [0.5] * 4, {})),
        *({"std": std} for std in (None, [0, 0, 0], [-1, 1, 1], [float("inf")] * 3, [])),
    ],
)
def test_what_a_network_of_ours_is_given_must_be_said_rightly(own, changes):
    in_data(own, **changes)
    assert "config.json, pretrained_cfg" in refused(own)


@pytest.mark.parametrize("changes", [{"num_classes": n} for n in (None, [2], "2", 0, -1, 3, 10**9, 2.0, True)])
def test_as_many_classes_as_names(own, changes):
    edit(own / "config.json", **changes)
    assert "config.json" in refused(own)


@pytest.mark.parametrize(
    "argument", ["cache_dir", "pretrained", "pretrained_cfg", "checkpoint_path", "scriptable", "device"]
)
def test_what_timm_itself_takes_is_no_argument_of_a_network(tmp_path, argument):
    timm_folder(tmp_path)
    edit(tmp_path / "config.json", model_args={argument: "owned"})
    assert f"model_args.{argument}" in refused(tmp_path)
    assert not list(tmp_path.glob("owned*"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"none_such": 1},
        {"layers": [9, 9]},
        {"drop_rate": "x"},
        {"output_stride": 7},
        {"in_chans": "x"},
        {"act_layer": {}},
        [],
    ],
)
def test_an_argument_that_a_network_does_not_take(tmp_path, arguments):
    timm_folder(tmp_path)
    edit(tmp_path / "config.json", model_args=arguments)
    refused(tmp_path)


def test_a_configuration_takes_no_more_memory_than_its_weights(tmp_path):
    timm_folder(tmp_path)
    edit(tmp_path / "config.json", architecture="vit_giant_patch14_224", pretrained_cfg={"input_size": [3, 224, 224]})
    assert "more than its weights have bytes" in refused(tmp_path)


def test_an_address_in_the_configuration_is_not_followed(tmp_path):
    model = timm_folder(tmp_path)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = load_classifier(str(tmp_path), CLASSES).logits(x)
    in_data(
        tmp_path, file="/none", url="http://localhost:1/x.pth", hf_hub_id="org/none", source="hf-hub", custom_load=True,
        state_dict={"x": 1},
    )  # fmt: skip
    assert torch.equal(load_classifier(str(tmp_path), CLASSES).logits(x), before)
    in_data(tmp_path, mean=[0.0] * 3, std=[1.0] * 3)
    torch.testing.assert_close(load_classifier(str(tmp_path), CLASSES).logits(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_network_of_one_channel_sees_grey_as_pillow_makes_it(tmp_path):
    model = timm_folder(tmp_path, in_chans=1)
    assert "mean" in refused(tmp_path) or "input_size" in refused(tmp_path)  # three numbers and channels are not its own
    in_data(tmp_path, input_size=[1, 32, 32], mean=[0.4], std=[0.2])
    teacher = load_classifier(str(tmp_path), CLASSES)
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    grey = torch.from_numpy(np.asarray(PIL.Image.fromarray(pixels).convert("L")) / np.float32(255))
    seen = []
    teacher.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = teacher.logits(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(seen[0][0, 0], (grey - 0.4) / 0.2, rtol=0, atol=0.51 / 255 / 0.2)  # whole greys
    torch.testing.assert_close(logits, model(seen[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["own", "timm", "transformers"])
@pytest.mark.parametrize("what", ["lacks", "extra", "shape", "nan"])
def test_weights_that_are_not_those_of_the_configuration(tmp_path, kind, what):
    if kind == "own":
        save_network(ConvNet(2, 2, 16, 16), tmp_path, "convnet-2-w16", NAMES, 16)
    elif kind == "timm":
        timm_folder(tmp_path)
    else:
        vit_folder(tmp_path, ViTImageProcessor(size={"height": 32, "width": 32}))
    file = tmp_path / "model.safetensors"
    content = load_file(file)
    key = next(key for key, tensor in content.items() if tensor.ndim == 4)
    if what == "lacks":
        del content[key]
    elif what == "nan":
        content[key].view(-1)[-1] = torch.nan
    else:
        key = "odd_one" if what == "extra" else key
        content[key] = torch.zeros(3, 5)
    save_file(content, file, metadata={"format": "pt"})
    assert key in refused(tmp_path)


def test_pickled_weights_alone_are_refused_with_what_to_do(own):
    torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
    (own / "model.safetensors").unlink()
    assert "pytorch_model.bin is a pickle, which is not opened: save it as safetensors" in refused(own)


# Teachers of transformers, whose own processor and model are the reference


def vit_folder(folder, processor, **more):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
    config = ViTConfig(**{**shape, "image_size": 32, "id2label": dict(enumerate(NAMES)), **more})
    return _saved(folder, config, processor)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_tensors_that_all_have_a_prefix_are_said_to_have_it(tmp_path, prefix):
    vit_folder(tmp_path, ViTImageProcessor(size={"height": 32, "width": 32}))
    file = tmp_path / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    said = refused(tmp_path)
    assert "its weights lack classifier.bias and" in said
    assert f"they have {prefix}classifier.bias and" in said


def test_names_of_tensors_reach_no_terminal_as_a_stranger_wrote_them(tmp_path):
    vit_folder(tmp_path, ViTImageProcessor(size={"height": 32, "width": 32}))
    file, printed = tmp_path / "model.safetensors", io.StringIO()
    save_file({**load_file(file), "\x1b[31modd": torch.zeros(2)}, file, metadata={"format": "pt"})
    handler = logging.StreamHandler(printed)
    logging.getLogger("transformers").addHandler(handler)
    try:
        assert "its weights have ?[31modd, which" in refused(tmp_path)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert printed.getvalue() == "" and logging.root.manager.disable == 0


def test_a_configuration_of_transformers_takes_no_more_memory_than_its_weights(tmp_path):
    vit_folder(tmp_path, ViTImageProcessor(size={"height": 32, "width": 32}))
    edit(tmp_path / "config.json", intermediate_size=10**9)
    assert "describes 33,000,004,610 values, more than its weights have bytes" in refused(tmp_path)


def resnet_folder(folder, processor, **more):
    torch.manual_seed(0)
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return _saved(folder, ResNetConfig(**shape, id2label=dict(enumerate(NAMES)), **more), processor)


def _saved(folder, config, processor):
    model = AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():  # images make a difference
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


SQUARE = {"size": {"height": 32, "width": 32}}
PROCESSORS = {
    "as usual": ViTImageProcessor(**SQUARE),
    "not normalised": ViTImageProcessor(**SQUARE, do_normalize=False),
    "not rescaled": ViTImageProcessor(**SQUARE, do_rescale=False, image_mean=[120.0] * 3, image_std=[60.0] * 3),
    "another factor": ViTImageProcessor(**SQUARE, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3),
    "one number": ViTImageProcessor(**SQUARE, image_mean=0.4, image_std=0.3),
    "an int": ViTImageProcessor(size=32),
    "shortest edge": ViTImageProcessor(size={"shortest_edge": 32}),
    "cropped": ViTImageProcessor(size={"shortest_edge": 40}, do_center_crop=True, crop_size={"height": 32, "width": 32}),
    "crop of an int": ViTImageProcessor(size={"height": 41, "width": 41}, do_center_crop=True, crop_size=32),
    "bicubic": ViTImageProcessor(**SQUARE, resample=3),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 32}),
    "convnext, share": ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.6),
    "efficientnet": EfficientNetImageProcessor(**SQUARE),
    "efficientnet, offset": EfficientNetImageProcessor(**SQUARE, rescale_offset=True, rescale_factor=1 / 127.5, resample=2),
    "efficientnet, top": EfficientNetImageProcessor(**SQUARE, include_top=False, do_normalize=False, resample=2),
}


@pytest.mark.parametrize("write", [vit_folder, resnet_folder])
@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_a_processor_is_honoured_flag_by_flag(tmp_path, write, name):
    processor = PROCESSORS[name]
    model = write(tmp_path, processor)
    teacher = load_classifier(str(tmp_path), CLASSES)
    assert teacher.image_size == 32
    for side in (32, 45, 20):
        # Softer than noise: bicubic steps beyond black and white are cut off at other moments.
        small = np.random.default_rng(side).integers(80, 180, (side // 2, side // 2, 3), dtype=np.uint8)
        image = PIL.Image.fromarray(small).resize((side, side), PIL.Image.Resampling.BILINEAR)
        theirs = model(processor(image, return_tensors="pt")["pixel_values"].float()).logits
        ours = teacher.logits(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max()))


@torch.no_grad()
def test_images_that_are_not_resized_have_the_size_of_the_network(tmp_path):
    processor = ViTImageProcessor(do_resize=False)
    model = vit_folder(tmp_path, processor)
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8))
    teacher = load_classifier(str(tmp_path), CLASSES)
    ours = teacher.logits(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)
    theirs = model(processor(image, return_tensors="pt")["pixel_values"]).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert teacher.logits(torch.rand(1, 3, 50, 50)).shape == (1, 2)  # others are scaled to it


@torch.no_grad()
def test_a_grey_network_of_transformers_sees_what_its_processor_makes_of_a_grey_image(tmp_path):
    processor = ViTImageProcessor(**SQUARE, image_mean=[0.4], image_std=[0.3])
    model = vit_folder(tmp_path, processor, num_channels=1)
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8))
    ours = load_classifier(str(tmp_path), CLASSES).logits(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)
    theirs = model(processor(image.convert("L"), return_tensors="pt")["pixel_values"]).logits
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("write", "processor", "said"),
    [
        (vit_folder, ViTImageProcessor(size={"height": 32, "width": 16}), "size or resample"),
        (vit_folder, ViTImageProcessor(**SQUARE, resample=1), "size or resample"),
        (vit_folder, ViTImageProcessor(**SQUARE, do_center_crop=True, crop_size=40), "crop_size"),
        (vit_folder, ViTImageProcessor(size={"height": 48, "width": 48}), "runs on 48 px images"),  # its network: 32
        (resnet_folder, ConvNextImageProcessor(do_resize=False), "do_resize false"),
        (vit_folder, ViTImageProcessor(**SQUARE, image_mean=[0.5, 0.5]), "image_mean"),
        (vit_folder, ViTImageProcessor(**SQUARE, image_std=[0.0] * 3), "image_std"),
        (vit_folder, LevitImageProcessor(size={"shortest_edge": 32}, crop_size=32, resample=2), "LevitImageProcessor"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(tmp_path, write, processor, said):
    write(tmp_path, processor)
    assert said in refused(tmp_path)


def test_a_teacher_without_a_processor_is_refused_with_its_file(tmp_path):
    vit_folder(tmp_path, ViTImageProcessor(size={"height": 32, "width": 32}))
    (tmp_path / "preprocessor_config.json").unlink()
    assert "there is no preprocessor_config.json in it" in refused(tmp_path)


def test_names_as_a_list_are_none_that_transformers_reads(tmp_path):
    vit_folder(tmp_path, ViTImageProcessor(size={"height": 32, "width": 32}))
    edit(tmp_path / "config.json", id2label=list(NAMES))
    assert "id2label" in refused(tmp_path) and '{"0": name, "1": name, ...}' in refused(tmp_path)


@pytest.mark.parametrize("model_type", ["vit", "mine"])
def test_code_in_a_repository_neither_runs_nor_asks(tmp_path, monkeypatch, model_type):
    """The files are those of `trust_remote_code`; a terminal that could be asked has nobody at it."""
    vit_folder(tmp_path, PROCESSORS["as usual"])
    mark = tmp_path / "owned"
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import ViTConfig as C, ViTForImageClassification as M\n"
    (tmp_path / "mine.py").write_text(code)
    edit(tmp_path / "config.json", model_type=model_type, auto_map={
        "AutoConfig": "mine.C", "AutoModelForImageClassification": "mine.M"})  # fmt: skip
    edit(tmp_path / "preprocessor_config.json", auto_map={"AutoImageProcessor": "mine.C"})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    monkeypatch.setattr(sys, "stdin", None)
    if model_type == "vit":
        load_classifier(str(tmp_path), CLASSES)
    else:
        refused(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("value", [{}, [], 3, "x", {"AutoImageProcessor": {}}, {"AutoImageProcessor": []}])
def test_a_processors_code_that_is_no_name(tmp_path, value):
    vit_folder(tmp_path, PROCESSORS["as usual"])
    edit(tmp_path / "preprocessor_config.json", auto_map=value)
    try:
        load_classifier(str(tmp_path), CLASSES)  # it is not asked for: without such code nothing is missing
    except InputError as error:
        assert error.field == "teacher"


@pytest.mark.parametrize("value", [None, {}, [], 3, "nothing"])
def test_a_type_that_transformers_does_not_know(tmp_path, value):
    vit_folder(tmp_path, PROCESSORS["as usual"])
    edit(tmp_path / "config.json", model_type=value)
    refused(tmp_path)


@pytest.mark.parametrize(
    "index", ["x", [], {"weight_map": "x"}, {"weight_map": {"w": "../x.safetensors"}}, {"weight_map": {"w": 3}}]
)
def test_shards_lie_in_the_folder(tmp_path, index):
    vit_folder(tmp_path, PROCESSORS["as usual"])
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "x.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in refused(tmp_path)


def test_shards_are_read(tmp_path):
    model = vit_folder(tmp_path, PROCESSORS["as usual"])
    before = load_classifier(str(tmp_path), CLASSES).logits(torch.ones(1, 3, 32, 32))
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="5kB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(load_classifier(str(tmp_path), CLASSES).logits(torch.ones(1, 3, 32, 32)), before)
