//! Folders and archives as the root of a task.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tw_agent::sandbox::image::{ImageError, check};

use crate::machine::{Machine, assignment, code, install};

/// What `tw-helper unpack` says of an archive; empty when it has unpacked it.
fn unpack(archive: &Path, folder: &Path, bytes_max: u64) -> String {
    fs::create_dir(folder).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tw-helper"))
        .arg("unpack")
        .arg(folder)
        .args(["mapped", &bytes_max.to_string()])
        .stdin(Stdio::from(File::open(archive).unwrap()))
        .output()
        .unwrap();
    assert_eq!(output.status.success(), output.stderr.is_empty());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An entry as tar writes it, without the checks of a library.
fn entry(kind: tar::EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_uid(1234);
    header.set_gid(70_000);
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn an_archive_is_unpacked_with_owners_and_without_set_user_id() {
    use tar::EntryType;
    let folder = tempfile::tempdir().unwrap();
    let plain: Vec<u8> = [
        entry(EntryType::Directory, "bin/", "", 0o755, b""),
        entry(EntryType::Regular, "bin/run", "", 0o4755, b"program"),
        entry(EntryType::Regular, "deep/er/file", "", 0o600, b"x"),
        entry(EntryType::Symlink, "link", "/etc/shadow", 0o777, b""),
        entry(EntryType::Link, "hard", "bin/run", 0o755, b""),
        entry(EntryType::Char, "dev/null", "", 0o666, b""),
        vec![0; 1024],
    ]
    .concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
    std::io::Write::write_all(&mut xz, &plain).unwrap();
    let archives = [
        ("plain", plain.clone()),
        ("zstd", zstd::encode_all(plain.as_slice(), 1).unwrap()),
        ("gzip", gzip.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
    ];
    for (name, archive) in archives {
        let (file, target) = (
            folder.path().join(format!("{name}.tar")),
            folder.path().join(name),
        );
        fs::write(&file, archive).unwrap();
        assert_eq!(unpack(&file, &target, 1 << 20), "", "{name}");
        let program = fs::metadata(target.join("bin/run")).unwrap();
        assert_eq!(
            (program.mode() & 0o7777, program.uid(), program.gid()),
            (0o755, 1234, 65534)
        );
        assert_eq!(program.nlink(), 2);
        assert_eq!(
            fs::read_link(target.join("link")).unwrap(),
            Path::new("/etc/shadow")
        );
        assert_eq!(fs::read(target.join("deep/er/file")).unwrap(), b"x");
        assert!(!target.join("dev/null").exists());
    }
}

#[test]
fn hostile_archives_are_refused() {
    use tar::EntryType;
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let out = folder.path().to_str().unwrap();
    let cases = [
        (
            "climbs",
            entry(EntryType::Regular, "../victim", "", 0o644, b"x"),
            "leads out",
        ),
        (
            "absolute",
            entry(
                EntryType::Regular,
                &format!("{out}/victim"),
                "",
                0o644,
                b"x",
            ),
            "leads out",
        ),
        (
            "hidden climb",
            entry(EntryType::Regular, "a/../../victim", "", 0o644, b"x"),
            "leads out",
        ),
        (
            "through a link",
            [
                entry(EntryType::Symlink, "a", out, 0o777, b""),
                entry(EntryType::Regular, "a/victim", "", 0o644, b"x"),
            ]
            .concat(),
            "goes through a link",
        ),
        (
            "a hard link out",
            entry(EntryType::Link, "a", "../victim", 0o644, b""),
            "leads out",
        ),
        (
            "a hard link through a link",
            [
                entry(EntryType::Symlink, "a", out, 0o777, b""),
                entry(EntryType::Link, "b", "a/victim", 0o644, b""),
            ]
            .concat(),
            "goes through a link",
        ),
        (
            "device",
            entry(EntryType::Block, "disk", "", 0o666, b""),
            "is a device",
        ),
        (
            "pipe",
            entry(EntryType::Fifo, "pipe", "", 0o666, b""),
            "is a named pipe",
        ),
        (
            "large",
            entry(EntryType::Regular, "a", "", 0o644, &[7; 5000]),
            "more than 4096 bytes",
        ),
        ("half an xz", b"\xFD7zXZ\0rest".to_vec(), "cannot be read"),
        (
            "cut off",
            entry(EntryType::Regular, "a", "", 0o644, b"x")[..512].to_vec(),
            "cannot be read",
        ),
        ("noise", vec![0x5A; 2048], "cannot be read"),
    ];
    for (name, archive, expected) in cases {
        let file = folder.path().join("archive.tar");
        fs::write(&file, archive).unwrap();
        let said = unpack(&file, &folder.path().join(format!("into {name}")), 4096);
        assert!(said.contains(expected), "{name}: {said}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched", "{name}");
    }
}

#[test]
fn the_machines_own_files_are_no_image() {
    for path in ["/", "/etc", "/root", "/usr/..", "/usr/../etc/.", "//"] {
        let refused = check(Path::new(path)).unwrap_err().to_string();
        let words = "of the machine itself; an image is a folder of its own";
        assert!(refused.contains(words), "{path}: {refused}");
    }
}

#[test]
fn a_folder_that_others_can_change_is_no_root() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    assert!(matches!(check(&image), Err(ImageError::Missing { .. })));
    fs::create_dir(&image).unwrap();
    check(&image).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        check(&image),
        Err(ImageError::Writable { mode: 0o777, .. })
    ));
    fs::set_permissions(&image, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(&image, Some(1234), None).unwrap();
    assert!(matches!(
        check(&image),
        Err(ImageError::Writable { owner: 1234, .. })
    ));
    let link = folder.path().join("link");
    symlink("/usr", &link).unwrap();
    assert!(matches!(check(&link), Err(ImageError::NotAFolder { .. })));
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(matches!(
        check(&folder.path().join("file")),
        Err(ImageError::NotAFolder { .. })
    ));
}

#[tokio::test]
async fn a_task_runs_on_an_image_with_a_runtime_beside_its_package() {
    let machine = Machine::new();
    let image = machine.folder.path().join("image");
    for name in ["bin", "data"] {
        fs::create_dir_all(image.join(name)).unwrap();
    }
    install("/bin/busybox".as_ref(), &image.join("bin/sh"));
    let runtime = machine.folder.path().join("runtimes/hello/1.0/bin");
    fs::create_dir_all(&runtime).unwrap();
    fs::write(runtime.join("greet"), "#!/bin/sh\necho hello from $0\n").unwrap();
    fs::set_permissions(runtime.join("greet"), fs::Permissions::from_mode(0o755)).unwrap();
    let script = "greet; pwd; echo mine > own; for f in /*; do echo $f; done; exit 5";
    let spec = |version: &str, image: &Path| {
        json!({
            "command": ["/bin/sh", "-c", script], "user": "root", "workdir": "/data",
            "image": {"type": "folder", "path": image},
            "runtimes": [{"name": "hello", "version": version}],
        })
    };
    let task = assignment("imaged", spec("1.0", &image));
    let other = assignment("other", spec("2.0", &image));
    let missing = assignment("missing", spec("1.0", Path::new("/no/such/image")));
    machine
        .snapshot(&[task.clone(), other.clone(), missing.clone()])
        .await;
    let id = &task.task.id;
    assert_eq!(machine.exited(id).await.0, code(5));
    assert_eq!(
        machine.logs("imaged", id, false).await,
        [
            "hello from /runtimes/hello/bin/greet",
            "/data",
            "/bin",
            "/data",
            "/dev",
            "/etc",
            "/proc",
            "/run",
            "/runtimes",
        ]
    );
    assert!(
        !image.join("data/own").exists(),
        "the image itself was written"
    );
    let (_, message) = machine.never_started(&other.task.id).await;
    assert!(
        message.contains("no hello 2.0") && message.contains("it has 1.0"),
        "{message}"
    );
    let (_, message) = machine.never_started(&missing.task.id).await;
    assert!(
        message.contains("/no/such/image is not on this machine"),
        "{message}"
    );
}

/// Makes a runtime of the machine's Python with the libraries that it needs, and an image that has a shell and the loader.
const PYTHON: &str = r#"
set -e
runtime=$0 image=$1
lib=$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
mkdir -p "$runtime/bin" "$runtime/lib" "$image/bin" "$image/lib64"
cp -L /usr/bin/python3 "$runtime/bin/python3"
tar -C "$(dirname "$lib")" --exclude=__pycache__ --exclude=test --exclude='config-*' -c "$(basename "$lib")" |
    tar -C "$runtime/lib" -x
find "$runtime" -name '*.so' -exec ldd /usr/bin/python3 {} + | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
    xargs -I{} cp -L {} "$runtime/lib/"
cp -L /lib64/ld-linux-x86-64.so.2 "$image/lib64/"
cp /bin/busybox "$image/bin/sh"
chmod 755 "$image" "$runtime"
"#;

/// What the application does: it needs libraries of the runtime, and tries to change it.
const APPLICATION: &str = r#"
import ctypes, decimal, hashlib, json, os, socket, sqlite3, ssl, sys, zlib
import part
ssl.create_default_context()
print(json.dumps({'prefix': sys.prefix, 'part': part.WORD, 'tls': ssl.HAS_TLSv1_3, 'sum': hashlib.sha256(b'x').hexdigest()[:8],
                  'sql': sqlite3.connect(':memory:').execute('select 6 * 7').fetchone()}, sort_keys=True))
library = os.path.dirname(json.__file__)
changes = {
    'write': lambda: open(json.__file__, 'a'),
    'make': lambda: open(sys.prefix + '/bin/new', 'w'),
    'remove': lambda: os.remove(json.__file__),
    'rename': lambda: os.rename(library, library + '2'),
    'mode': lambda: os.chmod(sys.executable, 0o777),
    'owner': lambda: os.chown(sys.executable, 1, 1),
    'time': lambda: os.utime(sys.executable),
    'link': lambda: os.link(sys.executable, sys.prefix + '/bin/new'),
    'own program': lambda: open('/proc/self/exe', 'r+b'),
}
for name, change in changes.items():
    try:
        change()
        print(name, 'was possible')
    except OSError as error:
        print(name, error.strerror)
"#;

#[tokio::test]
async fn an_application_runs_on_a_real_runtime_beside_it_that_it_cannot_change() {
    let machine = Machine::new();
    let runtime = machine.folder.path().join("runtimes/python/3");
    let image = machine.folder.path().join("image");
    let made = Command::new("sh")
        .args(["-c", PYTHON])
        .args([&runtime, &image])
        .status()
        .unwrap();
    assert!(made.success());
    let listed = || {
        let find = ["-printf", "%P %s %m %U %C@\\n"];
        let found = Command::new("find")
            .arg(&runtime)
            .args(find)
            .output()
            .unwrap();
        let mut lines: Vec<String> = String::from_utf8(found.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let before = listed();
    assert!(before.len() > 500, "{}", before.len());
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in [
        ("main.py", APPLICATION),
        ("part.py", "WORD = 'of the package'\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }
    let digest = machine
        .controller
        .add_package(archive.into_inner().unwrap());
    for user in ["root", "nobody"] {
        let task = assignment(
            &format!("application-{user}"),
            json!({
                "command": ["python3", "main.py"], "user": user,
                "env": {"LD_LIBRARY_PATH": "/runtimes/python/lib"},
                "image": {"type": "folder", "path": image},
                "runtimes": [{"name": "python", "version": "3"}],
                "packages": [{"path": "apps/application", "digest": digest}],
            }),
        );
        machine.assign(&task).await;
        let exit = machine.exited(&task.task.id).await.0;
        let lines = machine.logs(user, &task.task.id, false).await;
        assert_eq!(exit, code(0), "{lines:#?}");
        assert_eq!(
            lines[0],
            r#"{"part": "of the package", "prefix": "/runtimes/python", "sql": [42], "sum": "2d711642", "tls": true}"#
        );
        assert_eq!(lines.len(), 10, "{lines:#?}");
        let refusals = [
            "Read-only file system",
            "Permission denied",
            "Operation not permitted",
            "Text file busy",
        ];
        for line in &lines[1..] {
            assert!(
                refusals.iter().any(|refusal| line.ends_with(refusal)),
                "{user}: {line}"
            );
        }
    }
    assert_eq!(listed(), before, "the runtime was changed");
}
