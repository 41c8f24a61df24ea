//! The real machine: boots the virtual one and reads what it says.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::{END, FAILED, NOT_RUN, OK, initramfs, print};

/// How long a boot with all of the contract may take on a busy machine.
const BOOT_WITHIN: Duration = Duration::from_secs(360);

/// What a boot needs.
struct Parts {
    qemu: PathBuf,
    kernel: PathBuf,
    busybox: PathBuf,
}

pub(crate) fn run() -> ExitCode {
    let parts = match parts() {
        Ok(parts) => parts,
        Err(missing) => {
            print(&format!(
                "the contract on a real cgroup2 was NOT RUN: {missing}\n"
            ));
            return ExitCode::SUCCESS;
        }
    };
    let began = Instant::now();
    let (passed, failed, said) = match boot(&parts) {
        Ok(said) => {
            let count = |word: &str| said.lines().filter(|line| line.starts_with(word)).count();
            let is_whole = said.contains(END);
            (count(OK), count(FAILED) + usize::from(!is_whole), said)
        }
        Err(error) => (0, 1, error.to_string()),
    };
    let lines = said
        .lines()
        .filter(|line| failed > 0 || [OK, NOT_RUN].iter().any(|word| line.starts_with(word)));
    lines.for_each(|line| print(&format!("{line}\n")));
    let word = if failed == 0 { "ok" } else { "FAILED" };
    print(&format!(
        "\ntest result: {word}. {passed} passed; {failed} failed; on a booted cgroup2 in {:.0} s\n",
        began.elapsed().as_secs_f64()
    ));
    ExitCode::from(u8::from(failed > 0))
}

/// Finds what a boot needs, or says what is missing.
fn parts() -> Result<Parts, String> {
    let program =
        |name: &str| program(name).ok_or_else(|| format!("{name} is not installed; see .ci/deps"));
    Ok(Parts {
        qemu: program("qemu-system-x86_64")?,
        busybox: program("busybox")?,
        kernel: kernel()
            .ok_or("there is no kernel at target/kernel/vmlinuz; .ci/kernel fetches one")?,
    })
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

fn kernel() -> Option<PathBuf> {
    let named = std::env::var_os("TW_KERNEL").map(PathBuf::from);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kernel/vmlinuz");
    named.into_iter().chain([kept]).find(|path| path.is_file())
}

fn boot(parts: &Parts) -> Result<String, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (image, serial) = (
        folder.path().join("initramfs"),
        folder.path().join("serial"),
    );
    let modules = parts.kernel.with_file_name("modules");
    fs::write(&image, initramfs::make(&parts.busybox, &modules)?)?;
    let mut machine = Command::new(&parts.qemu)
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-no-reboot", "-display", "none", "-monitor", "none"])
        .args(["-net", "none", "-serial"])
        .arg(format!("file:{}", serial.display()))
        .args(["-append", "console=ttyS0 quiet panic=-1 psi=1"])
        .arg("-kernel")
        .arg(&parts.kernel)
        .arg("-initrd")
        .arg(&image)
        .stdin(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + BOOT_WITHIN;
    while machine.try_wait()?.is_none() {
        if Instant::now() > deadline {
            machine.kill()?;
            machine.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = fs::read(&serial).unwrap_or_default();
    Ok(String::from_utf8_lossy(&said).replace('\r', ""))
}
