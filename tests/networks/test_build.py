import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from distill_hub.config import InputError
from distill_hub.networks.build import AveragePool, ConvNet, InstanceNorm, build, check_student
from distill_hub.networks.names import INSTANCE_NORM, TORCHVISION, student_name

STEMS = [32, 100, 150]  # px: 3x3 alone, 3x3 and pooling, 7x7 and pooling; the last two do not halve evenly


def images(count, size, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def scrambled(model, seed=0):
    """In double precision, with scales and shifts that are not 1 and 0, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 0.5)
    return model


def parameters(name, num_classes, size):
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, num_classes, size).parameters())


def same(one, other):
    assert other.std() > 0.01
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# Sizes


@pytest.mark.parametrize(
    ("name", "classes", "size", "count"),
    [
        # The codes of IDC and Minimax, run with these names.
        ("convnet-6", 10, 224, 754_570),
        ("resnetap-10", 10, 224, 4_910_922),
        ("resnet-10", 10, 224, 4_910_922),
        ("resnet-18", 10, 224, 11_181_642),
        # By hand: three blocks of 3x3 convolution and norm, then a layer on 4x4x128.
        ("convnet-3", 10, 32, (27 * 128 + 128 + 256) + 2 * (9 * 128 * 128 + 128 + 256) + (2048 * 10 + 10)),
        ("convnet-3-bn", 10, 32, (27 * 128 + 128 + 256) + 2 * (9 * 128 * 128 + 128 + 256) + (2048 * 10 + 10)),
        # ResNet-18 as the literature has it for CIFAR-10.
        ("resnet-18-bn", 10, 32, 11_173_962),
        ("resnet-18", 10, 32, 11_173_962),
        ("resnet-18", 10, 128, 11_173_962),
        ("resnet-18-bn", 10, 128, 11_181_642),
        # The table of torchvision's weights.
        ("resnet-18-bn", 1000, 224, 11_689_512),
        ("resnet-50-bn", 1000, 224, 25_557_032),
        ("resnet-101-bn", 1000, 224, 44_549_160),
        ("efficientnet-b0", 1000, 224, 5_288_548),
        ("mobilenet-v2", 1000, 224, 3_504_872),
        ("shufflenet-v2", 1000, 224, 2_278_604),
        ("vgg-16", 1000, 224, 138_357_544),
        ("vgg-16-bn", 1000, 224, 138_365_992),
    ],
)
def test_a_name_has_the_literatures_number_of_parameters(name, classes, size, count):
    assert parameters(name, classes, size) == count


@pytest.mark.parametrize(
    "name", ["convnet-3", "convnet-3-bn", *INSTANCE_NORM, *TORCHVISION, "timm/test_resnet", "timm/test_vit"]
)
def test_every_student_maps_images_of_32_px_to_logits(name):
    torch.manual_seed(0)
    logits = build(name, 7, 32)(images(3, 32))
    assert logits.shape == (3, 7) and logits.isfinite().all() and (logits[0] != logits[1]).all()


@pytest.mark.parametrize("name", ["convnet-6", "resnetap-10", "resnet-18", "resnet-18-bn", "mobilenet-v2", "timm/test_vit"])
def test_students_map_images_of_224_px_to_logits(name):
    logits = build(name, 7, 224)(images(2, 224))
    assert logits.shape == (2, 7) and logits.isfinite().all() and (logits[0] != logits[1]).all()


# The ConvNet


def standard(maps, dims, scale, shift):
    maps = (maps - maps.mean(dims, keepdim=True)) / (maps.var(dims, keepdim=True, correction=0) + 1e-5).sqrt()
    return maps * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


@pytest.mark.parametrize(("norm", "dims"), [(InstanceNorm, (2, 3)), (nn.BatchNorm2d, (0, 2, 3))])
def test_convnet_is_convolution_norm_relu_and_pooling(norm, dims):
    model = scrambled(ConvNet(5, 2, 13, width=6, norm=norm))
    x = images(2, 13).double()
    weights = list(model.parameters())
    out = x
    for conv, bias, scale, shift in (weights[:4], weights[4:8]):
        out = F.avg_pool2d(standard(F.conv2d(out, conv, bias, padding=1), dims, scale, shift).relu(), 2)
    same(model(x), out.flatten(1) @ weights[8].T + weights[9])


@pytest.mark.parametrize(("name", "norm"), [("convnet-2", nn.GroupNorm), ("convnet-2-bn", nn.BatchNorm2d)])
def test_the_name_of_a_convnet_says_its_norm(name, norm):
    assert [isinstance(m, norm) for m in build(name, 4, 16).features].count(True) == 2


@pytest.mark.parametrize(("name", "width"), [("convnet-3-w64", 64), ("convnet-3-w64-bn", 64), ("convnet-3-bn", 128)])
def test_the_name_of_a_convnet_says_its_width(name, width):
    model = build(name, 10, 32)
    convolutions = (27 * width + width) + 2 * (9 * width * width + width)
    linear = width * 4 * 4 * 10 + 10
    assert sum(parameter.numel() for parameter in model.parameters()) == convolutions + 3 * 2 * width + linear
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == name.endswith("-bn")


def test_instance_norm_is_the_same_in_training_and_test():
    x = images(2, 16)
    model = build("convnet-2", 4, 16)
    assert torch.equal(model.train()(x), model.eval()(x))
    torch.testing.assert_close(model(x[:1]), model(x)[:1])


@pytest.mark.parametrize(("size", "depth"), [(16, 2), (32, 3), (64, 4), (128, 5), (224, 6), (256, 6)])
def test_the_automatic_student_is_a_convnet_that_fits_the_image(size, depth):
    assert student_name("auto", size) == f"convnet-{depth}"
    assert student_name("timm/resnet18", size) == "timm/resnet18"
    check_student("auto", 10, size)


@pytest.mark.parametrize(("size", "deepest"), [(8, 3), (12, 3), (16, 4), (31, 4), (224, 7)])
@pytest.mark.parametrize("bn", ["", "-bn"])
def test_a_convnet_too_deep_for_the_image_is_refused_with_the_depth_that_fits(size, deepest, bn):
    check_student(f"convnet-{deepest}{bn}", 3, size)
    with pytest.raises(InputError, match=f"^students: 'convnet-{deepest + 1}{bn}' .* depth of {deepest}$"):
        build(f"convnet-{deepest + 1}{bn}", 3, size)


# The residual networks with instance norm


@pytest.mark.parametrize("size", STEMS)
def test_resnet_18_is_torchvisions_with_instance_norm_and_a_stem_that_fits(size):
    model = scrambled(build("resnet-18", 5, size))
    reference = torchvision.models.resnet18(num_classes=5, norm_layer=lambda channels: nn.GroupNorm(channels, channels))
    if size <= 128:
        reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    if size <= 64:
        reference.maxpool = nn.Identity()
    with torch.no_grad():
        for theirs, ours in zip(reference.double().parameters(), model.parameters(), strict=True):
            theirs.copy_(ours)
    x = images(2, size).double()
    same(model(x), reference(x))


def resnetap_10(x, weights):
    """ResNetAP-10 of IDC in plain functions; `weights` come layer by layer."""

    def conv(maps):
        weight = next(weights)
        return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)

    def norm(maps):
        return standard(maps, (2, 3), next(weights), next(weights))

    size = x.shape[-1]
    x = norm(conv(x)).relu()
    x = x if size <= 64 else F.avg_pool2d(x, 2 if size <= 128 else 4)
    x = (norm(conv(norm(conv(x)).relu())) + x).relu()
    for _ in range(3):
        residual = norm(conv(F.avg_pool2d(norm(conv(x)).relu(), 2)))
        x = (residual + norm(F.avg_pool2d(conv(x), 2))).relu()
    return F.linear(x.mean((2, 3)), next(weights), next(weights))


@pytest.mark.parametrize("size", STEMS)
def test_resnetap_10_is_idcs(size):
    model = scrambled(build("resnetap-10", 5, size))
    x, weights = images(2, size).double(), iter(list(model.parameters()))
    same(model(x), resnetap_10(x, weights))
    assert next(weights, None) is None


@pytest.mark.parametrize(
    ("size", "kernel", "strided", "averaged"),
    [
        (64, 3, (64, 8), (64, 8)),
        (65, 3, (33, 5), (32, 4)),  # average pooling drops the last row and column of an odd side
        (128, 3, (64, 8), (64, 8)),
        (129, 7, (33, 5), (32, 4)),
        (224, 7, (56, 7), (56, 7)),
    ],
)
@pytest.mark.parametrize("name", INSTANCE_NORM)
def test_the_first_layers_change_above_64_and_128_px(name, size, kernel, strided, averaged):
    with torch.device("meta"):
        model, sides = build(name, 5, size), []
        blocks = [m for m in model.features if hasattr(m, "shortcut")]
        blocks[0].register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
        blocks[-1].register_forward_hook(lambda _, inputs, output: sides.append(output.shape[-1]))
        model(torch.empty(1, 3, size, size))
    assert next(model.parameters()).shape == (64, 3, kernel, kernel)
    assert tuple(sides) == (averaged if name == "resnetap-10" else strided)


@pytest.mark.parametrize("size", STEMS)
@pytest.mark.parametrize("name", INSTANCE_NORM)
def test_convolutions_start_from_he_normal_weights(name, size):
    torch.manual_seed(0)
    model = build(name, 5, size)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == {"resnet-10": 12, "resnet-18": 20, "resnetap-10": 12}[name]
    for conv in convolutions:
        out, _, side, _ = conv.weight.shape
        z = (conv.weight / math.sqrt(2 / (side * side * out))).detach().double()
        error = 5 / math.sqrt(z.numel())  # five standard errors
        assert conv.bias is None
        assert abs(z.mean()) < error
        assert abs(z.var() - 1) < error * math.sqrt(2)
        assert abs((z**4).mean() - 3) < error * math.sqrt(96)  # 1.8 for a uniform distribution
    for norm in (m for m in model.modules() if isinstance(m, nn.GroupNorm)):
        assert (norm.weight == 1).all() and (norm.bias == 0).all() and norm.num_groups == norm.num_channels


# Networks of torchvision


@pytest.mark.parametrize("name", ["resnet-18-bn", "resnet-50-bn", "resnet-101-bn"])
@pytest.mark.parametrize(("size", "kernel", "side"), [(32, 3, 32), (64, 3, 64), (65, 7, 17), (224, 7, 56)])
def test_small_images_reach_the_first_stage_at_full_resolution(name, size, kernel, side):
    with torch.device("meta"):
        model, seen = build(name, 10, size), []
        model.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        model(torch.empty(2, 3, size, size))
    assert model.conv1.weight.shape == (64, 3, kernel, kernel) and model.conv1.bias is None
    assert seen == [(2, 64, side, side)]


@pytest.mark.parametrize("size", [32, 224])
def test_resnets_with_batch_norm_start_with_scales_of_one(size):
    norms = [m for m in build("resnet-18-bn", 10, size).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20 and all((norm.weight == 1).all() for norm in norms)


def test_the_stem_for_small_images_starts_from_pytorchs_uniform_weights():
    torch.manual_seed(0)
    weight = build("resnet-18-bn", 10, 32).conv1.weight.detach()
    assert weight.abs().max() <= 27**-0.5  # He-normal weights of 1728 would reach 0.25
    assert weight.std().item() == pytest.approx((27 * 3) ** -0.5, rel=0.05)


def test_efficientnet_starts_from_the_range_of_a_layer_for_1000_classes():
    torch.manual_seed(0)
    weight = build("efficientnet-b0", 10, 32).classifier[-1].weight.detach()
    assert weight.shape == (10, 1280) and weight.abs().max() <= 1000**-0.5
    assert weight.std().item() == pytest.approx(3000**-0.5, rel=0.03)


@pytest.mark.parametrize("name", ["vgg-16", "vgg-16-bn"])
def test_vgg_has_batch_norm_when_its_name_says_so(name):
    with torch.device("meta"):
        norms = [m for m in build(name, 10, 32).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (13 if name == "vgg-16-bn" else 0)


# Networks of timm


def test_a_timm_student_is_untrained():
    torch.manual_seed(0)
    first, second = build("timm/test_resnet", 4, 32), build("timm/test_resnet", 4, 32)
    torch.manual_seed(0)
    again = build("timm/test_resnet", 4, 32)
    first, second, again = (next(model.parameters()) for model in (first, second, again))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_a_transformer_of_timm_is_built_for_the_image_size():
    with torch.device("meta"):
        model = build("timm/vit_tiny_patch16_224", 4, 64)
    assert model.pos_embed.shape == (1, 1 + 4 * 4, 192)


# Names that cannot be used


@pytest.mark.parametrize(
    "name",
    [
        *("convnet-0", "convnet-x", "convnet-", "convnet", "convnet-3-in", "convnet-03", "convnet-²", "convnet-100"),
        *("resnet18", "resnet-34", "resnetap-18", "RESNET-18", "vgg16", "timm/resnet1x", "timm/", "timm", "", "x/y"),
        "timm/resnet18.tv_in1k",  # a student is untrained: the tag of weights would be a second name for the same network
        "timm/resnet18.nonsense",
    ],
)
@pytest.mark.parametrize("use", [build, check_student])
def test_an_unknown_student_is_refused(name, use):
    with pytest.raises(InputError) as caught:
        use(name, 10, 32)
    text = str(caught.value)
    assert caught.value.field == "students" and repr(name) in text and "\n" not in text
    assert all(word in text for word in ("convnet-D-wW-bn", "resnetap-10", "vgg-16-bn", "timm/NAME"))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        *[("resnet18", "resnet-18"), ("resnet_ap", "resnetap-10"), ("vgg16", "vgg-16"), ("convnet3", "convnet-D")],
        *[("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"), ("timm/resnet18.tv_in1k", "timm/resnet18")],
    ],
)
def test_an_unknown_student_names_the_nearest(name, near):
    with pytest.raises(InputError, match=rf"did you mean '{near}'\?\)$"):
        build(name, 10, 32)


@pytest.mark.parametrize(
    ("name", "too_small", "enough"),
    [
        ("resnet-10", 8, 9),  # an instance norm of one pixel would forget the image
        ("resnet-18", 8, 9),
        ("resnetap-10", 15, 16),
        ("vgg-16", 31, 32),  # nothing is left to pool
        ("timm/vit_tiny_patch16_224", 15, 16),
        ("timm/halonet26t", 32, 256),  # its error has no text
    ],
)
def test_a_student_that_does_not_run_at_the_image_size_is_refused(name, too_small, enough):
    check_student(name, 10, enough)
    with pytest.raises(InputError) as caught:
        check_student(name, 10, too_small)
    text = str(caught.value)
    assert caught.value.field == "students" and text.startswith(f"students: {name!r} cannot be used; ") and "\n" not in text
    assert f"{too_small} px" in text


def test_an_encoder_of_timm_is_no_student():
    with pytest.raises(InputError, match=r"^students: 'timm/mobilenetv5_300m_enc' .* not one logit per class"):
        check_student("timm/mobilenetv5_300m_enc", 10, 32)


def test_instance_norm_of_one_pixel_is_refused_in_training_too():
    with pytest.raises(ValueError, match="one pixel"):
        build("resnet-18", 10, 8)(images(2, 8))


@pytest.mark.parametrize("name", ["convnet-3", *INSTANCE_NORM, *TORCHVISION, "timm/vit_tiny_patch16_224"])
def test_a_check_draws_no_random_numbers(name):
    before = torch.get_rng_state()
    check_student(name, 1000, 224)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(5, 16, 16, 16), (1, 128, 8, 8), (3, 8, 15, 7)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_average_pooling_is_torch_s_to_the_bit_and_so_is_its_gradient(shape, layout):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=layout).requires_grad_(True)
    ours, theirs = AveragePool()(maps), F.avg_pool2d(maps, 2)
    pull = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(pooled, maps, pull)[0] for pooled in (ours, theirs)))
