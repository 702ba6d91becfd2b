"""Two small networks for MNIST, those of Li et al. 2018 (arXiv 1804.08838). They have no trained weights: they are drawn.

mnist-fc     784-200-200-10, 199,210 parameters
mnist-lenet  two convolutions of 5 x 5 (6 and 16 channels), each pooled by 2, then 256-120-84-10: 44,426 parameters
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from apet.models.net_names import NET_NAMES


class Net(nn.Module):
    """Images (B, 28, 28), bytes -> logits (B, 10)."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.unsqueeze(1).to(next(self.parameters()).dtype) / 255)


def _fc() -> Net:
    return Net(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))


def _lenet() -> Net:
    return Net(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


NETS: dict[str, Callable[[], Net]] = {"mnist-fc": _fc, "mnist-lenet": _lenet}
assert tuple(NETS) == NET_NAMES


def draw_net(name: str, seed: int, device: str) -> Net:
    """Return the network `name`, weights drawn with `seed` on the CPU (on the meta device: none) as the paper did, normal of variance
    2 / fan-in (He et al. 2015, arXiv 1502.01852), biases zero."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(seed)
        net = NETS[name]()
        for parameter in net.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)
        return net
