//! Folders and archives as the root of a task.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tw_agent::sandbox::image::{ImageError, check};

use crate::machine::{Machine, assignment, code};

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
    fs::copy("/bin/busybox", image.join("bin/sh")).unwrap();
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
