"""Loss spikes: losses far above the recent ones, measured by their median and spread.

Median and median absolute deviation, unlike mean and standard deviation, are not moved by the spike itself nor by a few
before it (Leys et al. 2013, doi 10.1016/j.jesp.2013.03.013). Only losses that were no spike enter the window.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable

MAD_TO_SIGMA = 1.4826  # for a normal distribution
_MIN_SPREAD = 0.002  # of the median: on a plateau tiny fluctuations must not count as spikes
_MIN_HISTORY = 16


class LossSpikeRule:
    """Judges one loss after another.

    Attributes:
        threshold: how many spreads above the median is a spike; infinite: none is.
    """

    def __init__(self, threshold: float, window: int, losses: Iterable[float] = ()) -> None:
        """
        Args:
            window: how many losses are looked back on.
            losses: those before, of a run that is resumed.
        """
        self.threshold = threshold
        self._losses = deque(losses, maxlen=window)

    @property
    def losses(self) -> list[float]:
        """The window, oldest first, for the checkpoint."""
        return list(self._losses)

    def height(self, loss: float) -> float:
        """Return how many spreads ``loss`` is above the window's median; 0 while there is little history."""
        if len(self._losses) < min(_MIN_HISTORY, self._losses.maxlen or _MIN_HISTORY):
            return 0.0
        if not math.isfinite(loss):
            return math.inf
        middle = statistics.median(self._losses)
        deviation = statistics.median(abs(value - middle) for value in self._losses)
        return (loss - middle) / max(MAD_TO_SIGMA * deviation, _MIN_SPREAD * abs(middle))

    def is_spike(self, loss: float) -> bool:
        """Return whether ``loss`` is a spike; if not, it becomes part of the history."""
        spike = self.height(loss) > self.threshold
        if not spike and math.isfinite(loss):
            self._losses.append(loss)
        return spike
