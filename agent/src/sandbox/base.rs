//! The skeleton that every task's root is laid over: mount points, links and a small /etc.
//!
//! It shows that programs are installed, and nothing of who uses the machine: no home folders, no keys, no
//! shadow file, no state of other software. What is bound of the host keeps the host's owners, so that a task
//! reads of it what every user of the machine may read. It is made once for each state of the host's files and never
//! changed after, as running tasks have it below their overlays.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::Bind;

/// Folders of the host's root that hold programs and libraries. Where one is a link, the link is copied.
const PROGRAM_FOLDERS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Empty folders: mount points, and what programs expect to be there.
const FOLDERS: [&str; 9] = [
    "dev",
    "etc",
    "packages",
    "proc",
    "run",
    "run/twill",
    "runtimes",
    "sys",
    "var",
];

/// Folders in which any user of a task may make files, in the task's own layer.
const SHARED_FOLDERS: [&str; 11] = [
    "tmp",
    "run",
    "var/cache",
    "var/lib",
    "var/lib/nginx",
    "var/lib/redis",
    "var/log",
    "var/log/nginx",
    "var/log/redis",
    "var/run",
    "var/tmp",
];

/// Files and folders of /etc that a program needs to run, none of which names secrets: copied.
const ETC: [&str; 23] = [
    "ca-certificates.conf",
    "debian_version",
    "group",
    "host.conf",
    "hosts",
    "java-17-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "nginx/fastcgi_params",
    "nginx/mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "protocols",
    "python3",
    "python3.11",
    "resolv.conf",
    "services",
    "ssl/openssl.cnf",
];

/// What of /etc the host changes while tasks run: bound live. The mount points are in the skeleton, as making them for
/// each task takes longer.
const ETC_BOUND: [&str; 4] = ["alternatives", "hosts", "resolv.conf", "ssl/certs"];

/// Why the skeleton could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {}", path.display())]
pub struct BaseError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BaseError {
    let path = path.to_owned();
    move |source| BaseError { path, source }
}

/// Makes the skeleton of the host's present state below `folder`, unless it is there, and answers where.
pub fn prepare(folder: &Path) -> Result<PathBuf, BaseError> {
    let target = folder.join(fingerprint());
    if target.is_dir() {
        return Ok(target);
    }
    let draft = folder.join(format!("draft-{}", std::process::id()));
    match fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&draft)(error)),
        _ => {}
    }
    fs::create_dir_all(&draft).map_err(at(&draft))?;
    fill(&draft)?;
    match fs::rename(&draft, &target) {
        Ok(()) => Ok(target),
        // Another agent of the same folder was faster.
        Err(_) if target.is_dir() => fs::remove_dir_all(&draft)
            .map_err(at(&draft))
            .map(|()| target),
        Err(error) => Err(at(&target)(error)),
    }
}

/// The host's programs, for [`super::SandboxSpec::binds`].
pub fn host_binds() -> Vec<Bind> {
    let programs = PROGRAM_FOLDERS
        .into_iter()
        .map(|name| Path::new("/").join(name))
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()));
    let live = ETC_BOUND
        .into_iter()
        .map(|name| Path::new("/etc").join(name));
    programs
        .chain(live)
        .map(|path| Bind {
            source: path.clone(),
            target: path,
            is_writable: false,
            is_optional: true,
            is_of_host: true,
        })
        .collect()
}

/// Names the host's state: what the copied files are called, how long they are and when they were changed.
fn fingerprint() -> String {
    let mut hasher = blake3::Hasher::new();
    let mut note = |path: &Path| {
        let seen = fs::metadata(path).map(|found| (found.len(), found.modified().ok()));
        hasher.update(format!("{} {seen:?}\n", path.display()).as_bytes());
    };
    note(Path::new(env!("CARGO_PKG_VERSION")));
    ETC.into_iter()
        .chain(ETC_BOUND)
        .for_each(|name| note(&Path::new("/etc").join(name)));
    PROGRAM_FOLDERS.into_iter().for_each(|name| {
        let link = fs::read_link(Path::new("/").join(name));
        note(&link.unwrap_or_else(|_| name.into()));
    });
    hasher.finalize().to_hex()[..16].to_owned()
}

fn fill(root: &Path) -> Result<(), BaseError> {
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(root, open.clone()).map_err(at(root))?;
    for (name, mode) in FOLDERS
        .map(|name| (name, 0o755))
        .into_iter()
        .chain(SHARED_FOLDERS.map(|name| (name, 0o1777)))
    {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(at(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(at(&path))?;
    }
    for name in PROGRAM_FOLDERS {
        let (source, target) = (Path::new("/").join(name), root.join(name));
        match fs::read_link(&source) {
            Ok(link) => symlink(link, &target).map_err(at(&target))?,
            Err(_) if source.is_dir() => fs::create_dir(&target).map_err(at(&target))?,
            Err(_) => {}
        }
    }
    for name in ETC {
        let target = root.join("etc").join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        copy(&Path::new("/etc").join(name), &target).map_err(at(&target))?;
    }
    for name in ETC_BOUND {
        let target = root.join("etc").join(name);
        if target.exists() {
            continue;
        }
        match fs::metadata(Path::new("/etc").join(name)) {
            Ok(found) if found.is_dir() => fs::create_dir_all(&target).map_err(at(&target))?,
            Ok(_) => drop(fs::File::create(&target).map_err(at(&target))?),
            Err(_) => {}
        }
    }
    let mtab = root.join("etc/mtab");
    symlink("/proc/self/mounts", &mtab).map_err(at(&mtab))
}

/// Copies files, links and folders that every user may read; what others may not read stays out.
fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(source) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if found.is_symlink() {
        return symlink(fs::read_link(source)?, target);
    }
    if found.permissions().mode() & 0o004 == 0 {
        return Ok(());
    }
    if found.is_file() {
        return fs::copy(source, target).map(drop);
    }
    if found.is_dir() {
        fs::create_dir_all(target)?;
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            copy(&entry.path(), &target.join(entry.file_name()))?;
        }
    }
    Ok(())
}
