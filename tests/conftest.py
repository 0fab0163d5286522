"""What all tests share: small tensors gain nothing from threads, and two busy processes with two threads each lose much."""

import torch

torch.set_num_threads(1)
torch.set_flush_denormal(True)
