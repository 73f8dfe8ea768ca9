"""How much the features of a batch repeat each other."""

import torch
from torch import Tensor


def decorrelation(z: Tensor) -> Tensor:
    """Return the sum of the squared covariances of different features, over the number of features.

    But for a constant the penalty of Cogswell et al., "Reducing Overfitting in Deep Networks by Decorrelating
    Representations" (2016), which is zero where features are uncorrelated.

    Args:
        z: Features (B, D), each of mean 0 over the batch.

    Returns:
        (), in float32 or better: with products rounded to bfloat16, few dims learn slowly
            (docs/recipe_candidates.md).

    Example:
        >>> z = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # one feature twice
        >>> decorrelation(z).item()
        1.0
    """
    samples, features = z.shape
    with torch.autocast(z.device.type, enabled=False):
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        # Inner products of samples have the same sum of squares as those of features: the fewer are taken.
        products = (z @ z.t() if samples < features else z.t() @ z) / samples
        return (products.square().sum() - z.square().mean(0).square().sum()) / features
