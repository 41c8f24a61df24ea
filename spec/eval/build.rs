//! Links the interpreter pyo3 was built against, records where it lives, and embeds the Python package, compiled by it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Compiles each file named in the arguments as (name in tracebacks, source, target), as the interpreter would on import.
const COMPILE: &str = r#"
import marshal, sys
for file, source, target in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    with open(source, encoding="utf-8") as text, open(target, "wb") as code:
        code.write(marshal.dumps(compile(text.read(), file, "exec", dont_inherit=True)))
"#;

fn main() {
    pyo3_build_config::add_libpython_rpath_link_args();
    let python = Python::configured();
    python.describe();
    embed_sources(&python);
}

/// The interpreter that pyo3 links.
struct Python {
    program: String,
    version: String,
}

impl Python {
    fn configured() -> Python {
        let config = pyo3_build_config::get();
        let version = config.version();
        Python {
            program: config.executable().unwrap_or("python3").to_owned(),
            version: format!("{}.{}", version.major, version.minor),
        }
    }

    fn run(&self, arguments: &[String]) -> String {
        let program = &self.program;
        match Command::new(program).arg("-I").args(arguments).output() {
            Ok(answer) if answer.status.success() => {
                String::from_utf8_lossy(&answer.stdout).trim().to_owned()
            }
            other => panic!(
                "{program} does not answer: {other:?}; set PYO3_PYTHON to a working interpreter"
            ),
        }
    }

    /// Exports `TW_PYTHON_HOME`, `TW_PYTHON_VERSION` and `TW_PYTHON_MAGIC`: the prefix and the version of the
    /// interpreter linked, and the mark of the code it compiles.
    fn describe(&self) {
        let ask = |expression: &str| {
            let program = format!("import sys, importlib.util; print({expression})");
            self.run(&["-c".to_owned(), program])
        };
        println!("cargo:rustc-env=TW_PYTHON_VERSION={}", self.version);
        println!("cargo:rustc-env=TW_PYTHON_HOME={}", ask("sys.base_prefix"));
        let magic = ask("importlib.util.MAGIC_NUMBER.hex()");
        println!("cargo:rustc-env=TW_PYTHON_MAGIC={magic}");
    }
}

/// Writes `sources.rs`: a table of (module, file, compiled code, is package).
fn embed_sources(python: &Python) {
    let here =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut table = String::from("&[\n");
    let mut compile = vec!["-c".to_owned(), COMPILE.to_owned()];
    for (package, folder) in [
        ("tw", here.join("../../stdlib_py/tw")),
        ("_twill", here.join("python")),
    ] {
        println!("cargo:rerun-if-changed={}", folder.display());
        embed_package(package, &folder, &out, &mut table, &mut compile);
    }
    table.push_str("]\n");
    python.run(&compile);
    fs::write(out.join("sources.rs"), table).expect("OUT_DIR is writable");
}

fn embed_package(
    package: &str,
    folder: &Path,
    out: &Path,
    table: &mut String,
    compile: &mut Vec<String>,
) {
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
        let code = out.join(format!("{module}.code"));
        let name = format!("<twill>/{package}/{stem}.py");
        let _ = writeln!(
            table,
            "({module:?}, {name:?}, include_bytes!({code:?}), {is_package}),",
        );
        compile.extend([name, file.display().to_string(), code.display().to_string()]);
    }
}
