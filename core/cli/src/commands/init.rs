//! `tw init`

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use tw_spec::{Source, library};

use crate::failure::advice;
use crate::text::{BOLD, DIM, GREEN, YELLOW, painted};

/// Make a repository of specs, ready for editors, git and CI
///
/// What is there already stays as it is; run it again at any time.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The repository's root; made if it is not there
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Only write the typed copy of the package `tw` for editors and type checkers anew
    #[arg(long)]
    update: bool,
    /// Write over files that differ from what a new repository has
    #[arg(long, conflicts_with = "update")]
    force: bool,
    /// For which CI to write a recipe [default: what the git remote says, else both]
    #[arg(long, value_enum, value_name = "CI")]
    ci: Option<Ci>,
}

/// A CI system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Ci {
    Github,
    Gitlab,
    Both,
    None,
}

/// A file of a new repository.
struct File {
    path: &'static str,
    text: String,
    about: &'static str,
}

/// What became of a file.
enum Done {
    New,
    Extended,
    Same,
    /// It is there with other contents; what to do by hand.
    Kept(String),
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let root = root(&args.dir)?;
    if args.update {
        update(&root)?;
        anstream::println!("Wrote {} for this build of tw.", library::FOLDER);
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = Report::default();
    init_git(&root, &mut report)?;
    let has_specs = has_specs(&root);
    for file in files(&args, &root, has_specs) {
        let done = write(&root, &file, args.force)?;
        report.add(file.path, file.about, done);
    }
    for (path, about, lines) in LINES {
        let done = add_lines(&root.join(path), lines)?;
        report.add(path, about, done);
    }
    let done = add_tables(&root.join("pyproject.toml"))?;
    report.add("pyproject.toml", "for ruff, mypy, pyright and pytest", done);
    report.add(
        ".git/config",
        "git diff shows what a changed spec changes",
        set_up_diff(&root),
    );
    let stale = library::is_stale(&root);
    update(&root)?;
    let done = if stale { Done::New } else { Done::Same };
    report.add(
        library::FOLDER,
        "the package tw, typed; git ignores it",
        done,
    );
    report.print(&root, &args.dir, has_specs);
    Ok(ExitCode::SUCCESS)
}

fn update(root: &Path) -> anyhow::Result<()> {
    library::write(root)
        .with_context(|| format!("cannot write {}", root.join(library::FOLDER).display()))
}

/// The folder itself, which must be the root of its repository.
fn root(dir: &Path) -> anyhow::Result<PathBuf> {
    if dir.exists() && !dir.is_dir() {
        return Err(advice(
            format!("{} is a file", dir.display()),
            "name a folder: `tw init DIR`",
        ));
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = dir
        .canonicalize()
        .with_context(|| format!("cannot open {}", dir.display()))?;
    let source = Source::work_tree(&dir)?;
    if source.root() != dir {
        return Err(advice(
            format!(
                "{} is inside the repository {}, and specs import from the root of theirs",
                dir.display(),
                source.root().display()
            ),
            format!(
                "`tw init {}` sets that one up; `git init` here first makes this one of its own",
                source.root().display()
            ),
        ));
    }
    Ok(dir)
}

fn init_git(root: &Path, report: &mut Report) -> anyhow::Result<()> {
    if root.join(".git").exists() {
        return Ok(());
    }
    let ran = Command::new("git")
        .args(["init", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::null())
        .status();
    match ran {
        Ok(status) if status.success() => report.add(".git", "a git repository", Done::New),
        _ => report.notes.push(
            "git did not make a repository here; `tw diff` and `tw history` need one".to_owned(),
        ),
    }
    Ok(())
}

/// Makes `git diff` ask `tw` about specs. The attribute says of which files, this says how.
fn set_up_diff(root: &Path) -> Done {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(words).current_dir(root).stdin(Stdio::null());
        command.output().ok().filter(|ran| ran.status.success())
    };
    if let Some(found) = git(&["config", "--local", "diff.twill.command"]) {
        return match String::from_utf8_lossy(&found.stdout).trim() {
            DIFF_COMMAND => Done::Same,
            other => Done::Kept(format!("diff.twill.command is {other}")),
        };
    }
    match git(&["config", "--local", "diff.twill.command", DIFF_COMMAND]) {
        Some(_) => Done::New,
        None => Done::Kept("git did not take diff.twill.command".to_owned()),
    }
}

/// How git shows a changed spec.
const DIFF_COMMAND: &str = "tw git-diff";

fn has_specs(root: &Path) -> bool {
    let source = Source::work_tree(root);
    source.is_ok_and(|source| {
        source
            .specs_if_any(&[String::new()])
            .is_ok_and(|specs| !specs.is_empty())
    })
}

/// The files to write. The first job is only for a repository that has none.
fn files(args: &Args, root: &Path, has_specs: bool) -> Vec<File> {
    let file = |path, text: &str, about| File {
        path,
        text: text.to_owned(),
        about,
    };
    let mut files = Vec::new();
    if !has_specs || args.force {
        files.extend([
            file(
                "hello/config.tw",
                include_str!("init/config.tw"),
                "a first job",
            ),
            file(
                "hello/test_hello.py",
                include_str!("init/test_hello.py"),
                "its tests",
            ),
            file(
                "shared/service.py",
                include_str!("init/service.py"),
                "a module that specs share",
            ),
        ]);
    }
    files.extend([
        file(
            "POLICY.py",
            include_str!("init/POLICY.py"),
            "rules over all jobs",
        ),
        file(
            ".vscode/settings.json",
            include_str!("init/vscode-settings.json"),
            "specs are Python, for VS Code",
        ),
    ]);
    let ci = args.ci.unwrap_or_else(|| ci_of(root));
    let recipe = |text: &str| text.replace("@REPOSITORY@", env!("CARGO_PKG_REPOSITORY"));
    if matches!(ci, Ci::Github | Ci::Both) {
        files.push(File {
            path: ".github/workflows/specs.yml",
            text: recipe(include_str!("init/github.yml")),
            about: "checks, tests and diffs in GitHub Actions",
        });
    }
    if matches!(ci, Ci::Gitlab | Ci::Both) {
        files.push(File {
            path: ".gitlab-ci.yml",
            text: recipe(include_str!("init/gitlab.yml")),
            about: "checks, tests and diffs in GitLab",
        });
    }
    files
}

/// Which CI the remotes of the repository point to.
fn ci_of(root: &Path) -> Ci {
    let config = fs::read_to_string(root.join(".git/config")).unwrap_or_default();
    match (config.contains("github"), config.contains("gitlab")) {
        (true, false) => Ci::Github,
        (false, true) => Ci::Gitlab,
        _ => Ci::Both,
    }
}

fn write(root: &Path, file: &File, force: bool) -> anyhow::Result<Done> {
    let path = root.join(file.path);
    let done = match fs::read_to_string(&path) {
        Ok(found) if found == file.text => return Ok(Done::Same),
        Ok(_) if !force => return Ok(Done::Kept(String::new())),
        Ok(_) => Done::Extended,
        Err(_) if path.exists() => return Ok(Done::Kept(String::new())),
        Err(_) => Done::New,
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(&path, &file.text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(done)
}

/// (path, what it is for, lines that it must have).
const LINES: &[(&str, &str, &str)] = &[
    (
        ".gitattributes",
        "specs are Python, for git",
        include_str!("init/gitattributes"),
    ),
    (
        ".gitignore",
        "what git leaves out",
        include_str!("init/gitignore"),
    ),
];

/// Adds the lines that a file lacks to its end.
fn add_lines(path: &Path, lines: &str) -> anyhow::Result<Done> {
    let found = existing(path)?;
    let has: BTreeSet<&str> = found
        .iter()
        .flat_map(|text| text.lines())
        .map(str::trim)
        .collect();
    let missing: Vec<&str> = lines.lines().filter(|line| !has.contains(line)).collect();
    if missing.is_empty() {
        return Ok(Done::Same);
    }
    append(path, found, &(missing.join("\n") + "\n"))
}

/// (table of `pyproject.toml`, its text).
const TABLES: &[(&str, &str)] = &[
    ("ruff", include_str!("init/ruff.toml")),
    ("mypy", include_str!("init/mypy.toml")),
    ("pyright", include_str!("init/pyright.toml")),
    ("pytest", include_str!("init/pytest.toml")),
];

/// Adds the tables of tools that a `pyproject.toml` lacks.
fn add_tables(path: &Path) -> anyhow::Result<Done> {
    let found = existing(path)?;
    let parsed: toml::Table = found
        .as_deref()
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("cannot read {}", path.display()))?;
    let tools = parsed.get("tool").and_then(toml::Value::as_table);
    let has = |tool: &str| tools.is_some_and(|tools| tools.contains_key(tool));
    let missing: Vec<&str> = TABLES
        .iter()
        .filter(|(tool, _)| !has(tool))
        .map(|(_, text)| *text)
        .collect();
    if !missing.is_empty() {
        return append(path, found, &missing.join("\n"));
    }
    Ok(match found.unwrap_or_default().contains(library::FOLDER) {
        true => Done::Same,
        false => Done::Kept(format!(
            "for specs, ruff needs `extension = {{ tw = \"python\" }}`, mypy and pyright the folder {}",
            library::FOLDER
        )),
    })
}

fn existing(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn append(path: &Path, found: Option<String>, more: &str) -> anyhow::Result<Done> {
    let done = if found.is_some() {
        Done::Extended
    } else {
        Done::New
    };
    let mut text = found.unwrap_or_default();
    if !text.is_empty() {
        text = text.trim_end().to_owned()
            + if more.starts_with('[') || more.starts_with('#') {
                "\n\n"
            } else {
                "\n"
            };
    }
    fs::write(path, text + more).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(done)
}

/// What was done, to be told at the end.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    notes: Vec<String>,
    changed: usize,
}

impl Report {
    fn add(&mut self, path: &str, about: &str, done: Done) {
        let (word, about) = match done {
            Done::Same => return,
            Done::New => (painted(GREEN, "new     "), about.to_owned()),
            Done::Extended => (painted(GREEN, "changed "), about.to_owned()),
            Done::Kept(help) => {
                let help = match help.is_empty() {
                    true => "yours is left as it is".to_owned(),
                    false => format!("yours is left as it is: {help}"),
                };
                (painted(YELLOW, "kept    "), help)
            }
        };
        self.changed += usize::from(word.contains("new") || word.contains("changed"));
        self.lines
            .push(format!("  {word} {path:<28} {DIM}{about}{DIM:#}"));
    }

    fn print(&self, root: &Path, named: &Path, had_specs: bool) {
        match self.changed {
            0 => anstream::println!("{} has all that tw init makes.", root.display()),
            _ => anstream::println!("Set up {}:", root.display()),
        }
        self.lines
            .iter()
            .for_each(|line| anstream::println!("{line}"));
        self.notes
            .iter()
            .for_each(|note| anstream::println!("{YELLOW}note{YELLOW:#}: {note}"));
        if self.changed == 0 {
            return;
        }
        anstream::println!("\nNext:");
        if named != Path::new(".") {
            anstream::println!("  {BOLD}cd {}{BOLD:#}", named.display());
        }
        let mut steps = vec![
            ("tw check", "is every spec in order, and within policy?"),
            ("tw test", "run the tests beside the specs"),
            ("tw dev --detach", "start Twill on this machine (as root)"),
            (
                "tw run",
                "start the jobs, and follow them until they are healthy",
            ),
        ];
        if !had_specs {
            steps.push(("tw logs hello", "see what the first one says"));
        }
        for (command, about) in steps {
            anstream::println!("  {BOLD}{command:<18}{BOLD:#} {DIM}{about}{DIM:#}");
        }
    }
}

/// Renews the typed copy of the package in a repository that `tw init` set up, when another build wrote it.
/// A folder that cannot be written is nobody's trouble: no evaluation depends on it.
pub(crate) fn refresh(source: &Source) {
    let root = source.root();
    let wants = fs::read_to_string(root.join("pyproject.toml"))
        .is_ok_and(|text| text.contains(library::FOLDER));
    if wants && source.commit().is_none() && library::is_stale(root) {
        let _ = library::write(root);
    }
}
