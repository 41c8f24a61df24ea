//! Embeds the text of the Python package, for editors and type checkers of repositories.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let here =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let package = here.join("../stdlib_py/tw");
    println!("cargo:rerun-if-changed={}", package.display());
    let entries = fs::read_dir(&package)
        .unwrap_or_else(|cause| panic!("cannot list {}: {cause}", package.display()));
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".py") || name.ends_with(".pyi") || name == "py.typed")
        .collect();
    names.sort();
    let mut table = String::from("&[\n");
    for name in names {
        let file = package.join(&name);
        println!("cargo:rerun-if-changed={}", file.display());
        let _ = writeln!(table, "({name:?}, include_str!({file:?})),");
    }
    table.push_str("]\n");
    fs::write(out.join("library.rs"), table).expect("OUT_DIR is writable");
}
