//! What well-known images start, so that a spec can name its program.

/// An image whose entry point and command are the same in all its recent versions.
pub(crate) struct KnownImage {
    /// The repository, without the registry of Docker Hub and without `library/`.
    repository: &'static str,
    pub(crate) entrypoint: &'static [&'static str],
    pub(crate) command: &'static [&'static str],
    /// How its program is told to listen on another port than its own.
    pub(crate) listen: Option<(u16, ListenBy)>,
    /// What is appended to the name of a variable to have its value read from a file.
    pub(crate) file_suffix: Option<&'static str>,
}

/// How a program is told its port.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ListenBy {
    /// An option and its value as two arguments.
    Option(&'static str),
    /// One argument that ends in the number.
    Argument(&'static str),
    /// A variable.
    Variable(&'static str),
}

const fn image(
    repository: &'static str,
    entrypoint: &'static [&'static str],
    command: &'static [&'static str],
) -> KnownImage {
    KnownImage {
        repository,
        entrypoint,
        command,
        listen: None,
        file_suffix: None,
    }
}

impl KnownImage {
    const fn listens(mut self, number: u16, by: ListenBy) -> KnownImage {
        self.listen = Some((number, by));
        self
    }

    const fn reads_files(mut self, suffix: &'static str) -> KnownImage {
        self.file_suffix = Some(suffix);
        self
    }
}

const SCRIPT: &[&str] = &["docker-entrypoint.sh"];

static IMAGES: &[KnownImage] = &[
    image(
        "adminer",
        &["entrypoint.sh"],
        &["php", "-S", "[::]:8080", "-t", "/var/www/html"],
    ),
    image("alpine", &[], &["/bin/sh"]),
    image("bash", SCRIPT, &["bash"]),
    image(
        "bitnami/redis",
        &["/opt/bitnami/scripts/redis/entrypoint.sh"],
        &["/opt/bitnami/scripts/redis/run.sh"],
    )
    .listens(6379, ListenBy::Variable("REDIS_PORT_NUMBER"))
    .reads_files("_FILE"),
    image("busybox", &[], &["sh"]),
    image(
        "caddy",
        &[],
        &[
            "caddy",
            "run",
            "--config",
            "/etc/caddy/Caddyfile",
            "--adapter",
            "caddyfile",
        ],
    ),
    image("cassandra", SCRIPT, &["cassandra", "-f"]),
    image("consul", SCRIPT, &["agent", "-dev", "-client", "0.0.0.0"]),
    image(
        "couchdb",
        &["tini", "--", "/docker-entrypoint.sh"],
        &["/opt/couchdb/bin/couchdb"],
    ),
    image("debian", &[], &["bash"]),
    image(
        "elasticsearch",
        &["/bin/tini", "--", "/usr/local/bin/docker-entrypoint.sh"],
        &["eswrapper"],
    )
    .listens(9200, ListenBy::Variable("http.port")),
    image("ghost", SCRIPT, &["node", "current/index.js"])
        .listens(2368, ListenBy::Variable("server__port")),
    image("grafana/grafana", &["/run.sh"], &[])
        .listens(3000, ListenBy::Variable("GF_SERVER_HTTP_PORT"))
        .reads_files("__FILE"),
    image(
        "haproxy",
        SCRIPT,
        &["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
    ),
    image("hashicorp/http-echo", &["/http-echo"], &[])
        .listens(5678, ListenBy::Argument("-listen=:")),
    image("httpd", &[], &["httpd-foreground"]),
    image("influxdb", &["/entrypoint.sh"], &["influxd"]),
    image("joomla", &["/entrypoint.sh"], &["apache2-foreground"]),
    image(
        "kibana",
        &["/bin/tini", "--"],
        &["/usr/local/bin/kibana-docker"],
    )
    .listens(5601, ListenBy::Variable("SERVER_PORT")),
    image("logstash", &["/usr/local/bin/docker-entrypoint"], &[]),
    image("mariadb", SCRIPT, &["mariadbd"])
        .listens(3306, ListenBy::Argument("--port="))
        .reads_files("_FILE"),
    image("memcached", SCRIPT, &["memcached"]).listens(11211, ListenBy::Option("-p")),
    image(
        "minio/minio",
        &["/usr/bin/docker-entrypoint.sh"],
        &["minio"],
    )
    .reads_files("_FILE"),
    image("mongo", SCRIPT, &["mongod"])
        .listens(27017, ListenBy::Option("--port"))
        .reads_files("_FILE"),
    image("mysql", SCRIPT, &["mysqld"])
        .listens(3306, ListenBy::Argument("--port="))
        .reads_files("_FILE"),
    image("mysql/mysql-server", &["/entrypoint.sh"], &["mysqld"])
        .listens(3306, ListenBy::Argument("--port=")),
    image(
        "nats",
        SCRIPT,
        &["nats-server", "--config", "nats-server.conf"],
    )
    .listens(4222, ListenBy::Option("--port")),
    image("nextcloud", &["/entrypoint.sh"], &["apache2-foreground"]).reads_files("_FILE"),
    image(
        "nginx",
        &["/docker-entrypoint.sh"],
        &["nginx", "-g", "daemon off;"],
    ),
    image("node", SCRIPT, &["node"]),
    image(
        "phpmyadmin",
        &["/docker-entrypoint.sh"],
        &["apache2-foreground"],
    )
    .listens(80, ListenBy::Variable("APACHE_PORT"))
    .reads_files("_FILE"),
    image("postgres", SCRIPT, &["postgres"])
        .listens(5432, ListenBy::Variable("PGPORT"))
        .reads_files("_FILE"),
    image(
        "prom/alertmanager",
        &["/bin/alertmanager"],
        &[
            "--config.file=/etc/alertmanager/alertmanager.yml",
            "--storage.path=/alertmanager",
        ],
    )
    .listens(9093, ListenBy::Argument("--web.listen-address=:")),
    image("prom/node-exporter", &["/bin/node_exporter"], &[])
        .listens(9100, ListenBy::Argument("--web.listen-address=:")),
    image(
        "prom/prometheus",
        &["/bin/prometheus"],
        &[
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
        ],
    )
    .listens(9090, ListenBy::Argument("--web.listen-address=:")),
    image("python", &[], &["python3"]),
    image("rabbitmq", SCRIPT, &["rabbitmq-server"])
        .listens(5672, ListenBy::Variable("RABBITMQ_NODE_PORT")),
    image("redis", SCRIPT, &["redis-server"]).listens(6379, ListenBy::Option("--port")),
    image(
        "registry",
        &["/entrypoint.sh"],
        &["/etc/distribution/config.yml"],
    ),
    image("solr", SCRIPT, &["solr-foreground"]).listens(8983, ListenBy::Variable("SOLR_PORT")),
    image("tomcat", &[], &["catalina.sh", "run"]),
    image("traefik", &["/entrypoint.sh"], &["traefik"]),
    image("ubuntu", &[], &["/bin/bash"]),
    image("valkey/valkey", SCRIPT, &["valkey-server"]).listens(6379, ListenBy::Option("--port")),
    image("vault", SCRIPT, &["server", "-dev"]),
    image("wordpress", SCRIPT, &["apache2-foreground"]).reads_files("_FILE"),
    image(
        "zookeeper",
        &["/docker-entrypoint.sh"],
        &["zkServer.sh", "start-foreground"],
    )
    .listens(2181, ListenBy::Variable("ZOO_CLIENT_PORT")),
];

/// Finds what is known of an image.
pub(crate) fn known(reference: &str) -> Option<&'static KnownImage> {
    let repository = repository(reference);
    IMAGES.iter().find(|image| image.repository == repository)
}

/// The repository of a reference, as Docker Hub knows it: no registry, no `library/`, no tag, no digest.
fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let hub = ["docker.io/", "index.docker.io/", "registry-1.docker.io/"];
    let name = hub
        .iter()
        .find_map(|registry| name.strip_prefix(registry))
        .unwrap_or(name);
    let name = name
        .strip_prefix("docker.elastic.co/")
        .map_or(name, |rest| rest.rsplit('/').next().unwrap_or(rest));
    name.strip_prefix("library/").unwrap_or(name)
}

/// The reference in full, as a registry's client needs it: `redis` is `docker.io/library/redis`.
pub(crate) fn full_reference(reference: &str) -> String {
    let first = reference.split('/').next().unwrap_or_default();
    let has_registry = reference.contains('/')
        && (first.contains('.') || first.contains(':') || first == "localhost");
    match (has_registry, reference.contains('/')) {
        (true, _) => reference.to_owned(),
        (false, true) => format!("docker.io/{reference}"),
        (false, false) => format!("docker.io/library/{reference}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_repository() {
        for reference in [
            "redis",
            "redis:7.2-alpine",
            "docker.io/library/redis@sha256:00",
            "library/redis:7",
        ] {
            assert!(
                known(reference).is_some_and(|image| image.repository == "redis"),
                "{reference}"
            );
        }
        for reference in ["localhost:5000/redis", "ghcr.io/team/redis:1", "team/redis"] {
            assert!(known(reference).is_none(), "{reference}");
        }
    }

    #[test]
    fn a_reference_in_full_names_its_registry() {
        assert_eq!(full_reference("redis:7"), "docker.io/library/redis:7");
        assert_eq!(
            full_reference("prom/prometheus"),
            "docker.io/prom/prometheus"
        );
        assert_eq!(full_reference("localhost:5000/app"), "localhost:5000/app");
        assert_eq!(full_reference("ghcr.io/team/app:1"), "ghcr.io/team/app:1");
    }
}
