"""The classifiers that CIFAR (32 px) and Tiny-ImageNet (64 px) are trained with, and any of timm.

They are torchvision's own nets with another stem, which keeps the resolution that a small image cannot spare.
torchvision and timm are imported where they are used: they take seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib.util import find_spec
from typing import Literal, cast

from torch import nn

from synthaug.classify.recipe import TIMM
from synthaug.settings import UserError, did_you_mean


def cifar_resnet18(classes: int) -> nn.Module:
    """ResNet-18 as He et al. train residual nets on CIFAR: a 3x3 stem of stride 1 and no pooling after it."""
    from torchvision.models import resnet18

    net = resnet18(num_classes=classes)
    net.conv1, net.maxpool = _he(nn.Conv2d(3, 64, 3, padding=1, bias=False)), nn.Identity()
    return cast(nn.Module, net)


def cifar_vgg19(classes: int) -> nn.Module:
    """VGG-19 with batch norm: its 16 convolutions, whose 512 features of all places are averaged, and one linear layer.

    At 32 px one place is left and nothing is averaged.
    """
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["E"], batch_norm=True)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(cast(nn.Parameter, _he(layer).bias))
    # not torchvision's VGG with its head replaced: the head alone has 120 M weights, to be drawn and thrown away
    parts = {"features": features, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict(parts | {"classifier": nn.Linear(512, classes)}))


def cifar_densenet121(classes: int) -> nn.Module:
    """DenseNet-121 with a 3x3 stem of stride 1; neither norm nor pooling lie between it and the first block, as in the
    usual implementations for CIFAR (torchvision's has both)."""
    from torchvision.models import densenet121

    net = densenet121(num_classes=classes)
    net.features.conv0 = _he(nn.Conv2d(3, 64, 3, padding=1, bias=False), "fan_in")
    for name in ("norm0", "relu0", "pool0"):
        delattr(net.features, name)
    return cast(nn.Module, net)


def cifar_vit_s(classes: int) -> nn.Module:
    """ViT-S of 8 x 8 patches of 4 px: it takes 32 px images."""
    return _vit_s(classes, 32)


def tiny_vit_s(classes: int) -> nn.Module:
    """ViT-S of 8 x 8 patches of 8 px: it takes 64 px images, at the cost of 32."""
    return _vit_s(classes, 64)


def _vit_s(classes: int, size: int) -> nn.Module:
    # the width, depth and heads of DeiT-S (Touvron et al. 2021), which is what ViT-S means
    from torchvision.models import VisionTransformer

    net = VisionTransformer(
        image_size=size, patch_size=size // 8, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=4 * 384,
        num_classes=classes,
    )  # fmt: skip
    return cast(nn.Module, net)


def cifar_convnext_t(classes: int) -> nn.Module:
    """ConvNeXt-T with patches of 1 px, so that it works at 32, 16, 8 and 4 px as ResNet-18 does.

    Re-implementations for CIFAR have 1 or 2; one that tried both, with a smaller net, found
    1 better by about 6 points of F1 (github.com/filipbasara0/simple-convnext).
    """
    from torchvision.models import convnext_tiny

    net = convnext_tiny(num_classes=classes)
    net.features[0][0] = stem = nn.Conv2d(3, 96, 1)
    # as torchvision draws all layers of it
    nn.init.trunc_normal_(stem.weight, std=0.02)
    nn.init.zeros_(cast(nn.Parameter, stem.bias))
    return cast(nn.Module, net)


def cifar_swin_t(classes: int) -> nn.Module:
    """Swin-T with patches of 2 px and windows of 4 x 4 of them.

    Of a 32 px image the last stage has 2 x 2 places, which torchvision fills up to a window with empty ones, where Liu
    et al. would make the window smaller.
    """
    from torchvision.models import SwinTransformer

    net = SwinTransformer(
        patch_size=[2, 2], embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=[4, 4],
        stochastic_depth_prob=0.2, num_classes=classes,
    )  # fmt: skip
    return cast(nn.Module, net)


SMALL = {
    make.__name__: make
    for make in (
        *(cifar_resnet18, cifar_vgg19, cifar_densenet121, cifar_vit_s),
        *(tiny_vit_s, cifar_convnext_t, cifar_swin_t),
    )
}


def from_timm(name: str, classes: int) -> nn.Module:
    """The net that timm calls `name`, without its weights; `pretrained_cfg` of it tells the normalisation."""
    if find_spec("timm") is None:
        raise UserError(f"{TIMM}{name} needs timm, which is not installed here; pip install timm")
    import timm

    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}{_near(name, timm.list_models())}")
    try:
        return cast(nn.Module, timm.create_model(name, num_classes=classes, pretrained=False))
    except RuntimeError as error:
        # name.tag with a tag that is none
        raise UserError(f"timm cannot make {name!r}: {error}") from None


def _near(name: str, choices: list[str]) -> str:
    """`; did you mean x?`, but no list of a thousand choices."""
    hint = did_you_mean(name, choices)
    return hint if "did you mean" in hint else "; timm.list_models() names them all"


def _he(layer: nn.Conv2d, mode: Literal["fan_in", "fan_out"] = "fan_out") -> nn.Conv2d:
    """The layer, drawn as torchvision draws the others of its net."""
    nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
    return layer
