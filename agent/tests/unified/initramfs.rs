//! What the virtual machine has for files: an archive in the `newc` form of cpio.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where this program is for tasks.
pub(crate) const CONTRACT: &str = "/usr/bin/contract";

/// Where modules of the kernel are.
pub(crate) const MODULES: &str = "/modules";

/// Where agents keep what they have: not in /tmp, as the programs of a checkout there would be hidden.
pub(crate) const FILES: &str = "/files";

/// Programs that tasks and the tests use, all of which are busybox.
const APPLETS: [&str; 9] = [
    "echo", "id", "insmod", "mke2fs", "nproc", "seq", "sh", "sleep", "touch",
];

/// What programs look for in /etc.
const ETC: [(&str, &str); 2] = [
    (
        "etc/passwd",
        "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;
const LINK: u32 = 0o120_777;

/// This program as the first, the agent and its helper where cargo has made them, busybox, what they load, and the
/// kernel's modules.
pub(crate) fn make(busybox: &Path, modules: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let mut archive = Archive::default();
    for name in ["dev", "files", "new", "proc", "sys", "tmp"] {
        archive.add_folder(name);
    }
    archive.add("dev/console", CONSOLE, &[], (5, 1));
    let programs = [
        (this.as_path(), CONTRACT),
        (busybox, "/usr/bin/busybox"),
        (
            Path::new(env!("CARGO_BIN_EXE_tw-agent")),
            env!("CARGO_BIN_EXE_tw-agent"),
        ),
        (
            Path::new(env!("CARGO_BIN_EXE_tw-helper")),
            env!("CARGO_BIN_EXE_tw-helper"),
        ),
    ];
    for (program, place) in programs {
        archive.add_file(place, PROGRAM, &without_symbols(program)?);
        for library in libraries(program)? {
            archive.add_file(&library, PROGRAM, &fs::read(&library)?);
        }
    }
    archive.add("init", LINK, CONTRACT.as_bytes(), (0, 0));
    for name in APPLETS {
        archive.add(&format!("usr/bin/{name}"), LINK, b"busybox", (0, 0));
    }
    for (name, text) in ETC {
        archive.add_file(name, FILE, text.as_bytes());
    }
    for module in fs::read_dir(modules).into_iter().flatten().flatten() {
        let place = format!("{MODULES}/{}", module.file_name().to_string_lossy());
        archive.add_file(&place, FILE, &fs::read(module.path())?);
    }
    Ok(archive.finish())
}

/// A program without what only a debugger reads, which is most of it.
fn without_symbols(program: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let bare = folder.path().join("program");
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&bare)
        .arg(program)
        .output();
    match stripped {
        Ok(done) if done.status.success() => Ok(fs::read(bare)?),
        _ => Ok(fs::read(program)?),
    }
}

/// The libraries that a program loads; none for one that is whole.
fn libraries(program: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let listed = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(str::to_owned).collect())
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
    names: BTreeSet<PathBuf>,
}

impl Archive {
    fn add_folder(&mut self, name: &str) {
        self.add(name, FOLDER, &[], (0, 0));
    }

    /// Adds a file with the folders above it.
    fn add_file(&mut self, path: &str, mode: u32, data: &[u8]) {
        let name = path.trim_start_matches('/');
        let mut folders: Vec<&Path> = Path::new(name).ancestors().skip(1).collect();
        folders.reverse();
        for folder in folders.into_iter().skip(1) {
            self.add_folder(&folder.to_string_lossy());
        }
        self.add(name, mode, data, (0, 0));
    }

    /// Adds what has that name, unless something has it already.
    fn add(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        if self.names.insert(name.into()) {
            self.append(name, mode, data, device);
        }
    }

    fn append(&mut self, name: &str, mode: u32, data: &[u8], (major, minor): (u32, u32)) {
        self.files += 1;
        let fields = [
            self.files,
            mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.append("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }
}
