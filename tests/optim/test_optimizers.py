"""Optimizers against recurrences written out in numpy."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from alexnet_exp.errors import UserError
from alexnet_exp.optim.krizhevsky import KrizhevskySGD
from alexnet_exp.optim.optimizer_spec import Adam, AdamW, EpsMode, Krizhevsky, Sgd
from alexnet_exp.optim.optimizers import build_optimizer, parts_of
from alexnet_exp.optim.schedule_spec import Constant, Cosine
from alexnet_exp.optim.schedules import WHOLE_SCHEDULE, SchedulePart

STEPS = 4


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()


def gradients(shape, name):
    rng = np.random.default_rng(len(name))
    return [rng.normal(size=shape) for _ in range(STEPS)]


def sgd(w, grads, spec, decay):
    v = np.zeros_like(w)
    for g in grads:
        g = g + decay * w
        v = spec.momentum * v + g
        w = w - spec.lr * (g + spec.momentum * v if spec.nesterov else v)
    return w


def adam(w, grads, spec, decay):
    m, s = np.zeros_like(w), np.zeros_like(w)
    b1, b2 = spec.betas
    for t, g in enumerate(grads, start=1):
        if isinstance(spec, AdamW):
            w = w - spec.lr * decay * w
        else:
            g = g + decay * w
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        w = w - spec.lr * (m / (1 - b1**t)) / (np.sqrt(s / (1 - b2**t)) + spec.eps)
    return w


def keras_adam(w, grads, rates, betas, eps):
    """Keras's Adam.update_step, in float64: eps is added to the root of the second moment before it is corrected."""
    m, s = np.zeros_like(w), np.zeros_like(w)
    b1, b2 = betas
    for t, (g, lr) in enumerate(zip(grads, rates, strict=True), start=1):
        alpha = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
        m = m + (g - m) * (1 - b1)
        s = s + (g**2 - s) * (1 - b2)
        w = w - alpha * m / (np.sqrt(s) + eps)
    return w


@pytest.mark.parametrize("fused", [True, False])
def test_adam_with_keras_eps_is_the_formula_of_keras(fused):
    """At an eps that outweighs the gradients' roots, so that torch's place of it would be off by a factor."""
    spec = Adam(lr=0.1, eps=1.0, eps_mode=EpsMode.keras)
    net, factors = network(), [1.0, 0.5, 0.5, 0.1]
    before = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    optimizer = build_optimizer(spec, net, fused=fused)
    for step, factor in enumerate(factors):
        if step == 2:  # as on resume: from what a checkpoint has
            state = optimizer.state_dict()
            optimizer = build_optimizer(spec, net, fused=fused)
            optimizer.load_state_dict(state)
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * factor
        for name, p in net.named_parameters():
            p.grad = torch.from_numpy(gradients(p.shape, name)[step])
        optimizer.step()
    for name, p in net.named_parameters():
        rates = [spec.lr * factor for factor in factors]
        expected = keras_adam(before[name], gradients(p.shape, name), rates, spec.betas, spec.eps)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12, atol=1e-14, err_msg=name)
        torchs = adam(before[name], gradients(p.shape, name), Adam(lr=0.1, eps=1.0), 0.0)
        assert np.abs(torchs - expected).max() > 1e-2


def test_skipped_steps_do_not_count_for_keras_eps():
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = build_optimizer(Adam(eps_mode=EpsMode.keras), nn.ParameterDict({"weight": w}))
    optimizer.step()  # no gradient
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert optimizer.param_groups[0]["eps"] == pytest.approx(1e-8 / math.sqrt(1e-3))
    optimizer.step()
    assert optimizer.param_groups[0]["eps"] == pytest.approx(1e-8 / math.sqrt(1 - 0.999**2))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("everything_decays", [True, False])
@pytest.mark.parametrize(
    ("spec", "recurrence"),
    [
        (Sgd(lr=0.1, weight_decay=0.3), sgd),
        (Sgd(lr=0.1, weight_decay=0.3, nesterov=True), sgd),
        (Sgd(lr=0.1, weight_decay=0.3, momentum=0.0), sgd),
        (Adam(lr=0.1, weight_decay=0.3, eps=1e-3), adam),
        (AdamW(lr=0.1, weight_decay=0.3, betas=[0.8, 0.99]), adam),
    ],
    ids=["sgd", "nesterov", "no momentum", "adam", "adamw"],
)
def test_steps_follow_the_recurrence(spec, recurrence, everything_decays, fused):
    spec = type(spec)(**{**vars(spec), "decay_norm_and_bias": everything_decays})
    net = network()
    before = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    optimizer = build_optimizer(spec, net, fused=fused)
    for step in range(STEPS):
        for name, p in net.named_parameters():
            p.grad = torch.from_numpy(gradients(p.shape, name)[step])
        optimizer.step()
    for name, p in net.named_parameters():
        decays = everything_decays or name in ("0.weight", "3.weight")
        expected = recurrence(before[name], gradients(p.shape, name), spec, spec.weight_decay if decays else 0.0)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-9, atol=1e-12, err_msg=name)


def test_only_weights_decay_by_default():
    net = network()
    names = {id(p): name for name, p in net.named_parameters()}
    decayed, undecayed = build_optimizer(AdamW(), net).param_groups
    assert [names[id(p)] for p in decayed["params"]] == ["0.weight", "3.weight"]
    assert [names[id(p)] for p in undecayed["params"]] == ["0.bias", "1.weight", "1.bias", "3.bias"]
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.05, 0.0)


def test_a_bias_of_many_dimensions_is_a_bias():
    # a locally connected layer has one bias a place
    net = nn.Module()
    net.weight, net.bias = nn.Parameter(torch.zeros(3, 4, 4, 9)), nn.Parameter(torch.zeros(3, 4, 4))
    decayed, undecayed = build_optimizer(Sgd(), net).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert [p.ndim for p in undecayed["params"]] == [3]


def test_frozen_parameters_are_in_no_group():
    net = network()
    net[0].requires_grad_(False)
    kept = [p for group in build_optimizer(Sgd(), net).param_groups for p in group["params"]]
    assert not any(p is frozen for p in kept for frozen in net[0].parameters())
    assert len(kept) == 4
    with pytest.raises(UserError, match="no trainable parameter"):
        build_optimizer(Sgd(), net.requires_grad_(False))


@pytest.mark.parametrize("spec", [Sgd(), Adam(), AdamW()], ids=lambda spec: spec.name)
def test_fused_where_the_device_supports_it_else_foreach(spec):
    assert build_optimizer(spec, network()).defaults["fused"] is True
    assert build_optimizer(spec, network(), fused=False).defaults["foreach"] is True
    assert build_optimizer(spec, network().to("meta")).defaults["foreach"] is True


def test_optimizer_state_is_saved_and_loaded_with_weights_only(tmp_path):
    net = network()
    optimizer = build_optimizer(AdamW(), net)
    net(torch.ones(2, 2, 3, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    state = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    again = build_optimizer(AdamW(), network())
    again.load_state_dict(state)
    assert torch.equal(again.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def krizhevsky(w, grads, rates, momentum, decay):
    """Section 5 of the paper, and its code: the learning rate is inside the velocity."""
    v = np.zeros_like(w)
    for g, lr in zip(grads, rates, strict=True):
        v = momentum * v - decay * lr * w - lr * g
        w = w + v
    return w


def test_krizhevsky_follows_the_papers_recurrence_over_a_drop_of_the_rate():
    spec, factors = Krizhevsky(lr=0.1, weight_decay=0.3), [1.0, 1.0, 0.1, 0.1]
    net = network()
    before = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    optimizer = build_optimizer(spec, net)
    base = [group["lr"] for group in optimizer.param_groups]
    for step, factor in enumerate(factors):
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor
        for name, p in net.named_parameters():
            p.grad = torch.from_numpy(gradients(p.shape, name)[step])
        optimizer.step()
    for name, p in net.named_parameters():
        bias = name.endswith("bias")
        rates = [0.1 * (2 if bias else 1) * factor for factor in factors]
        decay = 0.3 if name in ("0.weight", "3.weight") else 0.0
        expected = krizhevsky(before[name], gradients(p.shape, name), rates, 0.9, decay)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12, atol=1e-14, err_msg=name)


def test_torch_sgd_equals_krizhevsky_after_a_drop_only_with_a_rescaled_buffer():
    # the facts: multiplying torch's momentum buffer by lr_old/lr_new at a change makes it exact
    grads = gradients((5,), "w")
    ours, plain, rescaled = (nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(3))
    pairs = [
        (ours, KrizhevskySGD([ours], lr=0.1, weight_decay=0.01)),
        (plain, torch.optim.SGD([plain], lr=0.1, momentum=0.9, weight_decay=0.01)),
        (rescaled, torch.optim.SGD([rescaled], lr=0.1, momentum=0.9, weight_decay=0.01)),
    ]
    for step in range(STEPS):
        if step == 2:
            assert torch.allclose(ours, plain, rtol=1e-12)
            for _, optimizer in pairs:
                optimizer.param_groups[0]["lr"] = 0.01
            pairs[2][1].state[rescaled]["momentum_buffer"] *= 10
        for parameter, optimizer in pairs:
            parameter.grad = torch.from_numpy(grads[step])
            optimizer.step()
    assert torch.allclose(ours, rescaled, rtol=1e-12)
    assert (ours - plain).abs().max() > 1e-3


def test_a_layer_has_its_own_rate_and_decay():
    net = nn.Sequential()
    for name in ("conv1", "fc8"):
        net.add_module(name, nn.Sequential())
        net.get_submodule(name).add_module("fc", nn.Linear(2, 2))
    spec = Krizhevsky(lr=0.001, weight_decay=0.004, layers={"fc8": {"lr": 0.5, "weight_decay": 1.0}})
    names = {id(p): name for name, p in net.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in build_optimizer(spec, net).param_groups
        for p in group["params"]
    }
    assert found == {
        "conv1.fc.weight": (0.001, 0.004),
        "conv1.fc.bias": (0.002, 0.0),
        "fc8.fc.weight": (0.0005, 1.0),
        "fc8.fc.bias": (0.001, 0.0),
    }


def test_a_layer_with_rate_zero_keeps_its_initial_weights():
    net = network()
    before = net[3].weight.detach().clone()
    optimizer = build_optimizer(Sgd(layers={"3": {"lr": 0}}), net)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(net[3].weight, before)
    assert optimizer.param_groups[0]["lr"] == 0.01, "the rate that is logged"


def test_unknown_layers_are_rejected():
    with pytest.raises(UserError, match=r"optim.layers.fc9: not a layer of the network; one of 0, 1, 2, 3"):
        build_optimizer(Sgd(layers={"fc9": {}}), network())


def test_parameters_with_their_own_stages_are_a_group_of_their_own():
    net = network()
    schedule = Constant(
        biases={"milestones": [1], "factors": [0.1]},
        layers={"0": {"milestones": [1], "factors": [0.0], "biases": False}},
    )
    optimizer = build_optimizer(Sgd(), net, schedule=schedule)
    names = {id(p): name for name, p in net.named_parameters()}
    groups = [sorted(names[id(p)] for p in group["params"]) for group in optimizer.param_groups]
    assert groups == [["3.weight"], ["0.weight"], ["1.weight"], ["0.bias"], ["1.bias", "3.bias"]]
    parts = parts_of(optimizer, net, schedule)
    assert parts == [WHOLE_SCHEDULE, SchedulePart("0"), WHOLE_SCHEDULE, SchedulePart("0", True), SchedulePart("", True)]
    plain = [group["params"] for group in build_optimizer(Sgd(), net).param_groups]
    assert [group["params"] for group in build_optimizer(Sgd(), net, schedule=Cosine()).param_groups] == plain


def test_stages_of_unknown_layers_are_rejected():
    schedule = Constant(layers={"fc9": {}})
    with pytest.raises(UserError, match=r"schedule.layers.fc9: not a layer of the network; one of 0, 1, 2, 3"):
        build_optimizer(Sgd(), network(), schedule=schedule)
