//! The same command on the same root by other runtimes, between the same endpoints: from before the first step to
//! the time that the command itself prints.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tw_agent::sandbox::base;

use crate::tasks::{Bench, now_us};
use crate::{print, profile, quantile};

/// Prints nanoseconds since 1970.
const CLOCK: [&str; 2] = ["date", "+%s%N"];

/// A runtime as it is called for one start, with a name for the container.
struct Peer {
    name: &'static str,
    command: fn(&Setup, &str) -> Command,
}

/// What the peers need on disk.
struct Setup {
    base: PathBuf,
    bundle: PathBuf,
}

const PEERS: [Peer; 5] = [
    Peer {
        name: "bwrap",
        command: bwrap,
    },
    Peer {
        name: "crun",
        command: |setup, id| oci("crun", setup, id),
    },
    Peer {
        name: "runc",
        command: |setup, id| oci("runc", setup, id),
    },
    Peer {
        name: "systemd-nspawn",
        command: nspawn,
    },
    Peer {
        name: "podman",
        command: podman,
    },
];

/// Where systemd-nspawn keeps what it makes for a container. It refuses to work where that is on a disk.
const NSPAWN_FOLDER: &str = "/run/systemd/nspawn";

/// A file system in memory for systemd-nspawn, while it is measured.
struct NspawnFolder {
    is_ours: bool,
}

impl NspawnFolder {
    fn provide() -> NspawnFolder {
        let made = || -> io::Result<bool> {
            fs::create_dir_all(NSPAWN_FOLDER)?;
            if rustix::fs::statfs(NSPAWN_FOLDER)?.f_type == libc::TMPFS_MAGIC {
                return Ok(false);
            }
            let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV;
            let none = None::<&str>;
            nix::mount::mount(Some("tmpfs"), NSPAWN_FOLDER, Some("tmpfs"), flags, none)?;
            Ok(true)
        };
        // Where that fails it says itself why it cannot be measured.
        NspawnFolder {
            is_ours: made().unwrap_or(false),
        }
    }
}

impl Drop for NspawnFolder {
    fn drop(&mut self) {
        if self.is_ours {
            let flags = nix::mount::MntFlags::MNT_DETACH;
            let _stays_empty = nix::mount::umount2(NSPAWN_FOLDER, flags);
        }
    }
}

/// Measures every runtime in turns, so that a disturbance meets all of them.
pub(crate) fn compare(bench: &Bench, starts: usize) -> io::Result<()> {
    let setup = Setup::new(bench)?;
    let _folder = NspawnFolder::provide();
    let mut usable = Vec::new();
    for peer in &PEERS {
        match peer.start_ms(&setup, &format!("twill-bench-{}-try", std::process::id())) {
            Ok(_warm) => usable.push((peer, Vec::new())),
            Err(why) => {
                print(json!({"bench": "peer.start", "peer": peer.name, "absent": why.to_string()}))?
            }
        }
    }
    let mut own = Vec::new();
    for round in 0..starts {
        bench.refill()?;
        std::thread::sleep(crate::PAUSE);
        own.push(own_ms(bench)?);
        for (peer, ms) in &mut usable {
            let id = format!("twill-bench-{}-{round}", std::process::id());
            // The slow ones need fewer to be known.
            if round % 4 == 0 || peer.name == "bwrap" {
                ms.push(peer.start_ms(&setup, &id)?);
            }
        }
    }
    let line = |name: &str, ms: &mut Vec<f64>, own_p50: f64| -> Value {
        let p50 = quantile(ms, 0.5);
        json!({
            "bench": "peer.start",
            "peer": name,
            "starts": ms.len(),
            "p50_ms": p50,
            "p99_ms": quantile(ms, 0.99),
            "times_twill": (p50 / own_p50 * 100.0).round() / 100.0,
            "profile": profile(),
        })
    };
    let own_p50 = quantile(&mut own, 0.5);
    print(line("twill", &mut own, own_p50))?;
    usable
        .iter_mut()
        .try_for_each(|(peer, ms)| print(line(peer.name, ms, own_p50)))
}

fn own_ms(bench: &Bench) -> io::Result<f64> {
    let measured = bench.run(&CLOCK)?;
    elapsed_ms(measured.began_us, &measured.printed)
}

fn elapsed_ms(began_us: i64, printed: &str) -> io::Result<f64> {
    let ended_ns: i64 = printed
        .trim()
        .parse()
        .map_err(|_| io::Error::other(format!("'{}' is not a time", printed.trim())))?;
    Ok((ended_ns - began_us * 1000) as f64 / 1e6)
}

impl Peer {
    fn start_ms(&self, setup: &Setup, id: &str) -> io::Result<f64> {
        let began_us = now_us();
        let output = (self.command)(setup, id).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(
                said.lines().last().unwrap_or("no reason").to_owned(),
            ));
        }
        elapsed_ms(began_us, &String::from_utf8_lossy(&output.stdout))
    }
}

impl Setup {
    fn new(bench: &Bench) -> io::Result<Setup> {
        let bundle = bench.state().join("bundle");
        fs::create_dir_all(&bundle)?;
        let setup = Setup {
            base: bench.base.clone(),
            bundle,
        };
        fs::write(
            setup.bundle.join("config.json"),
            setup.oci_config().to_string(),
        )?;
        Ok(setup)
    }

    /// The folders of the host that the root shows.
    fn shown(&self) -> impl Iterator<Item = PathBuf> {
        base::host_binds()
            .into_iter()
            .map(|bind| bind.source)
            .filter(|path| path.exists())
    }

    fn oci_config(&self) -> Value {
        let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
        let mut mounts = vec![
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=64k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev"]),
            mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        ];
        mounts.extend(self.shown().map(|path| {
            json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro", "nosuid", "nodev"]})
        }));
        let namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount"]
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 65534, "gid": 65534},
                "args": CLOCK,
                "env": ["PATH=/usr/bin:/bin"],
                "cwd": "/tmp",
                "capabilities": {"bounding": [], "effective": [], "permitted": []},
                "noNewPrivileges": true,
            },
            "root": {"path": self.base, "readonly": true},
            "hostname": "bench",
            "mounts": mounts,
            "linux": {
                "namespaces": namespaces,
                "resources": {"memory": {"limit": 64 << 20}, "cpu": {"shares": 102}, "pids": {"limit": 64}},
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                    "syscalls": [{"names": ["mount", "bpf", "ptrace"], "action": "SCMP_ACT_ERRNO"}]},
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/sys", "/proc/fs", "/proc/irq", "/proc/bus"],
            },
        })
    }
}

/// No cgroup, no layer to write on, no system call filter: less than a task gets.
fn bwrap(setup: &Setup, _id: &str) -> Command {
    let mut command = Command::new("bwrap");
    command
        .args([
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--die-with-parent",
        ])
        .args([
            "--uid",
            "65534",
            "--gid",
            "65534",
            "--unshare-user",
            "--ro-bind",
        ])
        .arg(&setup.base)
        .arg("/")
        .args([
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp",
        ]);
    for path in setup.shown() {
        command.arg("--ro-bind").arg(&path).arg(&path);
    }
    command.args(CLOCK);
    command
}

fn oci(program: &str, setup: &Setup, id: &str) -> Command {
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--bundle")
        .arg(&setup.bundle)
        .arg(id);
    command
}

/// As root, since it makes a home folder for any other user, which the root does not have.
fn nspawn(setup: &Setup, id: &str) -> Command {
    let mut command = Command::new("systemd-nspawn");
    command
        .args([
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--as-pid2",
            "--read-only",
        ])
        .args(["--pipe", "--resolv-conf=off", "--timezone=off"])
        .args(["--machine", id])
        .arg("--directory")
        .arg(&setup.base);
    for path in setup.shown() {
        command.arg(bind_read_only(&path));
    }
    command.args(CLOCK);
    command
}

fn bind_read_only(path: &Path) -> String {
    format!("--bind-ro={}", path.display())
}

/// With runc below it, as crun does not run where v1 controllers and cgroup2 are mounted side by side; and with limits
/// that do not have to be raised.
fn podman(setup: &Setup, id: &str) -> Command {
    let mut command = Command::new("podman");
    command.args([
        "--runtime",
        "runc",
        "run",
        "--rm",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
        "--name",
        id,
        "--network=host",
        "--user=65534",
    ]);
    for path in setup.shown() {
        command
            .arg("--volume")
            .arg(format!("{0}:{0}:ro", path.display()));
    }
    command
        .arg("--rootfs")
        .arg(format!("{}:O", setup.base.display()));
    command.args(CLOCK);
    command
}
