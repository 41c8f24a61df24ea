//! Brings up CPython, deaf to the user's environment.

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;

use anyhow::{Context, bail};
use pyo3::ffi;
use pyo3::prelude::*;

/// The prefix of the interpreter this program was linked against.
const HOME: &str = env!("TW_PYTHON_HOME");
/// Its version, as `3.11`.
const VERSION: &str = env!("TW_PYTHON_VERSION");
/// What marks code objects that it can read, in hex.
const MAGIC: &str = env!("TW_PYTHON_MAGIC");

/// Starts the interpreter in isolated mode and checks that it is the one this program was built for.
pub(crate) fn start(hash_seed: u32, is_reversed: bool) -> anyhow::Result<()> {
    pyo3::append_to_inittab!(_twill_host);
    initialize(hash_seed, is_reversed)?;
    // SAFETY: there is one thread. The interpreter has taken its copy of the environment, which stays empty;
    // this is for the C library, which would look for the machine's time zone in a file.
    unsafe { libc::setenv(c"TZ".as_ptr(), c"UTC0".as_ptr(), 1) };
    // SAFETY: `initialize` left the interpreter running with this thread holding its lock;
    // from here on the lock is taken by `Python::attach`.
    unsafe { ffi::PyEval_SaveThread() };
    Python::attach(check)
}

use crate::heap;
use crate::host::_twill_host;

fn initialize(hash_seed: u32, is_reversed: bool) -> anyhow::Result<()> {
    let home = CString::new(HOME).context("the interpreter's prefix")?;
    // SAFETY: the functions that fill `preconfig` and `config` run before any use of them, `home` outlives
    // the calls, no other thread exists, and `config` is cleared once.
    unsafe {
        let mut preconfig = MaybeUninit::<ffi::PyPreConfig>::zeroed();
        ffi::PyPreConfig_InitIsolatedConfig(preconfig.as_mut_ptr());
        (*preconfig.as_mut_ptr()).utf8_mode = 1;
        checked(ffi::Py_PreInitialize(preconfig.as_ptr()))?;
        heap::provide(is_reversed)?;

        let mut config = MaybeUninit::<ffi::PyConfig>::zeroed();
        let config = config.as_mut_ptr();
        ffi::PyConfig_InitIsolatedConfig(config);
        (*config).use_hash_seed = 1;
        (*config).hash_seed = hash_seed.into();
        (*config).site_import = 0;
        (*config).write_bytecode = 0;
        (*config).install_signal_handlers = 0;
        let result = checked(ffi::PyConfig_SetBytesString(
            config,
            &raw mut (*config).home,
            home.as_ptr(),
        ))
        .and_then(|()| checked(ffi::Py_InitializeFromConfig(config)));
        ffi::PyConfig_Clear(config);
        result
    }
}

fn checked(status: ffi::PyStatus) -> anyhow::Result<()> {
    // SAFETY: `status` was returned by the interpreter and is only read.
    if unsafe { ffi::PyStatus_Exception(status) } == 0 {
        return Ok(());
    }
    let message = status.err_msg.cast::<c_char>();
    if message.is_null() {
        bail!("the interpreter in {HOME} does not start");
    }
    // SAFETY: the interpreter's error messages are static C strings.
    let message = unsafe { CStr::from_ptr(message) };
    bail!(
        "the interpreter in {HOME} does not start: {}",
        message.to_string_lossy()
    )
}

/// Refuses an interpreter or a standard library other than the one built for.
fn check(py: Python<'_>) -> anyhow::Result<()> {
    let found = py.version_info();
    if format!("{}.{}", found.major, found.minor) != VERSION {
        bail!(
            "tw-eval was built for Python {VERSION} and found {}.{}; install libpython{VERSION}, or build again",
            found.major,
            found.minor
        );
    }
    let prefix: String = py.import("sys")?.getattr("base_prefix")?.extract()?;
    if prefix != HOME {
        bail!("tw-eval was built for the Python in {HOME} and found the one in {prefix}");
    }
    let magic: String = py
        .import("_frozen_importlib_external")?
        .getattr("MAGIC_NUMBER")?
        .call_method0("hex")?
        .extract()?;
    if magic != MAGIC {
        bail!(
            "tw-eval was built for code of the kind {MAGIC} and found an interpreter for {magic}; build it again"
        );
    }
    Ok(())
}

/// The version of the running interpreter, as `3.11.2`.
pub(crate) fn version(py: Python<'_>) -> String {
    let version = py.version_info();
    format!("{}.{}.{}", version.major, version.minor, version.patch)
}

/// The file that the interpreter was loaded from: a shared library, or this program.
pub(crate) fn library() -> anyhow::Result<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
    let shared = maps
        .lines()
        .filter_map(|line| line.split_once('/'))
        .map(|(_, path)| format!("/{path}"))
        .find(|path| path.contains("/libpython"));
    match shared {
        Some(path) => Ok(path),
        None => Ok(std::env::current_exe()?.display().to_string()),
    }
}
