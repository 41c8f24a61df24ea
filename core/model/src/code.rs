//! The registry of error codes: stable names that tools may rely on.

use serde::{Deserialize, Serialize};

/// What the reference says of a code.
#[derive(Clone, Copy, Debug)]
pub struct CodeInfo {
    pub code: Code,
    pub name: &'static str,
    pub doc: &'static str,
}

macro_rules! codes {
    ($( $(#[doc = $doc:literal])* $variant:ident = $name:literal, )*) => {
        /// Every error code of Twill. A name, once released, keeps its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $( $(#[doc = $doc])* #[serde(rename = $name)] $variant, )*
        }

        impl Code {
            pub const ALL: &'static [CodeInfo] = &[
                $( CodeInfo { code: Code::$variant, name: $name, doc: concat!($($doc, "\n"),*) }, )*
            ];

            pub fn as_str(self) -> &'static str {
                match self { $( Code::$variant => $name, )* }
            }
        }

        impl std::str::FromStr for Code {
            type Err = String;

            fn from_str(name: &str) -> Result<Code, String> {
                match name {
                    $( $name => Ok(Code::$variant), )*
                    _ => Err(format!("'{name}' is not an error code")),
                }
            }
        }
    };
}

codes! {
    /// The file is not Python.
    SpecSyntax = "spec.syntax",
    /// A field that its class does not have.
    SpecUnknownField = "spec.unknown_field",
    /// A required field was left out.
    SpecMissingField = "spec.missing_field",
    /// A value of another type than the field takes.
    SpecWrongType = "spec.wrong_type",
    /// A value of the right type that the field cannot hold.
    SpecBadValue = "spec.bad_value",
    /// A module that is neither in the repository nor in the standard library for specs.
    SpecImport = "spec.import",
    /// An exception that nothing caught.
    SpecException = "spec.exception",
    /// The spec tried to end the interpreter.
    SpecExit = "spec.exit",
    /// The spec tried what the seal forbids: files, network, processes, clock, randomness.
    SpecDenied = "spec.denied",
    /// The evaluation took longer than its deadline.
    SpecTimeout = "spec.timeout",
    /// The evaluation needed more memory than it may use.
    SpecMemory = "spec.memory",
    /// The result is larger than it may be.
    SpecOutput = "spec.output",
    /// Two evaluations of the same spec differ.
    SpecNondeterministic = "spec.nondeterministic",
    /// A file that was asked for is not in the tree.
    SpecNotFound = "spec.not_found",
    /// A field that this release does not act on yet; the job would run without it.
    SpecNotSupported = "spec.not_supported",
    /// Two jobs with one name.
    SpecDuplicateJob = "spec.duplicate_job",
    /// A spec that exports no job.
    SpecNoJobs = "spec.no_jobs",
    /// The evaluator ended without an answer.
    SpecCrash = "spec.crash",
    /// An assertion of a test does not hold.
    TestFailed = "test.failed",
    /// A policy forbids what a job has, or requires what it lacks.
    PolicyRefused = "policy.refused",
    /// A policy ended in an error, which refuses the jobs it was to judge.
    PolicyBroken = "policy.broken",
    /// A policy warns about a job.
    PolicyWarning = "policy.warning",
    /// Jobs that wait for each other.
    JobDependencyCycle = "job.dependency_cycle",
    /// No machine, whatever it is, could satisfy all that a job says of where its tasks run.
    JobContradiction = "job.contradiction",
    /// The jobs of an allowance would ask for more together than it allows.
    AllowanceExceeded = "allowance.exceeded",
    /// No allowance of this name.
    AllowanceNotFound = "allowance.not_found",
    /// No machine of the cluster could ever hold a task of this job.
    JobDoesNotFit = "job.does_not_fit",
    /// No job of this name.
    JobNotFound = "job.not_found",
    /// No task of this name.
    TaskNotFound = "task.not_found",
    /// No machine of this name.
    MachineNotFound = "machine.not_found",
    /// What was planned is not what would happen now.
    PlanStale = "plan.stale",
    /// No plan of this digest is known.
    PlanNotFound = "plan.not_found",
    /// The plan does not wait for anyone's decision.
    PlanDecided = "plan.decided",
    /// No repository of this name is followed.
    RepositoryNotFound = "repository.not_found",
    /// The repository cannot be fetched.
    RepositoryUnreachable = "repository.unreachable",
    /// The branch that is followed is not in its repository.
    RepositoryBranchGone = "repository.branch_gone",
    /// The branch was moved to a commit that does not build on the one before: a forced push.
    RepositoryRewritten = "repository.rewritten",
    /// The commit's specs have mistakes, so nothing of it is planned.
    RepositoryBroken = "repository.broken",
    /// The commit is not one of the branch that is followed, or not there at all.
    RepositoryNoCommit = "repository.no_commit",
    /// The plan ends so many tasks that someone has to confirm it.
    PlanDestructive = "plan.destructive",
    /// The caller did not say who it is, or may not do this.
    AuthDenied = "auth.denied",
    /// The request is not of the form that this address takes.
    RequestInvalid = "request.invalid",
    /// Nothing has this address.
    RequestNotFound = "request.not_found",
    /// The two sides speak versions too far apart.
    ProtoUnsupported = "proto.unsupported",
    /// The machine's epoch is over; it has to register again.
    AgentFenced = "agent.fenced",
    /// Another agent, or an earlier boot of the machine, goes by the same name.
    AgentIdentity = "agent.identity",
    /// What a machine says of itself cannot be true.
    AgentNonsense = "agent.nonsense",
    /// The agent that runs the task is not connected.
    AgentUnreachable = "agent.unreachable",
    /// The store cannot be read as it is.
    StoreDamaged = "store.damaged",
    /// The store did not take the write.
    StoreUnavailable = "store.unavailable",
    /// A secret that a job reads has no value.
    SecretMissing = "secret.missing",
    /// A secret that jobs still read cannot be removed.
    SecretInUse = "secret.in_use",
    /// The package is not in the registry, or its bytes are not what its digest says.
    PackageInvalid = "package.invalid",
    /// The command is not in the task's root.
    TaskCommandNotFound = "task.command_not_found",
    /// The task could not be started.
    TaskStartFailed = "task.start_failed",
    /// A port given to the task is taken on its machine.
    TaskPortInUse = "task.port_in_use",
    /// The helper of the task is gone, and the task with it.
    TaskHelperLost = "task.helper_lost",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
