"""Lets tests of this folder import what they share, by its full name from the repository's root."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[3])
if ROOT not in sys.path:
    sys.path.append(ROOT)
