//! From git to the cluster: branches that are followed, plans that wait, and what is refused.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::probe::{self, wait_for, wait_until};

/// A job that runs on, and says what it is in its environment.
fn job(name: &str, says: &str, more: &str) -> String {
    format!(
        r#"
from tw import SECOND, Job, Package, Stop, export
export(Job(
    name="{name}", command=["sleep", "1000"], env={{"SAYS": "{says}"}},
    stop=Stop(drain=0 * SECOND, grace=1 * SECOND), {more}
))
"#
    )
}

/// A cluster that follows branch main of its repository.
fn following(mode: &str, namespace: &str) -> Cluster {
    let config = format!(
        r#"
[[repository]]
name = "shop"
url = "../repository"
namespace = "{namespace}"
poll = "300ms"
mode = "{mode}"
"#
    );
    let cluster = Cluster::start_with(1, &config);
    cluster.repository.write("README.md", "specs\n");
    cluster.repository.commit("begin");
    cluster
}

fn shop(cluster: &Cluster) -> Value {
    cluster.tw(&["repos", "shop", "--json"]).exits(0).json()
}

fn commit_of(cluster: &Cluster, which: &str) -> String {
    let id = shop(cluster)[which]["id"].clone();
    id.as_str().unwrap_or_default().to_owned()
}

/// Waits for the plan of the newest commit.
fn waiting(cluster: &Cluster) -> String {
    let head = cluster.repository.head();
    wait_for("a plan that waits", || {
        let plans = cluster.tw(&["plans", "--json"]).exits(0).json();
        let plans = plans["plans"].as_array()?.clone();
        let plan = plans.iter().find(|plan| plan["commit"]["id"] == head)?;
        Some(plan["digest"].as_str()?.to_owned())
    })
}

fn wait_applied(cluster: &Cluster) {
    let head = cluster.repository.head();
    wait_until("the commit is applied", || {
        commit_of(cluster, "applied") == head
    });
}

fn trouble(cluster: &Cluster, code: &str) -> Value {
    wait_for(&format!("trouble {code}"), || {
        let trouble = shop(cluster)["trouble"].clone();
        (trouble["code"] == code).then_some(trouble)
    })
}

fn wait_well(cluster: &Cluster) {
    wait_until("no trouble", || shop(cluster)["trouble"].is_null());
}

fn version(cluster: &Cluster, job: &str) -> u64 {
    let status = cluster.try_status(job);
    status.map_or(0, |status| status["job"]["version"].as_u64().unwrap())
}

#[test]
fn a_commit_waits_until_someone_approves_the_plan_of_its_digest() {
    let cluster = following("approve", "shop");
    let repository = &cluster.repository;
    repository.write("web/config.tw", &job("web", "one", ""));
    repository.commit("web says one");
    let digest = waiting(&cluster);
    assert_eq!(version(&cluster, "shop/web"), 0, "nothing runs before");
    let listed = cluster.tw(&["plans"]).exits(0).stdout;
    assert!(
        listed.contains(&digest[..12]) && listed.contains("web says one"),
        "{listed}"
    );
    let status = cluster.tw(&["status"]).exits(0).stdout;
    assert!(status.contains("tw plans"), "{status}");

    let wrong = cluster.post(&format!("/v1/plans/{}/approve", "0".repeat(64)), &json!({}));
    assert!(
        wrong
            .unwrap_err()
            .to_string()
            .contains("no plan has the digest")
    );
    cluster.tw(&["approve", "00000000"]).exits(1);
    cluster
        .tw(&[
            "approve",
            &digest[..12],
            "--as",
            "alice",
            "--reason",
            "looks right",
        ])
        .exits(0);
    cluster.wait_settled("shop/web");
    let again = cluster.tw(&["approve", &digest[..12]]).exits(1);
    assert!(
        again.stderr.contains("is applied, by alice"),
        "{}",
        again.stderr
    );

    // Who let which digest of which commit through is in the job's history.
    let spec = cluster.get("/v1/jobs/shop/web/spec").unwrap();
    assert_eq!(spec["job"]["source"]["revision"], repository.head());
    let version_one = &spec["versions"][0];
    assert_eq!(version_one["by"], "alice (root)");
    assert_eq!(version_one["plan"], digest);
    assert_eq!(
        version_one["approval"],
        json!({"how": "reviewed", "repository": "shop"})
    );
    let history = cluster
        .tw(&["history", "shop/web", "--applied"])
        .exits(0)
        .stdout;
    for words in [
        "alice (root)",
        &digest[..12],
        &repository.head()[..10],
        "web says one",
    ] {
        assert!(history.contains(words), "{words} in {history}");
    }

    // A commit that changes nothing needs nobody.
    repository.write("README.md", "more\n");
    repository.commit("words");
    wait_applied(&cluster);
    assert_eq!(version(&cluster, "shop/web"), 1);

    // What is rejected is not asked again.
    std::fs::remove_dir_all(repository.root().join("web")).unwrap();
    repository.commit("web is gone");
    let digest = waiting(&cluster);
    let shown = cluster.tw(&["plans", &digest]).exits(0).stdout;
    assert!(shown.contains("shop/web"), "{shown}");
    cluster
        .tw(&["reject", &digest, "--reason", "not today"])
        .exits(0);
    cluster.tw(&["repos", "shop", "--fetch"]).exits(0);
    assert_eq!(cluster.tw(&["plans", "--json"]).json()["plans"], json!([]));
    cluster.wait_settled("shop/web");
}

#[test]
fn a_branch_that_goes_wrong_leaves_the_cluster_as_it_is() {
    let cluster = following("auto", "default");
    let repository = &cluster.repository;
    repository.write("app/greeting", "committed\n");
    let package = "packages=[Package.folder(\"app\")]";
    repository.write("config.tw", &job("web", "one", package));
    repository.commit("web says one");
    // What is packed is the commit's, and not what lies in the work tree.
    repository.write("app/greeting", "not committed\n");
    wait_applied(&cluster);
    cluster.wait_settled("web");
    let greeting = cluster
        .tw(&["exec", "web.0", "--", "cat", "greeting"])
        .exits(0)
        .stdout;
    assert_eq!(greeting.trim(), "committed");
    let spec = cluster.get("/v1/jobs/default/web/spec").unwrap();
    assert_eq!(
        spec["versions"][0]["approval"],
        json!({"how": "followed", "repository": "shop"})
    );
    repository.git(&["checkout", "--quiet", "app"]);
    let good = repository.head();

    repository.write("config.tw", "from tw import Jobb\n");
    repository.commit("a mistake");
    let broken = trouble(&cluster, "repository.broken");
    let message = broken["message"].as_str().unwrap();
    assert!(message.contains("config.tw:1"), "{message}");
    let shown = cluster.tw(&["repos"]).exits(0).stdout;
    assert!(shown.contains("repository.broken since"), "{shown}");

    // A forced push is followed only when someone approves it.
    repository.git(&["reset", "--quiet", "--hard", "HEAD~2"]);
    repository.write("config.tw", &job("web", "another past", ""));
    repository.commit("another past");
    let digest = waiting(&cluster);
    let events = cluster.tw(&["repos", "shop"]).exits(0).stdout;
    assert!(events.contains("branch.rewritten"), "{events}");
    assert_eq!(version(&cluster, "web"), 1);
    // Back on the way that was applied, nothing has to be decided.
    repository.git(&["reset", "--quiet", "--hard", &good]);
    wait_until("the plan is superseded", || {
        let plan = cluster.get(&format!("/v1/plans/{digest}")).unwrap();
        plan["record"]["state"] == "superseded"
    });
    wait_well(&cluster);

    repository.git(&["branch", "--quiet", "-m", "main", "elsewhere"]);
    trouble(&cluster, "repository.branch_gone");
    repository.git(&["branch", "--quiet", "-m", "elsewhere", "main"]);
    wait_well(&cluster);
    let away = repository.root().with_file_name("away");
    std::fs::rename(repository.root(), &away).unwrap();
    let unreachable = wait_for("the repository is unreachable", || {
        let reply = cluster.get("/v1/repositories").unwrap();
        let trouble = reply["repositories"][0]["trouble"].clone();
        (trouble["code"] == "repository.unreachable").then_some(trouble)
    });
    assert!(unreachable["since"].is_string());
    std::fs::rename(&away, repository.root()).unwrap();
    wait_well(&cluster);
    assert_eq!(version(&cluster, "web"), 1);

    // What would destroy something waits even here.
    repository.write(
        "config.tw",
        &job("web", "one", &format!("replicas=0, {package}")),
    );
    repository.commit("nothing of it");
    let digest = waiting(&cluster);
    let plan = cluster.get(&format!("/v1/plans/{digest}")).unwrap();
    assert_eq!(plan["record"]["waits_for"], "it destroys something of web");
    assert_eq!(version(&cluster, "web"), 1);
}

#[test]
fn an_approval_holds_for_what_was_seen_and_nothing_else() {
    let cluster = following("approve", "default");
    let repository = &cluster.repository;
    repository.write("config.tw", &job("web", "one", ""));
    repository.commit("web says one");
    // Another job comes between, which matters to nobody.
    let digest = waiting(&cluster);
    let aside = repository.root().with_file_name("aside");
    std::fs::create_dir(&aside).unwrap();
    std::fs::write(aside.join("config.tw"), job("aside", "hello", "")).unwrap();
    let aside = aside.join("config.tw").display().to_string();
    cluster.tw(&["apply", "--auto-approve", &aside]).exits(0);
    cluster.tw(&["approve", &digest]).exits(0);
    cluster.wait_settled("web");

    // Somebody touches the job itself.
    repository.write("config.tw", &job("web", "two", ""));
    repository.commit("web says two");
    let stale = waiting(&cluster);
    cluster.tw(&["restart", "web"]).exits(0);
    let refused = cluster.tw(&["approve", &stale]).exits(1).stderr;
    assert!(refused.contains("version 1 became 2"), "{refused}");
    assert!(refused.contains("a fresh plan waits"), "{refused}");
    // What would happen is settled once its task runs again.
    cluster.wait_settled("web");
    cluster.tw(&["repos", "shop", "--fetch"]).exits(0);
    let fresh = waiting(&cluster);
    assert_ne!(fresh, stale);
    assert_eq!(version(&cluster, "web"), 2);
    let gone = cluster.tw(&["approve", &stale]).exits(1).stderr;
    assert!(gone.contains("is superseded"), "{gone}");
    cluster.tw(&["approve", &fresh]).exits(0);
    assert_eq!(version(&cluster, "web"), 3);
    wait_applied(&cluster);

    // Back to the first commit, by the same way.
    let back = cluster
        .tw(&["rollback", "web", "--to", "HEAD~1", "--auto-approve"])
        .exits(0);
    assert!(back.stdout.contains("SAYS"), "{}", back.stdout);
    let spec = cluster.get("/v1/jobs/default/web/spec").unwrap();
    assert_eq!(spec["job"]["spec"]["env"]["SAYS"], "one");
    assert_eq!(spec["current"], 4);
    let unknown = cluster
        .tw(&["rollback", "web", "--to", "v9", "--auto-approve"])
        .exits(1);
    assert!(
        unknown.stderr.contains("no commit 'v9'"),
        "{}",
        unknown.stderr
    );
    // The branch is not put back by itself, nor is the rollback undone.
    cluster.tw(&["repos", "shop", "--fetch"]).exits(0);
    assert_eq!(cluster.tw(&["plans", "--json"]).json()["plans"], json!([]));
}

#[test]
fn where_policy_asks_for_reviewed_commits_nothing_else_is_taken() {
    let cluster = following("auto", "shop");
    let repository = &cluster.repository;
    let policy = "from tw.policy import reviewed_commits\n\nreviewed_commits(owner=\"platform\")\n";
    repository.write("web/POLICY.py", policy);
    repository.write("web/config.tw", &job("web", "one", "namespace=\"shop\""));
    repository.write("free/config.tw", &job("free", "one", "namespace=\"shop\""));
    repository.commit("both");
    wait_applied(&cluster);

    repository.write("web/config.tw", &job("web", "typed", "namespace=\"shop\""));
    let planned = cluster.tw(&["plan", "web", "--json"]).exits(3).json();
    let said = planned["policy"]["findings"][0]["message"]
        .as_str()
        .unwrap();
    assert!(
        said.contains("from reviewed commits of branch 'main'"),
        "{said}"
    );
    cluster.tw(&["apply", "--auto-approve", "web"]).exits(1);
    // By the API, as if it came from elsewhere and no policy had said anything.
    let spec = cluster.get("/v1/jobs/shop/web/spec").unwrap();
    let mut typed = spec["job"].clone();
    typed["spec"]["env"]["SAYS"] = "typed".into();
    typed["source"] = json!({"file": "config.tw", "line": 1, "revision": repository.head()});
    let request = json!({"jobs": [typed]});
    let plan = cluster.post("/v1/plan", &request).unwrap();
    let request = json!({"jobs": request["jobs"], "digest": plan["digest"],
        "approval": {"how": "followed", "repository": "shop"}});
    let refused = cluster.post("/v1/apply", &request).unwrap_err();
    assert_eq!(refused.refusal().unwrap().code.as_str(), "policy.refused");
    // So is ending it that way, while a folder without such a policy is free.
    let request = json!({"jobs": [], "remove": ["shop/web"]});
    let plan = cluster.post("/v1/plan", &request).unwrap();
    assert_eq!(plan["policy"]["findings"][0]["level"], "forbid");
    repository.write(
        "free/config.tw",
        &job("free", "typed", "namespace=\"shop\""),
    );
    cluster.tw(&["apply", "--auto-approve", "free"]).exits(0);
    assert_eq!(version(&cluster, "shop/web"), 1);
}

#[test]
fn an_approval_outlives_the_controller_and_is_carried_out_once() {
    let cluster = following("approve", "default");
    let repository = &cluster.repository;
    // Large enough that a controller dies between the approval and its end.
    std::fs::create_dir(repository.root().join("app")).unwrap();
    let noise = |at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
    let bytes: Vec<u8> = (0..4_u32 << 20).map(noise).collect();
    std::fs::write(repository.root().join("app/large"), bytes).unwrap();
    repository.write(
        "config.tw",
        &job("web", "one", "packages=[Package.folder(\"app\")]"),
    );
    repository.commit("web says one");
    let digest = waiting(&cluster);
    let mut approving = cluster
        .command(&["approve", &digest])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = || {
        let reply = cluster.get(&format!("/v1/plans/{digest}")).ok()?;
        Some(reply["record"]["state"].as_str()?.to_owned())
    };
    let seen = wait_for("the approval", || {
        state().filter(|state| state != "waiting")
    });
    // Killed while its package is read, or, where that was quicker, right after: either way it is carried out once.
    assert!(["approved", "applied"].contains(&seen.as_str()), "{seen}");
    probe::kill_9(cluster.process("controller").unwrap());
    approving.wait().unwrap();
    wait_until("it is applied", || state().as_deref() == Some("applied"));
    cluster.wait_settled("web");
    assert_eq!(version(&cluster, "web"), 1);
    cluster.kill_and_await("controller");
    cluster.tw(&["repos", "shop", "--fetch"]).exits(0);
    assert_eq!(version(&cluster, "web"), 1);
}
