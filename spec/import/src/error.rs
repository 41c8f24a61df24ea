//! Why a file cannot be imported at all.

/// Each says what was found; [`ImportError::hint`] says what would help.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImportError {
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        file: String,
        line: u32,
        column: u32,
        message: String,
    },
    #[error("{file}:{line}:{column}: '{key}' stands here twice; the first is on line {first}")]
    DuplicateKey {
        file: String,
        line: u32,
        column: u32,
        key: String,
        first: u32,
    },
    #[error(
        "{file}:{line}:{column}: values lie more than {depth_max} levels deep within each other"
    )]
    TooDeep {
        file: String,
        line: u32,
        column: u32,
        depth_max: usize,
    },
    #[error(
        "{file}:{line}:{column}: with its aliases written out this stands for more than {values_max} values"
    )]
    TooMany {
        file: String,
        line: u32,
        column: u32,
        values_max: u64,
    },
    #[error("{file} is larger than the {} MiB that an import reads", bytes_max >> 20)]
    TooLarge { file: String, bytes_max: usize },
    #[error("{file} holds nothing")]
    Empty { file: String },
    #[error(
        "{file}:{line}: a template, not a manifest: '{{{{' opens an expression that is still to be filled in"
    )]
    Template { file: String, line: u32 },
    #[error("{file}:{line}: a job in HCL; only its JSON form can be imported")]
    Hcl { file: String, line: u32 },
    #[error(
        "{file}: neither a docker-compose file nor Kubernetes manifests nor a Nomad job: {found}"
    )]
    UnknownFormat { file: String, found: String },
    #[error("{file} is {found}, but {first} is {expected}")]
    MixedFormats {
        file: String,
        found: &'static str,
        first: String,
        expected: &'static str,
    },
    #[error("{file}:{line}:{column}: {path}: {message}")]
    Invalid {
        file: String,
        line: u32,
        column: u32,
        path: String,
        message: String,
    },
    #[error("{file} describes nothing that runs")]
    NoJobs { file: String },
}

impl ImportError {
    /// What would help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ImportError::Syntax { .. } | ImportError::Invalid { .. } => None,
            ImportError::DuplicateKey { .. } => {
                Some("keep the one that is meant; YAML keeps only one of them")
            }
            ImportError::TooDeep { .. } | ImportError::TooMany { .. } => {
                Some("no manifest needs that; write the part that is meant into a file of its own")
            }
            ImportError::TooLarge { .. } => Some("import the manifests one file at a time"),
            ImportError::Empty { .. } => {
                Some("give a docker-compose file, Kubernetes manifests or a Nomad job in JSON")
            }
            ImportError::Template { .. } => {
                Some("fill it in first: `helm template CHART | tw import -`")
            }
            ImportError::Hcl { .. } => {
                Some("`nomad job run -output FILE.hcl > job.json` prints its JSON form")
            }
            ImportError::UnknownFormat { .. } => {
                Some("say which it is: --format compose, kubernetes or nomad")
            }
            ImportError::MixedFormats { .. } => Some("import one family at a time"),
            ImportError::NoJobs { .. } => {
                Some("import it together with what runs: `tw import deployment.yaml service.yaml`")
            }
        }
    }
}
