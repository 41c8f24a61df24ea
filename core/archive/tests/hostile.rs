//! Archives as somebody writes who wants more than was asked for.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use tar::EntryType::{
    self, Block, Char, Directory, Fifo, GNULongName, Link, Regular, Symlink, XHeader,
};
use tw_archive::{Rules, UnpackError, unpack};

/// An entry as it is on the wire, without the checks of a library.
fn entry(kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    let fields = header.as_gnu_mut().unwrap();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn folder(name: &str) -> Vec<u8> {
    entry(Directory, name, "", 0o755, b"")
}

fn file(name: &str) -> Vec<u8> {
    entry(Regular, name, "", 0o644, b"sent")
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(Symlink, name, target, 0o777, b"")
}

fn hard(name: &str, target: &str) -> Vec<u8> {
    entry(Link, name, target, 0o644, b"")
}

/// A folder of the caller with things in it that nobody else is to touch.
struct Home {
    folder: tempfile::TempDir,
}

const UNTOUCHED: &str = "untouched";

impl Home {
    fn new() -> Home {
        let home = Home {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(home.dest().join(".ssh")).unwrap();
        fs::write(home.folder.path().join("above"), UNTOUCHED).unwrap();
        fs::write(home.dest().join("beside"), UNTOUCHED).unwrap();
        home
    }

    fn dest(&self) -> PathBuf {
        self.folder.path().join("dest")
    }

    /// Takes `state` of an archive; the links that were left out.
    fn take(&self, archive: impl Read) -> Result<Vec<PathBuf>, UnpackError> {
        let rules = Rules {
            bytes_max: 1 << 20,
            mode_kept: 0o7777,
            owners_below: None,
            only: Some(OsStr::new("state")),
        };
        let root = File::open(self.dest()).unwrap();
        let mut left_out = Vec::new();
        let mut tell = |path: &Path| left_out.push(path.to_owned());
        unpack(root.into(), archive, rules, &mut tell)?;
        Ok(left_out)
    }

    fn is_untouched(&self) -> bool {
        let same = |path: PathBuf| {
            let about = fs::symlink_metadata(&path).unwrap();
            about.is_file() && about.nlink() == 1 && fs::read_to_string(&path).unwrap() == UNTOUCHED
        };
        let mut below: Vec<_> = fs::read_dir(self.dest())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "state")
            .collect();
        below.sort();
        below == [".ssh", "beside"]
            && fs::read_dir(self.dest().join(".ssh")).unwrap().count() == 0
            && same(self.folder.path().join("above"))
            && same(self.dest().join("beside"))
    }
}

#[test]
fn what_was_asked_for_arrives() {
    let home = Home::new();
    let archive = [
        folder("./state/"),
        entry(Directory, "state/closed", "", 0o555, b""),
        entry(Regular, "state/closed/run", "", 0o755, b"program"),
        hard("state/again", "state/closed/run"),
        link("state/closed/up", "../again"),
        link("state/down", "./closed/run"),
        vec![0; 1024],
    ]
    .concat();
    assert_eq!(home.take(&*archive).unwrap(), [""; 0].map(PathBuf::from));
    let state = home.dest().join("state");
    for name in ["closed/run", "again", "closed/up", "down"] {
        assert_eq!(fs::read(state.join(name)).unwrap(), b"program", "{name}");
    }
    let program = fs::metadata(state.join("again")).unwrap();
    assert_eq!((program.mode() & 0o7777, program.nlink()), (0o755, 2));
    // The caller need not be root to fill it.
    assert_eq!(
        fs::metadata(state.join("closed")).unwrap().mode() & 0o777,
        0o755
    );
    // A second time, over the first.
    home.take(&*archive).unwrap();
    assert!(home.is_untouched());
}

#[test]
fn programs_change_nobody() {
    let home = Home::new();
    let archive = [
        entry(Directory, "state", "", 0o7777, b""),
        entry(Regular, "state/su", "", 0o6755, b"program"),
    ]
    .concat();
    home.take(&*archive).unwrap();
    let mode = |name: &str| fs::metadata(home.dest().join(name)).unwrap().mode() & 0o6777;
    assert_eq!((mode("state"), mode("state/su")), (0o777, 0o755));
    let program = fs::metadata(home.dest().join("state/su")).unwrap();
    assert_eq!(program.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn hostile_archives_are_refused() {
    let state = || folder("state");
    let cases = [
        ("unasked", file(".ssh/authorized_keys"), "not asked for"),
        (
            "unasked beside",
            [state(), file("beside")].concat(),
            "not asked for",
        ),
        ("a name that begins alike", file("state2"), "not asked for"),
        (
            "the folder itself",
            entry(Directory, "./", "", 0o777, b""),
            "not asked for",
        ),
        ("climbs", file("../above"), "leads out"),
        (
            "climbs from below",
            [state(), file("state/../beside")].concat(),
            "leads out",
        ),
        ("absolute", file("/etc/passwd-of-nobody"), "leads out"),
        (
            "through a link",
            [
                state(),
                folder("state/d"),
                link("state/l", "d"),
                file("state/l/x"),
            ]
            .concat(),
            "goes through a link",
        ),
        (
            "a hard link out",
            [state(), hard("state/x", "../above")].concat(),
            "leads out",
        ),
        (
            "a hard link beside",
            [state(), hard("state/x", "beside")].concat(),
            "not asked for",
        ),
        (
            "a hard link through a link",
            [
                state(),
                folder("state/d"),
                link("state/l", "d"),
                hard("state/x", "state/l/y"),
            ]
            .concat(),
            "goes through a link",
        ),
        (
            "disk",
            [state(), entry(Block, "state/disk", "", 0o666, b"")].concat(),
            "device",
        ),
        ("memory", entry(Char, "state", "", 0o666, b""), "device"),
        (
            "pipe",
            [state(), entry(Fifo, "state/pipe", "", 0o666, b"")].concat(),
            "named pipe",
        ),
        (
            "large",
            entry(Regular, "state", "", 0o644, &vec![7; (1 << 20) + 1]),
            "more than",
        ),
        (
            "a large folder",
            entry(Directory, "state", "", 0o755, &vec![7; (1 << 20) + 1]),
            "more than",
        ),
        ("cut off", file("state")[..512].to_vec(), "cannot be read"),
        ("noise", vec![0x5A; 2048], "cannot be read"),
    ];
    for (name, archive, expected) in cases {
        let home = Home::new();
        let said = home.take(&*archive).unwrap_err().to_string();
        assert!(said.contains(expected), "{name}: {said}");
        assert!(home.is_untouched(), "{name}");
    }
}

#[test]
fn links_that_lead_out_are_left_out() {
    let home = Home::new();
    let outward = [
        ("state/absolute", "/etc/shadow"),
        ("state/climbs", "../beside"),
        ("state/late", "d/../../beside"),
        ("state/d/far", "../../above"),
    ];
    let mut archive = [folder("state"), folder("state/d")].concat();
    archive.extend(outward.iter().flat_map(|(name, target)| link(name, target)));
    // Inside from where it is, and outside from where a second name of it would be.
    archive.extend(link("state/d/up", "../x"));
    archive.extend(hard("state/second", "state/d/up"));
    archive.extend(file("state/rest"));
    let left_out = home.take(&*archive).unwrap();
    let expected = outward
        .iter()
        .map(|(name, _)| *name)
        .chain(["state/second"]);
    assert_eq!(left_out, expected.map(PathBuf::from).collect::<Vec<_>>());
    let mut there: Vec<_> = fs::read_dir(home.dest().join("state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    there.sort();
    assert_eq!(there, ["d", "rest"]);
    assert!(home.is_untouched());

    // A link in the place of what was asked for leads out wherever it leads.
    let home = Home::new();
    assert_eq!(
        home.take(&*link("state", "beside")).unwrap(),
        [Path::new("state")]
    );
    assert!(!home.dest().join("state").exists());
}

#[test]
fn links_of_the_caller_are_not_followed() {
    let home = Home::new();
    symlink("beside", home.dest().join("state")).unwrap();
    home.take(&*file("state")).unwrap();
    assert_eq!(fs::read(home.dest().join("state")).unwrap(), b"sent");
    assert!(home.is_untouched());

    let home = Home::new();
    symlink(".ssh", home.dest().join("state")).unwrap();
    let said = home.take(&*file("state/authorized_keys")).unwrap_err();
    assert!(said.to_string().contains("through a link"), "{said}");
    assert!(home.is_untouched());
}

/// A name without an end would fill the memory.
#[test]
fn long_names_are_bounded() {
    for kind in [GNULongName, XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let name = header.as_bytes().as_slice().chain(io::repeat(b'a'));
        let said = Home::new().take(name).unwrap_err();
        let UnpackError::Read(cause) = said else {
            panic!("{said}");
        };
        assert!(cause.to_string().contains("too long"), "{cause}");
    }
}
