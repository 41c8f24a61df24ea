"""Runs first in the zygote: serves the embedded sources as modules, then loads everything a spec may need.

`SOURCES` (dotted name → (file, marshalled code, is_package)) is set by the host, and so is `keep_far`, which says
whether few specs use what is loaded next: that lies apart in memory from what every evaluation uses.
"""

import gc
import marshal
import sys

# Nothing of what is loaded here is garbage; looking for some would take a good part of the start.
gc.disable()

# The C datetime cannot be told that there is no clock; the Python one can. The modules behind the other two bring
# large libraries along, for what the interpreter has of its own.
for name in ["_datetime", "_hashlib", "_uuid"]:
    sys.modules[name] = None

import importlib
import importlib.machinery
import os
import types

import _imp


class _Embedded:
    """Finds and loads the embedded sources. What it would inherit loads archives and temporary files."""

    create_module = staticmethod(lambda spec: None)

    def find_spec(self, name, path=None, target=None):
        if name not in SOURCES:
            return None
        file, _, is_package = SOURCES[name]
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=is_package)
        spec.has_location = True
        return spec

    def exec_module(self, module):
        exec(marshal.loads(SOURCES[module.__name__][1]), module.__dict__)


sys.meta_path.insert(0, _Embedded())


def _unplaced(code):
    """Takes the folder out of the file name of a module's code, and of all code inside it."""
    if code.co_filename.startswith("/"):
        _imp._fix_co_filename(code, "<python>/" + code.co_filename.rpartition("/")[2])
    return code


# What the interpreter has read from files by itself, and what it reads from now on.
for thing in gc.get_objects():
    if type(thing) is types.FunctionType:
        _unplaced(thing.__code__)
_get_code = importlib.machinery.SourceFileLoader.get_code
importlib.machinery.SourceFileLoader.get_code = lambda self, name: _unplaced(_get_code(self, name))

# `random` would seed itself anew in each child, from the kernel.
os.register_at_fork = lambda **_hooks: None

# `uuid` asks this one for the system's name, and nothing else does; the real one compiles ten regular expressions.
sys.modules["platform"] = types.ModuleType("platform")
sys.modules["platform"].system = lambda: "Linux"
importlib.import_module("json")
keep_far(True)
importlib.import_module("uuid")
del sys.modules["platform"]

policy = importlib.import_module("_twill.policy")
for name in [*sorted(policy.ALLOWED), *policy.LAZY, "pathlib", "random"]:
    importlib.import_module(name)
keep_far(False)
sys.modules["random"].seed(0)
del importlib.machinery.SourceFileLoader.get_code
importlib.import_module("_twill.entry").prepare()
