//! Which Twill a command talks to.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tw_api::{ApiEndpoint, Client};
use tw_model::{JobId, TaskId};

use crate::config::Config;
use crate::failure::advice;

/// The name of the controller's socket in a state folder.
pub(crate) const SOCKET: &str = "tw.sock";

#[derive(Clone, Debug)]
pub(crate) struct Context {
    state: Option<PathBuf>,
    config_file: Option<PathBuf>,
    config: Config,
}

impl Context {
    /// Reads the configuration: the file that is named, or else the one in the state folder.
    pub(crate) fn new(state: Option<PathBuf>, config: Option<&Path>) -> anyhow::Result<Context> {
        let mut context = Context {
            state,
            config_file: config
                .map(std::path::absolute)
                .transpose()
                .context("the configuration file is not a path")?,
            config: Config::default(),
        };
        // Without a state folder there is no file in it; commands that need the folder say so.
        if let Ok(state_dir) = context.state_dir() {
            context.config = Config::load(context.config_file.as_deref(), &state_dir)?;
        }
        Ok(context)
    }

    /// What the configuration file says.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration file, where one was named.
    pub(crate) fn config_file(&self) -> Option<&Path> {
        self.config_file.as_deref()
    }

    /// The state folder: the one named, or the user's.
    pub(crate) fn state_dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(named) = &self.state {
            return std::path::absolute(named)
                .with_context(|| format!("{} is not a path", named.display()));
        }
        if let Some(folder) = std::env::var_os("XDG_STATE_HOME").filter(|folder| !folder.is_empty())
        {
            return Ok(Path::new(&folder).join("twill"));
        }
        match std::env::var_os("HOME") {
            Some(home) => Ok(Path::new(&home).join(".local/state/twill")),
            None => Err(advice(
                "there is no home folder to find the state in",
                "name it with --state DIR",
            )),
        }
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(ApiEndpoint::Unix(
            self.state_dir()?.join(SOCKET),
        )))
    }
}

/// The path of a job in the API.
pub(crate) fn job_path(job: &JobId) -> String {
    format!("/v1/jobs/{}/{}", job.namespace, job.name)
}

/// What a person names when a command takes tasks: a job, an index of it, or one incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskSelector {
    pub(crate) job: JobId,
    pub(crate) index: Option<u32>,
    pub(crate) incarnation: Option<u64>,
}

impl std::str::FromStr for TaskSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<TaskSelector, String> {
        if text.contains('#') {
            let task: TaskId = text.parse().map_err(|cause| format!("{cause}"))?;
            return Ok(TaskSelector {
                job: task.job,
                index: Some(task.index),
                incarnation: Some(task.incarnation),
            });
        }
        let (job, index) = match text.rsplit_once('.') {
            Some((job, index)) => (
                job,
                Some(
                    index
                        .parse()
                        .map_err(|_| format!("'{index}' is not the index of a task"))?,
                ),
            ),
            None => (text, None),
        };
        Ok(TaskSelector {
            job: job.parse().map_err(|cause| format!("{cause}"))?,
            index,
            incarnation: None,
        })
    }
}

impl TaskSelector {
    /// The one task that is meant; several are refused.
    pub(crate) async fn resolve_one(&self, client: &Client) -> anyhow::Result<TaskId> {
        let tasks = self.resolve(client).await?;
        match &tasks[..] {
            [task] => Ok(task.clone()),
            several => Err(advice(
                format!("'{}' has {} tasks", self.job, several.len()),
                format!(
                    "name one of them, such as {}.{}",
                    self.job, several[0].index
                ),
            )),
        }
    }

    /// As [`TaskSelector::resolve`], but that a task which has not started yet stands for the one before it, if there was one.
    pub(crate) async fn resolve_started(&self, client: &Client) -> anyhow::Result<Vec<TaskId>> {
        self.choose(client, |task| task.earlier.as_ref().unwrap_or(&task.id))
            .await
    }

    /// The tasks that are meant: one an index, or exactly the incarnation.
    pub(crate) async fn resolve(&self, client: &Client) -> anyhow::Result<Vec<TaskId>> {
        self.choose(client, |task| &task.id).await
    }

    async fn choose(
        &self,
        client: &Client,
        choice: impl Fn(&tw_api::TaskStatus) -> &TaskId,
    ) -> anyhow::Result<Vec<TaskId>> {
        if let (Some(index), Some(incarnation)) = (self.index, self.incarnation) {
            return Ok(vec![TaskId::new(self.job.clone(), index, incarnation)]);
        }
        let status: tw_api::JobStatus = client.get(&job_path(&self.job)).await?;
        let tasks: Vec<TaskId> = status
            .tasks
            .iter()
            .filter(|task| self.index.is_none_or(|index| index == task.index))
            .map(|task| choice(task).clone())
            .collect();
        match tasks.is_empty() {
            false => Ok(tasks),
            true => Err(self.no_such_task()),
        }
    }

    pub(crate) fn no_such_task(&self) -> anyhow::Error {
        advice(
            format!("job '{}' has no such task", self.job),
            format!("`tw status {}` lists its tasks", self.job),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_by_job_index_or_incarnation() {
        let parse = |text: &str| text.parse::<TaskSelector>();
        assert_eq!(parse("web").unwrap().index, None);
        assert_eq!(parse("team/web.2").unwrap().index, Some(2));
        assert_eq!(parse("web.2#9").unwrap().incarnation, Some(9));
        assert!(parse("web.x").is_err());
        assert!(parse("Web").is_err());
    }
}
