//! Two hundred jobs of twenty teams, and what people do to them in the course of a few weeks.

use crate::repository::Repository;

const TEAMS: [&str; 20] = [
    "shop", "search", "pay", "mail", "data", "auth", "media", "geo", "ads", "chat", "docs", "game",
    "news", "map", "hire", "crm", "bill", "ship", "risk", "play",
];

/// (role, replicas, size, the helper that makes it)
const ROLES: [(&str, u32, &str, &str); 10] = [
    ("api", 3, "MEDIUM", "service"),
    ("web", 4, "SMALL", "service"),
    ("gateway", 2, "SMALL", "service"),
    ("admin", 1, "SMALL", "service"),
    ("feed", 2, "SMALL", "service"),
    ("search", 2, "LARGE", "service"),
    ("worker", 5, "MEDIUM", "worker"),
    ("sync", 1, "SMALL", "worker"),
    ("index", 2, "LARGE", "worker"),
    ("mailer", 1, "SMALL", "worker"),
];

const BASE: &str = r#""""What all services have in common."""

from shared import env, sizes
from tw import SECOND, HttpCheck, Job, Rollout


def service(name, *, owner, replicas=2, size=sizes.SMALL, more_env=None, **more):
    """A service that answers on HTTP."""
    return Job(
        name=name,
        owner=owner,
        command=["./server", "--port", "{port:http}"],
        env=env.common() | (more_env or {}),
        replicas=replicas,
        resources=size,
        ports=["http"],
        health=[HttpCheck(port="http", path="/healthz", every=5 * SECOND)],
        rollout=Rollout(stages=[1, "100%"]),
        **more,
    )
"#;

const WORKERS: &str = r#""""What all workers have in common."""

from shared import env, sizes
from tw import SECOND, Job, Stop


def worker(name, *, owner, replicas=1, size=sizes.SMALL, more_env=None, **more):
    """A worker that takes from a queue."""
    return Job(
        name=name,
        owner=owner,
        command=["./worker", "--queue", name],
        env=env.common() | (more_env or {}),
        replicas=replicas,
        resources=size,
        stop=Stop(grace=30 * SECOND),
        **more,
    )
"#;

const ENV: &str = r#""""The environment of every task."""

REGION = "eu-north"
LOG_LEVEL = "info"


def common():
    return {"LOG_LEVEL": LOG_LEVEL, "REGION": REGION}
"#;

const SIZES: &str = r#""""Sizes that teams choose from."""

from tw import GiB, MiB, Resources

SMALL = Resources(cpu=0.25, memory=128 * MiB)
MEDIUM = Resources(cpu=0.5, memory=512 * MiB)
LARGE = Resources(cpu=2, memory=4 * GiB, disk=20 * GiB)
"#;

const POLICY: &str = r#"from tw.policy import policy, require, warn


@policy(owner="platform-team")
def has_owner(job):
    """Someone answers for every job."""
    require(job.owner, "every job names its owner")


@policy(owner="platform-team")
def has_spare(job):
    """One task is none."""
    warn(job.replicas < 2, "a job of one task is down with it")
"#;

/// One commit: its message, and what it does.
pub(crate) type Edit = (&'static str, fn(&Repository));

/// Writes and commits all two hundred.
pub(crate) fn begin() -> Repository {
    let mut repository = Repository::new();
    repository.write("shared/__init__.py", "");
    repository.write("shared/base.py", BASE);
    repository.write("shared/workers.py", WORKERS);
    repository.write("shared/env.py", ENV);
    repository.write("shared/sizes.py", SIZES);
    for team in TEAMS {
        for (role, replicas, size, helper) in ROLES {
            repository.write(
                &format!("{team}/{role}/config.tw"),
                spec(team, role, replicas, size, helper),
            );
        }
    }
    repository.commit("two hundred jobs");
    repository
}

fn spec(team: &str, role: &str, replicas: u32, size: &str, helper: &str) -> String {
    let module = if helper == "worker" {
        "workers"
    } else {
        "base"
    };
    format!(
        r#"from shared import sizes
from shared.{module} import {helper}
from tw import export

export(
    {helper}(
        "{team}-{role}",
        owner="{team}-team",
        replicas={replicas},
        size=sizes.{size},
        more_env={{
            "VERSION": "1.4.2",
        }},
    )
)
"#
    )
}

/// What happens after that, commit by commit.
pub(crate) const EDITS: &[Edit] = &[
    ("bump the shop's api", |r| {
        r.replace("shop/api/config.tw", "1.4.2", "1.5.0");
    }),
    ("small is a little larger", |r| {
        r.replace("shared/sizes.py", "memory=128 * MiB", "memory=192 * MiB");
    }),
    ("say more about services", |r| {
        r.replace(
            "shared/base.py",
            "\"\"\"A service that answers on HTTP.\"\"\"",
            "\"\"\"A service that answers on HTTP, checked every few seconds.\"\"\"",
        );
    }),
    ("the feed of the shop is its timeline", |r| {
        r.rename("shop/feed/config.tw", "shop/timeline/config.tw");
        r.replace("shop/timeline/config.tw", "shop-feed", "shop-timeline");
    }),
    ("checks in a module of their own", |r| {
        r.write(
            "shared/checks.py",
            "\"\"\"How services are checked.\"\"\"\n\nfrom tw import SECOND, HttpCheck\n\n\ndef http():\n    return HttpCheck(port=\"http\", path=\"/healthz\", every=5 * SECOND)\n",
        );
        r.replace(
            "shared/base.py",
            "from shared import env, sizes",
            "from shared import checks, env, sizes",
        );
        r.replace(
            "shared/base.py",
            "from tw import SECOND, HttpCheck, Job, Rollout",
            "from tw import Job, Rollout",
        );
        r.replace(
            "shared/base.py",
            "health=[HttpCheck(port=\"http\", path=\"/healthz\", every=5 * SECOND)]",
            "health=[checks.http()]",
        );
    }),
    ("payments read a key", |r| {
        for role in ["api", "gateway"] {
            let spec = format!("pay/{role}/config.tw");
            r.replace(
                &spec,
                "from tw import export",
                "from tw import Secret, export",
            );
            r.replace(
                &spec,
                "        more_env",
                "        secrets=[Secret(name=\"card-key\")],\n        more_env",
            );
        }
    }),
    ("the map needs a machine that nobody has", |r| {
        r.replace(
            "map/api/config.tw",
            "from tw import export",
            "from tw import Requires, export",
        );
        r.replace(
            "map/api/config.tw",
            "        more_env",
            "        requires=Requires(labels={\"gpu\": \"h900\"}),\n        more_env",
        );
    }),
    ("search gets more tasks", |r| {
        r.replace("search/api/config.tw", "replicas=3", "replicas=8");
    }),
    ("nobody administers chats", |r| {
        r.replace("chat/admin/config.tw", "replicas=1", "replicas=0");
    }),
    ("games send no mail", |r| r.remove("game/mailer/config.tw")),
    ("the shop recommends", |r| {
        r.write(
            "shop/recommend/config.tw",
            spec("shop", "recommend", 3, "LARGE", "service"),
        );
    }),
    ("a new team", |r| {
        for (role, replicas, size, helper) in &ROLES[..4] {
            r.write(
                &format!("labs/{role}/config.tw"),
                spec("labs", role, *replicas, size, helper),
            );
        }
    }),
    ("everyone logs more", |r| {
        r.replace(
            "shared/env.py",
            "LOG_LEVEL = \"info\"",
            "LOG_LEVEL = \"debug\"",
        );
    }),
    ("everyone logs less again", |r| {
        r.replace(
            "shared/env.py",
            "LOG_LEVEL = \"debug\"",
            "LOG_LEVEL = \"info\"",
        );
    }),
    ("billing belongs to payments", |r| {
        for (role, ..) in ROLES {
            r.replace(&format!("bill/{role}/config.tw"), "bill-team", "pay-team");
        }
    }),
    ("someone writes a password down", |r| {
        r.replace(
            "crm/api/config.tw",
            "            \"VERSION\"",
            "            \"DB_PASSWORD\": \"correct horse\",\n            \"DB_URL\": \"postgres://crm:battery@db/crm\",\n            \"VERSION\"",
        );
    }),
    ("and changes it", |r| {
        r.replace("crm/api/config.tw", "correct horse", "staple");
    }),
    ("indexing ends when it is done", |r| {
        r.replace(
            "docs/index/config.tw",
            "        more_env",
            "        kind=\"batch\",\n        more_env",
        );
    }),
    ("the formatter went over the news", |r| {
        for (role, ..) in ROLES {
            let spec = format!("news/{role}/config.tw");
            r.replace(
                &spec,
                "        more_env={\n            \"VERSION\": \"1.4.2\",\n        },\n",
                "        more_env={\"VERSION\": \"1.4.2\"},\n",
            );
        }
    }),
    ("hiring moves to people", |r| {
        for (role, ..) in ROLES {
            r.rename(
                &format!("hire/{role}/config.tw"),
                &format!("people/{role}/config.tw"),
            );
        }
    }),
    ("updates go slower", |r| {
        r.replace(
            "shared/base.py",
            "stages=[1, \"100%\"]",
            "stages=[1, \"25%\", \"100%\"]",
        );
    }),
    ("checks ask for readiness", |r| {
        r.replace("shared/checks.py", "/healthz", "/readyz");
    }),
    ("the gateways speak metrics", |r| {
        for team in ["shop", "pay", "auth"] {
            r.replace(
                &format!("{team}/gateway/config.tw"),
                "        more_env",
                "        labels={\"metrics\": \"yes\"},\n        more_env",
            );
        }
    }),
    ("data keeps what it indexes", |r| {
        r.replace(
            "data/index/config.tw",
            "from tw import export",
            "from tw import GiB, Volume, export",
        );
        r.replace("data/index/config.tw", "        more_env", "        volumes=[Volume(name=\"index\", path=\"/var/lib/index\", size=10 * GiB)],\n        more_env");
    }),
    ("a larger index", |r| {
        r.replace("data/index/config.tw", "size=10 * GiB", "size=40 * GiB");
    }),
    ("data indexes elsewhere", |r| {
        r.remove("data/index/config.tw")
    }),
    ("workers say what they do", |r| {
        r.replace(
            "shared/workers.py",
            "\"--queue\", name]",
            "\"--queue\", name, \"--verbose\"]",
        );
    }),
    ("a bracket is missing", |r| {
        r.replace("ads/api/config.tw", "\n)\n", "\n");
        r.replace("ads/web/config.tw", "replicas=4", "replicas=6");
    }),
    ("two people edited ads", |r| {
        r.replace(
            "ads/api/config.tw",
            "        replicas=3,\n",
            "<<<<<<< HEAD\n        replicas=3,\n=======\n        replicas=4,\n>>>>>>> more\n",
        );
    }),
    ("ads are well again", |r| {
        r.write(
            "ads/api/config.tw",
            spec("ads", "api", 4, "MEDIUM", "service"),
        );
    }),
    ("sizes come from a table", |r| {
        r.write("geo/replicas.json", "{\"web\": 4}\n");
        r.replace(
            "geo/web/config.tw",
            "from shared import sizes\n",
            "import json\n\nfrom shared import sizes\n",
        );
        r.replace(
            "geo/web/config.tw",
            "from tw import export",
            "from tw import export, repo",
        );
        r.replace(
            "geo/web/config.tw",
            "replicas=4",
            "replicas=json.loads(repo.read(\"geo/replicas.json\"))[\"web\"]",
        );
    }),
    ("the table changes", |r| {
        r.write("geo/replicas.json", "{\"web\": 7}\n");
    }),
    ("someone plays with the reviewer", |r| {
        r.replace(
            "play/web/config.tw",
            "            \"VERSION\"",
            "            \"A\": \"``` \\n</details> <img src=x onerror=alert(1)> @everyone [x](http://evil.example) `b`\",\n            \"B\": \"\\u001b[2J\\u001b]0;owned\\u0007\\u202etxt.exe\\u200b\",\n            \"VERSION\"",
        );
        r.replace(
            "play/web/config.tw",
            "play-team",
            "@platform|<b>admins</b>`",
        );
    }),
    ("many things at once", |r| {
        r.replace("shared/sizes.py", "disk=20 * GiB", "disk=10 * GiB");
        r.replace("shared/env.py", "eu-north", "eu-south");
        r.replace("mail/mailer/config.tw", "1.4.2", "2.0.0");
        r.replace("mail/sync/config.tw", "replicas=1", "replicas=2");
        r.remove("risk/feed/config.tw");
        r.write(
            "risk/alerts/config.tw",
            spec("risk", "alerts", 2, "SMALL", "service"),
        );
    }),
    ("someone answers for every job", |r| {
        r.write("POLICY.py", POLICY);
        r.replace("ship/web/config.tw", "ship-team", "");
        r.replace("ship/web/config.tw", "replicas=4", "replicas=1");
    }),
];
