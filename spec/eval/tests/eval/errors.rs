//! What an author sees of each kind of mistake.

use crate::support::{Repo, rendered};

/// Evaluates these files and compares what a person would see.
macro_rules! golden {
    ($name:ident, $($path:literal: $text:expr),+ $(,)?) => {
        #[test]
        fn $name() {
            let repo = Repo::with(&[$(($path, $text)),+]);
            insta::assert_snapshot!(stringify!($name), rendered(&repo.evaluate()));
        }
    };
}

const HELPER: &str = r#"from tw import Job, MiB, Resources


def service(name, size):
    """A job of the team."""
    limit = SIZES[size]
    return Job(name=name, command="sleep 60", resources=Resources(memory=limit))


SIZES = {"small": 32 * MiB, "wrong": "32 MiB"}
"#;

golden!(
    syntax_error,
    "config.tw": "from tw import Job, export\n\nexport(Job(name=\"web\", command=\"x\")\n"
);

golden!(
    a_name_in_another_case,
    "config.tw": "from tw import HTTPCheck, Job, export\n"
);

golden!(
    a_module_of_python_is_not_in_tw,
    "config.tw": "from tw import os\n"
);

golden!(
    a_port_by_its_number,
    "config.tw": "from tw import HttpCheck, Job, export\n\nexport(Job(name=\"web\", command=[\"x\"], ports=[\"http\"], health=[HttpCheck(port=8080)]))\n"
);

golden!(
    a_package_by_its_folder,
    "config.tw": "from tw import Job, export\n\nexport(Job(name=\"web\", command=[\"x\"], packages=[\"app\"]))\n"
);

golden!(
    syntax_error_in_a_module,
    "shared/base.py": "def service(name:\n    pass\n",
    "config.tw": "from shared.base import service\n"
);

golden!(
    indentation_error,
    "config.tw": "if True:\nprint(1)\n"
);

golden!(
    wrong_type,
    "config.tw": "from tw import Job, Resources, export\n\nexport(\n    Job(\n        name=\"web\",\n        command=[\"server\", 80],\n        replicas=\"three\",\n        resources=Resources(memory=\"256 MiB\"),\n        env={\"PORT\": 80},\n    )\n)\n"
);

golden!(
    unknown_field,
    "config.tw": "from tw import Job, export\n\nexport(Job(name=\"web\", commnd=\"server\", replicas=2))\n"
);

golden!(
    unknown_field_with_no_near_name,
    "config.tw": "from tw import TcpCheck\n\nTcpCheck(port=\"http\", zzz=1)\n"
);

golden!(
    missing_field,
    "config.tw": "from tw import Job, export\n\nexport(Job(command=\"server\"))\n"
);

golden!(
    positional_argument,
    "config.tw": "from tw import Job, export\n\nexport(Job(\"web\", \"server\"))\n"
);

golden!(
    bad_value,
    "config.tw": "from tw import Job, export\n\nexport(Job(name=\"Web Server\", command=\"server\", kind=\"servise\"))\n"
);

golden!(
    unknown_import,
    "shared/base.py": "",
    "config.tw": "from shared.bsae import service\n"
);

golden!(
    unknown_import_in_a_module,
    "shared/base.py": "import requests\n",
    "config.tw": "import shared.base\n"
);

golden!(
    unknown_name_of_a_module,
    "config.tw": "from tw import Jbo, export\n"
);

golden!(
    exception_in_a_helper,
    "shared/base.py": HELPER,
    "config.tw": "from shared.base import service\nfrom tw import export\n\nexport(\n    service(\"web\", \"tiny\"),\n)\n"
);

golden!(
    wrong_type_in_a_helper,
    "shared/base.py": HELPER,
    "config.tw": "from shared.base import service\nfrom tw import export\n\nexport(service(\"web\", \"wrong\"))\n"
);

golden!(
    undefined_name,
    "config.tw": "from tw import Job, Resources, export\n\nexport(Job(name=\"web\", command=\"x\", resources=Resources(memory=256 * MiB)))\n"
);

golden!(
    duplicate_jobs,
    "a/config.tw": "from tw import Job, export\n\nexport(Job(name=\"web\", command=\"x\"))\n",
    "b/config.tw": "from tw import Job, export\n\nexport(\n    Job(name=\"api\", command=\"x\"),\n    Job(name=\"web\", command=\"y\"),\n)\n"
);

golden!(
    leaving,
    "config.tw": "import sys\n\nsys.exit(\"enough\")\n"
);

golden!(
    a_set_in_the_output,
    "config.tw": "from tw import Job, export\n\nexport(Job(name=\"web\", command=\"x\", ports={\"http\", \"admin\"}))\n"
);

golden!(
    a_number_beyond_64_bits,
    "config.tw": "from tw import Job, export\n\nexport(Job(name=\"web\", command=\"x\", replicas=2**70))\n"
);

golden!(
    changing_a_spec_object,
    "config.tw": "from tw import Job, export\n\njob = Job(name=\"web\", command=\"x\")\njob.replicas = 3\n"
);

golden!(
    exporting_something_else,
    "config.tw": "from tw import Resources, export\n\nexport(Resources(cpu=1))\n"
);

golden!(
    a_missing_package,
    "config.tw": "from tw import Job, Package, export\n\nexport(Job(name=\"web\", command=\"x\", packages=[Package.folder(\"ap\")]))\n"
);

golden!(
    a_missing_file,
    "config.tw": "from tw import repo\n\nversion = repo.read(\"VERSION\")\n"
);

golden!(
    endless_recursion,
    "config.tw": "def f(n):\n    return f(n + 1)\n\n\nf(0)\n"
);

golden!(
    modules_that_import_each_other,
    "a.py": "from b import y\nx = 1\n",
    "b.py": "from a import x\ny = 1\n",
    "config.tw": "import a\n"
);

golden!(
    reading_a_file,
    "config.tw": "from tw import Job, export\n\nwith open(\"command.txt\") as file:\n    export(Job(name=\"web\", command=file.read()))\n"
);

#[test]
fn an_error_has_the_stable_json() {
    let repo = Repo::with(&[(
        "config.tw",
        "from tw import Job, export\n\nexport(Job(name=\"web\", commnd=\"server\"))\n",
    )]);
    let shown = serde_json::to_value(&repo.evaluate().errors).expect("json");
    let expected = serde_json::json!({
        "code": "spec.unknown_field",
        "file": "config.tw",
        "line": 3,
        "column": 24,
        "end_line": 3,
        "end_column": 39,
        "message": "`Job` has no field `commnd`",
        "hint": "did you mean `command`?",
        "source_line": "export(Job(name=\"web\", commnd=\"server\"))",
        "trace": [{
            "file": "config.tw",
            "line": 3,
            "column": 8,
            "function": "<module>",
            "source_line": "export(Job(name=\"web\", commnd=\"server\"))",
        }],
    });
    assert_eq!(shown[0], expected);
}
