//! A bare copy of one branch of a remote repository, for whoever follows it.
//!
//! Nothing of it is ever checked out. Commits that a forced push takes off the branch stay, so that what was applied
//! of them can still be looked at.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use git2::{
    AutotagOption, Cred, CredentialType, Direction, ErrorClass, ErrorCode, FetchOptions, Oid,
    RemoteCallbacks, Repository,
};
use tw_model::{CommitRef, Timestamp};

use crate::source::trust_owners;
use crate::{Source, SourceError, visible};

/// The reference of the newest commit that was fetched.
const HEAD: &str = "refs/twill/head";
/// How long a server may take to be reached, and to say its next word.
const SERVER_TIMEOUT_MS: i32 = 20_000;
/// The most that one fetch may bring, in bytes.
const FETCH_BYTES_MAX: usize = 2 << 30;
/// The most of a commit's subject or author that is shown, in characters.
const WORDS_MAX: usize = 120;

/// Where a branch is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// A path, or an address `file://`, `https://`, `http://`, `ssh://` or `user@host:path`.
    pub url: String,
    pub branch: String,
    /// A file with the token for HTTPS.
    pub token_file: Option<PathBuf>,
    /// A file with the private key for SSH; without it the user's agent is asked.
    pub ssh_key: Option<PathBuf>,
}

/// Why a branch cannot be fetched or looked at.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("{url} cannot be fetched: {message}")]
    Unreachable { url: String, message: String },
    #[error(
        "the certificate of {url} is not trusted: {message}. Have its authority among those of the system, or in the \
         file that SSL_CERT_FILE names when the controller starts"
    )]
    UntrustedCertificate { url: String, message: String },
    #[error(
        "the host key of {url} is not the one in known_hosts: {message}. Compare it with the server's, and add it to \
         ~/.ssh/known_hosts of the controller's user"
    )]
    UnknownHostKey { url: String, message: String },
    #[error(
        "{url} does not let the controller in: {message}. `{setting}` of the repository in twill.toml names its \
         credentials"
    )]
    Denied {
        url: String,
        message: String,
        setting: &'static str,
    },
    #[error("{url} has no branch '{branch}'")]
    NoBranch { url: String, branch: String },
    #[error(
        "what {url} sends has more than {} bytes, the most that one fetch may bring",
        FETCH_BYTES_MAX
    )]
    TooLarge { url: String },
    #[error("there is no commit '{revision}' on the branch that is followed")]
    NoCommit { revision: String },
    #[error("git: {}", .0.message())]
    Git(#[from] git2::Error),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
}

/// A bare repository that holds what was fetched.
#[derive(Clone, Debug)]
pub struct Mirror {
    path: PathBuf,
}

impl Remote {
    /// The address without a password, for people.
    pub fn shown(&self) -> String {
        let Some((scheme, rest)) = self.url.split_once("://") else {
            return self.url.clone();
        };
        let end = rest.find('/').unwrap_or(rest.len());
        match rest[..end].rfind('@') {
            Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
            None => self.url.clone(),
        }
    }

    /// A message of the library, without what the address may keep secret.
    fn hidden(&self, message: &str) -> String {
        message.replace(&self.url, &self.shown())
    }

    /// Whether it is reached over SSH: `ssh://host/path`, or `host:path`.
    fn is_ssh(&self) -> bool {
        match self.url.split_once("://") {
            Some((scheme, _)) => scheme.ends_with("ssh"),
            None => !self.url.starts_with(['/', '.']) && self.url.contains(':'),
        }
    }

    /// What the library's failure means for whoever set this up.
    fn failure(&self, cause: &git2::Error) -> MirrorError {
        let (url, message) = (self.shown(), self.hidden(cause.message()));
        match (cause.code(), self.is_ssh()) {
            (ErrorCode::Certificate, true) => MirrorError::UnknownHostKey { url, message },
            (ErrorCode::Certificate, false) => MirrorError::UntrustedCertificate { url, message },
            (ErrorCode::Auth, is_ssh) => MirrorError::Denied {
                url,
                message,
                setting: match is_ssh {
                    true => "ssh_key",
                    false => "token_file",
                },
            },
            _ => MirrorError::Unreachable { url, message },
        }
    }

    fn callbacks<'a>(&'a self, is_too_large: &'a AtomicBool) -> RemoteCallbacks<'a> {
        let mut callbacks = RemoteCallbacks::new();
        let mut attempts = 0;
        callbacks.credentials(move |url, user, allowed| {
            attempts += 1;
            // The library asks again for as long as it is given something that does not work.
            match attempts > 3 {
                true => Err(denied("the credentials were not accepted")),
                false => self.credentials(url, user, allowed),
            }
        });
        callbacks.transfer_progress(move |progress| {
            let fits = progress.received_bytes() <= FETCH_BYTES_MAX;
            is_too_large.fetch_or(!fits, Ordering::Relaxed);
            fits
        });
        callbacks
    }

    fn credentials(
        &self,
        url: &str,
        user: Option<&str>,
        allowed: CredentialType,
    ) -> Result<Cred, git2::Error> {
        let user = user.unwrap_or("git");
        if allowed.contains(CredentialType::USERNAME) {
            return Cred::username(user);
        }
        if allowed.contains(CredentialType::SSH_KEY) {
            return match &self.ssh_key {
                Some(key) => Cred::ssh_key(user, None, key, None),
                None => Cred::ssh_key_from_agent(user),
            };
        }
        if let Some(file) = &self.token_file {
            let token = std::fs::read_to_string(file)
                .map_err(|cause| denied(&format!("the token file {}: {cause}", file.display())))?;
            return Cred::userpass_plaintext(user, token.trim());
        }
        let config = git2::Config::open_default()?;
        Cred::credential_helper(&config, url, Some(user))
            .map_err(|_| denied("the server asks for credentials, and none are set"))
    }
}

fn denied(message: &str) -> git2::Error {
    git2::Error::new(ErrorCode::Auth, ErrorClass::Net, message)
}

impl Mirror {
    /// Opens the mirror at `path`, making an empty one if there is none.
    pub fn open(path: &Path) -> Result<Mirror, MirrorError> {
        trust_owners();
        limit_servers();
        match Repository::open_bare(path) {
            Ok(_) => {}
            Err(missing) if missing.code() == git2::ErrorCode::NotFound => {
                std::fs::create_dir_all(path).map_err(|cause| MirrorError::Io {
                    path: path.to_owned(),
                    cause,
                })?;
                Repository::init_bare(path)?;
            }
            Err(cause) => return Err(cause.into()),
        }
        Ok(Mirror {
            path: path.to_owned(),
        })
    }

    /// Brings the branch's newest commit here with all that it needs, and returns its id.
    pub fn fetch(&self, remote: &Remote) -> Result<String, MirrorError> {
        let unreachable = |cause: git2::Error| remote.failure(&cause);
        let repository = Repository::open_bare(&self.path)?;
        let branch = format!("refs/heads/{}", remote.branch);
        let is_too_large = AtomicBool::new(false);
        let mut git = repository
            .remote_anonymous(&remote.url)
            .map_err(unreachable)?;
        let newest = {
            let callbacks = remote.callbacks(&is_too_large);
            let connection = git
                .connect_auth(Direction::Fetch, Some(callbacks), None)
                .map_err(unreachable)?;
            let heads = connection.list().map_err(unreachable)?;
            let head = heads.iter().find(|head| head.name() == branch);
            head.map(git2::RemoteHead::oid)
        };
        let Some(newest) = newest else {
            return Err(MirrorError::NoBranch {
                url: remote.shown(),
                branch: remote.branch.clone(),
            });
        };
        if repository.refname_to_id(HEAD).ok() == Some(newest) {
            return Ok(newest.to_string());
        }
        let mut options = FetchOptions::new();
        options.remote_callbacks(remote.callbacks(&is_too_large));
        options.download_tags(AutotagOption::None);
        let refspec = format!("+{branch}:{HEAD}");
        git.fetch(&[refspec], Some(&mut options), None)
            .map_err(|cause| match is_too_large.load(Ordering::Relaxed) {
                true => MirrorError::TooLarge {
                    url: remote.shown(),
                },
                false => unreachable(cause),
            })?;
        // The branch may have moved on in between.
        Ok(repository.refname_to_id(HEAD)?.to_string())
    }

    /// The files as a commit has them.
    pub fn source(&self, commit: &str) -> Result<Source, MirrorError> {
        Ok(Source::revision(&self.path, commit)?)
    }

    /// A commit as people are shown it.
    pub fn commit(&self, id: &str) -> Result<CommitRef, MirrorError> {
        let repository = Repository::open_bare(&self.path)?;
        let commit = repository.find_commit(oid(id)?)?;
        let words = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            visible(&text).chars().take(WORDS_MAX).collect::<String>()
        };
        Ok(CommitRef {
            id: commit.id().to_string(),
            subject: words(commit.summary_bytes().unwrap_or_default()),
            author: words(commit.author().name_bytes()),
            committed_at: Timestamp(commit.time().seconds().saturating_mul(1_000_000)),
        })
    }

    /// Whether `commit` builds on `earlier`, or is it.
    pub fn builds_on(&self, commit: &str, earlier: &str) -> Result<bool, MirrorError> {
        let repository = Repository::open_bare(&self.path)?;
        let (commit, earlier) = (oid(commit)?, oid(earlier)?);
        // What was never fetched, nothing here builds on.
        Ok(commit == earlier
            || (repository.odb()?.exists(earlier)
                && repository.graph_descendant_of(commit, earlier)?))
    }

    /// The id of a commit of the branch, by any expression of git: its first digits, `HEAD~3`.
    pub fn resolve(&self, revision: &str) -> Result<String, MirrorError> {
        let missing = || MirrorError::NoCommit {
            revision: revision.to_owned(),
        };
        let repository = Repository::open_bare(&self.path)?;
        let head = repository.refname_to_id(HEAD).map_err(|_| missing())?;
        let expression = match revision.strip_prefix("HEAD") {
            Some(rest) => format!("{HEAD}{rest}"),
            None => revision.to_owned(),
        };
        let found = repository
            .revparse_single(&expression)
            .and_then(|object| object.peel_to_commit())
            .map_err(|_| missing())?;
        let is_on_branch =
            found.id() == head || repository.graph_descendant_of(head, found.id())?;
        match is_on_branch {
            true => Ok(found.id().to_string()),
            false => Err(missing()),
        }
    }
}

fn oid(hex: &str) -> Result<Oid, git2::Error> {
    Oid::from_str(hex)
}

/// Bounds the time that a server may keep a fetch waiting.
fn limit_servers() {
    static LIMITS: Once = Once::new();
    LIMITS.call_once(|| {
        // SAFETY: runs once, before this library connects to any server; what it sets is read only by fetches.
        unsafe {
            let _ = git2::opts::set_server_connect_timeout_in_milliseconds(SERVER_TIMEOUT_MS);
            let _ = git2::opts::set_server_timeout_in_milliseconds(SERVER_TIMEOUT_MS);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> Remote {
        Remote {
            url: url.to_owned(),
            branch: "main".to_owned(),
            token_file: None,
            ssh_key: None,
        }
    }

    #[test]
    fn addresses_of_ssh_are_told_from_others() {
        for url in ["ssh://git@h/x.git", "git@h:x.git", "git+ssh://h/x"] {
            assert!(remote(url).is_ssh(), "{url}");
        }
        for url in ["https://h/x.git", "/srv/x:y.git", "../x", "file:///srv/x"] {
            assert!(!remote(url).is_ssh(), "{url}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let with = remote("https://bot:hunter2@git.example.com/shop.git");
        assert_eq!(with.shown(), "https://git.example.com/shop.git");
        assert!(
            !with
                .hidden(&format!("cannot open {}", with.url))
                .contains("hunter2")
        );
        for plain in [
            "/srv/a@b.git",
            "git@example.com:shop.git",
            "file:///srv/x@y",
        ] {
            assert_eq!(remote(plain).shown(), plain);
        }
    }
}
