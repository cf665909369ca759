"""The device to train on, and the number format of its convolutions."""

import torch


def best_device() -> torch.device:
    """Return the CUDA device where there is one, else the processor."""
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        if device is not None and device.type == "cuda":
            return device
    return torch.device("cpu")


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 on CUDA, float32 on processors.

    Processors without bfloat16 instructions convert, which is slower than float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
