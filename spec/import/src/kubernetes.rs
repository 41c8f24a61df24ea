//! Kubernetes manifests: workloads become jobs, and what else they need of the other objects is put into them.

mod container;
mod env;
mod object;
mod placement;
mod pod;
mod probe;
mod scaling;
mod service;
mod volumes;
mod workload;

pub(crate) use workload::{NO_LINE, schedule};

use tw_model::Name;

use crate::compose::Read;
use crate::draft::{Draft, JobNames};
use crate::error::ImportError;
use crate::fields::{Fields, Item};
use crate::note::Notes;
use crate::settle::Addresses;

use object::Object;

/// All objects of an import, and which of them run.
pub(crate) struct Cluster {
    pub(crate) objects: Vec<Object>,
    /// The workloads' jobs, with the labels of their pods.
    pub(crate) jobs: Vec<Workload>,
}

/// A workload by its job.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) kind: String,
    /// Its name in the manifests.
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) job: Name,
    pub(crate) labels: Vec<(String, String)>,
}

impl Cluster {
    /// The object of a kind and a name.
    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Object> {
        self.objects
            .iter()
            .find(|object| object.kind == kind && object.name == name)
    }

    /// The workloads whose pods have all of these labels; none for no labels.
    pub(crate) fn selected(
        &self,
        selector: &[(String, String)],
        namespace: &str,
    ) -> Vec<&Workload> {
        self.jobs
            .iter()
            .filter(|workload| {
                !selector.is_empty()
                    && workload.namespace == namespace
                    && selector.iter().all(|label| workload.labels.contains(label))
            })
            .collect()
    }
}

/// Reads the documents of all files as one cluster.
pub(crate) fn read(documents: &[Item], notes: &mut Notes) -> Result<Read, ImportError> {
    let objects = object::all(documents, notes)?;
    let mut names = JobNames::default();
    let mut cluster = Cluster {
        objects,
        jobs: Vec::new(),
    };
    let mut runs = Vec::new();
    for object in &cluster.objects {
        if let Some(template) = workload::template(object) {
            let job = names.take(&object.name, &object.item, notes);
            let labels = object::labels(&template);
            cluster.jobs.push(Workload {
                kind: object.kind.clone(),
                name: object.name.clone(),
                namespace: object.namespace.clone(),
                job: job.clone(),
                labels,
            });
            runs.push((object.clone(), job));
        }
    }
    let mut drafts: Vec<Draft> = runs
        .into_iter()
        .map(|(object, job)| workload::read(&object, job, &cluster, notes))
        .collect();
    let mut addresses = Addresses::default();
    for object in cluster.objects.clone() {
        notes.about(None);
        if workload::template(&object).is_some() {
            continue;
        }
        let fields = Fields::open(object.item.clone(), notes);
        match object.kind.as_str() {
            "Service" => service::read(
                &object,
                fields,
                &cluster,
                &mut drafts,
                &mut addresses,
                notes,
            ),
            "HorizontalPodAutoscaler" => {
                scaling::autoscaler(&object, fields, &cluster, &mut drafts, notes)
            }
            "PodDisruptionBudget" => scaling::budget(&object, fields, &cluster, &mut drafts, notes),
            "ConfigMap" => env::config_map(&object, fields, &cluster, notes),
            "Secret" => env::secret(&object, fields, notes),
            "PersistentVolumeClaim" => volumes::claim(&object, fields, notes),
            _ => object::other(&object, fields, notes),
        }
    }
    notes.about(None);
    Ok(Read {
        drafts,
        addresses,
        variables: Default::default(),
    })
}
