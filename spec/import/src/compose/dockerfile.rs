//! What a Dockerfile says about the program of the image it builds.
//!
//! Only what a spec needs is read: the entry point, the command and the ports. Nothing is built, and what a
//! `RUN` would do is not looked at.

/// What the image of one stage starts and listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Built {
    /// The image that the first of its stages is built from.
    pub(super) base: String,
    /// `ENTRYPOINT`, if a stage has one.
    pub(super) entrypoint: Option<Vec<String>>,
    /// `CMD`, if a stage has one that still holds.
    pub(super) command: Option<Vec<String>>,
    /// `EXPOSE`, without ports of UDP.
    pub(super) ports: Vec<u16>,
}

/// One stage, with the arguments and variables that later lines of it may name.
struct Stage {
    name: String,
    built: Built,
    shell: Vec<String>,
    variables: Vec<(String, String)>,
}

/// Reads the stage called `target`, or the last one. `arguments` are those that the build is given.
///
/// `None` where the file has no such stage.
pub(super) fn read(
    text: &str,
    target: Option<&str>,
    arguments: &[(String, String)],
) -> Option<Built> {
    let mut global = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for line in lines(text) {
        let (instruction, rest) = line.split_once(char::is_whitespace)?;
        let rest = rest.trim();
        match (instruction.to_ascii_uppercase().as_str(), stages.last_mut()) {
            ("FROM", _) => {
                let stage = from(rest, &global, &stages);
                stages.push(stage);
            }
            ("ARG", None) => global.extend(argument(rest, arguments, &[])),
            ("ARG", Some(stage)) => {
                let value = argument(rest, arguments, &global);
                stage.variables.extend(value);
            }
            ("SHELL", Some(stage)) => stage.shell = list(rest).unwrap_or_default(),
            ("ENTRYPOINT", Some(stage)) => {
                stage.built.entrypoint = Some(words(rest, &stage.shell));
                stage.built.command = None;
            }
            ("CMD", Some(stage)) => stage.built.command = Some(words(rest, &stage.shell)),
            ("EXPOSE", Some(stage)) => {
                let text = substituted(rest, &stage.variables);
                stage
                    .built
                    .ports
                    .extend(text.split_whitespace().filter_map(port));
            }
            _ => {}
        }
    }
    let wanted = match target {
        Some(name) => stages
            .iter()
            .rposition(|stage| stage.name.eq_ignore_ascii_case(name))?,
        None => stages.len().checked_sub(1)?,
    };
    Some(stages.swap_remove(wanted).built)
}

/// The instructions: comments left out, continued lines joined, here-documents passed over.
fn lines(text: &str) -> Vec<String> {
    let escape = match text.lines().map(str::trim).find_map(escape_directive) {
        Some('`') => '`',
        _ => '\\',
    };
    let mut found = Vec::new();
    let mut open = String::new();
    let mut source = text.lines();
    while let Some(line) = source.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix(escape) {
            Some(continued) => {
                open.push_str(continued);
                open.push(' ');
            }
            None => {
                open.push_str(line);
                for end in here_documents(&open) {
                    let _ = source.by_ref().find(|line| line.trim() == end);
                }
                found.push(std::mem::take(&mut open));
            }
        }
    }
    if !open.is_empty() {
        found.push(open);
    }
    found
}

/// `# escape=X`, which stands above all else.
fn escape_directive(line: &str) -> Option<char> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    (name.trim().eq_ignore_ascii_case("escape")).then(|| value.trim().chars().next())?
}

/// The words that end the here-documents which an instruction opens.
fn here_documents(line: &str) -> Vec<String> {
    let takes_them = ["RUN", "COPY", "ADD"].iter().any(|instruction| {
        line.get(..instruction.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(instruction))
    });
    if !takes_them {
        return Vec::new();
    }
    line.split("<<")
        .skip(1)
        .filter_map(|after| {
            let word = after.trim_start_matches('-').split_whitespace().next()?;
            let word = word.trim_matches(['"', '\'']);
            word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                .then(|| word.to_owned())
        })
        .collect()
}

/// `FROM [--platform=…] IMAGE [AS NAME]`: an earlier stage, or an image.
fn from(rest: &str, global: &[(String, String)], stages: &[Stage]) -> Stage {
    let text = substituted(rest, global);
    let mut parts = text
        .split_whitespace()
        .filter(|part| !part.starts_with("--"));
    let image = parts.next().unwrap_or_default().to_owned();
    let name = parts.nth(1).unwrap_or_default().to_owned();
    match stages
        .iter()
        .rev()
        .find(|stage| !stage.name.is_empty() && stage.name.eq_ignore_ascii_case(&image))
    {
        Some(earlier) => Stage {
            name,
            built: earlier.built.clone(),
            shell: earlier.shell.clone(),
            variables: Vec::new(),
        },
        None => Stage {
            name,
            built: Built {
                base: image,
                ..Built::default()
            },
            shell: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            variables: Vec::new(),
        },
    }
}

/// `NAME[=DEFAULT]`: what the build gives, else the default, else what stands above the first stage.
fn argument(
    rest: &str,
    given: &[(String, String)],
    global: &[(String, String)],
) -> Option<(String, String)> {
    let (name, default) = match rest.split_once('=') {
        Some((name, default)) => (name.trim(), Some(default.trim().trim_matches(['"', '\'']))),
        None => (rest, None),
    };
    let of = |list: &[(String, String)]| {
        list.iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    let value = of(given)
        .or_else(|| default.map(str::to_owned))
        .or_else(|| of(global))?;
    Some((name.to_owned(), value))
}

/// A text with `$NAME`, `${NAME}` and `${NAME:-default}` replaced; unknown names are nothing.
fn substituted(text: &str, variables: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (inside, behind) = match after
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'))
        {
            Some(parts) => parts,
            None => {
                let end = after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(after.len());
                after.split_at(end)
            }
        };
        let (name, default) = inside.split_once(":-").unwrap_or((inside, ""));
        let value = variables.iter().rev().find(|(known, _)| known == name);
        out.push_str(value.map_or(default, |(_, value)| value));
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// A list in JSON is the words themselves; a text is for the shell, or without one where that is the same.
fn words(rest: &str, shell: &[String]) -> Vec<String> {
    if let Some(words) = list(rest) {
        return words;
    }
    let needs_shell = rest.contains(|c: char| "|&;<>()$`*?~#{}[]!=".contains(c));
    match shlex::split(rest) {
        Some(words) if !needs_shell => words,
        _ => {
            let mut words = shell.to_vec();
            words.push(rest.to_owned());
            words
        }
    }
}

fn list(rest: &str) -> Option<Vec<String>> {
    serde_json::from_str(rest).ok()
}

/// `NUMBER[/tcp]`
fn port(text: &str) -> Option<u16> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    (protocol.eq_ignore_ascii_case("tcp")).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_of(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn a_stage_has_what_its_own_stages_say() {
        let text = "# syntax=docker/dockerfile:1.4
ARG VERSION=3.10
FROM --platform=$BUILDPLATFORM python:${VERSION}-alpine AS builder
WORKDIR /code
EXPOSE 8000 53/udp
ENTRYPOINT [\"python3\"]
CMD [\"app.py\"]

from builder as dev
RUN <<EOF
CMD not this
EOF
RUN apk update \\
    # a comment in between
    && apk add git
";
        let built = read(text, None, &[]).expect("it has stages");
        assert_eq!(built.base, "python:3.10-alpine");
        assert_eq!(built.entrypoint, list_of(&["python3"]));
        assert_eq!(built.command, list_of(&["app.py"]));
        assert_eq!(built.ports, [8000]);
        assert_eq!(read(text, Some("BUILDER"), &[]), Some(built));
        assert_eq!(read(text, Some("prod"), &[]), None);
        let given = [("VERSION".to_owned(), "3.12".to_owned())];
        let built = read(text, None, &given).expect("it has stages");
        assert_eq!(built.base, "python:3.12-alpine");
    }

    #[test]
    fn an_entry_point_ends_the_command_of_what_it_is_built_on() {
        let text = "FROM a AS one\nCMD [\"x\"]\nFROM one\nENTRYPOINT [\"y\"]\n";
        let built = read(text, None, &[]).expect("it has stages");
        assert_eq!(built.entrypoint, list_of(&["y"]));
        assert_eq!(built.command, None);
    }

    #[test]
    fn a_text_needs_a_shell_only_where_it_says_so() {
        let command = |line: &str| {
            let built = read(&format!("FROM a\n{line}\n"), None, &[]).expect("it has a stage");
            built.command.expect("it has a command")
        };
        assert_eq!(
            command("CMD java -jar /app.jar"),
            ["java", "-jar", "/app.jar"]
        );
        assert_eq!(
            command("CMD exec serve --port $PORT"),
            ["/bin/sh", "-c", "exec serve --port $PORT"]
        );
        assert_eq!(
            command("SHELL [\"/bin/bash\", \"-c\"]\nCMD a && b"),
            ["/bin/bash", "-c", "a && b"]
        );
    }

    #[test]
    fn what_is_no_dockerfile_is_nothing() {
        for text in ["", "# only a comment\n", "CMD [\"x\"]\n", "FROM\n", "\\\n"] {
            let _ = read(text, None, &[]);
            assert_eq!(read(text, Some("x"), &[]), None, "{text:?}");
        }
    }
}
