"""Random numbers that depend on a seed and a step only, so that a resumed run draws the same."""

import numpy as np
import torch


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one step of the run that `seed` names."""
    state = np.random.SeedSequence((seed, step)).generate_state(1)
    return torch.Generator(device).manual_seed(int(state[0]))
