//! The one task that owns the scheduler's state: decide, commit, act.
//!
//! A decision is applied at once, so that the next one sees it, and queued to the store in order. Replies
//! and watchers wait until it is durable. When a commit fails, everything decided since is worth nothing:
//! the state is dropped and listed again, and whoever waited is told to try again.

mod recover;
mod request;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep};
use tracing::Span;
use tw_api::ErrorBody;
use tw_model::{Code, MachineId, Millis, Record};
use tw_scheduler::lease::Tenure;
use tw_scheduler::{
    Broker, ConfirmRule, Decision, Event, Op, SchedulerConfig, State, StopLimiter, Txn, step,
};
use tw_store::{BoxFuture, Commit, CommitError, Pipeline, Rev, Store};

use crate::clock;
use crate::config::ControllerConfig;
use crate::error::RunError;
use crate::hub::Hub;
use crate::random;

pub(crate) use recover::open_store;
pub(crate) use request::Driver;
use request::{Plans, Reply, Request};

/// How many requests may wait for the driver.
const REQUESTS_MAX: usize = 1024;
/// How many transactions may wait for the store before no more is decided.
const QUEUED_MAX: usize = 4096;
/// How often the rows of every job are looked at, due or not. Below a tenth of a second for a million tasks.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// The wait before decisions begin anew after a failed commit.
const RECOVERY_PAUSE: Duration = Duration::from_millis(100);

/// Makes the driver and its handle from what the store holds.
pub(crate) async fn start(
    config: &ControllerConfig,
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
) -> Result<(Driver, Core), RunError> {
    let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
    let ready = Arc::new(AtomicBool::new(true));
    let scheduler = SchedulerConfig {
        lost_after: Millis(u64::try_from(config.lost_after.as_millis()).unwrap_or(u64::MAX)),
    };
    let mut core = Core {
        pipeline: Pipeline::new(Arc::clone(&store)),
        // Nobody could be heard while there was no controller: silence counts from now. No other can be there as
        // long as this process holds the lock of its store.
        broker: Broker::new(&scheduler, Tenure::WhileAlive, tick_ms()),
        sessions: HashMap::new(),
        limiter: StopLimiter::new(config.stop_limits, tick_ms()),
        confirm: config.confirm,
        state: State::default(),
        queued: FuturesOrdered::new(),
        plans: Plans::default(),
        ready: Arc::clone(&ready),
        tick_every: config.tick_every,
        store,
        hub,
        inbox,
    };
    core.list().await?;
    Ok((Driver::new(requests, ready), core))
}

/// The owner of the state.
pub(crate) struct Core {
    store: Arc<dyn Store>,
    pipeline: Pipeline,
    hub: Arc<Hub>,
    inbox: mpsc::Receiver<Request>,
    broker: Broker,
    limiter: StopLimiter,
    confirm: ConfirmRule,
    /// The session of the newest registration of each machine.
    sessions: HashMap<MachineId, u64>,
    state: State,
    /// What the store was given and has not answered, oldest first.
    queued: FuturesOrdered<BoxFuture<'static, Answered>>,
    plans: Plans,
    ready: Arc<AtomicBool>,
    tick_every: Duration,
}

/// A transaction that the store has answered, or a place in the queue where someone waits.
struct Answered {
    result: Result<Option<Rev>, CommitError>,
    ops: Vec<Op>,
    reply: Option<Reply>,
    /// The span of the request that it came from, if any.
    span: Span,
}

impl Core {
    /// Decides until every handle is gone. Fails when the store can no longer be written or read.
    pub(crate) async fn run(mut self) -> Result<(), RunError> {
        let mut ticks = interval(self.tick_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut audits = interval_at(Instant::now() + AUDIT_EVERY, AUDIT_EVERY);
        audits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = self.queued.len() < QUEUED_MAX;
            tokio::select! {
                biased;
                Some(answered) = self.queued.next() => self.answered(answered).await?,
                _ = ticks.tick(), if room => self.tick(),
                _ = audits.tick(), if room => self.audit(),
                request = self.inbox.recv(), if room => match request {
                    Some(request) => self.serve(request),
                    None => break,
                },
            }
        }
        while let Some(answered) = self.queued.next().await {
            self.answered(answered).await?;
        }
        Ok(())
    }

    fn tick(&mut self) {
        for event in self.broker.due(&self.state, tick_ms()) {
            match &event {
                Event::MachineLost { machine, silent } => {
                    let silence = self.broker.silence(machine, tick_ms());
                    tracing::warn!(%machine, %silence, silent, "a machine is lost");
                }
                Event::TermsOver { machine, silence } => {
                    tracing::warn!(%machine, %silence, "terms of tasks are over");
                }
                _ => {}
            }
            let decision = self.step(&event);
            self.commit(decision, None);
        }
        let decision = self.step(&Event::Tick);
        self.commit(decision, None);
    }

    /// Looks at the rows of every job, as ticks look at those alone that an index names.
    fn audit(&mut self) {
        let decision = self.step(&Event::Audit);
        let rows: usize = decision.txns.iter().map(|txn| txn.ops.len()).sum();
        if rows > 0 {
            tracing::info!(rows, "an audit of all jobs found something to do");
        }
        self.commit(decision, None);
    }

    fn step(&self, event: &Event) -> Decision {
        step(&self.state, event, clock::wall(), seed())
    }

    /// Applies and queues a decision. The reply waits until it, and all that it rests on, is durable.
    fn commit(&mut self, mut decision: Decision, reply: Option<Reply>) {
        let withheld = self.limiter.admit(&self.state, &mut decision, tick_ms());
        if withheld > 0 {
            tracing::info!(withheld, "tasks run on for now: stops come too fast");
        }
        let mut reply = reply;
        let last = decision.txns.len().saturating_sub(1);
        for (number, txn) in decision.txns.into_iter().enumerate() {
            self.state.apply(&txn);
            let commit = self.pipeline.submit(encode(&txn));
            let reply = if number == last { reply.take() } else { None };
            self.queue(commit, txn.ops, reply);
        }
        if let Some(reply) = reply {
            self.after_queued(reply);
        }
    }

    /// Replies once everything queued so far is durable.
    fn after_queued(&mut self, reply: Reply) {
        if self.queued.is_empty() {
            return reply(Ok(()));
        }
        let span = Span::current();
        self.queued.push_back(Box::pin(async {
            Answered {
                result: Ok(None),
                ops: Vec::new(),
                reply: Some(reply),
                span,
            }
        }));
    }

    fn queue(&mut self, commit: Commit, ops: Vec<Op>, reply: Option<Reply>) {
        let span = Span::current();
        self.queued.push_back(Box::pin(async {
            Answered {
                result: commit.await.map(Some),
                ops,
                reply,
                span,
            }
        }));
    }

    /// Shows what is durable now, or begins anew.
    async fn answered(&mut self, answered: Answered) -> Result<(), RunError> {
        match answered.result {
            Ok(revision) => {
                let _entered = answered.span.entered();
                if let Some(revision) = revision {
                    tracing::trace!(%revision, rows = answered.ops.len(), "durable");
                    answered.ops.iter().for_each(log);
                    self.hub.publish(answered.ops);
                }
                if let Some(reply) = answered.reply {
                    reply(Ok(()));
                }
                Ok(())
            }
            Err(cause) => self.begin_anew(cause, answered.reply).await,
        }
    }

    async fn begin_anew(
        &mut self,
        cause: CommitError,
        first: Option<Reply>,
    ) -> Result<(), RunError> {
        tracing::error!(%cause, lost = self.queued.len(), "a commit failed; listing again");
        self.ready.store(false, Ordering::Release);
        let refusal = unavailable(&cause);
        if let Some(reply) = first {
            reply(Err(refusal.clone()));
        }
        while let Some(answered) = self.queued.next().await {
            if let Some(reply) = answered.reply {
                reply(Err(refusal.clone()));
            }
        }
        self.pipeline.reset().await?;
        sleep(RECOVERY_PAUSE).await;
        self.list().await?;
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the state and everyone's view from the rows of the store.
    async fn list(&mut self) -> Result<(), RunError> {
        let records = recover::list(&*self.store).await?;
        tracing::info!(rows = records.len(), "recovered");
        self.state = State::from_records(records.iter().cloned());
        self.state.set_stop_limits(self.limiter.limits());
        self.hub.reset(records);
        Ok(())
    }
}

/// The refusal for whoever waited for a commit that failed.
fn unavailable(cause: &CommitError) -> ErrorBody {
    ErrorBody::new(
        Code::StoreUnavailable,
        format!("the store did not take the write: {cause}"),
    )
    .with_hint("try again; whether it was taken shows in `tw status`")
}

/// Writes what happened into the log, within the span of the request that made it happen.
fn log(op: &Op) {
    if let Op::Put(Record::Version(version)) = op {
        tracing::info!(
            job = %version.job,
            version = version.version,
            plan = version.plan,
            by = version.by,
            "job.version"
        );
    }
    if let Op::Put(Record::Event(event)) = op {
        tracing::info!(
            job = %event.job,
            seq = event.seq,
            task = event.task.as_ref().map(tracing::field::display),
            machine = event.machine.as_ref().map(tracing::field::display),
            detail = event.message,
            "{}",
            event.kind
        );
    }
}

fn encode(txn: &Txn) -> tw_store::Txn {
    let mut encoded = tw_store::Txn::new();
    for op in &txn.ops {
        encoded = match op {
            Op::Put(record) => encoded.put(record.key().text(), record.encode()),
            Op::Delete(key) => encoded.delete(key.text()),
        };
    }
    encoded
}

/// The broker's clock.
fn tick_ms() -> u64 {
    u64::try_from(clock::boot().as_millis()).unwrap_or(u64::MAX)
}

/// Chance for one decision.
fn seed() -> u64 {
    random::bytes().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
