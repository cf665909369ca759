"""Mean and deviation of every style channel over random samples (StyleCLIP, section 6.2)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from styleclip_ops.errors import ConfigError
from styleclip_ops.generator import Generator

# The published assets draw z from numpy's RandomState(5) with truncation 0.7.
PUBLISHED_SEED = 5
PUBLISHED_TRUNCATION = 0.7


class StyleStatistics(NamedTuple):
    """Statistics of the flat style code.

    Attributes:
        mean: [layout.size] float32.
        std: [layout.size] float32, population standard deviation.
    """

    mean: Tensor
    std: Tensor


def sample_style_codes(
    generator: Generator,
    num_samples: int,
    *,
    seed: int = PUBLISHED_SEED,
    truncation_psi: float = PUBLISHED_TRUNCATION,
    truncation_cutoff: int | None = None,
    batch_size: int = 512,
) -> Iterator[Tensor]:
    """Draw style codes of random faces, in batches.

    Sample number i depends on the seed and i only, not on the batch size.

    Args:
        generator: The generator.
        num_samples: How many to draw.
        seed: Seed of numpy's RandomState, as in the published code.
        truncation_psi: Truncation of w; 1 for none.
        truncation_cutoff: Rows of W+ that are truncated; None for all, 8 as global_torch does.
        batch_size: Samples in a batch.

    Yields:
        [at most batch_size, layout.size] on the generator's device.

    Raises:
        ConfigError: `num_samples` or `batch_size` is not positive.
    """
    if num_samples < 1 or batch_size < 1:
        raise ConfigError(
            f"samples: got {num_samples} in batches of {batch_size}, expected positive numbers"
        )
    random = np.random.RandomState(seed)
    for start in range(0, num_samples, batch_size):
        count = min(batch_size, num_samples - start)
        z = torch.from_numpy(random.randn(count, generator.config.z_dim)).to(generator.w_avg)
        with torch.no_grad():
            w = generator.mapping(z)
            w_plus = generator.w_to_w_plus(w, truncation_psi, truncation_cutoff)
            yield generator.w_plus_to_s(w_plus)


def style_statistics(
    generator: Generator,
    num_samples: int = 100_000,
    *,
    seed: int = PUBLISHED_SEED,
    truncation_psi: float = PUBLISHED_TRUNCATION,
    truncation_cutoff: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> StyleStatistics:
    """Estimate the mean and standard deviation of every style channel.

    Args:
        generator: The generator.
        num_samples: Random faces to average over; the published assets use 100,000.
        seed: See `sample_style_codes`.
        truncation_psi: See `sample_style_codes`.
        truncation_cutoff: See `sample_style_codes`.
        on_progress: Told how many faces are averaged.

    Returns:
        Mean and standard deviation, [layout.size] each.

    Raises:
        ConfigError: `num_samples` is below 2.
    """
    if num_samples < 2:
        raise ConfigError(f"num_samples: got {num_samples}, expected at least 2")
    batches = sample_style_codes(
        generator,
        num_samples,
        seed=seed,
        truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff,
    )
    # Chan et al., 1983: merging batch moments stays accurate where sums of squares cancel.
    mean = torch.zeros(generator.layout.size, dtype=torch.float64)
    deviation = torch.zeros_like(mean)
    seen = 0
    for batch in batches:
        values = batch.double().cpu()
        batch_mean = values.mean(dim=0)
        delta = batch_mean - mean
        total = seen + len(values)
        deviation += (values - batch_mean).square().sum(dim=0)
        deviation += delta.square() * (seen * len(values) / total)
        mean += delta * (len(values) / total)
        seen = total
        if on_progress is not None:
            on_progress(seen)
    std = (deviation / seen).sqrt()
    return StyleStatistics(mean.to(generator.w_avg), std.to(generator.w_avg))
