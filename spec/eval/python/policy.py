"""What a spec may import of the standard library, and what it is told instead."""

from __future__ import annotations

ALLOWED = frozenset(
    """
    __future__ abc array base64 binascii bisect calendar collections collections.abc configparser
    contextlib copy csv dataclasses datetime decimal difflib enum fnmatch fractions functools
    graphlib hashlib heapq hmac html ipaddress itertools json json.decoder json.encoder keyword
    math numbers operator posixpath pprint re reprlib shlex statistics string struct textwrap
    tomllib types typing unicodedata urllib urllib.parse warnings zlib
    """.split()
)
"""Modules that compute and nothing else. All of them are loaded before the first fork."""

LAZY = "_strptime encodings.punycode encodings.ascii encodings.latin_1 encodings.utf_16 encodings.utf_8_sig encodings.idna".split()
"""What allowed modules import only when they need it, and could not any more in a sealed child."""

_FILES = "read files of the repository with tw.repo.read(path)"
_ENVIRONMENT = "a spec sees no environment; write the value down, or read it from a file with tw.repo"
_CLOCK = "a spec gives the same result at any time; write the date down, or use Job fields such as schedule"
_CHANCE = "a spec gives the same result every time; derive variety from a name, for example with hashlib"
_PROCESS = "a spec only describes jobs; put the work into a job's command"
_NETWORK = "a spec has no network; put the data into the repository and read it with tw.repo"
_END = "a spec ends by reaching its last line; raise an exception to refuse"
_PRINT = "print(…) shows text to whoever evaluates the spec"
_INTERPRETER = "a spec cannot reach into the interpreter"

DENIED: dict[str, tuple[str, str, frozenset[str]]] = {
    name: (code, hint, frozenset(kept.split()))
    for names, code, hint, kept in [
        ("os", "spec.denied", _FILES, "fspath linesep path sep"),
        ("os.path", "spec.denied", _FILES, "basename commonpath commonprefix dirname isabs join "
         "normpath relpath sep split splitext"),
        ("sys", "spec.denied", _INTERPRETER, "exit maxsize version version_info float_info"),
        ("io", "spec.denied", _FILES, "BytesIO StringIO"),
        ("pathlib", "spec.denied", _FILES, "PurePath PurePosixPath"),
        ("time", "spec.nondeterministic", _CLOCK, "struct_time"),
        ("random", "spec.nondeterministic", _CHANCE, ""),
        ("secrets", "spec.nondeterministic", _CHANCE, ""),
        ("uuid", "spec.nondeterministic", _CHANCE,
         "UUID NAMESPACE_DNS NAMESPACE_OID NAMESPACE_URL NAMESPACE_X500 uuid3 uuid5"),
        ("glob shutil tempfile fileinput zipfile tarfile sqlite3 zoneinfo", "spec.denied", _FILES, ""),
        ("socket ssl http http.client http.server urllib.request ftplib smtplib select selectors",
         "spec.denied", _NETWORK, ""),
        ("asyncio multiprocessing signal subprocess threading concurrent concurrent.futures _thread",
         "spec.denied", _PROCESS, ""),
        ("getpass platform pwd grp resource", "spec.denied", _ENVIRONMENT, ""),
        ("logging", "spec.denied", _PRINT, ""),
        ("builtins ctypes gc importlib inspect marshal pickle posix runpy site",
         "spec.denied", _INTERPRETER, ""),
    ]
    for name in names.split()
}
"""Module → (code, hint, names that stay). Importing is no error, using any other name is."""

SPECIAL_HINTS = {
    "os.environ": _ENVIRONMENT,
    "os.getenv": _ENVIRONMENT,
    "os.fork": _PROCESS,
    "os.system": _PROCESS,
    "os.popen": _PROCESS,
    "os.kill": _PROCESS,
    "os.urandom": _CHANCE,
    "os._exit": _END,
    "os.abort": _END,
    "sys.argv": _ENVIRONMENT,
}

DENIED_BUILTINS = {"open": _FILES, "input": "a spec has no terminal; write the value down", "breakpoint": _PRINT}

AUDITED = {
    f"{module}.{name}": hint
    for module, names, hint in [
        ("os", "chdir chflags chmod chown getxattr link listdir listxattr lockf mkdir remove removexattr "
         "rename rmdir scandir setxattr symlink truncate utime", _FILES),
        ("os", "exec fork forkpty kill killpg posix_spawn spawn system", _PROCESS),
        ("os", "putenv unsetenv", _ENVIRONMENT),
        ("subprocess", "Popen", _PROCESS),
        ("signal", "pthread_kill", _PROCESS),
    ]
    for name in names.split()
}
"""Events that the interpreter announces before it asks the kernel → hint. The kernel refuses them all, too."""

DENIED_CLOCKS = [("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")]

CLOCK_HINT = _CLOCK
