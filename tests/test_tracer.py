"""The traced receptive fields, compared with the pixels whose NaN reaches an output."""

import bisect
import functools
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.inspection import NotUnderstoodError, receptive_field_of, trace_layers
from helpers.inspection.tracer import trace
from tests import sample_models
from tests.sample_models import SAMPLE_MODELS

IMAGE_SIZE = 48


def largest_field_by_nan(model: nn.Module, size: int) -> tuple[int, int] | None:
    """Return height and width of the largest field of an output: the pixels whose NaN reaches it.

    NaN passes through every sum, product and maximum, so no path can cancel another. Outputs
    around the center are probed, as neighbors may have fields of different sizes. None if the
    border of the image cuts off the field of a central output.
    """
    model.eval()
    sides = []
    for dim in (2, 3):
        images = torch.rand(size, 3, size, size)
        for i in range(size):
            images[i].select(dim - 1, i).fill_(torch.nan)
        with torch.no_grad():
            is_nan = model(images).isnan().any(dim=1)  # (size, H, W)
        along = is_nan.any(dim=2 if dim == 2 else 1)  # (size, H) or (size, W)
        center = along.shape[1] // 2
        widths = []
        for position in range(max(0, center - 16), min(center + 16, along.shape[1])):
            [pixels] = along[:, position].nonzero(as_tuple=True)
            if len(pixels) and (pixels[0] == 0 or pixels[-1] == size - 1):
                if center - 4 <= position < center + 4:
                    return None
            elif len(pixels):
                widths.append(int(pixels[-1] - pixels[0]) + 1)
        sides.append(max(widths))
    return tuple(sides)


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Sum(nn.Module):
    """Branches that are added, or concatenated and mixed by a 1x1 convolution."""

    def __init__(self, *branches, concatenate=False):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.mix = nn.Conv2d(4 * len(branches), 4, 1) if concatenate else None

    def forward(self, x):
        maps = [branch(x) for branch in self.branches]
        height = min(m.shape[2] for m in maps)
        width = min(m.shape[3] for m in maps)
        maps = [m[:, :, :height, :width] for m in maps]
        return self.mix(torch.cat(maps, 1)) if self.mix else functools.reduce(torch.add, maps)


def conv(kernel=3, **options):
    return nn.Conv2d(4, 4, kernel, **options)


def space_to_depth(x):
    n, c, h, w = x.shape
    x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def depth_to_space(x):
    n, c, h, w = x.shape
    x = x.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // 4, 2 * h, 2 * w).repeat(1, 4, 1, 1)


def shuffle_channels(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).flatten(1, 2)


BLOCKS = {
    "3x3": lambda: conv(padding=1),
    "5x5 unpadded": lambda: conv(5),
    "even kernel": lambda: conv(2),
    "7x1": lambda: conv((7, 1), padding=(3, 0)),
    "1x5": lambda: conv((1, 5)),
    "strided": lambda: conv(stride=2, padding=1),
    "strided 1x1": lambda: conv(1, stride=2),
    "strided in one direction": lambda: conv(stride=(1, 2)),
    "dilated": lambda: conv(dilation=3, padding=3),
    "same": lambda: conv(5, padding="same"),
    "same, even": lambda: conv(4, padding="same"),
    "depthwise": lambda: conv(padding=1, groups=4),
    "grouped": lambda: conv(padding=1, groups=2),
    "reflected": lambda: conv(padding=2, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 2, stride=2),
    "transposed, overlapping": lambda: nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
    "max pooling": lambda: nn.MaxPool2d(2),
    "overlapping pooling": lambda: nn.MaxPool2d(3, 2, 1),
    "pooling with ceil mode": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "average pooling": lambda: nn.AvgPool2d(3, 2),
    "max pooling, a function": lambda: Lambda(lambda x: F.max_pool2d(x, 2)),
    "average pooling, a function": lambda: Lambda(lambda x: F.avg_pool2d(x, kernel_size=2)),
    "power pooling": lambda: nn.LPPool2d(2, 2),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "three halves": lambda: nn.Upsample(scale_factor=1.5),
    "pixel unshuffle": lambda: nn.Sequential(
        Lambda(lambda x: x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]),
        nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1),
    ),
    "pixel shuffle": lambda: nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2)),
    "space to depth": lambda: nn.Sequential(Lambda(space_to_depth), nn.Conv2d(16, 4, 1)),
    "depth to space": lambda: Lambda(depth_to_space),
    "channel shuffle": lambda: nn.Sequential(Lambda(shuffle_channels), conv(1)),
    "every second pixel": lambda: Lambda(lambda x: x[:, :, ::2, 1::2]),
    "cropped": lambda: Lambda(lambda x: x[:, :, 2:-2, 1:]),
    "padded": lambda: nn.ZeroPad2d((1, 2, 0, 3)),
    "negative padding": lambda: nn.ZeroPad2d((-2, -1, 3, -2)),
    "patches": lambda: nn.Sequential(
        Lambda(lambda x: torch.cat([x[:, :2, 1::2, 1::2], x[:, 2:, :-1:2, :-1:2]], 1)), conv(1)
    ),
    "halves": lambda: Lambda(lambda x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2)),
    "normalized": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1)),
    "residual": lambda: Sum(nn.Identity(), conv(padding=1)),
    "strided residual": lambda: Sum(conv(1, stride=2), conv(stride=2, padding=1)),
    "uneven branches": lambda: Sum(conv(5, padding=2), conv(dilation=2), nn.MaxPool2d(3, 1, 1)),
    "concatenated": lambda: Sum(conv(1), conv(7, padding=3), concatenate=True),
}  # fmt: skip


UPSAMPLING = {
    "transposed", "transposed, overlapping", "nearest", "bilinear", "three halves", "pixel shuffle",
    "depth to space",
}  # fmt: skip


SKIPPING_PIXELS = {"every second pixel", "patches", "strided 1x1", "strided in one direction"}


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.sampled_from(list(BLOCKS)), min_size=1, max_size=4))
@example(["transposed", "transposed", "average pooling", "every second pixel"])
@example(["three halves", "three halves", "overlapping pooling"])
def test_field_of_any_network(names):
    assume(sum(name in UPSAMPLING for name in names) <= 2)  # maps grow fast
    torch.manual_seed(0)
    blocks = [BLOCKS[name]() for name in names]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *blocks)
    _, field = receptive_field_of(trace_layers(model, image_size=IMAGE_SIZE))
    expected = largest_field_by_nan(model, IMAGE_SIZE)
    assume(expected)
    upsampled = next((i for i, name in enumerate(names) if name in UPSAMPLING), len(names))
    if SKIPPING_PIXELS & set(names[upsampled:]):  # may skip the values with the largest field
        assert np.greater_equal(field, expected).all()
    else:
        assert field == expected


@pytest.mark.parametrize("name", BLOCKS)
def test_field_after_a_block_between_two_convolutions(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BLOCKS[name](), conv(3, padding=1))
    _, field = receptive_field_of(trace_layers(model, image_size=IMAGE_SIZE))
    assert field == largest_field_by_nan(model, IMAGE_SIZE)


def central_field_by_nan(feature_maps, size: int) -> tuple[int, int]:
    """Return height and width of the field of the central value: the pixels whose NaN reaches it.

    NaN in a growing part of the image shows where the field begins and ends, by bisection.
    """

    def reaches_center(dim: int, pixels: slice) -> bool:
        images = torch.rand(1, 3, size, size)
        images.transpose(2, dim)[:, :, pixels] = torch.nan
        with torch.no_grad():
            maps = feature_maps(images)
        return bool(maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2].isnan().any())

    sides = []
    for dim in (2, 3):
        pixels = range(size)
        start = bisect.bisect_left(pixels, True, key=lambda i: reaches_center(dim, slice(i + 1)))
        end = bisect.bisect_left(
            pixels, True, key=lambda i: not reaches_center(dim, slice(i, None))
        )
        assert 0 < start < end < size, "the image is too small"
        sides.append(end - start)
    return tuple(sides)


@pytest.mark.parametrize("name", SAMPLE_MODELS)
def test_field_of_a_sample_model(name, monkeypatch):
    torch.manual_seed(0)
    model = SAMPLE_MODELS[name].model_class().eval()
    before, _ = receptive_field_of(trace_layers(model))
    # Gates do not count, so let them pass all values.
    monkeypatch.setattr(sample_models.SqueezeExcitation, "forward", lambda self, x: x)
    assert before == central_field_by_nan(model.feature_maps, 192)


class Forward(nn.Module):
    """A network with a given `forward`."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.forward = lambda x: forward(self, x)


def test_rectangles():
    model = nn.Sequential(nn.Conv2d(3, 4, (7, 1), (2, 1), (3, 0)), nn.MaxPool2d((1, 3)))
    layers = trace_layers(model)
    assert [(layer.kernel, layer.nout, layer.jump, layer.field) for layer in layers] == [
        ((7, 1), (16, 32), (2, 1), (7, 1)),
        ((1, 3), (16, 10), (2, 3), (7, 3)),
    ]


def test_strides_that_leave_a_single_value_count():
    layers = trace_layers(torchvision.models.resnet18(num_classes=10))
    assert [layer.jump for layer in layers if layer.name == "conv20"] == [(32, 32)]
    assert receptive_field_of(layers)[0] == (435, 435)  # the published field
    halvings = [nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(5)]
    narrow = nn.Sequential(*halvings, nn.Conv2d(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1))
    assert receptive_field_of(trace_layers(narrow)) == ((127, 127), (127, 127))
    halvings[-1] = nn.MaxPool2d(2)  # its input is 2x2
    assert trace_layers(nn.Sequential(*halvings))[-1].jump == (32, 32)
    assert receptive_field_of(trace_layers(torchvision.models.densenet121(num_classes=10))) == (
        (2071, 2071),
        (2071, 2071),
    )


@pytest.mark.parametrize("pooling", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(8), nn.MaxPool2d(8)])
def test_the_padding_of_a_pooled_pixel_is_no_pixel(pooling):
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), pooling, nn.Conv2d(4, 4, 3, padding=1))
    assert [layer.field for layer in trace_layers(model)] == [(4, 4), (32, 32), (32, 32)]


@pytest.mark.parametrize(
    "padding",
    [
        [conv(5, padding=2, padding_mode="reflect")],
        [conv(5, padding=2, padding_mode="circular")],
        [nn.ZeroPad2d(2), conv(5)],
        [nn.CircularPad2d(2), conv(5)],
        [nn.ReplicationPad2d(1), nn.ReLU(), conv(5, padding=1)],
        [Lambda(lambda x: F.pad(x, (2, 2, 2, 2), "circular")), conv(5)],
    ],
)
def test_padding_of_its_own_is_that_of_the_next_layer(padding):
    layers = trace_layers(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *padding, conv()))
    assert [(x.nin, x.padding, x.nout, x.field) for x in layers][1:] == [
        ((32, 32), (2, 2), (32, 32), (7, 7)),
        ((32, 32), (0, 0), (30, 30), (9, 9)),
    ]


@pytest.mark.parametrize(
    "views",
    [
        lambda x: torch.cat([x, x.flip(-1)]),
        lambda x: torch.stack([x, x.flip(2), x.flip(3)]).flatten(0, 1),
        lambda x: torch.stack((x, x.roll(4, 3)), 1).flatten(0, 1),
        lambda x: torch.cat([x, F.pad(x, (2, -2, -1, 1))]),
    ],
)
def test_views_of_an_image_in_a_batch_are_followed_as_one(views):
    maps = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1))
    model = Forward(
        lambda model, x: model.fc(model.maps(views(x)).mean((2, 3))).chunk(2)[0],
        maps=maps, fc=nn.Linear(4, 10),
    )  # fmt: skip
    layers = trace_layers(model)
    assert [layer.kind for layer in layers] == ["conv", "conv", "gap", "fc"]
    assert receptive_field_of(layers) == ((5, 5), (35, 35))


def test_patches_in_a_batch_are_not_views():
    def split(x):
        patches = x.unfold(2, 8, 8).unfold(3, 8, 8)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    model = nn.Sequential(Lambda(split), nn.Conv2d(3, 4, 3), Lambda(lambda x: x.mean((2, 3))))
    assert receptive_field_of(trace_layers(model))[1] == (8, 8)


def test_a_sum_that_mixes_tokens_is_no_gate():
    def mix(model, x):
        tokens = model.patches(x).flatten(2)
        return (tokens + model.mixer(tokens)).mean(2)

    model = Forward(mix, patches=nn.Conv2d(3, 10, 8, 8), mixer=nn.Linear(16, 16))
    layers = trace_layers(model)
    assert not any(layer.gate or layer.gated for layer in layers)
    assert layers[-1].field == (32, 32)


def test_an_index_from_the_image_may_pick_channels_but_not_positions():
    def pick(dim):
        def forward(model, x):
            index = model.conv(x).argmax(dim, keepdim=True)
            return model.conv(torch.gather(x, dim, index).expand(-1, 3, -1, -1))

        return forward

    layers = trace_layers(Forward(pick(1), conv=nn.Conv2d(3, 3, 3, padding=1)))
    assert [layer.field for layer in layers] == [(3, 3), (5, 5)]
    for dim in (2, 3):
        with pytest.raises(NotUnderstoodError, match=r"gather in .*: its index depends"):
            trace_layers(Forward(pick(dim), conv=nn.Conv2d(3, 3, 3, padding=1)))


class ScriptedConv(torch.jit.ScriptModule):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)

    @torch.jit.script_method
    def forward(self, x):
        return self.conv(x).mean([2, 3])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_modules_are_traced():
    part = torch.jit.script(nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU()))
    for model in (ScriptedConv(), nn.Sequential(part, Lambda(lambda x: x.mean((2, 3))))):
        assert [(x.kind, x.field) for x in trace_layers(model)] == [
            ("conv", (3, 3)), ("gap", (32, 32)),
        ]  # fmt: skip


def test_layers_that_the_output_does_not_depend_on_are_left_out():
    def forward(model, x):
        maps = model.conv(x)
        logits = maps.mean((2, 3))
        model.kept = model.side(maps)
        return logits

    model = Forward(forward, conv=nn.Conv2d(3, 10, 3), side=nn.Conv2d(10, 10, 3))
    assert [(x.name, x.is_output) for x in trace_layers(model)] == [
        ("conv1", False), ("gap", True),
    ]  # fmt: skip


def test_depthwise_convolutions_side_by_side_are_separable():
    def forward(model, x):
        return model.point(torch.cat([model.three(x), model.five(x), model.plain(x)], 1))

    layers = trace_layers(Forward(
        forward, three=nn.Conv2d(3, 3, 3, padding=1, groups=3), point=nn.Conv2d(14, 4, 1),
        five=nn.Conv2d(3, 3, 5, padding=2, groups=3), plain=nn.Conv2d(3, 8, 7, padding=3),
    ))  # fmt: skip
    assert [layer.separable for layer in layers] == [True, True, False, False]


def test_a_gate_is_no_global_pooling_and_does_not_widen_the_field():
    gated = Forward(
        lambda model, x: model.after(model.maps(x) * model.gate(model.maps(x))).mean((2, 3)),
        maps=nn.Conv2d(3, 8, 3), after=nn.Conv2d(8, 10, 3),
        gate=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid()),
    )  # fmt: skip
    layers = trace_layers(gated)
    assert [layer.name for layer in layers if layer.gate] == ["gap", "conv3"]
    assert [layer.gated for layer in layers if not layer.gate] == [False, False, True, True]
    assert [(layer.name, layer.source) for layer in layers if not layer.gate][2:] == [
        ("conv4", "conv1"), ("gap2", "conv4"),
    ]  # fmt: skip
    assert receptive_field_of(layers) == ((5, 5), (32, 32))


def test_a_sum_with_a_gated_branch_is_gated():
    def forward(model, x):
        narrow = model.narrow(x)
        return model.last(model.wide(x) + narrow * narrow.mean((2, 3), keepdim=True))

    modules = {"narrow": nn.Conv2d(3, 4, 1), "wide": nn.Conv2d(3, 4, 3, padding=1)}
    layers = trace_layers(Forward(forward, **modules, last=nn.Conv2d(4, 4, 1)))
    assert layers[-1].source == "conv2"
    assert layers[-1].gated


def test_channels_with_neighboring_pixels_are_not_the_height():
    layers = trace_layers(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1)))
    assert [layer.nout for layer in layers] == [(16, 16), (16, 16)]
    assert layers[-1].jump == (2, 2)


def test_neighbors_of_upsampled_maps_are_fractions_of_a_pixel_apart():
    quarters = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2)
    )
    assert [layer.jump for layer in trace_layers(quarters)] == [
        (1, 1),
        (1 / 2, 1 / 2),
        (1 / 4, 1 / 4),
    ]
    thirds = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Upsample(scale_factor=1.5))
    assert trace_layers(thirds)[-1].jump == (Fraction(2, 3), Fraction(2, 3))


def test_values_that_depend_on_no_pixel_are_neither_gates_nor_widen_the_field():
    add_zeros = Lambda(lambda x: x + x.new_zeros(len(x), 4, 1, 1))
    pad_channels = Lambda(lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)))
    for operation, channels in ((add_zeros, 4), (pad_channels, 7)):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), operation, nn.Conv2d(channels, 4, 1))
        layers = trace_layers(model)
        assert [layer.field for layer in layers] == [(3, 3), (3, 3)]
        assert [layer.gated for layer in layers] == [False, False]


def test_an_operation_that_widens_the_field_is_a_layer():
    add_neighbors = Lambda(lambda x: x[..., 1:] + x[..., :-1])
    layers = trace_layers(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), add_neighbors))
    assert [(layer.kind, layer.field) for layer in layers] == [("conv", (3, 3)), ("join", (3, 4))]
    cumulative = Lambda(lambda x: x.cumsum(3))
    layers = trace_layers(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), cumulative))
    assert layers[-1].kind == "reshape"
    assert layers[-1].field == (3, 34)


def test_a_join_reads_the_branch_with_the_largest_field():
    model = Forward(
        lambda model, x: model.narrow(x)[..., 2:] + model.wide(x)[..., :28],
        narrow=nn.Conv2d(3, 4, (1, 3)), wide=nn.Conv2d(3, 4, (1, 5), padding=(0, 2)),
    )  # fmt: skip
    layers = trace_layers(model)
    assert [layer.name for layer in layers] == ["conv1", "conv2", "join"]
    assert layers[-1].source == "conv2"
    assert layers[-1].field == (1, 7)


@pytest.mark.parametrize(
    ("pooling", "kind", "kernel", "stride"),
    [
        (nn.AvgPool2d(32), "gap", (32, 32), (1, 1)),  # as the published tables have it
        (nn.AvgPool2d((32, 4)), "average pool", (32, 4), (32, 4)),
        (nn.AvgPool2d(31), "gap", (31, 31), (1, 1)),
        (nn.AvgPool2d(23), "average pool", (23, 23), (23, 23)),
        (nn.MaxPool2d(31), "max pool", (31, 31), (31, 31)),
        (nn.AdaptiveAvgPool2d(4), "average pool", (8, 8), (8, 8)),
        (nn.AdaptiveAvgPool2d(5), "average pool", (7, 7), (7, 7)),
        (Lambda(lambda x: x.amin((2, 3))), "gmp", (32, 32), (1, 1)),
        (Lambda(lambda x: x.mean(3)), "average pool", (1, 32), (1, 1)),
        (Lambda(lambda x: F.max_pool2d(x, (2, 3))), "max pool", (2, 3), (2, 3)),
    ],
)
def test_a_pooling_is_global_if_it_covers_the_maps_and_leaves_a_single_value(
    pooling, kind, kernel, stride
):
    layer = trace_layers(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pooling))[-1]
    assert (layer.kind, layer.kernel, layer.stride) == (kind, kernel, stride)


def test_a_padded_pooling_that_leaves_several_values_is_not_global():
    model = nn.Sequential(nn.AvgPool2d(16), nn.MaxPool2d(3, stride=1, padding=1))  # 2x2, then 2x2
    assert [layer.kind for layer in trace_layers(model)] == ["average pool", "max pool"]


def test_a_global_pooling_of_a_single_value_is_a_layer():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )
    assert [layer.name for layer in trace_layers(model)] == ["conv1", "gap", "fc"]


def test_a_depthwise_convolution_of_1x1_is_not_separable():
    for kernel, separable in ((1, False), (3, True)):
        depthwise = nn.Conv2d(4, 4, kernel, groups=4)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), depthwise, nn.Conv2d(4, 4, 1))
        layers = trace_layers(model)
        assert [layer.kind for layer in layers] == ["conv", "depthwise", "pointwise"]
        assert [layer.separable for layer in layers] == [False, separable, False]


def test_values_written_into_a_slice_bring_their_fields():
    def write_and_add(model, x):
        maps = model.wide(x)
        out = maps.new_zeros(len(x), 4, 64, 64)
        out[:, :, ::2, ::2] = maps
        out[:, :, 1::2, 1::2] += maps
        return model.last(out)

    def add_to_half_of_the_channels(model, x):
        maps = model.wide(x)
        maps[:, :2] += model.wider(x)[:, :2]
        return model.last(maps)

    modules = {"wide": nn.Conv2d(3, 4, 5, padding=2), "last": nn.Conv2d(4, 4, 1)}
    last = trace_layers(Forward(write_and_add, **modules))[-1]
    assert last.field == (5, 5)
    assert last.jump == (0.5, 0.5)
    assert last.source == "conv1"
    modules["wider"] = nn.Conv2d(3, 4, 9, padding=4)
    assert trace_layers(Forward(add_to_half_of_the_channels, **modules))[-1].field == (9, 9)


def test_a_buffer_that_maps_are_written_into_has_their_fields():
    model = Forward(
        lambda model, x: model.last(model.maps.copy_(model.first(x))),
        first=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 4, 3),
    )  # fmt: skip
    model.register_buffer("maps", torch.zeros(2, 4, 30, 30))
    assert [layer.field for layer in trace_layers(model)] == [(3, 3), (5, 5)]


def test_an_unknown_operation_is_an_error_that_names_it_and_its_line():
    def warp(model, x):
        grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x.shape, align_corners=False)
        return model.conv(F.grid_sample(x, grid, align_corners=False))  # this line

    model = Forward(warp, conv=nn.Conv2d(3, 4, 3))
    with pytest.raises(NotUnderstoodError, match=r"grid_sampler_2d .*test_tracer.py.*this line"):
        trace_layers(model)


def test_an_unknown_operation_of_a_module_of_pytorch_is_named_with_the_module():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Softmax(-1))
    with pytest.raises(NotUnderstoodError, match=r"softmax in Sequential\.2: "):
        trace_layers(model)


def test_a_softmax_over_positions_is_an_error():
    model = Forward(lambda model, x: model.conv(x).flatten(2).softmax(-1), conv=nn.Conv2d(3, 4, 3))
    with pytest.raises(NotUnderstoodError, match="softmax"):
        trace_layers(model)


def test_the_model_is_left_unchanged():
    model = SAMPLE_MODELS["PythonControlFlow"].model_class()
    model.blocks[0].eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    trace_layers(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_parameters_that_took_part_are_named():
    class WithSpareLayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 3)
            self.spare = nn.Linear(4, 4)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    assert trace(WithSpareLayer()).parameters == {"conv.weight", "conv.bias"}


def test_a_copy_runs_on_the_cpu_in_float32():
    runs = []

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 3)

        def forward(self, x):
            runs.append((self, x.dtype, x.device.type, self.conv.weight.dtype))
            return self.conv(x).mean((2, 3))

    model = Recorder().double().train()
    assert trace_layers(model)[0].field == (3, 3)
    [(copy, *types)] = runs
    assert copy is not model
    assert types == [torch.float32, "cpu", torch.float32]
    assert model.training
    assert model.conv.weight.dtype == torch.float64
    assert model.conv.weight.requires_grad


def test_a_parameter_that_passes_through_a_module_is_no_layer():
    class Token(nn.Module):
        """A class token, normalized before it is added to the features of the image."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 10)
            self.token = nn.Parameter(torch.zeros(1, 8))

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)) + self.norm(self.token.expand(len(x), -1)))

    assert [layer.kind for layer in trace_layers(Token())] == ["conv", "gap", "fc"]


@pytest.mark.parametrize(("name", "kind"), [("mean", "gap"), ("amax", "gmp")])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_global_pooling_along_one_side_at_a_time_is_one_layer(name, kind, keepdim):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 10)

        def forward(self, x):
            x = self.conv(x)
            for dim in (3, 2):
                x = getattr(x, name)(dim, keepdim=keepdim)
            return self.fc(x.flatten(1))

    layers = trace_layers(Pooled())
    assert [layer.kind for layer in layers] == ["conv", kind, "fc"]
    assert (layers[1].kernel, layers[1].nin, layers[1].nout) == ((8, 8), (8, 8), (1, 1))
    assert (layers[1].source, layers[1].field_in, layers[1].field) == ("conv1", (4, 4), (32, 32))
