//! `twill.toml`, the one configuration file. Flags go over the environment, and both go over the file.

mod section;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tw_controller::RepositoryConfig;
use tw_model::{DEFAULT_NAMESPACE, FollowMode, Millis, Name};
use tw_scheduler::{ConfirmRule, StopLimits};
use tw_spec::Remote;

use section::{Document, Section};

/// The name of the file in a state folder.
const FILE: &str = "twill.toml";
/// The shortest time between two looks at a branch.
const POLL_MIN: Millis = Millis(100);
/// The time between two looks at a branch where nothing is said.
const POLL_DEFAULT: Millis = Millis(30_000);

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    /// Where evaluations are kept.
    pub(crate) cache: Option<PathBuf>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) lost_after: Option<Duration>,
    /// How fast tasks may be stopped.
    pub(crate) stop_limits: Option<StopLimits>,
    /// Which changes have to be confirmed.
    pub(crate) confirm: Option<ConfirmRule>,
    pub(crate) repositories: Vec<RepositoryConfig>,
}

impl Config {
    /// Reads the file that is named, or else the one in the state folder, if there is one.
    pub(crate) fn load(named: Option<&Path>, state_dir: &Path) -> anyhow::Result<Config> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => state_dir.join(FILE),
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                return Ok(Config::default());
            }
            Err(cause) => {
                return Err(cause).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Config::parse(&path, &text)
    }

    /// Understands the file. Paths in it are relative to its folder.
    fn parse(path: &Path, text: &str) -> anyhow::Result<Config> {
        let document = Document::parse(path, text)?;
        let root = document.root();
        let controller = root.section("controller")?;
        let config = Config {
            cache: root.path("cache")?,
            listen: match &controller {
                Some(section) => section.parsed("listen", "an address such as 127.0.0.1:7070")?,
                None => None,
            },
            lost_after: match &controller {
                Some(section) => section
                    .parsed("lost_after", "a time such as 10s")?
                    .map(duration),
                None => None,
            },
            stop_limits: match &controller {
                Some(section) => section.parsed("stop_limits", "such as 100,20,300,50")?,
                None => None,
            },
            confirm: match &controller {
                Some(section) => section.parsed("confirm_share", "a share such as 30%")?,
                None => None,
            },
            repositories: repositories(&root)?,
        };
        controller.iter().try_for_each(Section::finish)?;
        root.finish()?;
        Ok(config)
    }
}

fn repositories(root: &Section<'_>) -> anyhow::Result<Vec<RepositoryConfig>> {
    let mut found: Vec<RepositoryConfig> = Vec::new();
    for section in root.sections("repository")? {
        let repository = repository(&section)?;
        if found.iter().any(|other| other.name == repository.name) {
            return Err(section.error(
                format!("two repositories are called '{}'", repository.name),
                "give each a name of its own",
            ));
        }
        found.push(repository);
    }
    Ok(found)
}

fn repository(section: &Section<'_>) -> anyhow::Result<RepositoryConfig> {
    let name: Name = section.required("name", "a name such as shop")?;
    let poll = section.parsed("poll", "a time such as 30s")?;
    let poll: Millis = poll.unwrap_or(POLL_DEFAULT);
    if poll < POLL_MIN {
        return Err(section.error(
            format!("poll is {poll}, and {POLL_MIN} is the least"),
            "30s asks often enough; `tw repos fetch` looks at once",
        ));
    }
    let mode = match section.text("mode")?.as_deref() {
        None | Some("approve") => FollowMode::Approve,
        Some("auto") => FollowMode::Auto,
        Some(other) => {
            return Err(section.error(
                format!("mode is '{other}'"),
                "write \"approve\", where every plan waits for someone, or \"auto\"",
            ));
        }
    };
    let folders = section.texts("folders")?.unwrap_or_default();
    let folders: Vec<String> = folders.iter().map(|folder| folder_of(folder)).collect();
    let url: String = section.required("url", "a path or an address")?;
    let config = RepositoryConfig {
        remote: Remote {
            url: section.url(&url),
            branch: section.text("branch")?.unwrap_or_else(|| "main".to_owned()),
            token_file: section.path("token_file")?,
            ssh_key: section.path("ssh_key")?,
        },
        namespace: match section.parsed("namespace", "a name such as shop")? {
            Some(namespace) => namespace,
            None => DEFAULT_NAMESPACE.parse()?,
        },
        folders: match folders.is_empty() {
            true => vec![String::new()],
            false => folders,
        },
        poll_every: duration(poll),
        mode,
        name,
    };
    section.finish()?;
    Ok(config)
}

/// A folder from the repository's root, as sources name it.
fn folder_of(text: &str) -> String {
    let names = text.split('/').filter(|name| !matches!(*name, "" | "."));
    names.collect::<Vec<_>>().join("/")
}

fn duration(millis: Millis) -> Duration {
    Duration::from_millis(millis.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Config> {
        Config::parse(Path::new("/etc/twill/twill.toml"), text)
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_says_what_is_followed() {
        let config = parse(
            r#"
            [controller]
            listen = "127.0.0.1:7070"
            lost_after = "30s"
            stop_limits = "50,5,200,20"
            confirm_share = "10%"

            [[repository]]
            name = "shop"
            url = "git/shop.git"
            namespace = "shop"
            folders = ["./web/", "jobs"]
            poll = "1m"
            mode = "auto"

            [[repository]]
            name = "base"
            url = "git@example.com:base.git"
            branch = "live"
            ssh_key = "/etc/twill/key"
            "#,
        )
        .unwrap();
        assert_eq!(config.lost_after, Some(Duration::from_secs(30)));
        assert_eq!(config.stop_limits.unwrap().total.burst, 200);
        assert_eq!(config.confirm.unwrap().share_percent, 10);
        let [shop, base] = &config.repositories[..] else {
            panic!("{config:?}")
        };
        assert_eq!(shop.remote.url, "/etc/twill/git/shop.git");
        assert_eq!(shop.folders, ["web", "jobs"]);
        assert_eq!(
            (shop.mode, shop.poll_every.as_secs()),
            (FollowMode::Auto, 60)
        );
        assert_eq!(shop.remote.branch, "main");
        assert_eq!(base.remote.url, "git@example.com:base.git");
        assert_eq!(
            (base.mode, &base.folders[..]),
            (FollowMode::Approve, &[String::new()][..])
        );
        assert_eq!(base.namespace.as_str(), "default");
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let unknown = refused("[controller]\nlisten = \"127.0.0.1:1\"\nlost_aftr = \"1s\"\n");
        assert_eq!(
            unknown,
            "/etc/twill/twill.toml:3: [controller] has no key 'lost_aftr'"
        );
        let table = refused("\n[contoller]\n");
        assert_eq!(
            table,
            "/etc/twill/twill.toml:2: the file has no key 'contoller'"
        );
        let branch = refused("[[repository]]\nname = \"a\"\nurl = \"/a\"\nbrnch = \"b\"\n");
        assert!(
            branch.contains(":4: [[repository]] has no key 'brnch'"),
            "{branch}"
        );
        for (text, said) in [
            ("listen = 1", "no key 'listen'"),
            ("[controller]\nlisten = 7070", ":2: listen is no text"),
            ("[controller]\nlisten = \"x\"", ":2: listen is 'x'"),
            ("[controller]\nstop_limits = \"1,0,1,1\"", ":2: stop_limits"),
            (
                "[controller]\nconfirm_share = \"101%\"",
                ":2: confirm_share",
            ),
            (
                "[[repository]]\nurl = \"/a\"",
                ":1: [[repository]] lacks 'name'",
            ),
            (
                "[[repository]]\nname = \"A b\"\nurl = \"/a\"",
                ":2: name is 'A b'",
            ),
            ("[repository]\nname = \"a\"", "[[repository]]"),
            (
                "[[repository]]\nname = \"a\"\nurl = \"/a\"\nmode = \"yes\"",
                "mode is 'yes'",
            ),
            (
                "[[repository]]\nname = \"a\"\nurl = \"/a\"\npoll = \"1ms\"",
                "poll is 1ms",
            ),
            ("a = ", ":1: "),
        ] {
            let refused = refused(text);
            assert!(refused.contains(said), "{text}: {refused}");
        }
        let twice = "[[repository]]\nname = \"a\"\nurl = \"/a\"\n".repeat(2);
        assert!(refused(&twice).contains(":4: two repositories are called 'a'"));
    }
}
