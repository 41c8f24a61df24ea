"""Units for spec values. Sizes are bytes, durations are seconds."""

from __future__ import annotations

from typing import Final

KiB: Final = 1024
"""1,024 bytes."""
MiB: Final = 1024 * KiB
"""1,048,576 bytes."""
GiB: Final = 1024 * MiB
"""1,073,741,824 bytes."""
TiB: Final = 1024 * GiB
"""1,099,511,627,776 bytes."""

MILLISECOND: Final = 0.001
"""A thousandth of a second."""
SECOND: Final = 1
"""One second."""
MINUTE: Final = 60 * SECOND
"""60 seconds."""
HOUR: Final = 60 * MINUTE
"""3,600 seconds."""
DAY: Final = 24 * HOUR
"""86,400 seconds."""
