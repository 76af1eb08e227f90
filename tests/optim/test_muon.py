"""Muon against singular value decompositions in numpy, and against torch.optim.Muon."""

import numpy as np
import pytest
import torch
from torch import nn

from alexnet_exp.optim.muon import Muon, orthogonalized
from alexnet_exp.optim.optimizer_spec import Muon as MuonSpec
from alexnet_exp.optim.optimizers import build_optimizer


def by_svd(matrix):
    """The polynomial of the Newton-Schulz iteration, applied to the singular values."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / (np.linalg.norm(s) + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ vt


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (6, 6)], ids=str)
def test_orthogonalization_maps_the_singular_values_only(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    found = orthogonalized(torch.from_numpy(matrix)).numpy()
    np.testing.assert_allclose(found, by_svd(matrix), rtol=1e-9, atol=1e-12)
    assert 0.6 < np.linalg.svd(found)[1].min() <= np.linalg.svd(found)[1].max() < 1.3


def test_a_zero_gradient_stays_zero():
    assert torch.equal(orthogonalized(torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize(("channels_last", "normalize"), [(False, False), (True, False), (True, True)])
def test_steps_follow_the_recurrence(channels_last, normalize):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 9, 2), nn.BatchNorm2d(9), nn.Conv2d(9, 3, 1), nn.Flatten(), nn.Linear(12, 4)
    ).double()
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    spec = MuonSpec(lr=0.1, weight_decay=0.3, momentum=0.8, bias_lr=2.0, other_lr=5.0, normalize=normalize)
    optimizer = build_optimizer(spec, net)
    rng = np.random.default_rng(1)
    expected = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    velocity = {name: np.zeros_like(w) for name, w in expected.items()}
    for step in range(3):
        if step == 2:  # as on resume
            state = optimizer.state_dict()
            optimizer = build_optimizer(spec, net)
            optimizer.load_state_dict(state)
        for name, p in net.named_parameters():
            g, w = rng.normal(size=p.shape), expected[name]
            p.grad = torch.from_numpy(g).to(memory_format=torch.channels_last) if p.ndim == 4 else torch.from_numpy(g)
            velocity[name] = 0.8 * velocity[name] + g
            u, decay, rate = g + 0.8 * velocity[name], 0.0, 1.0 if name.endswith("bias") else 0.5
            if name in ("0.weight", "2.weight"):
                rows, rate = len(u), 0.1
                u = by_svd(u.reshape(rows, -1)).reshape(u.shape)
                if normalize:
                    w = w * np.sqrt(rows) / (np.linalg.norm(w) + 1e-7)
                else:
                    u, decay = u * max(1, rows * rows / u.size) ** 0.5, 0.3
            elif name == "4.weight":  # the last layer is not orthogonalized
                decay = 0.3
            expected[name] = w - rate * (decay * w + u)
        optimizer.step()
    for name, p in net.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=1e-8, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("shape", [(32, 64), (64, 32)], ids=str)
def test_matrices_are_updated_as_by_torch(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    pairs = [(ours, Muon([ours], lr=0.1, momentum=0.9, weight_decay=0.1))]
    pairs += [(theirs, torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=0.1))]
    for _ in range(4):
        gradient = torch.randn(shape)
        for parameter, optimizer in pairs:
            parameter.grad = gradient.clone()
            optimizer.step()
    difference, moved = (ours - theirs).abs().max(), (ours - start).abs().max()
    assert difference < 0.03 * moved, "bfloat16 rounding alone"
