//! What looks like a credential is in no format of a review.

use crate::repository::Repository;

const BEFORE: &str = r#"from tw import Job, export

export(Job(name="web", command=["sleep", "60"]))
"#;

/// A spec in which someone wrote down what belongs elsewhere, in each of the usual ways.
fn careless(secret: &str) -> String {
    format!(
        r#"from tw import Job, export

export(
    Job(
        name="web",
        command=[
            "serve", "--password={secret}", "--token", "{secret}", "-u", "ann:{secret}",
            "--dsn", "postgres://ann:{secret}@db/shop", "--header", "Authorization: Bearer {secret}",
            "--config", '{{"client_secret": "{secret}"}}',
        ],
        env={{
            "PGPASSWORD": "{secret}",
            "STRIPE_API_KEY": "{secret}",
            "RUN": "mysql --password {secret} -h db",
            "URL": "https://host/x?access_token={secret}&page=2",
        }},
        labels={{"token": "{secret}"}},
    )
)
"#
    )
}

#[test]
fn no_format_shows_what_looks_like_a_credential() {
    let (one, other) = ("Hush0ne0ne0ne", "HushTw0Tw0Tw0");
    let mut repository = Repository::new();
    repository.write("web/config.tw", BEFORE);
    repository.commit("begin");
    repository.write("web/config.tw", careless(one));
    repository.commit("written down");
    repository.write("web/config.tw", careless(other));
    repository.commit("and changed");
    for base in ["HEAD~1", "HEAD~2"] {
        for format in [&["--json"][..], &["--markdown"], &[]] {
            let words = [&["diff", base, "HEAD"], format].concat();
            let ran = repository.tw(&words).exits(2);
            for secret in [one, other] {
                assert!(!ran.stdout.contains(secret), "{words:?}: {}", ran.stdout);
                assert!(!ran.stderr.contains(secret), "{words:?}: {}", ran.stderr);
            }
            assert!(ran.stdout.contains("***"), "{words:?}: {}", ran.stdout);
            assert!(ran.stdout.contains("@db/shop"), "{words:?}: {}", ran.stdout);
        }
    }
    let changed = repository.tw(&["diff", "HEAD~1", "HEAD"]).stdout;
    assert!(
        changed.contains("\"***\" → \"***\", another"),
        "that a hidden value changes is said: {changed}"
    );
    let evaluated = repository.tw(&["eval", "web", "--json"]).exits(0);
    assert!(!evaluated.stdout.contains(other), "{}", evaluated.stdout);
    assert_eq!(evaluated.json()["jobs"][0]["env"]["PGPASSWORD"], "***");
    let history = repository.tw(&["history", "web", "--json"]).exits(0).stdout;
    assert!(
        !history.contains(one) && !history.contains(other),
        "{history}"
    );
}
