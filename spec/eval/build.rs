//! Links the interpreter pyo3 was built against, records where it lives, and embeds the Python sources.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    pyo3_build_config::add_libpython_rpath_link_args();
    describe_interpreter();
    embed_sources();
}

/// Exports `TW_PYTHON_HOME` and `TW_PYTHON_VERSION`: the prefix and the version of the interpreter linked.
fn describe_interpreter() {
    let config = pyo3_build_config::get();
    let version = config.version();
    println!(
        "cargo:rustc-env=TW_PYTHON_VERSION={}.{}",
        version.major, version.minor
    );
    let interpreter = config.executable().unwrap_or("python3");
    let asked = Command::new(interpreter)
        .args(["-I", "-c", "import sys; print(sys.base_prefix)"])
        .output();
    let answer = match asked {
        Ok(answer) if answer.status.success() => answer.stdout,
        other => panic!(
            "cannot ask {interpreter} for its prefix: {other:?}; set PYO3_PYTHON to a working interpreter"
        ),
    };
    println!(
        "cargo:rustc-env=TW_PYTHON_HOME={}",
        String::from_utf8_lossy(&answer).trim()
    );
}

/// Writes `sources.rs`: a table of (module, file, text, is package).
fn embed_sources() {
    let here =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut table = String::from("&[\n");
    for (package, folder) in [
        ("tw", here.join("../../stdlib_py/tw")),
        ("_twill", here.join("python")),
    ] {
        println!("cargo:rerun-if-changed={}", folder.display());
        embed_package(package, &folder, &mut table);
    }
    table.push_str("]\n");
    fs::write(out.join("sources.rs"), table).expect("OUT_DIR is writable");
}

fn embed_package(package: &str, folder: &Path, table: &mut String) {
    let entries = fs::read_dir(folder)
        .unwrap_or_else(|cause| panic!("cannot list {}: {cause}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "py"));
    files.sort();
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let stem = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_package = stem == "__init__";
        let module = if is_package {
            package.to_owned()
        } else {
            format!("{package}.{stem}")
        };
        let path = fs::canonicalize(&file)
            .unwrap_or_else(|cause| panic!("cannot read {}: {cause}", file.display()));
        let _ = writeln!(
            table,
            "({module:?}, {:?}, include_str!({path:?}), {is_package}),",
            format!("<twill>/{package}/{stem}.py")
        );
    }
}
