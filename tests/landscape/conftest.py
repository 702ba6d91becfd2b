"""One thread: the tests' products are tiny, and rounding then does not depend on the machine."""

import torch

torch.set_num_threads(1)
