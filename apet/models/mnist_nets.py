"""The two small MNIST networks of Li et al. 2018 (arXiv 1804.08838). Their weights are always drawn at random.

mnist-fc     784-200-200-10, 199,210 parameters
mnist-lenet  two 5 x 5 convolutions (6 and 16 channels), each with 2 x 2 pooling, then 256-120-84-10: 44,426 parameters
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from apet.models.net_names import NET_NAMES


class Net(nn.Module):
    """A network that maps images, uint8 (B, 28, 28), to logits (B, 10)."""

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
    """Return the network `name` with weights drawn with `seed` on the CPU (on the meta device: without weights).

    As in the paper, weights are normal with variance 2 / fan-in (He et al. 2015, arXiv 1502.01852) and biases are zero.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(seed)
        net = NETS[name]()
        for parameter in net.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)
        return net
