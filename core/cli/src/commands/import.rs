//! `tw import`

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;
use tw_import::{
    EntryKind, Format, INPUT_BYTES_MAX, ImportError, Imported, Input, NoteKind, Surroundings,
};
use tw_model::Image;

use crate::failure::advice;
use crate::text::{BOLD_RED, CYAN, DIM, GREEN, RED, YELLOW, count, painted};

/// The name of standard input in notes and errors.
const STDIN: &str = "<stdin>";

/// The exit code of `--strict` when something was not carried over.
const NOT_ALL_CARRIED: u8 = 2;

/// Turn docker-compose files, Kubernetes manifests or Nomad jobs into a spec
///
/// Prints the spec, and on standard error, line by line, what could not be carried over or is still to be decided.
/// Several files become one spec, in which their jobs know each other.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the spec is written, 1 an error, 2 with --strict: not everything was carried over."
)]
pub(crate) struct Args {
    /// Files to import; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// compose, kubernetes or nomad [default: found out from the file]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write the spec to this file, or to config.tw in this folder [default: standard output]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Overwrite a spec that is there
    #[arg(long, requires = "output")]
    force: bool,
    /// Exit with 2 when something was not carried over or is to be decided
    #[arg(long)]
    strict: bool,
    /// Print JSON: the spec, its jobs and all notes
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let output = args.output.as_deref().map(output_file).transpose()?;
    if let Some(file) = &output
        && file.exists()
        && !args.force
    {
        return Err(advice(
            format!("{} is there already", file.display()),
            "--force overwrites it; without -o the spec is printed",
        ));
    }
    let inputs = args
        .files
        .iter()
        .map(|file| read(file))
        .collect::<anyhow::Result<Vec<Input>>>()?;
    let beside = Beside::of(&args.files, output.as_deref())?;
    let imported = match tw_import::import(&inputs, args.format, &beside) {
        Ok(imported) => imported,
        Err(cause) => return refuse(&cause, args.json),
    };
    if let Some(file) = &output {
        write(file, &imported.spec, args.force)?;
    }
    match args.json {
        true => print_json(&imported, output.as_deref())?,
        false => print(&imported, output.as_deref())?,
    }
    let is_complete = !imported.notes.iter().any(|note| is_incomplete(note.kind));
    Ok(match args.strict && !is_complete {
        true => ExitCode::from(NOT_ALL_CARRIED),
        false => ExitCode::SUCCESS,
    })
}

fn is_incomplete(kind: NoteKind) -> bool {
    matches!(kind, NoteKind::NotCarried | NoteKind::ToDecide)
}

/// The file that `-o` means.
fn output_file(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.join("config.tw"));
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(advice(
            format!("there is no folder {}", folder.display()),
            "make it first; -o takes a file or a folder",
        )),
        _ => Ok(path.to_owned()),
    }
}

fn read(path: &Path) -> anyhow::Result<Input> {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin {
        STDIN.to_owned()
    } else {
        path.display().to_string()
    };
    if path.is_dir() {
        return Err(advice(
            format!("{name} is a folder"),
            format!(
                "name the files: tw import {}/*.yaml",
                name.trim_end_matches('/')
            ),
        ));
    }
    let mut bytes = Vec::new();
    let limit = INPUT_BYTES_MAX as u64 + 1;
    let found = match is_stdin {
        true => std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        }
    };
    found.with_context(|| format!("{name} cannot be read"))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Input { name, text }),
        Err(cause)
            if cause.utf8_error().error_len().is_none()
                && cause.as_bytes().len() > INPUT_BYTES_MAX =>
        {
            Ok(Input {
                name,
                text: String::from_utf8_lossy(cause.as_bytes()).into_owned(),
            })
        }
        Err(cause) => {
            let line = cause.as_bytes()[..cause.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            Err(advice(
                format!("{name}:{line}: this is no UTF-8 text"),
                "manifests are text; convert it, for example with iconv",
            ))
        }
    }
}

/// The folder of the imported files, as far as the spec can name what is in it.
struct Beside {
    folder: PathBuf,
    /// Whether the spec lies in the same folder, so that paths mean the same to it.
    is_shared: bool,
}

impl Beside {
    fn of(files: &[PathBuf], output: Option<&Path>) -> anyhow::Result<Beside> {
        let here = std::env::current_dir().context("the current folder is gone")?;
        let folder_of = |path: &Path| match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => here.join(folder),
            _ => here.clone(),
        };
        let folder = files
            .iter()
            .find(|file| *file != Path::new("-"))
            .map_or(here.clone(), |file| folder_of(file));
        let same = |other: PathBuf| match (other.canonicalize(), folder.canonicalize()) {
            (Ok(other), Ok(folder)) => other == folder,
            _ => false,
        };
        let is_shared = output.is_none_or(|file| same(folder_of(file)));
        Ok(Beside { folder, is_shared })
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        let inside = Path::new(path).components().all(|part| {
            matches!(
                part,
                std::path::Component::Normal(_) | std::path::Component::CurDir
            )
        });
        inside.then(|| self.folder.join(path))
    }
}

impl Surroundings for Beside {
    fn kind(&self, path: &str) -> Option<EntryKind> {
        let path = self.path(path).filter(|_| self.is_shared)?;
        match path {
            folder if folder.is_dir() => Some(EntryKind::Folder),
            file if file.is_file() => Some(EntryKind::File),
            _ => None,
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        let file = std::fs::File::open(self.path(path)?).ok()?;
        let mut text = String::new();
        file.take(INPUT_BYTES_MAX as u64)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    }
}

fn refuse(cause: &ImportError, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let error = json!({"message": cause.to_string(), "hint": cause.hint()});
        let answer =
            json!({"version": 1, "spec": null, "jobs": [], "notes": [], "errors": [error]});
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(ExitCode::FAILURE);
    }
    anstream::eprintln!("{BOLD_RED}error{BOLD_RED:#}: {cause}");
    if let Some(hint) = cause.hint() {
        anstream::eprintln!("  {CYAN}hint{CYAN:#}: {hint}");
    }
    Ok(ExitCode::FAILURE)
}

/// Writes the spec; a file that came to be there in the meantime is not overwritten either.
fn write(file: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    match force {
        true => options.write(true).create(true).truncate(true),
        false => options.write(true).create_new(true),
    };
    options
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("{} cannot be written", file.display()))
}

fn print_json(imported: &Imported, output: Option<&Path>) -> anyhow::Result<()> {
    let jobs: Vec<&str> = imported.jobs.iter().map(|job| job.name.as_str()).collect();
    let answer = json!({
        "version": 1,
        "format": imported.format,
        "output": output.map(|file| file.display().to_string()),
        "spec": imported.spec,
        "jobs": jobs,
        "notes": imported.notes,
        "errors": [],
    });
    anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
    Ok(())
}

fn print(imported: &Imported, output: Option<&Path>) -> anyhow::Result<()> {
    if output.is_none() {
        anstream::print!("{}", imported.spec);
    }
    for note in imported
        .notes
        .iter()
        .filter(|note| note.kind != NoteKind::Ignored)
    {
        let style = match note.kind {
            NoteKind::ToDecide => RED,
            NoteKind::NotCarried => YELLOW,
            NoteKind::Changed | NoteKind::Ignored => DIM,
        };
        let place = format!("{}:{}: {}", note.file, note.line, note.path);
        anstream::eprintln!(
            "{place}: {}: {}",
            painted(style, note.kind.as_str()),
            note.message
        );
    }
    let number = |kind: NoteKind| {
        imported
            .notes
            .iter()
            .filter(|note| note.kind == kind)
            .count()
    };
    let mut parts = vec![painted(GREEN, count(imported.jobs.len(), "job"))];
    let kinds = [
        (NoteKind::ToDecide, "to decide"),
        (NoteKind::NotCarried, "not carried over"),
        (NoteKind::Changed, "changed"),
    ];
    parts.extend(
        kinds
            .iter()
            .filter(|(kind, _)| number(*kind) > 0)
            .map(|(kind, words)| format!("{} {words}", number(*kind))),
    );
    let place = output
        .map(|file| format!("{}: ", file.display()))
        .unwrap_or_default();
    anstream::eprintln!("{place}{}", parts.join(", "));
    if imported
        .jobs
        .iter()
        .any(|job| matches!(job.image, Some(Image::Oci(_))))
    {
        anstream::eprintln!(
            "{CYAN}hint{CYAN:#}: `tw plan` refuses jobs with an image of a registry, as this release fetches none; docs/import.md \
             says what to do"
        );
    }
    Ok(())
}
