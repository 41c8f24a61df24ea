//! Branches of real servers, over HTTPS and over SSH: what the controller is told in twill.toml, and what it says when
//! that does not do.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::probe::wait_until;
use crate::repository::Repository;

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/git_over_https.py");
const TOKEN: &str = "token-of-the-test";
const JOB: &str =
    "from tw import Job, export\nexport(Job(name=\"NAME\", command=[\"sleep\", \"1000\"]))\n";

/// A process that ends with the test.
struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder of bare repositories, with what servers and clients need to know of each other.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("home/.ssh")).unwrap();
        Place { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Makes `served/NAME.git` with one commit on main.
    fn serve(&self, name: &str) {
        let work = Repository::new(self.path("work").join(name));
        work.write("config.tw", &JOB.replace("NAME", name));
        work.commit("begin");
        let served = self.path("served").join(format!("{name}.git"));
        work.git(&[
            "clone",
            "--quiet",
            "--bare",
            ".",
            &served.display().to_string(),
        ]);
    }

    /// Makes a certificate for 127.0.0.1 that vouches for itself: `NAME.crt` and `NAME.key`.
    fn certificate(&self, name: &str) {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        run(Command::new("openssl").args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            &self.text(&key),
            "-out",
            &self.text(&certificate),
        ]));
    }

    /// Makes a pair of keys for SSH: `NAME` and `NAME.pub`.
    fn key(&self, name: &str) {
        run(Command::new("ssh-keygen").args([
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            name,
            "-f",
            &self.text(name),
        ]));
    }

    fn https(&self, certificate: &str) -> Server {
        let mut process = Command::new("python3")
            .args([SERVER, &self.text("served")])
            .args([
                self.text(&format!("{certificate}.crt")),
                self.text(&format!("{certificate}.key")),
            ])
            .arg(TOKEN)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        Server {
            process,
            port: line.trim().parse().unwrap(),
        }
    }

    /// sshd wants a folder of its own below /run, which it has in a mount namespace.
    fn ssh(&self) -> Server {
        let port = free_port();
        self.key("host");
        self.write("authorized", "");
        self.write("sshd.conf", &format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
            self.text("host"), self.text("authorized"),
        ));
        let script = format!(
            "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec $(command -v sshd || echo /usr/sbin/sshd) -D -f {}",
            self.text("sshd.conf")
        );
        let process = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { process, port };
        wait_until("sshd listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn repository(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[repository]]\nname = \"{name}\"\nurl = \"{url}\"\nmode = \"auto\"\npoll = \"1h\"\n{more}\n"
    )
}

/// Looks at a branch now: its trouble, or null.
fn fetched(cluster: &Cluster, name: &str) -> Value {
    let reply = cluster
        .tw(&["repos", name, "--fetch", "--json"])
        .exits(0)
        .json();
    reply["trouble"].clone()
}

#[track_caller]
fn assert_trouble(cluster: &Cluster, name: &str, words: &[&str]) {
    let trouble = fetched(cluster, name);
    assert_eq!(trouble["code"], "repository.unreachable", "{trouble}");
    let message = trouble["message"].as_str().unwrap();
    for word in words {
        assert!(message.contains(word), "{word} in {message}");
    }
    assert!(!message.contains(TOKEN), "{message}");
}

#[test]
fn branches_of_servers_are_followed_with_the_credentials_of_the_configuration() {
    let place = Place::new();
    for name in ["secure", "doubtful", "shell"] {
        place.serve(name);
    }
    place.certificate("known");
    place.certificate("stranger");
    place.key("deploy");
    place.write("token", "wrong\n");
    let (known, stranger, shell) = (place.https("known"), place.https("stranger"), place.ssh());
    let token = format!("token_file = \"{}\"", place.text("token"));
    let key = format!("ssh_key = \"{}\"", place.text("deploy"));
    let config = [
        repository(
            "secure",
            &format!("https://127.0.0.1:{}/secure.git", known.port),
            &token,
        ),
        repository(
            "doubtful",
            &format!("https://127.0.0.1:{}/doubtful.git", stranger.port),
            &token,
        ),
        repository(
            "shell",
            &format!(
                "ssh://root@127.0.0.1:{}{}",
                shell.port,
                place.text("served/shell.git")
            ),
            &key,
        ),
    ];
    let environment = [
        ("HOME", place.text("home")),
        ("SSL_CERT_FILE", place.text("known.crt")),
    ];
    let cluster = Cluster::start_within(1, &config.concat(), &environment);

    // Over HTTPS: whom the server is vouched for by, then who asks.
    assert_trouble(
        &cluster,
        "doubtful",
        &["certificate", "not trusted", "SSL_CERT_FILE"],
    );
    assert_trouble(
        &cluster,
        "secure",
        &["does not let the controller in", "`token_file`"],
    );
    std::fs::remove_file(place.path("token")).unwrap();
    assert_trouble(&cluster, "secure", &["the token file", "`token_file`"]);
    place.write("token", TOKEN);
    assert_eq!(fetched(&cluster, "secure"), Value::Null);
    cluster.wait_settled("secure");

    // Over SSH: the same two questions.
    assert_trouble(&cluster, "shell", &["host key", "known_hosts"]);
    let host = place.read("host.pub");
    let known_host = format!("[127.0.0.1]:{} {host}", shell.port);
    place.write("home/.ssh/known_hosts", &known_host);
    assert_trouble(
        &cluster,
        "shell",
        &["does not let the controller in", "`ssh_key`"],
    );
    place.write("authorized", &place.read("deploy.pub"));
    assert_eq!(fetched(&cluster, "shell"), Value::Null);
    cluster.wait_settled("shell");

    // A server that shows another key than before is not spoken to.
    place.key("another");
    let changed = format!("[127.0.0.1]:{} {}", shell.port, place.read("another.pub"));
    place.write("home/.ssh/known_hosts", &changed);
    assert_trouble(&cluster, "shell", &["host key", "known_hosts"]);
    let events = cluster
        .tw(&["events", "--repository", "shell"])
        .exits(0)
        .stdout;
    assert!(
        events.contains("commit.seen") && events.contains("plan.applied"),
        "{events}"
    );
}
