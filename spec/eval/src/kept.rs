//! Children that do one job after the other: after each, the zygote puts one back to how it was before the first.
//!
//! To fork a child for each spec, to seal it, to copy each page that it writes to and to take it down takes most of the time
//! of an evaluation. A kept child does without: when its job is done it makes a call that is not on its list, upon which the
//! kernel stops it and tells the zygote, which traces it. The zygote then gives it the memory ([`crate::image`]) and the
//! registers that it had when it rested for the first time, before it had read anything. What else a process can change
//! it cannot: it may send to its socket and receive from it, and nothing else. So the next job finds what it would
//! find in a child of its own.
//!
//! Whatever else stops a kept child (another call, a signal, a fault) ends it, and its job is done again in a child of its own:
//! what is wrong with a spec is only ever said there.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use anyhow::bail;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::image::{Image, Memory};

/// The call of a child that rests, and its argument. It tells something only if it is made, which it never is.
const REST_CALL: libc::c_long = libc::SYS_getppid;
const REST_MARK: u64 = 0x7477_7265_7374;
/// How often a child tries to rest before anybody traces it.
const TRIES_MAX: u32 = 50_000_000;

/// In a child: waits until the zygote has put everything back, and the next job may come. False if nobody does.
pub(crate) fn rest() -> bool {
    for _ in 0..TRIES_MAX {
        // SAFETY: a call that takes nothing; the kernel stops the process before it is made.
        if unsafe { libc::syscall(REST_CALL, REST_MARK) } == 0 {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

/// The zygote's hold on a child.
pub(crate) struct Kept {
    pid: Pid,
    memory: Memory,
    /// The child's end of its socket.
    socket: OwnedFd,
    before: Option<Before>,
}

/// What a child was before its first job.
struct Before {
    registers: Registers,
    image: Rc<Image>,
}

impl Kept {
    /// Takes hold of a child that was just forked.
    pub(crate) fn seize(pid: Pid, socket: OwnedFd) -> io::Result<Kept> {
        let memory = Memory::of(pid)?;
        registers::seize(pid)?;
        Ok(Kept {
            pid,
            memory,
            socket,
            before: None,
        })
    }

    /// Whether the child has stopped since this was last asked.
    pub(crate) fn has_stopped(&self) -> Option<WaitStatus> {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        let status = waitid(Id::Pid(self.pid), flags).ok()?;
        (status != WaitStatus::StillAlive).then_some(status)
    }

    /// Whether the child has rested before.
    pub(crate) fn has_rested(&self) -> bool {
        self.before.is_some()
    }

    /// Of a child that has stopped: makes it what it was before its first job, and lets it go on. Of an error it must end.
    /// `base` is the image that others are kept beside.
    pub(crate) fn put_back(
        &mut self,
        stopped: WaitStatus,
        has_job: bool,
        base: &mut Option<Rc<Image>>,
    ) -> anyhow::Result<()> {
        let registers = Registers::of(self.pid)?;
        let by_filter = matches!(stopped, WaitStatus::PtraceEvent(_, _, event) if event == libc::PTRACE_EVENT_SECCOMP);
        if !by_filter || !registers.is_call(REST_CALL, REST_MARK) {
            bail!("it stopped for something else: {stopped:?}");
        }
        match &self.before {
            None => {
                let image = Rc::new(self.memory.image(registers.stack(), base.as_ref())?);
                base.get_or_insert_with(|| Rc::clone(&image));
                let registers = registers.with_result(0);
                self.before = Some(Before { registers, image });
            }
            Some(_) if !has_job => bail!("it rests without having had a job"),
            Some(before) => {
                if self.unread_bytes()? != 0 {
                    bail!("it has not read all that it was told");
                }
                self.memory.restore(&before.image)?;
            }
        }
        if let Some(before) = &self.before {
            before.registers.give_to(self.pid)?;
        }
        Ok(registers::go_on(self.pid)?)
    }

    /// How much the child was told that it has not read.
    fn unread_bytes(&self) -> io::Result<libc::c_int> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the call writes one number, to where the pointer leads.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) } {
            0 => Ok(bytes),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

use registers::Registers;

/// The registers of a process that this one traces.
#[cfg(target_arch = "x86_64")]
mod registers {
    use std::io;
    use std::mem::MaybeUninit;

    use nix::unistd::Pid;

    /// The set of registers for vectors and floating point.
    const NT_X86_XSTATE: libc::c_int = 0x202;
    const EXTENDED_BYTES_MAX: usize = 16 * 1024;

    /// All registers, those for vectors and floating point included.
    pub(super) struct Registers {
        general: libc::user_regs_struct,
        extended: Vec<u8>,
    }

    /// Begins to trace a process, which ends when this one does.
    pub(super) fn seize(pid: Pid) -> io::Result<()> {
        let options = libc::PTRACE_O_TRACESECCOMP | libc::PTRACE_O_EXITKILL;
        trace(libc::PTRACE_SEIZE, pid, 0, options as usize)
    }

    /// Lets a process that has stopped go on.
    pub(super) fn go_on(pid: Pid) -> io::Result<()> {
        trace(libc::PTRACE_CONT, pid, 0, 0)
    }

    fn trace(request: libc::c_uint, pid: Pid, address: usize, data: usize) -> io::Result<()> {
        // SAFETY: of the requests of this module, those about registers lead to a vector that outlives the call.
        match unsafe { libc::ptrace(request, pid.as_raw(), address, data) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads or writes one set of registers; returns how many bytes it has.
    fn set(
        request: libc::c_uint,
        pid: Pid,
        set: libc::c_int,
        at: *mut u8,
        bytes: usize,
    ) -> io::Result<usize> {
        let mut vector = libc::iovec {
            iov_base: at.cast(),
            iov_len: bytes,
        };
        trace(request, pid, set as usize, &raw mut vector as usize)?;
        Ok(vector.iov_len)
    }

    impl Registers {
        pub(super) fn of(pid: Pid) -> io::Result<Registers> {
            let mut general = MaybeUninit::<libc::user_regs_struct>::zeroed();
            let bytes = size_of::<libc::user_regs_struct>();
            set(
                libc::PTRACE_GETREGSET,
                pid,
                libc::NT_PRSTATUS,
                general.as_mut_ptr().cast(),
                bytes,
            )?;
            let mut extended = vec![0; EXTENDED_BYTES_MAX];
            let held = set(
                libc::PTRACE_GETREGSET,
                pid,
                NT_X86_XSTATE,
                extended.as_mut_ptr(),
                extended.len(),
            )?;
            extended.truncate(held);
            Ok(Registers {
                // SAFETY: plain numbers, zero where the kernel wrote none.
                general: unsafe { general.assume_init() },
                extended,
            })
        }

        /// Whether the process makes this call with this first argument.
        pub(super) fn is_call(&self, call: libc::c_long, argument: u64) -> bool {
            self.general.orig_rax == call as u64 && self.general.rdi == argument
        }

        pub(super) fn stack(&self) -> usize {
            self.general.rsp as usize
        }

        /// The same with the call not made, and this as its result.
        pub(super) fn with_result(mut self, result: u64) -> Registers {
            self.general.orig_rax = u64::MAX;
            self.general.rax = result;
            self
        }

        pub(super) fn give_to(&self, pid: Pid) -> io::Result<()> {
            let general = (&raw const self.general).cast_mut().cast();
            set(
                libc::PTRACE_SETREGSET,
                pid,
                libc::NT_PRSTATUS,
                general,
                size_of_val(&self.general),
            )?;
            let extended = self.extended.as_ptr().cast_mut();
            set(
                libc::PTRACE_SETREGSET,
                pid,
                NT_X86_XSTATE,
                extended,
                self.extended.len(),
            )?;
            Ok(())
        }
    }
}

/// Elsewhere no child is kept.
#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use std::io;

    use nix::unistd::Pid;

    pub(super) enum Registers {}

    pub(super) fn seize(_pid: Pid) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn go_on(_pid: Pid) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    impl Registers {
        pub(super) fn of(_pid: Pid) -> io::Result<Registers> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn is_call(&self, _call: libc::c_long, _argument: u64) -> bool {
            match *self {}
        }

        pub(super) fn stack(&self) -> usize {
            match *self {}
        }

        pub(super) fn with_result(self, _result: u64) -> Registers {
            match self {}
        }

        pub(super) fn give_to(&self, _pid: Pid) -> io::Result<()> {
            match *self {}
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::filter::Filter;
    use crate::seal::SOCKET;

    const LIMIT: Duration = Duration::from_secs(20);

    /// What a child leaves behind, in memory that it has for itself only once it has written there.
    static LEFT: AtomicU64 = AtomicU64::new(7);

    /// A child that says, of each byte that it is sent, what is left from before.
    struct Subject {
        kept: Kept,
        socket: UnixStream,
        image: Option<Rc<Image>>,
    }

    impl Subject {
        /// One that does `work` with each byte, upon which it rests.
        fn new(work: fn(u8) -> u8) -> Subject {
            let filter = Filter::of_kept().expect("a filter");
            let (socket, theirs) = UnixStream::pair().expect("a socket");
            socket.set_read_timeout(Some(LIMIT)).expect("a limit");
            // SAFETY: the child calls only functions that do not allocate, and ends by `_exit` or a signal.
            let pid = match unsafe { fork() }.expect("fork") {
                ForkResult::Parent { child } => child,
                // SAFETY: as above; the descriptors and the byte are this function's.
                ForkResult::Child => unsafe {
                    libc::dup2(theirs.as_raw_fd(), SOCKET);
                    libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                    if filter.apply_traced().is_ok() && rest() {
                        let mut byte = [0];
                        libc::recv(SOCKET, byte.as_mut_ptr().cast(), 1, 0);
                        byte[0] = work(byte[0]);
                        let sent = crate::frame::write(SOCKET, crate::frame::Kind::Jobs, &byte);
                        let _ = sent.is_ok() && rest();
                    }
                    libc::_exit(1)
                },
            };
            let kept = Kept::seize(pid, theirs.into()).expect("to trace a child of one's own");
            Subject {
                kept,
                socket,
                image: None,
            }
        }

        fn stopped(&self) -> WaitStatus {
            let start = Instant::now();
            loop {
                if let Some(status) = self.kept.has_stopped() {
                    return status;
                }
                assert!(start.elapsed() < LIMIT, "the child does not stop");
                std::thread::sleep(Duration::from_millis(1));
            }
        }

        fn put_back(&mut self, has_job: bool) -> anyhow::Result<()> {
            let stopped = self.stopped();
            self.kept.put_back(stopped, has_job, &mut self.image)
        }

        fn ask(&mut self, byte: u8) -> u8 {
            self.socket.write_all(&[byte]).expect("to send");
            let mut frame = [0; 6];
            self.socket.read_exact(&mut frame).expect("an answer");
            frame[5]
        }
    }

    impl Drop for Subject {
        fn drop(&mut self) {
            let _ = kill(self.kept.pid, Signal::SIGKILL);
            let _ = waitpid(self.kept.pid, None);
        }
    }

    /// Says whether anything is left of another job, in memory or in registers, and leaves something in both.
    fn leave(byte: u8) -> u8 {
        // Rounding is what a register says: a third is another number if it is rounded up.
        let third = |one: f64| std::hint::black_box(one) / std::hint::black_box(3.0);
        let is_rounded = third(1.0) == 1.0 / 3.0;
        let mode: u32 = 0x5f80;
        // SAFETY: sets how the process rounds, and which exceptions it ignores: all.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mode) };
        let left = LEFT.swap(byte.into(), Ordering::Relaxed);
        u8::from(left == 7 && is_rounded)
    }

    #[test]
    fn nothing_is_left_of_a_job() {
        let mut subject = Subject::new(leave);
        subject.put_back(false).expect("the first rest");
        for byte in 1..20 {
            assert_eq!(subject.ask(byte), 1, "job {byte}");
            subject.put_back(true).expect("to be put back");
        }
    }

    #[test]
    fn a_child_that_rests_without_a_job_is_not_kept() {
        let mut subject = Subject::new(leave);
        subject.put_back(false).expect("the first rest");
        subject.ask(1);
        let refused = subject.put_back(false).expect_err("no job");
        assert!(
            refused.to_string().contains("without having had a job"),
            "{refused}"
        );
    }

    #[test]
    fn a_child_that_leaves_something_unread_is_not_kept() {
        let mut subject = Subject::new(leave);
        subject.put_back(false).expect("the first rest");
        subject.socket.write_all(&[1, 2]).expect("to send");
        let refused = subject.put_back(true).expect_err("unread");
        assert!(refused.to_string().contains("not read"), "{refused}");
    }

    #[test]
    fn any_other_call_ends_a_child() {
        let mut subject = Subject::new(|byte| {
            // SAFETY: a call that takes nothing.
            unsafe { libc::syscall(libc::SYS_getpid) };
            byte
        });
        subject.put_back(false).expect("the first rest");
        subject.socket.write_all(&[1]).expect("to send");
        let refused = subject.put_back(true).expect_err("another call");
        assert!(refused.to_string().contains("something else"), "{refused}");
    }

    #[test]
    fn more_pages_than_are_worth_it_end_a_child() {
        static MUCH: [AtomicU64; 1 << 20] = [const { AtomicU64::new(0) }; 1 << 20];
        let mut subject = Subject::new(|byte| {
            MUCH.iter().for_each(|one| one.store(1, Ordering::Relaxed));
            byte
        });
        subject.put_back(false).expect("the first rest");
        subject.ask(1);
        let refused = subject.put_back(true).expect_err("too much");
        assert!(refused.to_string().contains("too many"), "{refused}");
    }
}
