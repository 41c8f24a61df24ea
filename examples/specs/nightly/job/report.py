"""Writes a report, if the figures are in: they are from the third attempt on."""

import os
import sys

attempt = int(os.environ["TW_INCARNATION"])
if attempt < 3:
    print(f"attempt {attempt}: the figures are not in yet", file=sys.stderr)
    sys.exit(1)
print(f"attempt {attempt}: the report is written")
