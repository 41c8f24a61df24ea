//! One file a command; the doc comment of its `Args` is its help.

pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod controller;
pub(crate) mod cp;
pub(crate) mod dev;
pub(crate) mod diff;
pub(crate) mod drain;
pub(crate) mod eval;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod machines;
pub(crate) mod plan;
pub(crate) mod recommend;
pub(crate) mod replay;
pub(crate) mod restart;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod test;
