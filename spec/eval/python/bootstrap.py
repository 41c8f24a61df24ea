"""Runs first in the zygote: serves the embedded sources as modules, then loads everything a spec may need.

`SOURCES` (dotted name → (file, marshalled code, is_package)) is set by the host.
"""

import gc
import importlib
import importlib.abc
import importlib.machinery
import marshal
import os
import sys


class _Embedded(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name not in SOURCES:
            return None
        file, _, is_package = SOURCES[name]
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=is_package)
        spec.has_location = True
        return spec

    def exec_module(self, module):
        exec(marshal.loads(SOURCES[module.__name__][1]), module.__dict__)


# Nothing of what is loaded here is garbage; looking for some would take a good part of the start.
gc.disable()

# The C datetime cannot be told that there is no clock; the Python one can.
sys.modules["_datetime"] = None
sys.meta_path.insert(0, _Embedded())

# `random` would seed itself anew in each child, from the kernel.
os.register_at_fork = lambda **_hooks: None

policy = importlib.import_module("_twill.policy")
for name in [*sorted(policy.ALLOWED), *policy.LAZY, "uuid", "pathlib", "random"]:
    importlib.import_module(name)
sys.modules["random"].seed(0)
importlib.import_module("_twill.entry").prepare()
