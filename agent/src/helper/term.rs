//! A task's term: how long it may run without word from the controller.
//!
//! The helper ends the task by itself when the term is over. Should the helper stand still in that moment, the kernel
//! kills it, and the task's PID 1 has asked to die with it.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::record::TermEnd;
use crate::process::boot_ms;

/// How long after the task should be dead a helper that still works on it is killed itself. Less than what is allowed
/// for a kill, and enough for a helper that is about to do it.
const BACKSTOP_AFTER_MS: u64 = 500;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Signal,
    Kill,
}

/// The term of the one task of this process.
pub(super) struct Term {
    end: TermEnd,
    /// Rings at the next moment at which something is due.
    timer: OwnedFd,
    backstop: Backstop,
    was_signalled: bool,
    was_killed: bool,
}

impl Term {
    /// Begins to watch a term.
    pub(super) fn begin(end: TermEnd) -> io::Result<Term> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let term = Term {
            end,
            timer: timerfd_create(TimerfdClockId::Boottime, flags)?,
            backstop: Backstop::new()?,
            was_signalled: false,
            was_killed: false,
        };
        term.arm()?;
        Ok(term)
    }

    /// Moves the end on. An earlier end than the one that is known says nothing.
    pub(super) fn prolong(&mut self, end: TermEnd) -> io::Result<()> {
        if self.was_killed || end.kill_at_ms <= self.end.kill_at_ms {
            return Ok(());
        }
        self.end = end;
        self.arm()
    }

    /// What is due now, each once.
    pub(super) fn due(&mut self) -> Due {
        // Only its ringing matters, not how often it rang.
        let _rang = rustix::io::read(&self.timer, &mut [0; 8]);
        let now = boot_ms();
        if now >= self.end.kill_at_ms && !self.was_killed {
            self.was_killed = true;
            return Due::Kill;
        }
        if now >= self.end.signal_at_ms && !self.was_signalled && !self.was_killed {
            self.was_signalled = true;
            // A timer that cannot be set leaves the backstop.
            let _armed = self.arm();
            return Due::Signal;
        }
        Due::Nothing
    }

    /// Whether the task was asked to end, or killed, because the term was over.
    pub(super) fn is_over(&self) -> bool {
        self.was_signalled || self.was_killed
    }

    /// Whether nothing of the task may be started any more.
    pub(super) fn forbids_start(&self) -> bool {
        self.was_killed || boot_ms() >= self.end.kill_at_ms
    }

    /// Nothing of the task runs any more, so that this process may take its time.
    pub(super) fn release(&self) {
        // At worst this process is killed after it has done what matters.
        let _disarmed = self.backstop.arm(None);
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    fn arm(&self) -> io::Result<()> {
        let next = match self.was_signalled {
            true => self.end.kill_at_ms,
            false => self.end.signal_at_ms,
        };
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let when = Itimerspec {
            it_interval: zero,
            // A moment of 0 would switch the timer off.
            it_value: timespec(next.max(1)),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &when)?;
        self.backstop
            .arm(Some(self.end.kill_at_ms + BACKSTOP_AFTER_MS))
    }
}

fn timespec(ms: u64) -> Timespec {
    Timespec {
        tv_sec: (ms / 1000).cast_signed(),
        tv_nsec: (ms % 1000 * 1_000_000).cast_signed(),
    }
}

/// A timer of the kernel's that kills this process, also when it is stopped.
struct Backstop(libc::timer_t);

impl Backstop {
    fn new() -> io::Result<Backstop> {
        // SAFETY: all zeroes are a valid `sigevent`.
        let mut event: libc::sigevent = unsafe { zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        let mut timer = MaybeUninit::uninit();
        // SAFETY: both pointers are to live values of the right types; the timer is written on success.
        let made =
            unsafe { libc::timer_create(libc::CLOCK_BOOTTIME, &mut event, timer.as_mut_ptr()) };
        match made {
            // SAFETY: the call has succeeded.
            0 => Ok(Backstop(unsafe { timer.assume_init() })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sets the moment, in milliseconds since boot; none switches it off.
    fn arm(&self, at_ms: Option<u64>) -> io::Result<()> {
        let at = timespec(at_ms.unwrap_or(0));
        let when = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: at.tv_sec,
                tv_nsec: at.tv_nsec,
            },
        };
        // SAFETY: the timer is this value's own, and `when` lives through the call.
        let set =
            unsafe { libc::timer_settime(self.0, libc::TIMER_ABSTIME, &when, ptr::null_mut()) };
        match set {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Backstop {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's own and used no more.
        unsafe { libc::timer_delete(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(signal_ms: u64, kill_ms: u64) -> TermEnd {
        let now = boot_ms();
        TermEnd {
            signal_at_ms: now + signal_ms,
            kill_at_ms: now + kill_ms,
        }
    }

    #[test]
    fn a_term_ends_unless_it_is_prolonged() {
        let mut term = Term::begin(after(60_000, 120_000)).unwrap();
        assert_eq!(term.due(), Due::Nothing);
        assert!(!term.forbids_start());
        // An end that comes late and is earlier says nothing.
        term.prolong(after(0, 0)).unwrap();
        assert_eq!(term.due(), Due::Nothing);
        let mut over = Term::begin(after(0, 60_000)).unwrap();
        assert_eq!(over.due(), Due::Signal);
        assert_eq!(over.due(), Due::Nothing);
        assert!(over.is_over() && !over.forbids_start());
        let mut late = Term::begin(TermEnd {
            signal_at_ms: 0,
            kill_at_ms: boot_ms(),
        })
        .unwrap();
        assert!(late.forbids_start());
        assert_eq!(late.due(), Due::Kill);
        late.release();
        assert_eq!(late.due(), Due::Nothing);
    }
}
