"""Schedules equal those of torch at every step; restarts, stages and plateaus beyond torch's are tested too."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from alexnet_exp.config.nodes import read_node
from alexnet_exp.errors import UserError
from alexnet_exp.optim.schedule_spec import Constant, Cosine, OneCycle, Plateau, Steps
from alexnet_exp.optim.schedules import (
    WHOLE_SCHEDULE,
    SchedulePart,
    curve,
    factor,
    part_factor,
    part_of,
    plateau_factor,
)

CONF = Path(__file__).parents[2] / "conf"
EPOCHS, STEPS_PER_EPOCH = 10, 7
TOTAL = EPOCHS * STEPS_PER_EPOCH


def torch_curve(build, steps=TOTAL):
    """The learning rates that torch's scheduler sets before each of `steps` updates, from a base of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = build(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warmed(optimizer, steps, after):
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps)
    return lr_scheduler.SequentialLR(optimizer, [rise, after(optimizer)], [steps])


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (Constant(warmup=2), lambda o: warmed(o, 14, lambda o: lr_scheduler.ConstantLR(o, factor=1.0))),
        (Steps(milestones=[3, 6]), lambda o: lr_scheduler.MultiStepLR(o, [21, 42])),
        (Steps(milestones=["50%", "90%"], factor=0.3), lambda o: lr_scheduler.MultiStepLR(o, [35, 63], 0.3)),
        (Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL)),
        (Cosine(end=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1)),
        (Cosine(warmup="10%"), lambda o: warmed(o, 7, lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL - 7))),
        (Cosine(restarts=[2, 4, 6, 8]), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 14)),
        (
            Cosine(restarts=[30 / 7, 10 / 7], end=0.1),  # 10, 20 and 40 steps
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, T_mult=2, eta_min=0.1),
        ),
        (OneCycle(), lambda o: lr_scheduler.OneCycleLR(o, 1.0, TOTAL, cycle_momentum=False)),
        (
            OneCycle(warmup=2.5, start=0.1, end=0.001),
            lambda o: lr_scheduler.OneCycleLR(
                o, 1.0, TOTAL, pct_start=0.25, div_factor=10, final_div_factor=100, cycle_momentum=False
            ),
        ),
    ],
    ids=lambda value: f"{value.name}" if hasattr(value, "name") else "",
)
def test_equals_torch_at_every_step(schedule, theirs):
    assert curve(schedule, EPOCHS, STEPS_PER_EPOCH) == pytest.approx(torch_curve(theirs), rel=1e-9, abs=1e-12)


def test_the_default_steps_are_where_the_2012_run_was_divided():
    rates = curve(Steps(), epochs=91, steps_per_epoch=100)
    drops = [step / 100 for step in range(1, 9100) if rates[step] < rates[step - 1]]
    assert drops == pytest.approx([25, 51, 79], abs=0.5)
    assert rates[-1] == pytest.approx(1e-3)


def test_one_cycle_reaches_its_three_values():
    rates = curve(OneCycle(warmup="30%", start=0.2, end=0.05), epochs=10, steps_per_epoch=10)
    assert rates[0] == pytest.approx(0.2)
    assert rates[29] == max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("kind", [OneCycle, Cosine])
def test_a_run_ending_at_a_restart_equals_the_start_of_a_longer_run(kind):
    schedule = kind(warmup="20%", end=0.01, restarts=[6], restart_from=0.5)
    plain = curve(kind(warmup="20%", end=0.01), 6, STEPS_PER_EPOCH)
    longer = curve(schedule, EPOCHS, STEPS_PER_EPOCH)
    assert curve(schedule, 6, STEPS_PER_EPOCH) == plain == longer[:42], "to the last bit: resume relies on it"
    assert longer[42] == 0.5
    second = torch_curve(lambda o: lr_scheduler.CosineAnnealingLR(o, 27 if kind is OneCycle else 28, eta_min=0.02), 28)
    assert longer[42:] == pytest.approx([0.5 * rate for rate in second])


def test_restarts_after_the_end_of_the_run_are_ignored():
    assert curve(OneCycle(restarts=[6, 30, "100%"]), 5, 7) == curve(OneCycle(), 5, 7)


RISING_AND_FALLING = [OneCycle(), OneCycle(restarts=[1, "50%"]), Cosine(), Cosine(warmup=1, restarts=["90%", 0.1])]


@given(
    schedule=st.sampled_from([Constant(), Constant(warmup="20%"), Steps(), *RISING_AND_FALLING]),
    step=st.integers(0, 60),
    total=st.integers(1, 50),
)
def test_multipliers_are_from_0_to_1(schedule, step, total):
    assert 0 <= factor(schedule, step, total, steps_per_epoch=5) <= 1


def test_steps_past_the_end_keep_the_last_value():
    assert factor(Cosine(end=0.1), 500, 100, 10) == pytest.approx(0.1)
    assert factor(OneCycle(end=0.1), 500, 100, 10) == pytest.approx(0.1)


@pytest.mark.parametrize("monitor", ["val/loss", "val/top1"])
@pytest.mark.parametrize("options", [{"patience": 0}, {"patience": 2, "cooldown": 3}, {"patience": 1, "factor": 0.5}])
def test_plateau_equals_torch_after_every_epoch(monitor, options):
    # falls, stalls, rises a little, falls again: improvements under the threshold included
    values = [2.0, 1.5, 1.5, 1.49999, 1.6, 1.4, 1.45, 1.41, 1.4, 1.42, 1.3, math.nan, 1.3, 1.31, 1.3, 1.3, 1.3, 1.3]
    if monitor == "val/top1":
        values = [1 / value for value in values]
    schedule = Plateau(monitor=monitor, floor=1e-3, **options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    mode = "min" if monitor == "val/loss" else "max"
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, min_lr=1e-3, **{"factor": 0.1, "patience": schedule.patience, **options}
    )
    dropped = set()
    for epoch, value in enumerate(values):
        theirs.step(value)
        ours = plateau_factor(schedule, values[: epoch + 1])
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        dropped.add(round(ours, 9))
    assert len(dropped) > 1, "the values never stalled for long enough to test anything"


def test_a_plateau_depends_on_the_history_and_has_no_curve():
    stalled = [1.0] * 7
    assert factor(Plateau(patience=5), 3, 100, 10) == 1.0
    assert factor(Plateau(patience=5), 3, 100, 10, history=stalled) == 0.1
    with pytest.raises(UserError, match="schedule=plateau"):
        curve(Plateau(), 5, 10)


def stages(milestones, factors, **more):
    return {"milestones": milestones, "factors": factors, **more}


def typed_yaml(name):
    text = yaml.safe_load((CONF / "schedule" / f"{name}.yaml").read_text())
    text.pop("defaults")
    return read_node(Steps, text, "schedule")


def test_four_stages_fall_to_a_250th_in_equal_parts_of_the_run():
    # the 2012 code's discrete exponential: base * 250^-(stage / 3) in stage 0 to 3
    schedule = typed_yaml("four_stages")
    rates = [0.01 * multiplier for multiplier in curve(schedule, 8, 5)]
    for stage in range(4):
        assert rates[10 * stage : 10 * stage + 10] == pytest.approx([0.01 * 250 ** (-stage / 3)] * 10)
    assert rates[-1] == pytest.approx(4e-5)
    biases = [0.02 * multiplier for multiplier in curve(schedule, 8, 5, SchedulePart(biases=True))]
    assert biases == pytest.approx([0.02] * 20 + [0.002] * 20)


def test_parts_without_stages_follow_the_schedule():
    schedule = Cosine(layers={"conv1": {"milestones": [2, "75%"], "factors": [0.5, 0.0]}})
    for name in ("conv2.weight", "conv2.bias", "fc8.bias"):
        assert part_of(schedule, name) == WHOLE_SCHEDULE
    whole, conv1 = curve(schedule, 4, 5), curve(schedule, 4, 5, part_of(schedule, "conv1.conv.weight"))
    assert whole == curve(Cosine(), 4, 5)
    assert conv1 == pytest.approx([*whole[:10], *(rate / 2 for rate in whole[10:15]), *[0.0] * 5])
    assert part_of(schedule, "conv1.conv.bias") == part_of(schedule, "conv1.conv.weight")


def test_biases_of_a_layer_whose_weights_alone_have_stages():
    schedule = Constant(biases=stages([1], [0.1]), layers={"conv1": stages([0], [0.0], biases=False)})
    assert curve(schedule, 2, 2, part_of(schedule, "conv1.conv.bias")) == [1.0, 1.0, 0.1, 0.1]
    assert curve(schedule, 2, 2, part_of(schedule, "conv1.conv.weight")) == [0.0] * 4
    alone = Constant(layers={"conv1": stages([0], [0.0], biases=False)})
    assert curve(alone, 1, 2, part_of(alone, "conv1.conv.bias")) == [1.0, 1.0]


def test_milestones_need_not_be_in_order():
    assert curve(Constant(biases=stages([3, 1], [0.1, 0.5])), 4, 1, SchedulePart(biases=True)) == [1.0, 0.5, 0.5, 0.1]


def test_a_plateau_can_have_stages():
    schedule = Plateau(patience=0, biases=stages([], []))
    whole = factor(schedule, 50, 0, 10, history=[1.0, 1.0])
    assert whole == 0.1
    assert part_factor(schedule, SchedulePart(biases=True), whole, 50, 0, 10) == 1.0


def test_a_plateau_divides_by_ten_at_most_three_times():
    stuck = [1.0] * 100
    multipliers = [plateau_factor(Plateau(), stuck[:epochs]) for epochs in range(len(stuck))]
    assert sorted({round(multiplier, 12) for multiplier in multipliers}, reverse=True) == [1.0, 0.1, 0.01, 0.001]
