//! `tw secret`

use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{self, LocalFlags, SetArg};
use tw_api::{SecretReply, SecretsReply};
use tw_model::{JobId, Name, Secret};

use crate::context::Context;
use crate::failure::advice;
use crate::table::Table;

/// Set, list and remove the values of secrets, which tasks read at /secrets/NAME; nothing shows them again
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Set a value, read from standard input as it is; from a terminal one line, which is not shown
    Set {
        #[command(flatten)]
        name: Named,
        /// Read the value from this file
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// List names, and who reads them
    List {
        /// Only those of this namespace
        #[arg(long)]
        namespace: Option<Name>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a value that no job reads any more
    Remove {
        #[command(flatten)]
        name: Named,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The secret's name
    name: Name,
    /// Its namespace
    #[arg(long, default_value = "default")]
    namespace: Name,
}

impl Named {
    fn path(&self) -> String {
        format!("/v1/secrets/{}/{}", self.namespace, self.name)
    }
}

pub(crate) async fn run(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    match command {
        Command::Set { name, file } => {
            let value = read(&name.name, file)?;
            let ends_line = value.ends_with(b"\n");
            let reply: SecretReply = client.put_bytes(&name.path(), value.into()).await?;
            anstream::println!("secret '{}' is set", reply.name);
            if ends_line {
                anstream::eprintln!(
                    "note: the value ends with a newline, which tasks read as well; `printf %s` writes none"
                );
            }
            if !reply.jobs.is_empty() {
                let jobs = names(&reply.jobs);
                anstream::println!("read at the next start of {jobs}; `tw restart` begins one");
            }
        }
        Command::List { namespace, json } => {
            let query = namespace.map(|it| format!("?namespace={it}"));
            let path = format!("/v1/secrets{}", query.unwrap_or_default());
            let reply: SecretsReply = client.get(&path).await?;
            match json {
                true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
                false => print(&reply),
            }
        }
        Command::Remove { name } => {
            let reply: SecretReply = client.delete(&name.path()).await?;
            anstream::println!("secret '{}' is removed", reply.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(reply: &SecretsReply) {
    if reply.secrets.is_empty() {
        anstream::println!("No secret is set. `tw secret set NAME` sets one.");
        return;
    }
    let mut table = Table::new(&["SECRET", "NAMESPACE", "SET", "READ BY"]);
    for secret in &reply.secrets {
        table.row(vec![
            secret.name.to_string(),
            secret.namespace.to_string(),
            secret.set_at.to_string(),
            names(&secret.jobs),
        ]);
    }
    table.print();
}

fn names(jobs: &[JobId]) -> String {
    let names: Vec<String> = jobs.iter().map(JobId::to_string).collect();
    names.join(", ")
}

/// The value, of no more bytes than can be too many.
fn read(name: &Name, file: Option<PathBuf>) -> anyhow::Result<Vec<u8>> {
    let stdin = std::io::stdin();
    let value = match file {
        Some(path) => read_from(
            std::fs::File::open(&path)
                .with_context(|| format!("cannot read {}", path.display()))?,
        ),
        None if stdin.is_terminal() => ask(name),
        None => read_from(stdin),
    };
    let value = value.context("cannot read the value")?;
    match value.is_empty() {
        false => Ok(value),
        true => Err(advice(
            format!("the value of secret '{name}' is empty"),
            "`tw secret remove` takes a value away",
        )),
    }
}

fn read_from(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut value = Vec::new();
    source
        .take(Secret::BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)?;
    Ok(value)
}

/// Reads one line from the terminal, which shows nothing of it. Ctrl-C ends the program as ever, once the terminal shows
/// again what is typed.
fn ask(name: &Name) -> std::io::Result<Vec<u8>> {
    let stdin = std::io::stdin();
    anstream::eprint!("Value of '{name}' (not shown): ");
    let before = termios::tcgetattr(&stdin)?;
    let mut silent = before.clone();
    let shown = LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG;
    silent.local_flags.remove(shown);
    termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent)?;
    let line = read_keys(stdin.lock());
    termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &before)?;
    anstream::eprintln!();
    match line? {
        Some(line) => Ok(line),
        None => {
            raise(Signal::SIGINT)?;
            Err(std::io::ErrorKind::Interrupted.into())
        }
    }
}

/// What was typed up to the end of the line, edited as a terminal does; none after Ctrl-C.
fn read_keys(keys: impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_U: u8 = 21;
    const BACKSPACE: u8 = 8;
    const DELETE: u8 = 127;
    let mut line = Vec::new();
    for key in keys.bytes() {
        match key? {
            CTRL_C => return Ok(None),
            CTRL_D | b'\r' | b'\n' => break,
            CTRL_U => line.clear(),
            BACKSPACE | DELETE => {
                // The rest of a character of several bytes goes with it.
                while line.pop().is_some_and(|byte: u8| byte & 0xC0 == 0x80) {}
            }
            byte => line.push(byte),
        }
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_edited_as_on_a_terminal() {
        let typed = |keys: &str| read_keys(keys.as_bytes()).unwrap();
        let line = |text: &str| Some(text.as_bytes().to_owned());
        assert_eq!(typed("hunter2\rrest"), line("hunter2"));
        assert_eq!(typed("wrong\u{15}grü\u{7f}een\n"), line("green"));
        assert_eq!(typed("ab\u{4}"), line("ab"));
        assert_eq!(typed("\u{8}a"), line("a"));
        assert_eq!(typed("hunter\u{3}"), None);
    }
}
