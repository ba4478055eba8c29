"""Tests whether two runs over the same questions differ significantly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.05
"""A difference is significant if p is smaller."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of two runs, paired by question: values minus baseline."""

    mean: float
    low: float
    high: float
    """95 % interval of the mean."""
    p: float
    """Two-sided p-value under the hypothesis that the runs are equal."""
    questions: int

    @property
    def significant(self) -> bool:
        """Whether p is below `LEVEL`."""
        return self.p < LEVEL


def compare(values: Sequence[float], baseline: Sequence[float], seed: int) -> Difference:
    """A paired randomisation test and a percentile bootstrap of the mean difference.

    Source: Smucker, Allan and Carterette, "A comparison of statistical significance tests for information retrieval
    evaluation" (2007), which recommends the randomisation test over Wilcoxon's and the sign test.

    Raises:
        ValueError: there are no values, or the lengths differ.
    """
    if not values or len(values) != len(baseline):
        raise ValueError(f"{len(values)} values for {len(baseline)} of the baseline")
    differences = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    mean = float(differences.mean())
    low, high = interval(differences, seed)
    if not differences.any():
        return Difference(0.0, 0.0, 0.0, 1.0, len(differences))
    test = stats.permutation_test(
        (differences,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",  # for one sample, this flips signs
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 4_000_000 // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return Difference(mean, low, high, float(test.pvalue), len(differences))


def interval(values: Sequence[float] | npt.NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % interval of the mean: percentile bootstrap over questions."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (np.asarray(values, np.float64),),
        np.mean,
        n_resamples=2_000,
        batch=max(1, 2_000_000 // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
