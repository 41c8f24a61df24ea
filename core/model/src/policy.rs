//! What policies say of jobs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{JobId, Location};

/// How grave a finding is. All but `Warn` refuse the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLevel {
    /// Said, and no more.
    Warn,
    /// The job has what is forbidden.
    Forbid,
    /// The job lacks what is required.
    Require,
    /// The policy itself failed, so nobody knows what it would have said.
    Broken,
}

impl PolicyLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyLevel::Warn => "warn",
            PolicyLevel::Forbid => "forbid",
            PolicyLevel::Require => "require",
            PolicyLevel::Broken => "broken",
        }
    }
}

impl fmt::Display for PolicyLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One policy: a function in a `POLICY.py`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRule {
    pub name: String,
    /// The team to ask.
    pub owner: String,
    /// Where it stands.
    pub file: String,
    pub line: u32,
}

impl PolicyRule {
    /// The folder over which it holds, from the repository's root; `""` is the root.
    pub fn folder(&self) -> &str {
        self.file.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Whether it holds over a spec file.
    pub fn covers(&self, file: &str) -> bool {
        let folder = self.folder();
        folder.is_empty()
            || file
                .strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyRule {
            name,
            owner,
            file,
            line,
        } = self;
        write!(f, "{name} of {owner} ({file}:{line})")
    }
}

/// What a policy says of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFinding {
    pub level: PolicyLevel,
    pub policy: PolicyRule,
    pub job: JobId,
    /// The field at fault, as in the JSON of `tw eval`; none where it is the job as a whole.
    pub field: Option<String>,
    pub message: String,
    /// Where the author wrote the value, or else the job; where the policy failed, for `Broken`.
    pub at: Location,
}

impl PolicyFinding {
    /// Whether the job cannot be applied for it.
    pub fn refuses(&self) -> bool {
        self.level != PolicyLevel::Warn
    }
}

/// What all policies say of a set of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// The policies that ran, by file and line.
    pub policies: Vec<PolicyRule>,
    /// By job, then by policy.
    pub findings: Vec<PolicyFinding>,
    /// What asks for reviewed commits: jobs below these files' folders come from commits of a followed branch alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reviewed: Vec<PolicyRule>,
}

impl PolicyReport {
    /// Whether any finding refuses its job.
    pub fn refuses(&self) -> bool {
        self.findings.iter().any(PolicyFinding::refuses)
    }

    /// What a reviewer's approval rests on.
    pub fn basis(&self) -> Vec<PolicyBasis<'_>> {
        let basis = self.findings.iter().map(|finding| PolicyBasis {
            level: finding.level,
            file: &finding.policy.file,
            policy: &finding.policy.name,
            job: &finding.job,
            field: finding.field.as_deref(),
            message: &finding.message,
        });
        basis.collect()
    }
}

/// The part of a finding that a plan's digest rests on: who says what of which job, on whatever line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyBasis<'a> {
    pub level: PolicyLevel,
    pub file: &'a str,
    pub policy: &'a str,
    pub job: &'a JobId,
    pub field: Option<&'a str>,
    pub message: &'a str,
}
