"""Ridge regression of standardised features, which both stacks use."""

import numpy as np


def standardised_ridge(features: np.ndarray, target: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """Fit a ridge regression that regularises as if each feature had variance 1.

    Args:
        features: shape (n, F); a constant feature gets the slope 0.
        target: shape (n,).
        reg: L2 regularisation, in rows.

    Returns:
        Intercept, and slopes in the features' own units, shape (F,).
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1
    standard = (features - mean) / scale
    system = standard.T @ standard + max(reg, 1e-6) * np.eye(len(scale))
    slopes = np.linalg.solve(system, standard.T @ (target - target.mean())) / scale
    return float(target.mean() - mean @ slopes), slopes
