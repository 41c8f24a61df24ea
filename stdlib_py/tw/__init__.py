"""Twill's spec language: typed classes, units, and `export`."""

from . import repo
from ._export import export, exported
from ._runtime import Spec, SpecError
from ._schema import *
from ._schema import __all__ as _schema_names
from .units import DAY, GiB, HOUR, KiB, MILLISECOND, MINUTE, MiB, SECOND, TiB

__all__ = [
    "DAY",
    "GiB",
    "HOUR",
    "KiB",
    "MILLISECOND",
    "MINUTE",
    "MiB",
    "SECOND",
    "Spec",
    "SpecError",
    "TiB",
    "export",
    "exported",
    "repo",
]
__all__ += _schema_names
