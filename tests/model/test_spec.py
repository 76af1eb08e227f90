"""Invalid network settings are rejected with key and remedy; the data completes null settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from alexnet_exp.errors import Refused
from alexnet_exp.model.completion import Ends, complete, notes
from alexnet_exp.model.cost import layers
from alexnet_exp.model.spec import Input, Lrn, Network, Norm, Stage

NetworkOf = Callable[..., Network]
DIGITS = Ends(input_size=28, in_channels=1, num_classes=10, width=0.25)


def refused(name: str, *overrides: str, variant: NetworkOf) -> list[str]:
    with pytest.raises(Refused) as error:
        variant(name, *overrides)
    return [str(problem.under("model")) for problem in error.value.problems]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("width=0", "model.width=0.0: must be greater than 0"),
        ("width=-1", "model.width=-1.0: must be greater than 0"),
        ("dropout=1", "model.dropout=1.0: must be at least 0 and below 1"),
        ("dropout=-0.1", "model.dropout=-0.1: must be at least 0 and below 1"),
        ("groups=0", "model.groups=0: must be at least 1"),
        ("num_classes=1", "model.num_classes=1: must be at least 2"),
        ("input_size=0", "model.input_size=0: must be at least 1"),
        ("in_channels=0", "model.in_channels=0: must be at least 1"),
        ("lrn.size=4", "model.lrn.size=4: must be odd: the map itself and equally many on each side"),
        ("lrn.k=0", "model.lrn.k=0.0: must be greater than 0"),
        ("within_map.size=2", "model.within_map.size=2: must be odd: the pixel and equally many on each side"),
        ("bn.momentum=2", "model.bn.momentum=2.0: must be from 0 to 1"),
        ("bn.eps=0", "model.bn.eps=0.0: must be greater than 0"),
        ("stages.conv1.stride=0", "model.stages.conv1.stride=0: must be greater than 0"),
        ("stages.conv1.small.kernel=0", "model.stages.conv1.small.kernel=0: must be greater than 0"),
        ("stages.conv2.out=0", "model.stages.conv2.out=0: must be greater than 0"),
        ("stages.conv2.std=-1", "model.stages.conv2.std=-1.0: must be at least 0"),
        (
            "stages.conv2.pad=[1,2]",
            "model.stages.conv2.pad=[1, 2]: must be [all sides] or [left, right, top, bottom], in pixels of 0 or more",
        ),
        (
            "stages.conv1.then=[act,nrom]",
            "model.stages.conv1.then=[act, nrom]: unknown slot nrom; did you mean norm? "
            "one of act, norm, drop, pool, avg, mapnorm, to6",
        ),
        ("stages.conv1.then=[act,act]", "model.stages.conv1.then=[act, act]: act may occur only once in a stage"),
        (
            "stages.conv2.kernel=null",
            "model.stages.conv3.kernel=3: conv3 follows conv2, which is fully connected; give conv2 a kernel",
        ),
        (
            "stages.fc6.local=true",
            "model.stages.fc6.local=true: only convolutions have this setting; give the stage a kernel",
        ),
        (
            "stages.conv2.local=true",
            "model.stages.conv2.columns=own: a locally connected stage has all maps as input; "
            "write all, or local: false",
        ),
        (
            "stages.fc6.stride=2",
            "model.stages.fc6.stride=2: only convolutions have this setting; give the stage a kernel",
        ),
        (
            "stages.fc6.then=[act,pool]",
            "model.stages.fc6.then=[act, pool]: pool needs maps, but fc6 is fully connected; remove pool",
        ),
        (
            "stages.fc7.first=[avg]",
            "model.stages.fc7.first=[avg]: avg needs maps, but fc6 is fully connected; remove avg",
        ),
        ("stages.fc8.out=10", "model.stages.fc8.out=10: the last stage has num_classes outputs; write null"),
        (
            "stages.fc7.out=null",
            "model.stages.fc7.out=null: only the last stage may leave it out; write the number of maps or units",
        ),
        ("groups=5", "model.stages.conv1.out=96: must be a multiple of groups=5"),
        (
            "input.mean=chanel",
            "model.input.mean=chanel: did you mean channel? one of none, channel, pixel, "
            "or a list of numbers, one for each channel",
        ),
        ("input.std=[0.2,0]", "model.input.std=[0.2, 0]: must be greater than 0"),
        ("input.mean=[a]", "model.input.mean=[a]: must contain only numbers, one for each channel"),
    ],
)
def test_the_message_for_each_invalid_setting(variant: NetworkOf, override: str, line: str) -> None:
    assert line in refused("bn", override, variant=variant)


def test_all_problems_are_raised_together(variant: NetworkOf) -> None:
    lines = refused("bn", "width=0", "dropout=2", "stages.conv1.then=[pol]", "lrn.size=2", variant=variant)
    assert [line.split("=")[0] for line in lines] == [
        "model.width",
        "model.dropout",
        "model.lrn.size",
        "model.stages.conv1.then",
    ]


@pytest.mark.parametrize(("key", "value"), [("norm", Norm.lrn), ("dropout", 0.5), ("groups", 2)])
def test_a_setting_without_effect_is_rejected(key: str, value: object) -> None:
    stages = {"conv1": Stage(out=4, kernel=3), "fc": Stage()}
    Network(stages=stages)
    with pytest.raises(Refused, match=f"^{key}={value}: no stage has"):
        Network(stages=stages, **{key: value})


def test_numbers_for_each_channel_must_match_in_channels(variant: NetworkOf) -> None:
    assert refused("torchvision", "in_channels=1", variant=variant) == [
        "model.input.mean=[0.485, 0.456, 0.406]: must contain in_channels=1 numbers",
        "model.input.std=[0.229, 0.224, 0.225]: must contain in_channels=1 numbers",
    ]


def test_the_last_stage_must_be_fully_connected() -> None:
    with pytest.raises(Refused, match=r"stages\.conv1\.kernel=3: the last stage must be fully connected; write null"):
        Network(stages={"conv1": Stage(kernel=3)})
    with pytest.raises(Refused, match="at least one stage"):
        Network()


def test_the_data_fills_null_settings(variant: NetworkOf) -> None:
    spec = variant("bn")
    full = complete(spec, DIGITS)
    assert (full.input_size, full.in_channels, full.num_classes, full.width) == (28, 1, 10, 0.25)
    assert (spec.input_size, spec.width) == (None, None)


def test_complete_keeps_explicit_settings(variant: NetworkOf) -> None:
    full = complete(variant("tutorial"), DIGITS)
    assert (full.input_size, full.in_channels, full.num_classes, full.width) == (32, 3, 10, 1)
    assert complete(variant("bn", "width=2", "input_size=96"), DIGITS).input_size == 96


def test_settings_that_contradict_the_data_are_rejected(variant: NetworkOf) -> None:
    with pytest.raises(Refused) as error:
        complete(variant("paper"), DIGITS)
    assert [str(problem.under("model")) for problem in error.value.problems] == [
        "model.num_classes=1000: the data has 10 classes; write model.num_classes=10, or null"
    ]
    with pytest.raises(Refused, match=r"^in_channels=1: the data has 3 channels; write model\.in_channels=3, or null$"):
        complete(variant("bn", "in_channels=1"), Ends(32, 3, 10, 1))


def test_width_scales_all_but_the_last_and_keeps_columns_equal(variant: NetworkOf) -> None:
    full = complete(variant("bn", "width=0.29", "groups=2"), DIGITS)
    outs = [layer.shape[0] for layer in layers(full) if layer.multiply_adds]
    assert outs == [28, 74, 112, 112, 74, 1188, 1188, 10]
    assert [layer.shape[0] for layer in layers(complete(variant("bn", "width=0.0001"), DIGITS))][-2:] == [1, 10]


def test_notes_report_the_window_for_small_images(variant: NetworkOf) -> None:
    assert notes(complete(variant("bn"), DIGITS)) == [
        "conv1: kernel 3, stride 1, the window for small images, at input size 28 "
        "(from 64 pixels up: kernel 11, stride 4)"
    ]
    assert notes(complete(variant("bn", "input_size=64"), DIGITS)) == []
    assert notes(complete(variant("tutorial"), DIGITS)) == []


def test_notes_report_stages_that_are_left_out(variant: NetworkOf) -> None:
    spec = complete(variant("bn", "input_size=64", "stages.conv1=null"), DIGITS)
    assert notes(spec) == ["conv1 left out"]
    spec = complete(variant("bn", "input_size=64", "stages.conv3=null", "stages.conv4=null"), DIGITS)
    assert notes(spec) == ["conv3, conv4 left out"]


def test_defaults_are_those_of_the_sources() -> None:
    assert (Lrn().size, Lrn().alpha, Lrn().beta, Lrn().k) == (5, 1e-4, 0.75, 2)
    assert (Input().mean, Input().std) == ("none", "none")
