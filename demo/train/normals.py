"""Parameter vectors straight from normal vectors, without the portraits between."""

import torch
from torch import Tensor

from demo.portraits.attributes import GENDERED, LEANINGS, RATES
from demo.portraits.sampling import NORMAL_NAMES, NUM_PARAMETERS, PARAMETER_SLICES


def parameters_from_normal(z: Tensor) -> Tensor:
    """Compute `parameter_vector(portraits_from_normal(z))` without the portraits.

    Args:
        z: [N, at least NUM_NORMALS] standard normal; further columns mean nothing.

    Returns:
        [N, NUM_PARAMETERS] float32 on the device of `z`.
    """
    column = {name: z[:, i].double() for i, name in enumerate(NORMAL_NAMES)}
    for name, (other, correlation) in LEANINGS.items():
        alone = (1 - correlation**2) ** 0.5
        column[name] = alone * column[name] + correlation * column[other]
    choices = {name: _choose(name, column[name]) for name in RATES}
    for name, gender in GENDERED.items():
        able = choices["gender"] == [*RATES["gender"]].index(gender)
        choices[name] = torch.where(able, choices[name], [*RATES[name]].index("none"))
    vector = torch.zeros(len(z), NUM_PARAMETERS, device=z.device)
    for name, columns in PARAMETER_SLICES.items():
        if name in RATES:
            vector[:, columns].scatter_(1, choices[name][:, None], 1.0)
        else:
            value = torch.erf(column[name] / 2**0.5) * 3**0.5
            vector[:, columns.start] = value.float()
    return vector


def _choose(name: str, z: Tensor) -> Tensor:
    shares = torch.tensor([*RATES[name].values()], dtype=torch.float64)
    edges = torch.special.ndtri(shares.cumsum(0)[:-1])
    return torch.bucketize(z, edges.to(z.device))
