//! The body of every refusal.

use serde::{Deserialize, Serialize};
use tw_model::Code;

/// What was asked, what was found, and what would help.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    pub code: Code,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// More for programs; its shape depends on the code.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

impl ErrorBody {
    pub fn new(code: Code, message: impl Into<String>) -> ErrorBody {
        ErrorBody {
            code,
            message: message.into(),
            hint: None,
            details: serde_json::Value::Null,
        }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> ErrorBody {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_details(mut self, details: serde_json::Value) -> ErrorBody {
        self.details = details;
        self
    }

    /// Of a command that could not be run: how a shell would end for that reason, in [`ErrorBody::details`].
    pub fn with_exit_code(self, code: u8) -> ErrorBody {
        self.with_details(serde_json::json!({ "exit_code": code }))
    }

    /// See [`ErrorBody::with_exit_code`].
    pub fn exit_code(&self) -> Option<u8> {
        self.details.get("exit_code")?.as_u64()?.try_into().ok()
    }

    /// The HTTP status that goes with the code.
    pub fn status(&self) -> u16 {
        match self.code {
            Code::AuthDenied => 403,
            Code::JobNotFound
            | Code::TaskNotFound
            | Code::MachineNotFound
            | Code::PlanNotFound
            | Code::RepositoryNotFound
            | Code::RepositoryNoCommit
            | Code::RequestNotFound => 404,
            Code::PlanStale | Code::PlanDecided | Code::AgentFenced | Code::SecretInUse => 409,
            Code::ProtoUnsupported => 426,
            Code::StoreUnavailable | Code::StoreDamaged | Code::AgentUnreachable => 503,
            _ => 400,
        }
    }
}
