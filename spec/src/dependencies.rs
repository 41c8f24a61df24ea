//! Jobs that name each other: what can be said of `depends_on` and service templates before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{Code, JobId, Location, Name, Template, TemplateValue, nearest};

use crate::error::line_of;
use crate::{EvaluatedJob, Outcome, Source, SpecError};

/// What is wrong with how jobs name each other.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    /// Cycles, and ports that the named job does not have.
    pub errors: Vec<SpecError>,
    /// Names that no spec exports, which may run all the same, and specs that export nothing.
    pub warnings: Vec<SpecError>,
}

/// Checks the names that the jobs of `outcome` use for each other.
///
/// `is_whole` says that the outcome holds every spec of the tree; otherwise a name that is not in it says nothing.
pub fn dependencies(source: &Source, outcome: &Outcome, is_whole: bool) -> Dependencies {
    let jobs: BTreeMap<JobId, &EvaluatedJob> = outcome
        .jobs
        .iter()
        .map(|job| (job.spec.id(), job))
        .collect();
    let mut found = Dependencies {
        errors: cycles(&jobs),
        warnings: Vec::new(),
    };
    found.warnings.extend(without_jobs(outcome));
    for job in jobs.values() {
        found.errors.extend(unknown_ports(job, &jobs));
        if is_whole {
            found.warnings.extend(unknown_jobs(job, &jobs));
        }
    }
    for error in found.errors.iter_mut().chain(&mut found.warnings) {
        if let Some(line) = error.line {
            error.source_line = line_of(source, &error.file, line);
        }
    }
    found
}

/// Specs without a mistake and without a job: most likely `export` was forgotten.
fn without_jobs(outcome: &Outcome) -> impl Iterator<Item = SpecError> {
    let has_jobs: BTreeSet<&str> = outcome.jobs.iter().map(|job| job.file.as_str()).collect();
    let has_errors = |file: &str| {
        let mut errors = outcome.errors.iter();
        errors.any(|error| error.file == file || error.trace.iter().any(|call| call.file == file))
    };
    let specs = outcome.specs.iter().map(|spec| spec.file.as_str());
    let empty = specs.filter(move |file| !has_jobs.contains(file) && !has_errors(file));
    empty.map(|file| {
        let message = "this spec exports no job".to_owned();
        let hint =
            "hand jobs over with export(Job(…)); what only helps other specs is a module, *.py";
        SpecError::of_file(Code::SpecNoJobs, file, message, Some(hint.to_owned()))
    })
}

type Jobs<'a> = BTreeMap<JobId, &'a EvaluatedJob>;

/// The place of a field of a job, or else of the job.
fn place(job: &EvaluatedJob, path: &str) -> Location {
    job.provenance.locate(path).unwrap_or(&job.source).clone()
}

fn depends_on(job: &EvaluatedJob) -> impl Iterator<Item = JobId> {
    let namespace = &job.spec.namespace;
    let named = job.spec.depends_on.iter();
    named.map(|name| JobId::new(namespace.clone(), name.clone()))
}

/// Each cycle once, at its first job by name.
fn cycles(jobs: &Jobs<'_>) -> Vec<SpecError> {
    let mut walk = Walk {
        jobs,
        way: Vec::new(),
        done: BTreeSet::new(),
        errors: Vec::new(),
    };
    jobs.keys().for_each(|id| walk.visit(id));
    walk.errors
}

struct Walk<'a> {
    jobs: &'a Jobs<'a>,
    /// The jobs between the start of the walk and here.
    way: Vec<JobId>,
    done: BTreeSet<JobId>,
    errors: Vec<SpecError>,
}

impl Walk<'_> {
    fn visit(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        if let Some(start) = self.way.iter().position(|step| step == id) {
            let error = self.error(&self.way[start..]);
            self.errors.extend(error);
        } else if self.done.insert(id.clone()) {
            self.way.push(id.clone());
            depends_on(job).for_each(|next| self.visit(&next));
            self.way.pop();
        }
    }

    fn error(&self, cycle: &[JobId]) -> Option<SpecError> {
        let names: Vec<String> = cycle
            .iter()
            .chain(cycle.first())
            .map(JobId::to_string)
            .collect();
        let job = self.jobs.get(cycle.first()?)?;
        Some(SpecError::at(
            Code::JobDependencyCycle,
            &place(job, "depends_on"),
            format!(
                "these jobs would wait for each other: {}",
                names.join(" -> ")
            ),
            Some("remove one of these names from a depends_on".to_owned()),
        ))
    }
}

/// The services that the texts of a job name: job, port, and where.
fn services(job: &EvaluatedJob) -> Vec<(Name, Name, Location)> {
    let command = job
        .spec
        .command
        .0
        .iter()
        .map(|text| ("command".to_owned(), text));
    let env = job
        .spec
        .env
        .iter()
        .map(|(key, text)| (format!("env.{}", key.0), text));
    let mut found = Vec::new();
    for (path, text) in command.chain(env) {
        // Most texts name no service, and need not be read as templates.
        if !text.contains("service") {
            continue;
        }
        let Ok(template) = Template::parse(text) else {
            continue;
        };
        for value in template.values() {
            if let TemplateValue::Service { job: name, port } = value {
                found.push((name.clone(), port.clone(), place(job, &path)));
            }
        }
    }
    found
}

fn unknown_ports(job: &EvaluatedJob, jobs: &Jobs<'_>) -> Vec<SpecError> {
    let unknown = services(job).into_iter().filter_map(|(name, port, at)| {
        let other = jobs.get(&JobId::new(job.spec.namespace.clone(), name))?;
        if other.spec.ports.contains(&port) {
            return None;
        }
        let ports: Vec<&str> = other.spec.ports.iter().map(Name::as_str).collect();
        let hint = match nearest(port.as_str(), &ports) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("declare it there: ports=[\"{port}\"]"),
        };
        let message = format!("job '{}' has no port '{port}'", other.spec.id());
        Some(SpecError::at(Code::SpecBadValue, &at, message, Some(hint)))
    });
    unknown.collect()
}

fn unknown_jobs(job: &EvaluatedJob, jobs: &Jobs<'_>) -> Vec<SpecError> {
    let waits = depends_on(job).map(|id| (id, place(job, "depends_on")));
    let calls = services(job)
        .into_iter()
        .map(|(name, _, at)| (JobId::new(job.spec.namespace.clone(), name), at));
    // Only where there is something to say: naming all jobs for each of them takes long where there are many.
    let nearest_to = |id: &JobId| {
        let names: Vec<String> = jobs.keys().map(JobId::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        nearest(&id.to_string(), &names).map(str::to_owned)
    };
    let unknown = waits.chain(calls).filter(|(id, _)| !jobs.contains_key(id));
    let warnings: BTreeMap<JobId, Location> = unknown.collect();
    let warning = |(id, at): (JobId, Location)| {
        let message = format!(
            "job '{}' needs '{id}', which no spec here exports",
            job.spec.id()
        );
        let hint = match nearest_to(&id) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "it has to run already, or come from elsewhere".to_owned(),
        };
        SpecError::at(Code::JobNotFound, &at, message, Some(hint))
    };
    warnings.into_iter().map(warning).collect()
}
