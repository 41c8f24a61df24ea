//! While a task runs: its output, what agents ask, its deadlines, its memory, and the hooks beside it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal as KillSignal, pidfd_send_signal};

use super::{HelperError, Keeper, system};
use crate::cgroup::MemoryWatch;
use crate::failpoint;
use crate::helper::diagnostics::say;
use crate::helper::hook::{HookEnd, HookPoint, HookRecord, HookSpec, JoinedHook};
use crate::helper::memory::OomRecord;
use crate::helper::protocol::{Reply, Request, Status};
use crate::helper::record::TermEnd;
use crate::helper::sidecar::Sidecar;
use crate::helper::socket::Peer;
use crate::helper::term::{Due, Term};
use crate::process::now_us;
use crate::sandbox::Ended;

/// The longest time that a task without memory has to end: what it holds is missing elsewhere.
const OOM_GRACE_MAX: Duration = Duration::from_secs(10);

/// Most connections at once; the oldest gives way.
const PEERS_MAX: usize = 8;

/// What a wait came to.
pub(super) struct Woken {
    has_ended: bool,
    memory_is_short: bool,
}

impl Keeper {
    /// Follows the process that is the main one now until it has ended, or until `deadline`, when it is killed
    /// and the answer is none.
    pub(super) fn attend(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<Ended>, HelperError> {
        loop {
            let woken = self.wait(deadline)?;
            self.drain();
            self.serve();
            self.attend_hook();
            if woken.has_ended {
                return Ok(Some(self.end_of_main()));
            }
            if woken.memory_is_short {
                self.act_on_memory()?;
            }
            self.act_on_deadlines()?;
            if deadline.is_some_and(|at| at <= Instant::now()) {
                self.kill_main();
                return Ok(None);
            }
        }
    }

    /// Starts a hook beside the command.
    pub(super) fn join(&mut self, point: HookPoint, hook: &HookSpec) {
        let Some(main) = &self.main else { return };
        let began = Instant::now();
        let tree = self.tree.as_ref();
        match JoinedHook::start(&self.launch, tree, &main.task.pidfd, point, hook) {
            Ok(joined) => self.joined = Some(joined),
            Err(error) => self.after_hook(HookRecord {
                point,
                end: HookEnd::NotStarted(error.message),
                took_ms: began.elapsed().as_millis() as u64,
            }),
        }
    }

    /// Takes the output of the hook beside the command, and notices its end.
    fn attend_hook(&mut self) {
        let Some(joined) = &mut self.joined else {
            return;
        };
        joined.outputs.drain(&mut self.log);
        joined.outputs.flush_due(&mut self.log);
        if let Some(record) = joined.poll_end() {
            joined.outputs.finish(&mut self.log);
            self.joined = None;
            self.after_hook(record);
        }
    }

    /// What follows from the end of a hook beside the command.
    fn after_hook(&mut self, record: HookRecord) {
        let (point, is_success) = (record.point, record.is_success());
        self.hooks.push(record);
        match point {
            HookPoint::PreStop => self.signal_after_hook(),
            HookPoint::PostStart if is_success => self.become_ready(),
            // A task that could not be completed does not serve.
            HookPoint::PostStart => {
                let rule = self.launch.stop;
                let now = Instant::now();
                self.stop.signal_at = Some((now, rule.signal));
                self.stop.kill_at = Some(now + Duration::from_millis(rule.grace_ms));
            }
            HookPoint::PreStart | HookPoint::PostStop => {}
        }
    }

    pub(super) fn become_ready(&mut self) {
        self.is_ready = true;
        self.tell_newer(&Reply::Ready);
    }

    /// Says something that agents of protocol 1 do not understand to those that do.
    fn tell_newer(&mut self, reply: &Reply) {
        self.peers
            .retain_mut(|peer| peer.proto < 2 || peer.say(reply).is_ok());
    }

    /// Waits for output, requests, the end, a lack of memory, or the next deadline.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<Woken, HelperError> {
        let wakeup = self.next_wakeup().into_iter().chain(deadline).min();
        let timeout = wakeup.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let main = self.main.iter();
        let joined = self.joined.iter();
        let descriptors = main
            .flat_map(|main| [&main.task.pidfd].into_iter().chain(main.outputs.pipes()))
            .chain(joined.flat_map(|hook| [&hook.pidfd].into_iter().chain(hook.outputs.pipes())))
            .chain(self.sidecars.iter().flat_map(Sidecar::descriptors));
        let mut polled: Vec<PollFd<'_>> = descriptors
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        polled.push(PollFd::new(&self.listener, PollFlags::IN));
        polled.extend(
            self.peers
                .iter()
                .map(|peer| PollFd::new(&peer.stream, PollFlags::IN)),
        );
        let term = self.term.as_ref().map(Term::fd);
        polled.extend(term.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let watch = self.memory.as_ref().map(MemoryWatch::poll);
        if let Some((fd, flags)) = &watch {
            polled.push(PollFd::new(fd, *flags));
        }
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(system("wait")(error)),
        }
        let rings = |(_, flags): &(_, PollFlags)| {
            polled
                .last()
                .is_some_and(|fd| fd.revents().intersects(*flags))
        };
        Ok(Woken {
            has_ended: self.main.is_some() && polled[0].revents().contains(PollFlags::IN),
            memory_is_short: watch.as_ref().is_some_and(rings),
        })
    }

    fn next_wakeup(&self) -> Option<Instant> {
        let main = self.main.as_ref().and_then(|main| main.outputs.due_at());
        let joined = self.joined.as_ref().map(|hook| {
            let due_at = hook.outputs.due_at();
            due_at.map_or(hook.deadline(), |at| at.min(hook.deadline()))
        });
        let sidecars = self.sidecars.iter().filter_map(Sidecar::next_wakeup);
        let own = [main, joined, self.stop.next_deadline()];
        own.into_iter().flatten().chain(sidecars).min()
    }

    pub(super) fn drain(&mut self) {
        if let Some(main) = &mut self.main {
            main.outputs.drain(&mut self.log);
            main.outputs.flush_due(&mut self.log);
        }
        for sidecar in &mut self.sidecars {
            sidecar.attend(self.tree.as_ref());
        }
    }

    pub(super) fn serve(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Ok(peer) = Peer::greet(stream, &self.launch.task) {
                self.peers.push_back(peer);
            }
        }
        while self.peers.len() > PEERS_MAX {
            self.peers.pop_front();
        }
        let mut peers = std::mem::take(&mut self.peers);
        peers.retain_mut(|peer| peer.serve(|request| self.answer(request)).is_ok());
        self.peers = peers;
    }

    fn answer(&mut self, request: &Request) -> Reply {
        match request {
            Request::Agent { .. } if self.is_ready => Reply::Ready,
            Request::Agent { .. } => Reply::Done,
            Request::Status => Reply::Status(Status {
                started_at_us: self.started_at_us,
                is_stopping: self.stop.was_asked,
                is_starting: !self.is_ready,
                log: self.log.counts(),
            }),
            Request::Stop {
                signal,
                after_ms,
                grace_ms,
            } => self.arrange_stop(*signal, *after_ms, *grace_ms),
            Request::Acknowledge => {
                self.is_acknowledged = true;
                Reply::Done
            }
            Request::Prolong { term } => self.prolong(*term),
            Request::Kill => {
                self.stop.was_asked = true;
                self.stop.kill_at = Some(Instant::now());
                Reply::Done
            }
        }
    }

    fn prolong(&mut self, end: TermEnd) -> Reply {
        let Some(term) = &mut self.term else {
            return Reply::Refused {
                message: "the task has no term".to_owned(),
            };
        };
        match term.prolong(end) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused {
                message: format!("cannot watch the new end: {error}"),
            },
        }
    }

    /// Ends the task in time when nobody has prolonged its term.
    pub(super) fn act_on_term(&mut self) -> Result<(), HelperError> {
        let Some(term) = &mut self.term else {
            return Ok(());
        };
        match term.due() {
            Due::Nothing => {}
            Due::Signal => {
                say(
                    "the term is nearly over and nobody has prolonged it; the task is asked to end",
                );
                let signal = KillSignal::from_named_raw(self.launch.stop.signal);
                if let (Some(main), Some(signal)) = (&self.main, signal) {
                    // It may end by itself in this moment.
                    let _gone = pidfd_send_signal(&main.task.pidfd, signal);
                }
            }
            Due::Kill => {
                self.tree.kill(&self.launch.leaf)?;
                term.release();
                say("the term is over; the task was killed");
            }
        }
        Ok(())
    }

    fn arrange_stop(&mut self, signal: i32, after_ms: u64, grace_ms: u64) -> Reply {
        if Signal::try_from(signal).is_err() {
            return Reply::Refused {
                message: format!("{signal} is not a signal"),
            };
        }
        let signal_at = Instant::now() + Duration::from_millis(after_ms);
        let grace = Duration::from_millis(grace_ms);
        let is_first = !self.stop.was_asked;
        self.stop.was_asked = true;
        failpoint::reach("helper.stop_taken");
        let hook = self.launch.hooks.pre_stop.clone().filter(|_| self.is_ready);
        if is_first && let Some(hook) = hook {
            self.stop.after_hook = Some((signal_at, signal, grace));
            self.join(HookPoint::PreStop, &hook);
            return Reply::Done;
        }
        if let Some((_, _, earlier)) = &mut self.stop.after_hook {
            *earlier = grace.min(*earlier);
            return Reply::Done;
        }
        if is_first {
            self.stop.signal_at = Some((signal_at, signal));
        }
        self.stop.kill_no_later_than(signal_at + grace);
        Reply::Done
    }

    /// The hook before the signal has ended, well or not.
    fn signal_after_hook(&mut self) {
        if let Some((not_before, signal, grace)) = self.stop.after_hook.take() {
            let signal_at = not_before.max(Instant::now());
            self.stop.signal_at = Some((signal_at, signal));
            self.stop.kill_no_later_than(signal_at + grace);
        }
    }

    /// The task needs more memory than it may have: look who holds it, let the task end in order, with a
    /// little more for that, and do not let it take more again.
    fn act_on_memory(&mut self) -> Result<(), HelperError> {
        let Some(watch) = &mut self.memory else {
            return Ok(());
        };
        if !watch.is_out()? {
            return Ok(());
        }
        let now = Instant::now();
        if self.oom.is_some() {
            self.stop.kill_at = Some(now);
            return Ok(());
        }
        let record = OomRecord::of(self.tree.as_ref(), &self.launch.leaf, now_us());
        let rule = self.launch.stop;
        let grace = Duration::from_millis(rule.grace_ms).min(OOM_GRACE_MAX);
        self.stop.signal_at = Some((now, rule.signal));
        self.stop.kill_no_later_than(now + grace);
        // The signal waits for the task, so that a handler runs before the rest is used up.
        self.act_on_deadlines()?;
        let bytes_max = record.limit_bytes + record.grace_bytes;
        self.tree.raise_memory(&self.launch.leaf, bytes_max)?;
        let reply = Reply::OutOfMemory {
            record: Box::new(record.clone()),
        };
        self.oom = Some(Box::new(record));
        self.tell_newer(&reply);
        Ok(())
    }

    fn act_on_deadlines(&mut self) -> Result<(), HelperError> {
        self.act_on_term()?;
        let now = Instant::now();
        if let Some((_, signal)) = self.stop.signal_at.take_if(|(at, _)| *at <= now)
            && let Some(signal) = KillSignal::from_named_raw(signal)
        {
            // The task may have ended in this moment; its end is seen next.
            if let Some(main) = &self.main {
                let _gone = pidfd_send_signal(&main.task.pidfd, signal);
            }
            failpoint::reach("helper.signal_sent");
        }
        if self.stop.kill_at.take_if(|at| *at <= now).is_some() {
            self.stop.was_killed = true;
            self.tree.kill(&self.launch.leaf)?;
            failpoint::reach("helper.kill_sent");
        }
        Ok(())
    }
}
