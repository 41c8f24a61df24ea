//! A task's end: what was beside it is ended, the record is made durable and told, and the leaf is removed.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal as KillSignal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::{CLEANUP_PATIENCE, HelperError, Keeper, Stop, cgroup, prepare_in, system};
use crate::cgroup::CgroupError;
use crate::failpoint;
use crate::helper::diagnostics::say;
use crate::helper::hook::{self, HookEnd, HookPoint, HookRecord, HookSpec};
use crate::helper::protocol::{PROTO, Reply};
use crate::helper::record::{
    self, EXIT_FILE, ExitRecord, Outcome, RecordError, STARTED_FILE, StartedRecord,
};
use crate::helper::sidecar::Sidecar;
use crate::helper::socket::Peer;
use crate::helper::term::Term;
use crate::process::now_us;
use crate::sandbox::{Ended, Started};

/// How long sidecars have to end once the command has.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

/// How long a record that could not be written waits for the next attempt.
const WRITE_AGAIN_AFTER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};

impl Keeper {
    /// The main process has ended: takes the last it has printed, and answers how it ended.
    pub(super) fn end_of_main(&mut self) -> Ended {
        let Some(mut main) = self.main.take() else {
            return Ended::Signal(libc::SIGKILL as u8);
        };
        let how = how_it_ended(&main.task);
        main.outputs.finish(&mut self.log);
        self.users = main.task.users;
        how
    }

    pub(super) fn kill_main(&mut self) {
        if let Some(main) = &self.main {
            // With the init goes all that is in its namespace.
            let _gone = pidfd_send_signal(&main.task.pidfd, KillSignal::KILL);
        }
        self.end_of_main();
    }

    /// The command has ended: records that, and ends what was beside it.
    pub(super) fn finish(mut self, how: Ended) -> Result<(), HelperError> {
        let ended_at_us = now_us();
        failpoint::reach("helper.end_seen");
        if let Some(mut joined) = self.joined.take() {
            let record = joined.kill(HookEnd::CutShort);
            joined.outputs.finish(&mut self.log);
            self.hooks.push(record);
        }
        self.end_sidecars()?;
        let outcome = Outcome::Ended {
            how,
            was_asked: self.stop.was_asked,
            was_killed: self.stop.was_killed,
            term_over: self.term.as_ref().is_some_and(Term::is_over),
        };
        let may_run_hook = !self.term.as_ref().is_some_and(Term::is_over);
        if let Some(hook) = self.launch.hooks.post_stop.clone().filter(|_| may_run_hook) {
            // Whatever happens to the hook, the end of the command is known.
            let record = self.exit_record(outcome.clone(), ended_at_us);
            let _again_after_the_hook = record::write_durably(&self.folder, EXIT_FILE, &record);
            self.run_post_stop(&hook, how);
        }
        // Losing the last lines to a power cut is better than losing the record of the end.
        let _synced = self.log.sync();
        failpoint::reach("helper.log_synced");
        let record = self.exit_record(outcome, ended_at_us);
        self.conclude(&record, failpoint::reach)
    }

    fn run_post_stop(&mut self, hook: &HookSpec, how: Ended) {
        self.memory = None;
        self.stop = Stop {
            was_asked: self.stop.was_asked,
            was_killed: self.stop.was_killed,
            ..Stop::default()
        };
        self.used = self.tree.used(&self.launch.leaf).ok();
        let prepared = self.renew_leaf().map_err(cgroup);
        let prepared = prepared.and_then(|()| prepare_in(&self.launch, self.tree.as_ref()));
        let command = hook::command_of(&self.launch, HookPoint::PostStop, hook, Some(how));
        let record = match prepared {
            Ok((prepared, directory)) => {
                self.run_alone(HookPoint::PostStop, hook, prepared, directory, command)
            }
            Err(error) => HookRecord {
                point: HookPoint::PostStop,
                end: HookEnd::NotStarted(error.message),
                took_ms: 0,
            },
        };
        self.hooks.push(record);
    }

    /// Makes the leaf anew: the kernel (6.18) also kills what is cloned into a group after it was killed.
    fn renew_leaf(&self) -> Result<(), CgroupError> {
        let leaf = &self.launch.leaf;
        self.tree.remove(leaf, CLEANUP_PATIENCE)?;
        self.tree.create(leaf)?;
        if !self.launch.cores.is_empty() {
            self.tree.give_cores(leaf, &self.launch.cores)?;
        }
        self.tree.set_limits(leaf, &self.launch.limits)?;
        self.record_leaf()
    }

    /// Says that the leaf is another one by now. Without it an agent takes the leaf for somebody else's, and what runs in
    /// there ends with this process all the same.
    fn record_leaf(&self) -> Result<(), CgroupError> {
        let cgroup_id = self.tree.id(&self.launch.leaf)?;
        if let Ok(Some(started)) = record::read::<StartedRecord>(&self.folder, STARTED_FILE) {
            let started = StartedRecord {
                cgroup_id,
                ..started
            };
            let _disk_is_full = record::write(&self.folder, STARTED_FILE, &started);
        }
        Ok(())
    }

    /// Gives the sidecars a moment to end by themselves, then kills all that is left.
    fn end_sidecars(&mut self) -> Result<(), HelperError> {
        self.sidecars.iter().for_each(Sidecar::ask_to_end);
        let deadline = Instant::now() + SIDECAR_GRACE;
        while self.sidecars.iter().any(Sidecar::is_running) && Instant::now() < deadline {
            self.wait(Some(deadline))?;
            self.drain();
            self.serve();
            self.act_on_term()?;
        }
        self.sidecars.iter_mut().for_each(Sidecar::end);
        self.sidecars.clear();
        Ok(self.tree.kill(&self.launch.leaf)?)
    }

    pub(super) fn exit_record(&self, outcome: Outcome, ended_at_us: i64) -> ExitRecord {
        let usage = self.used.or_else(|| self.tree.used(&self.launch.leaf).ok());
        let usage = usage.unwrap_or_default();
        ExitRecord {
            proto: PROTO,
            outcome,
            ended_at_us,
            is_oom: usage.oom_kills > 0,
            oom: self.oom.clone(),
            hooks: self.hooks.clone(),
            usage,
            log: self.log.counts(),
        }
    }

    /// Makes the record of the end durable, tells it, and removes what is left.
    pub(super) fn conclude(
        mut self,
        record: &ExitRecord,
        reach: impl Fn(&str),
    ) -> Result<(), HelperError> {
        let written = record::write_durably(&self.folder, EXIT_FILE, record);
        reach("helper.end_recorded");
        self.tell_end(record);
        tell_waiting(&self.listener, &self.launch.task, record);
        reach("helper.end_told");
        self.term.iter().for_each(Term::release);
        self.remove_leaf()?;
        reach("helper.leaf_removed");
        self.give_users_back();
        let done = match written {
            Ok(()) => Ok(()),
            Err(cause) => self.hold_record(record, cause),
        };
        // The process ends now, and the kernel takes everything at once.
        std::mem::forget(self);
        done
    }

    /// Leaves the task's users to the next task. Behind the leaf, as that cannot be removed while anything of the task is
    /// left: all of it was born in there.
    fn give_users_back(&mut self) {
        if let (Some(users), Some(nursery)) = (self.users.take(), &self.nursery) {
            // A nursery that has enough of them, or has gone, makes others.
            let _given = users.hand_on(nursery.as_fd());
        }
    }

    /// Removes the leaf. All in it was killed before; what has come in since is killed now.
    fn remove_leaf(&self) -> Result<(), CgroupError> {
        let leaf = &self.launch.leaf;
        match self.tree.remove(leaf, Duration::ZERO) {
            Err(CgroupError::NotEmpty { .. }) => {
                self.tree.kill(leaf)?;
                self.tree.remove(leaf, CLEANUP_PATIENCE)
            }
            done => done,
        }
    }

    /// Tells every agent that has not heard it.
    fn tell_end(&mut self, record: &ExitRecord) {
        for peer in self.peers.iter_mut().filter(|peer| !peer.knows_end) {
            peer.knows_end = true;
            // One that does not listen reads the record from the folder, or asks again.
            let _told = peer.say(&Reply::Ended {
                record: Box::new(record.clone()),
            });
        }
    }

    /// Keeps a record that no disk takes until one does, or an agent knows it.
    fn hold_record(
        &mut self,
        record: &ExitRecord,
        mut cause: RecordError,
    ) -> Result<(), HelperError> {
        say(&format!(
            "the end is held in memory: {}",
            crate::error::chain(&cause)
        ));
        loop {
            let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
            polled.extend(
                self.peers
                    .iter()
                    .map(|peer| PollFd::new(&peer.stream, PollFlags::IN)),
            );
            poll(&mut polled, Some(&WRITE_AGAIN_AFTER)).map_err(system("wait"))?;
            self.serve();
            self.tell_end(record);
            if self.is_acknowledged {
                return Err(cause.into());
            }
            match record::write_durably(&self.folder, EXIT_FILE, record) {
                Ok(()) => return Ok(()),
                Err(again) => cause = again,
            }
        }
    }
}

/// The init's word; without it the init itself was killed.
fn how_it_ended(task: &Started) -> Ended {
    let mut word = [0; 2];
    let told = rustix::io::read(&task.status, &mut word);
    let status = waitid(WaitId::PidFd(task.pidfd.as_fd()), WaitIdOptions::EXITED)
        .ok()
        .flatten();
    match told {
        Ok(2) => Ended::decode(word),
        _ => None,
    }
    .or_else(|| {
        let status = status?;
        let code = status.exit_status().map(|code| Ended::Code(code as u8));
        code.or(status
            .terminating_signal()
            .map(|signal| Ended::Signal(signal as u8)))
    })
    .unwrap_or(Ended::Signal(libc::SIGKILL as u8))
}

/// Tells whoever has connected already how the start went.
fn tell_waiting(listener: &UnixListener, task: &str, record: &ExitRecord) {
    while let Ok((stream, _)) = listener.accept() {
        if let Ok(mut peer) = Peer::greet(stream, task) {
            // One that has hung up reads the record from the folder.
            let _told = peer.say(&Reply::Ended {
                record: Box::new(record.clone()),
            });
        }
    }
}
