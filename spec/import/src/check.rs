//! What the readers of all families do alike: checks, limits, users, paths, labels, commands in turn.

use tw_model::{
    AbsolutePath, Bytes, CommandCheck, Cores, EnvName, HttpCheck, Limits, Millis, Name, Resources,
    Signal, TcpCheck,
};

use crate::draft::Draft;
use crate::fields::Item;
use crate::note::Notes;

/// When a check is made, as far as the file says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    pub(crate) every: Option<Millis>,
    pub(crate) timeout: Option<Millis>,
    pub(crate) failures: Option<u32>,
}

/// The least time between two checks that the schema takes.
const EVERY_MIN: Millis = Millis(50);

impl Timing {
    fn fill(self, every: &mut Millis, timeout: &mut Millis, failures: &mut u32) {
        *every = self.every.unwrap_or(*every).max(EVERY_MIN);
        *timeout = self
            .timeout
            .filter(|timeout| *timeout > Millis::ZERO)
            .unwrap_or(*timeout);
        *failures = self.failures.unwrap_or(*failures).max(1);
    }

    pub(crate) fn http(self, mut check: HttpCheck) -> HttpCheck {
        self.fill(&mut check.every, &mut check.timeout, &mut check.failures);
        check
    }

    pub(crate) fn tcp(self, mut check: TcpCheck) -> TcpCheck {
        self.fill(&mut check.every, &mut check.timeout, &mut check.failures);
        check
    }

    pub(crate) fn command(self, mut check: CommandCheck) -> CommandCheck {
        self.fill(&mut check.every, &mut check.timeout, &mut check.failures);
        check
    }
}

/// The port and path of a command that does nothing but ask its own task over HTTP: `curl` and `wget` with options
/// that change neither the request nor what counts as success.
pub(crate) fn http_request(command: &[String]) -> Option<(u16, String)> {
    let script = match command {
        [shell, flag, script] if shell.ends_with("sh") && flag == "-c" => script.as_str(),
        [] => return None,
        words => &words.join(" "),
    };
    let script = script.trim().trim_end_matches("|| exit 1").trim();
    let mut words = script.split_whitespace();
    let program = words.next()?.rsplit('/').next()?.to_owned();
    let mut url = None;
    let mut skip_next = false;
    for word in words {
        if skip_next {
            skip_next = false;
            continue;
        }
        let quiet = match program.as_str() {
            "curl" => [
                "-f",
                "--fail",
                "-s",
                "--silent",
                "-S",
                "--show-error",
                "-sf",
                "-fs",
                "-fsS",
                "-sSf",
                "-fSs",
                "-sS",
                "-I",
                "--head",
                "-sSfI",
                "-L",
                "--location",
                "-fsSL",
            ]
            .contains(&word),
            "wget" => [
                "-q",
                "--quiet",
                "--spider",
                "-nv",
                "--no-verbose",
                "--tries=1",
                "-qO-",
                "-q0-",
                "-O-",
            ]
            .contains(&word),
            _ => return None,
        };
        match word {
            _ if quiet => {}
            "-o" | "--output" | "-O" | "--output-document" | "-t" | "--tries" => skip_next = true,
            _ if word.starts_with('-') || url.is_some() => return None,
            _ => url = Some(word.trim_matches(['\'', '"'])),
        }
    }
    let url = url?;
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return None,
        None => url,
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
    let own = ["localhost", "127.0.0.1", "0.0.0.0"].contains(&host);
    let plain = !path.contains(['$', '`', '|', ';', '>', '"', '\'', '(', '{']);
    (own && plain).then_some(())?;
    Some((port.parse().ok()?, path.to_owned()))
}

/// Whether a word of a command names a port of its own task by number.
pub(crate) fn names_port(word: &str, number: u16) -> bool {
    let number = number.to_string();
    word.match_indices(&number).any(|(at, _)| {
        let before = word[..at].chars().next_back();
        let after = word[at + number.len()..].chars().next();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.')
            && !after.is_some_and(|c| c.is_ascii_alphanumeric())
    })
}

/// The variable in which a task finds the number of a port.
pub(crate) fn port_variable(name: &Name) -> String {
    format!(
        "PORT_{}",
        name.as_str().to_ascii_uppercase().replace('-', "_")
    )
}

/// Cores and memory as files ask for them: a request to count on and a limit not to pass.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) cpu_request: Option<(Cores, Item)>,
    pub(crate) cpu_limit: Option<(Cores, Item)>,
    pub(crate) memory_request: Option<(Bytes, Item)>,
    pub(crate) memory_limit: Option<(Bytes, Item)>,
}

/// The smallest memory limit under which a program can start at all.
const MEMORY_MIN: Bytes = Bytes::mib(4);

impl Wanted {
    /// Sets what one task may use: the cores that it can count on, the memory that it cannot pass. The room between a
    /// request and a limit is what learned limits may move in.
    pub(crate) fn fill(self, draft: &mut Draft, notes: &mut Notes) {
        let (resources, limits) = (&mut draft.spec.resources, &mut draft.spec.limits);
        match (self.cpu_request, self.cpu_limit) {
            (Some((request, _)), limit) if request > Cores::ZERO => {
                resources.cpu = request;
                if let Some((limit, item)) = limit.filter(|(limit, _)| *limit > request) {
                    limits.cpu_max = Some(limit);
                    notes.changed(&item, "limits", BOUNDS);
                }
            }
            (_, Some((limit, item))) => {
                resources.cpu = limit;
                notes.changed(
                    &item,
                    "resources",
                    "cores that a task can count on; idle ones beyond them may be borrowed",
                );
            }
            _ => {}
        }
        let memory = match (self.memory_request, self.memory_limit) {
            (request, Some((limit, item))) => {
                if let Some((request, item)) = request.filter(|(request, _)| *request < limit) {
                    limits.memory_min = request;
                    notes.changed(&item, "limits", BOUNDS);
                }
                Some((limit, item))
            }
            (Some((request, item)), None) => {
                notes.changed(
                    &item,
                    "resources",
                    "a task that needs more than this is restarted: give the most it may need",
                );
                Some((request, item))
            }
            (None, None) => None,
        };
        match memory {
            Some((memory, item)) => {
                resources.memory = memory.max(MEMORY_MIN);
                if memory < MEMORY_MIN {
                    notes.changed(
                        &item,
                        "resources",
                        format!("{MEMORY_MIN} is the least under which a program can start"),
                    );
                }
            }
            None => {
                let message = format!(
                    "no memory is asked for: a task is restarted above {} unless resources=Resources(memory=…) gives it more",
                    resources.memory
                );
                notes.changed(&draft.origin.clone(), "resources", message);
            }
        }
    }
}

/// Widens bounds by what a program beside the command may use.
pub(crate) fn add_limits(limits: &mut Limits, more: &Resources) {
    limits.cpu_max = limits.cpu_max.map(|most| most + more.cpu);
    if limits.memory_min != Limits::default().memory_min {
        limits.memory_min = limits.memory_min + more.memory;
    }
}

/// What becomes of the room between a request and a limit.
const BOUNDS: &str = "a bound of the learned limits, which act with Limits(mode=\"auto\")";

/// The signals of the schema, for messages.
pub(crate) const SIGNALS: &str = "SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1 or SIGUSR2";

/// A signal by its name, with or without `SIG`, or its number.
pub(crate) fn signal(text: &str) -> Option<Signal> {
    let text = text.trim().to_ascii_uppercase();
    match text.strip_prefix("SIG").unwrap_or(&text) {
        "TERM" | "15" => Some(Signal::Term),
        "INT" | "2" => Some(Signal::Int),
        "QUIT" | "3" => Some(Signal::Quit),
        "HUP" | "1" => Some(Signal::Hup),
        "USR1" | "10" => Some(Signal::Usr1),
        "USR2" | "12" => Some(Signal::Usr2),
        _ => None,
    }
}

/// The user of a `USER[:GROUP]`.
pub(crate) fn user(item: &Item, notes: &mut Notes) -> String {
    let (user, group) = item.text().split_once(':').unwrap_or((item.text(), ""));
    if !group.is_empty() && group != user {
        notes.lost(
            item,
            "user",
            format!("the group {group}: a task has the groups of its user"),
        );
    }
    user.to_owned()
}

/// An absolute path; anything else is noted.
pub(crate) fn absolute(item: &Item, field: &str, notes: &mut Notes) -> Option<AbsolutePath> {
    match plain_path(item.text()) {
        Some(path) => Some(path),
        None => {
            notes.lost(
                item,
                field,
                format!("'{}' is not a plain path from /", item.text()),
            );
            None
        }
    }
}

/// A path from `/` without `.`, `..` or empty parts.
pub(crate) fn plain_path(text: &str) -> Option<AbsolutePath> {
    let trimmed = text.trim_end_matches('/');
    let plain = text.starts_with('/')
        && trimmed
            .split('/')
            .skip(1)
            .all(|part| !part.is_empty() && part != "." && part != "..");
    match trimmed {
        "" => plain.then(|| AbsolutePath("/".to_owned())),
        _ => plain.then(|| AbsolutePath(trimmed.to_owned())),
    }
}

/// Folders of the sandbox itself, in which no volume can be.
const SANDBOX: [&str; 7] = [
    "/dev",
    "/proc",
    "/run/twill",
    "/packages",
    "/runtimes",
    "/secrets",
    "/sys",
];

/// A path for a volume; none for the root, for what is no plain path, and for folders of the sandbox.
pub(crate) fn volume_path(text: &str) -> Option<AbsolutePath> {
    let path = plain_path(text)?;
    let is_kept = |kept: &str| path.0 == *kept || path.0.starts_with(&format!("{kept}/"));
    (path.0 != "/" && !SANDBOX.iter().any(|kept| is_kept(kept))).then_some(path)
}

/// Adds a label; one that is empty or cannot be a key is noted.
pub(crate) fn label(draft: &mut Draft, key: &str, value: &str, item: &Item, notes: &mut Notes) {
    match key.is_empty() || key.contains(['=', '\0']) {
        true => notes.lost(
            item,
            "labels",
            format!("'{key}' cannot be the name of a label"),
        ),
        false => {
            draft
                .spec
                .labels
                .insert(EnvName(key.to_owned()), value.to_owned());
        }
    }
}

/// The command of a part that runs around the life of a job's own. A hook has the variables of its job; others are
/// put before its program.
pub(crate) fn hook_words(part: &Draft, job: &Draft, notes: &mut Notes) -> Vec<String> {
    let words = part.spec.command.0.clone();
    let is_own = |(key, value, _): &&(String, String, Item)| {
        !job.env
            .iter()
            .any(|(known, other, _)| known == key && other == value)
    };
    let own: Vec<_> = part.env.iter().filter(is_own).collect();
    if words.first().is_none_or(String::is_empty) {
        for (key, _, item) in own {
            notes.lost(item, "hooks", format!("a hook has the variables of its job: write {key} before its program, `env {key}=…`"));
        }
        return words;
    }
    let variables = own.iter().map(|(key, value, _)| format!("{key}={value}"));
    let env = (!own.is_empty()).then(|| "env".to_owned());
    env.into_iter().chain(variables).chain(words).collect()
}

/// One command that runs several, each after the one before it has ended well.
pub(crate) fn in_turn(mut commands: Vec<Vec<String>>) -> Option<Vec<String>> {
    if commands.len() <= 1 {
        return commands.pop();
    }
    let joined: Option<Vec<String>> = commands
        .iter()
        .map(|words| {
            // A script of a shell stays readable in a group of its own.
            match &words[..] {
                [shell, flag, script] if shell.ends_with("sh") && flag == "-c" => {
                    Some(format!("( {} )", script.trim()))
                }
                words => shlex::try_join(words.iter().map(String::as_str)).ok(),
            }
        })
        .collect();
    Some(vec!["sh".to_owned(), "-c".to_owned(), joined?.join(" && ")])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_request_is_a_check_of_a_port_only_if_it_is_nothing_else() {
        let shell = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let asked = |number, path: &str| Some((number, path.to_owned()));
        assert_eq!(
            http_request(&words("curl -f http://localhost:8080/healthz")),
            asked(8080, "/healthz")
        );
        assert_eq!(
            http_request(&shell(
                "curl --silent --fail localhost:9200/_cluster/health || exit 1"
            )),
            asked(9200, "/_cluster/health")
        );
        assert_eq!(
            http_request(&shell("wget -q --spider http://127.0.0.1/ || exit 1")),
            asked(80, "/")
        );
        for other in [
            "pg_isready",
            "curl -f https://localhost/",
            "curl -X POST localhost:1/",
            "curl db:1/",
            "curl localhost:1/$X",
        ] {
            assert_eq!(http_request(&shell(other)), None, "{other}");
        }
    }

    #[test]
    fn commands_run_in_turn() {
        assert_eq!(in_turn(vec![words("a b")]), Some(words("a b")));
        assert_eq!(
            in_turn(vec![words("a b"), vec!["c".into(), "d e".into()]]).unwrap()[2],
            "a b && c 'd e'"
        );
    }
}
