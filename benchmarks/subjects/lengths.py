"""Document lengths like those of GovReport, BookSum and MENSA: log-normal, with published sizes and means.

    tokens = mean * exp(spread * z - spread**2 / 2),  z standard normal

What idle shares depend on is the spread, the standard deviation of the logarithm of a length; the mean counts only
against the fixed cost of a step. Sizes are those of the training splits. Quantiles were not found for any of them, so
three of the four spreads are assumptions, and said to be.

GovReport  17,517 documents (the hub's ccdv/govreport-summarization) of 9.4K words (Huang et al. 2021, 2104.02112).
           Spread assumed.
BookSum    Kryscinski et al. 2021 (2105.08209). Chapters: about 5K tokens; 9,600 of them in the training split of the
           hub's kmfoda/booksum. Spread assumed: it makes the middle 99% span a factor of 100.
           Books: about 112K tokens; 314 of 405 in the training split of the hub's abertsch/booksum-fullbooks. Spread:
           the longest of 405 is then expected to have the 500K tokens that CachED (2501.01805) reports.
MENSA      Saxena & Keller 2024 (2404.03561): about 1,000 scripts of about 29K tokens. Spread assumed: films last about
           equally long.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Lengths:
    """A distribution of document lengths, and how many documents there are."""

    documents: int
    mean: float
    spread: float

    def draw(self, seed: int) -> list[int]:
        """Tokens of every document of a data set like this."""
        rng = random.Random(seed)
        median = self.mean * math.exp(-(self.spread**2) / 2)
        return [max(1, round(median * rng.lognormvariate(0, self.spread))) for _ in range(self.documents)]


DATA = {
    "GovReport": Lengths(17_517, 9_400, 0.7),
    "BookSum, chapters": Lengths(9_600, 5_000, 0.9),
    "BookSum, books": Lengths(314, 112_000, 0.6),
    "MENSA": Lengths(1_000, 29_000, 0.3),
}
