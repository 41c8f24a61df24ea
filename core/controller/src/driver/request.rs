//! What the driver is asked, and the handle to ask with.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tracing::Span;
use tw_api::{
    AppliedJob, ApplyReply, ApplyRequest, ErrorBody, Heartbeat, HeartbeatReply, PlanRequest,
    Register, StopRequest, SubmittedJob,
};
use tw_model::{
    Ailment, AllowanceUse, Approval, Code, FittedRecord, JobId, MachineId, Name, TaskId, Version,
};
use tw_scheduler::scale::Scaling;
use tw_scheduler::{
    AllowanceOrder, Consultation, Decision, DrainOrder, Event, ExpectedPlan, PendingWhy, Plan,
    Receipt, Reply as Decided, Review, RolloutOrder, Submission,
};

use super::{Core, seed, tick_ms};
use crate::clock;
use crate::reply::job_not_found;

/// Called once a decision is durable or lost.
pub(super) type Reply = Box<dyn FnOnce(Result<(), ErrorBody>) + Send>;

type Answer<T> = oneshot::Sender<Result<T, ErrorBody>>;

/// One thing to do, within the span of the request that it came with.
pub(super) struct Request {
    span: Span,
    what: What,
}

enum What {
    Register {
        register: Box<Register>,
        answer: Answer<Admission>,
    },
    Heartbeat {
        machine: MachineId,
        heartbeat: Box<Heartbeat>,
        answer: Answer<HeartbeatReply>,
    },
    Ailing {
        machine: MachineId,
        epoch: u64,
        ailments: BTreeSet<Ailment>,
        answer: Answer<()>,
    },
    Fence {
        machine: MachineId,
        by: String,
        answer: Answer<u32>,
    },
    Allowances {
        answer: Answer<Vec<AllowanceUse>>,
    },
    Allowance {
        name: Name,
        order: AllowanceOrder,
        by: String,
        answer: Answer<()>,
    },
    Consultations {
        answer: Answer<Vec<Consultation>>,
    },
    TaskControl {
        job: JobId,
        approved: Vec<String>,
        answer: Answer<Vec<String>>,
    },
    Plan {
        request: PlanRequest,
        answer: Answer<Plan>,
    },
    Apply {
        request: ApplyRequest,
        by: String,
        answer: Answer<ApplyReply>,
    },
    Propose {
        submission: Box<Submission>,
        answer: Answer<Plan>,
    },
    Review {
        review: Box<Review>,
        answer: Answer<Option<Plan>>,
    },
    Stop {
        request: StopRequest,
        by: String,
        answer: Answer<u32>,
    },
    Restart {
        job: JobId,
        by: String,
        answer: Answer<Version>,
    },
    Rollout {
        job: JobId,
        order: RolloutOrder,
        by: String,
        answer: Answer<Version>,
    },
    Fitted {
        tasks: Vec<(TaskId, Option<FittedRecord>)>,
        answer: Answer<()>,
    },
    Scale {
        job: JobId,
        scaling: Scaling,
        answer: Answer<()>,
    },
    Why {
        job: JobId,
        answer: Answer<Vec<(u32, PendingWhy)>>,
    },
    Drain {
        machines: Vec<MachineId>,
        order: DrainOrder,
        by: String,
        answer: Answer<u32>,
    },
    Note {
        task: TaskId,
        kind: &'static str,
        message: String,
        answer: Answer<()>,
    },
}

/// What a machine that registered is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) epoch: u64,
    pub(crate) session: u64,
}

/// The handle of the driver. Its answers are durable.
#[derive(Clone)]
pub(crate) struct Driver {
    requests: mpsc::Sender<Request>,
    ready: Arc<AtomicBool>,
}

impl Driver {
    pub(super) fn new(requests: mpsc::Sender<Request>, ready: Arc<AtomicBool>) -> Driver {
        Driver { requests, ready }
    }

    /// Whether decisions are made now.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Takes a machine in, with what its agent knows.
    pub(crate) async fn register(&self, register: Register) -> Result<Admission, ErrorBody> {
        let register = Box::new(register);
        self.ask(|answer| What::Register { register, answer }).await
    }

    /// Takes an agent's reports, and grants its machine another term.
    pub(crate) async fn heartbeat(
        &self,
        machine: MachineId,
        heartbeat: Heartbeat,
    ) -> Result<HeartbeatReply, ErrorBody> {
        let heartbeat = Box::new(heartbeat);
        self.ask(|answer| What::Heartbeat {
            machine,
            heartbeat,
            answer,
        })
        .await
    }

    /// Takes an agent's word on what ails its machine.
    pub(crate) async fn ailing(
        &self,
        machine: MachineId,
        epoch: u64,
        ailments: BTreeSet<Ailment>,
    ) -> Result<(), ErrorBody> {
        self.ask(|answer| What::Ailing {
            machine,
            epoch,
            ailments,
            answer,
        })
        .await
    }

    /// What applications are to be asked now.
    pub(crate) async fn consultations(&self) -> Result<Vec<Consultation>, ErrorBody> {
        self.ask(|answer| What::Consultations { answer }).await
    }

    /// Takes an application's answer. Returns what of it was never offered.
    pub(crate) async fn task_control(
        &self,
        job: JobId,
        approved: Vec<String>,
    ) -> Result<Vec<String>, ErrorBody> {
        self.ask(|answer| What::TaskControl {
            job,
            approved,
            answer,
        })
        .await
    }

    /// Ends everything that counts as alive on a machine nobody can reach. Returns how many tasks that were.
    pub(crate) async fn fence(&self, machine: MachineId, by: String) -> Result<u32, ErrorBody> {
        self.ask(|answer| What::Fence {
            machine,
            by,
            answer,
        })
        .await
    }

    /// How the allowances are used.
    pub(crate) async fn allowances(&self) -> Result<Vec<AllowanceUse>, ErrorBody> {
        self.ask(|answer| What::Allowances { answer }).await
    }

    /// Sets or removes an allowance.
    pub(crate) async fn allowance(
        &self,
        name: Name,
        order: AllowanceOrder,
        by: String,
    ) -> Result<(), ErrorBody> {
        self.ask(|answer| What::Allowance {
            name,
            order,
            by,
            answer,
        })
        .await
    }

    /// What these jobs would do.
    pub(crate) async fn plan(&self, request: PlanRequest) -> Result<Plan, ErrorBody> {
        self.ask(|answer| What::Plan { request, answer }).await
    }

    /// What a submission that comes from a commit would do.
    pub(crate) async fn propose(&self, submission: Submission) -> Result<Plan, ErrorBody> {
        let submission = Box::new(submission);
        self.ask(|answer| What::Propose { submission, answer })
            .await
    }

    /// Keeps rows about a repository and its plans; with a submission, returns the plan that was applied.
    pub(crate) async fn review(&self, review: Review) -> Result<Option<Plan>, ErrorBody> {
        let review = Box::new(review);
        self.ask(|answer| What::Review { review, answer }).await
    }

    /// Does what a plan said, if it still says it.
    pub(crate) async fn apply(
        &self,
        request: ApplyRequest,
        by: String,
    ) -> Result<ApplyReply, ErrorBody> {
        self.ask(|answer| What::Apply {
            request,
            by,
            answer,
        })
        .await
    }

    /// Ends jobs. Returns how many of their tasks are asked to end.
    pub(crate) async fn stop(&self, request: StopRequest, by: String) -> Result<u32, ErrorBody> {
        self.ask(|answer| What::Stop {
            request,
            by,
            answer,
        })
        .await
    }

    /// Starts all tasks of a job again, as in an update. Returns the version that does it.
    pub(crate) async fn restart(&self, job: JobId, by: String) -> Result<Version, ErrorBody> {
        self.ask(|answer| What::Restart { job, by, answer }).await
    }

    /// Has machines emptied, or lets them take tasks again. Returns how many tasks are there.
    pub(crate) async fn drain(
        &self,
        machines: Vec<MachineId>,
        order: DrainOrder,
        by: String,
    ) -> Result<u32, ErrorBody> {
        self.ask(|answer| What::Drain {
            machines,
            order,
            by,
            answer,
        })
        .await
    }

    /// Carries out an order about the update of a job. Returns the version that is wanted then.
    pub(crate) async fn rollout(
        &self,
        job: JobId,
        order: RolloutOrder,
        by: String,
    ) -> Result<Version, ErrorBody> {
        self.ask(|answer| What::Rollout {
            job,
            order,
            by,
            answer,
        })
        .await
    }

    /// Lets tasks hold what they have been found to need.
    pub(crate) async fn fitted(
        &self,
        tasks: Vec<(TaskId, Option<FittedRecord>)>,
    ) -> Result<(), ErrorBody> {
        self.ask(|answer| What::Fitted { tasks, answer }).await
    }

    /// Gives a job the number of tasks that its load asks for.
    pub(crate) async fn scale(&self, job: JobId, scaling: Scaling) -> Result<(), ErrorBody> {
        self.ask(|answer| What::Scale {
            job,
            scaling,
            answer,
        })
        .await
    }

    /// Writes into a job's events what someone does to one of its tasks.
    pub(crate) async fn note(
        &self,
        task: TaskId,
        kind: &'static str,
        message: String,
    ) -> Result<(), ErrorBody> {
        self.ask(|answer| What::Note {
            task,
            kind,
            message,
            answer,
        })
        .await
    }

    /// Why tasks of a job wait, by index.
    pub(crate) async fn why(&self, job: JobId) -> Result<Vec<(u32, PendingWhy)>, ErrorBody> {
        self.ask(|answer| What::Why { job, answer }).await
    }

    async fn ask<T>(&self, what: impl FnOnce(Answer<T>) -> What) -> Result<T, ErrorBody> {
        let (answer, answered) = oneshot::channel();
        let request = Request {
            span: Span::current(),
            what: what(answer),
        };
        let gone = || {
            ErrorBody::new(Code::StoreUnavailable, "the controller is stopping")
                .with_hint("try again once it is back")
        };
        self.requests.send(request).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Core {
    pub(super) fn serve(&mut self, request: Request) {
        let _entered = request.span.entered();
        match request.what {
            What::Register { register, answer } => self.register(*register, answer),
            What::Heartbeat {
                machine,
                heartbeat,
                answer,
            } => self.heartbeat(machine, *heartbeat, answer),
            What::Ailing {
                machine,
                epoch,
                ailments,
                answer,
            } => self.ailing(machine, epoch, ailments, answer),
            What::Fence {
                machine,
                by,
                answer,
            } => self.fence(machine, by, answer),
            What::Allowances { answer } => {
                let _ = answer.send(Ok(tw_scheduler::allowances(&self.state)));
            }
            What::Allowance {
                name,
                order,
                by,
                answer,
            } => {
                let decision = self.step(&Event::Allowance { name, order, by });
                self.settle(decision, answer, |reply| match reply {
                    Decided::Reviewed => Ok(()),
                    other => Err(unexpected(other)),
                });
            }
            What::Consultations { answer } => {
                let _ = answer.send(Ok(tw_scheduler::consultations(&self.state)));
            }
            What::TaskControl {
                job,
                approved,
                answer,
            } => {
                let decision = self.step(&Event::TaskControl { job, approved });
                self.settle(decision, answer, |reply| match reply {
                    Decided::Controlled { unknown } => Ok(unknown),
                    other => Err(unexpected(other)),
                });
            }
            What::Plan { request, answer } => {
                let _ = answer.send(self.plan(request));
            }
            What::Propose { submission, answer } => {
                let _ = answer.send(self.propose(*submission));
            }
            What::Review { review, answer } => self.review(review, answer),
            What::Apply {
                request,
                by,
                answer,
            } => self.apply(request, by, answer),
            What::Why { job, answer } => {
                let _ = answer.send(self.why(&job));
            }
            What::Stop {
                request,
                by,
                answer,
            } => self.stop(request, by, answer),
            What::Restart { job, by, answer } => self.restart(job, by, answer),
            What::Rollout {
                job,
                order,
                by,
                answer,
            } => self.rollout(job, order, by, answer),
            What::Fitted { tasks, answer } => {
                let decision = self.step(&Event::Fitted(tasks));
                self.settle(decision, answer, |_| Ok(()));
            }
            What::Scale {
                job,
                scaling,
                answer,
            } => {
                let decision = self.step(&Event::Scale { job, scaling });
                self.settle(decision, answer, |_| Ok(()));
            }
            What::Drain {
                machines,
                order,
                by,
                answer,
            } => self.drain(machines, order, by, answer),
            What::Note {
                task,
                kind,
                message,
                answer,
            } => self.note(task, kind, message, answer),
        }
    }
}

impl Core {
    fn note(&mut self, task: TaskId, kind: &'static str, message: String, answer: Answer<()>) {
        let decision = self.step(&Event::Noted {
            task,
            kind,
            message,
        });
        self.settle(decision, answer, |_| Ok(()));
    }

    fn register(&mut self, register: Register, answer: Answer<Admission>) {
        let machine = register.machine.clone();
        let heard_ago = self.broker.heard_ago(&machine, tick_ms());
        let decision = self.step(&Event::AgentRegistered {
            machine: register.machine,
            boot_id: register.boot_id,
            agent: register.agent,
            heard_ago,
            capacity: register.capacity,
            facts: Box::new(register.facts),
            uptime: register.uptime,
            reports: register.reports,
        });
        // A number that no earlier life of the controller has given out.
        let session = seed().max(1);
        if matches!(decision.reply, Decided::Registered { .. }) {
            self.broker.heard(&machine, tick_ms());
            self.sessions.insert(machine.clone(), session);
        }
        self.settle(decision, answer, |reply| match reply {
            Decided::Registered { epoch } => {
                tracing::info!(%machine, epoch, "a machine registered");
                Ok(Admission { epoch, session })
            }
            other => Err(unexpected(other)),
        });
    }

    fn heartbeat(
        &mut self,
        machine: MachineId,
        heartbeat: Heartbeat,
        answer: Answer<HeartbeatReply>,
    ) {
        // Before anything else: what is granted counts from here.
        let received = Receipt::at(tick_ms());
        let Heartbeat {
            epoch,
            session,
            reports,
            ..
        } = heartbeat;
        // A message that was under way when its agent began anew must not speak for the one that runs now.
        if session != 0 && self.sessions.get(&machine) != Some(&session) {
            let refusal = fenced(format!("machine {machine} has registered again since"));
            let _ = answer.send(Err(refusal));
            return;
        }
        let acknowledged_seq = reports.iter().map(|report| report.seq).max().unwrap_or(0);
        let decision = self.step(&Event::Reports {
            machine: machine.clone(),
            epoch,
            reports,
        });
        let mut granted = false;
        if matches!(decision.reply, Decided::Reported { .. }) {
            self.broker.heard(&machine, tick_ms());
            granted = self.broker.grant(&machine, received, tick_ms());
        }
        self.settle(decision, answer, |reply| match reply {
            Decided::Reported { refused } => {
                for report in refused {
                    tracing::debug!(task = %report.task, why = report.why, "a report is of no use");
                }
                Ok(HeartbeatReply {
                    acknowledged_seq,
                    acknowledged_history: 0,
                    granted,
                })
            }
            Decided::Fenced { epoch: found } => Err(fenced(format!(
                "machine {machine} is at epoch {found}, not {epoch}"
            ))),
            Decided::Refused(refusal) => Err(fenced(refusal.message)),
            other => Err(unexpected(other)),
        });
    }

    fn ailing(
        &mut self,
        machine: MachineId,
        epoch: u64,
        ailments: BTreeSet<Ailment>,
        answer: Answer<()>,
    ) {
        match ailments.is_empty() {
            true => tracing::info!(%machine, "nothing ails the machine any more"),
            false => tracing::warn!(%machine, ?ailments, "the machine is ailing"),
        }
        let decision = self.step(&Event::Ailing {
            machine,
            epoch,
            ailments,
        });
        self.settle(decision, answer, |_| Ok(()));
    }

    fn fence(&mut self, machine: MachineId, by: String, answer: Answer<u32>) {
        let decision = self.step(&Event::Fence { machine, by });
        self.settle(decision, answer, |reply| match reply {
            Decided::Fence { tasks } => Ok(tasks),
            other => Err(unexpected(other)),
        });
    }

    fn plan(&mut self, request: PlanRequest) -> Result<Plan, ErrorBody> {
        let PlanRequest {
            jobs,
            remove,
            policy,
        } = request;
        self.propose(self.typed(Submission {
            jobs: submitted(jobs),
            remove,
            policy,
            ..Submission::default()
        }))
    }

    fn propose(&mut self, submission: Submission) -> Result<Plan, ErrorBody> {
        let submission = Submission {
            confirm: Some(self.confirm),
            ..submission
        };
        let plan =
            tw_scheduler::plan(&self.state, &submission, clock::wall(), seed()).map_err(refused)?;
        self.plans.remember(&plan);
        Ok(plan)
    }

    /// A submission that someone made by hand, with what stands against that.
    fn typed(&self, mut submission: Submission) -> Submission {
        let Submission { jobs, remove, .. } = &submission;
        let findings = tw_scheduler::from_nowhere(&self.state, jobs, remove);
        submission.policy.findings.extend(findings);
        submission
    }

    fn review(&mut self, mut review: Box<Review>, answer: Answer<Option<Plan>>) {
        if let Some((submission, _)) = &mut review.submission {
            submission.confirm = Some(self.confirm);
        }
        let decision = self.step(&Event::Review(review));
        self.settle(decision, answer, |reply| match reply {
            Decided::Submitted(plan) => Ok(Some(*plan)),
            Decided::Reviewed => Ok(None),
            other => Err(unexpected(other)),
        });
    }

    fn apply(&mut self, request: ApplyRequest, by: String, answer: Answer<ApplyReply>) {
        let decision = self.step(&Event::Submit {
            submission: self.typed(Submission {
                jobs: submitted(request.jobs),
                remove: request.remove,
                policy: request.policy,
                by,
                approval: by_hand(request.approval),
                confirm: Some(self.confirm),
                confirmed: request.confirm_destructive,
            }),
            expected: Some(self.plans.expected(request.digest)),
        });
        let versions: BTreeMap<JobId, Version> = match &decision.reply {
            Decided::Submitted(plan) => plan
                .unchanged
                .iter()
                .filter_map(|id| Some((id.clone(), self.state.job(id)?.row().version)))
                .collect(),
            _ => BTreeMap::new(),
        };
        self.settle(decision, answer, |reply| match reply {
            Decided::Submitted(plan) => Ok(applied(&plan, versions)),
            other => Err(unexpected(other)),
        });
    }

    fn why(&self, id: &JobId) -> Result<Vec<(u32, PendingWhy)>, ErrorBody> {
        let job = self.state.job(id).ok_or_else(|| job_not_found(id))?;
        let now = clock::wall();
        let waiting = job.latest_of_each();
        let waiting = waiting.filter_map(|row| {
            let why = tw_scheduler::why_pending(&self.state, &row.id, now)?;
            Some((row.id.index, why))
        });
        Ok(waiting.collect())
    }

    /// Ends jobs as a plan would that removes them. No rule says where their specs have to come from: this is for emergencies.
    fn stop(&mut self, request: StopRequest, by: String, answer: Answer<u32>) {
        let decision = self.step(&Event::Submit {
            submission: Submission {
                remove: request.jobs,
                by,
                confirm: Some(self.confirm),
                confirmed: request.confirm_destructive,
                ..Submission::default()
            },
            expected: None,
        });
        self.settle(decision, answer, |reply| match reply {
            Decided::Submitted(plan) => Ok(plan.counts.stopped),
            other => Err(unexpected(other)),
        });
    }

    fn restart(&mut self, job: JobId, by: String, answer: Answer<Version>) {
        let decision = self.step(&Event::RestartJob { job, by });
        self.settle(decision, answer, |reply| match reply {
            Decided::Restarting { version } => Ok(version),
            other => Err(unexpected(other)),
        });
    }

    fn rollout(&mut self, job: JobId, order: RolloutOrder, by: String, answer: Answer<Version>) {
        let decision = self.step(&Event::Rollout { job, order, by });
        self.settle(decision, answer, |reply| match reply {
            Decided::Rollout { version } => Ok(version),
            other => Err(unexpected(other)),
        });
    }

    fn drain(
        &mut self,
        machines: Vec<MachineId>,
        order: DrainOrder,
        by: String,
        answer: Answer<u32>,
    ) {
        let decision = self.step(&Event::Drain {
            machines,
            order,
            by,
        });
        self.settle(decision, answer, |reply| match reply {
            Decided::Drain { tasks } => Ok(tasks),
            other => Err(unexpected(other)),
        });
    }

    /// Commits a decision and answers once it is durable; refusals at once.
    fn settle<T: Send + 'static>(
        &mut self,
        mut decision: Decision,
        answer: Answer<T>,
        read: impl FnOnce(Decided) -> Result<T, ErrorBody>,
    ) {
        let decided = std::mem::replace(&mut decision.reply, Decided::None);
        match read(decided) {
            Ok(value) => {
                let reply: Reply = Box::new(move |outcome| {
                    // The caller may have gone.
                    let _ = answer.send(outcome.map(|()| value));
                });
                self.commit(decision, Some(reply));
            }
            Err(refusal) => {
                self.commit(decision, None);
                let _ = answer.send(Err(refusal));
            }
        }
    }
}

/// The plans that people were shown lately, so that a stale one can be told what has moved.
#[derive(Default)]
pub(super) struct Plans(VecDeque<ExpectedPlan>);

/// How many plans are remembered.
const PLANS_MAX: usize = 256;

impl Plans {
    fn remember(&mut self, plan: &Plan) {
        self.0.retain(|known| known.digest != plan.digest);
        self.0.push_back(ExpectedPlan::from(plan));
        if self.0.len() > PLANS_MAX {
            self.0.pop_front();
        }
    }

    fn expected(&self, digest: String) -> ExpectedPlan {
        let known = self.0.iter().find(|known| known.digest == digest);
        known.cloned().unwrap_or(ExpectedPlan {
            digest,
            basis: Vec::new(),
        })
    }
}

/// What a caller may say of how its plan was let through: that a repository was followed is for the controller to say.
fn by_hand(approval: Approval) -> Approval {
    match approval {
        Approval::Auto => Approval::Auto,
        _ => Approval::Seen,
    }
}

fn submitted(jobs: Vec<SubmittedJob>) -> Vec<tw_scheduler::SubmittedJob> {
    let jobs = jobs.into_iter().map(|job| tw_scheduler::SubmittedJob {
        spec: job.spec,
        source: job.source,
    });
    jobs.collect()
}

fn applied(plan: &Plan, unchanged: BTreeMap<JobId, Version>) -> ApplyReply {
    let changed = plan.jobs.iter().map(|job| AppliedJob {
        job: job.job.clone(),
        version: job.version,
        changed: true,
    });
    let unchanged = unchanged.into_iter().map(|(job, version)| AppliedJob {
        job,
        version,
        changed: false,
    });
    let mut jobs: Vec<AppliedJob> = changed.chain(unchanged).collect();
    jobs.sort_by(|a, b| a.job.cmp(&b.job));
    ApplyReply { jobs }
}

fn fenced(message: String) -> ErrorBody {
    ErrorBody::new(Code::AgentFenced, message).with_hint("register again; stop nothing for that")
}

fn refused(refusal: tw_scheduler::Refusal) -> ErrorBody {
    let mut body = ErrorBody::new(refusal.code, refusal.to_string());
    if !refusal.hint.is_empty() {
        body = body.with_hint(refusal.hint);
    }
    if !refusal.details.is_empty() {
        body = body.with_details(serde_json::json!(refusal.details));
    }
    body
}

/// What is left of a decision's answers: its refusal.
fn unexpected(reply: Decided) -> ErrorBody {
    match reply {
        Decided::Refused(refusal) => refused(refusal),
        other => {
            tracing::error!(?other, "the decision answers another question");
            ErrorBody::new(
                Code::RequestInvalid,
                "the scheduler had no answer to this request",
            )
        }
    }
}
