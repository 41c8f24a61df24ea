//! How a job tells that its tasks serve.

use crate::*;

one_of! {
    /// How to tell that a task serves.
    pub enum HealthCheck {
        /// An HTTP request.
        Http(HttpCheck) = "http",
        /// A TCP connection.
        Tcp(TcpCheck) = "tcp",
        /// A command in the task's sandbox.
        Command(CommandCheck) = "command",
        /// A counter that the task keeps.
        Metric(MetricCheck) = "metric",
    }
}

choice! {
    /// What is done with a task that a check finds beyond its bounds.
    pub enum Remedy {
        /// It is ended and starts again.
        Restart = "restart",
        /// It is ended and starts again on another machine, where one has room.
        Move = "move",
    }
}

spec! {
    /// Healthy when a GET request is answered with a status from 200 to 399.
    pub struct HttpCheck {
        /// The name of the port to ask.
        /// Example: `port="http"`
        port: PortName => in_place;
        /// The path to ask for.
        /// Example: `path="/healthz"`
        path: String = "/".to_owned() => in_place;
        /// The time between two checks; less until the first good one. Five seconds notice a failure soon and cost next to
        /// nothing.
        /// Example: `every=5 * SECOND`
        every as "every_ms": Millis = Millis::seconds(5) => in_place;
        /// The time an answer may take.
        /// Example: `timeout=500 * MILLISECOND`
        timeout as "timeout_ms": Millis = Millis::seconds(2) => in_place;
        /// How many checks in a row must fail before a healthy task counts as unhealthy: one lost packet is no failure.
        /// Example: `failures=5`
        failures: u32 = 3 => in_place;
    }
    check check_http;
}

spec! {
    /// Healthy when a connection is accepted.
    pub struct TcpCheck {
        /// The name of the port to connect to.
        /// Example: `port="http"`
        port: PortName => in_place;
        /// The time between two checks; less until the first good one.
        /// Example: `every=5 * SECOND`
        every as "every_ms": Millis = Millis::seconds(5) => in_place;
        /// The time a connection may take.
        /// Example: `timeout=1 * SECOND`
        timeout as "timeout_ms": Millis = Millis::seconds(2) => in_place;
        /// How many checks in a row must fail before a healthy task counts as unhealthy.
        /// Example: `failures=5`
        failures: u32 = 3 => in_place;
    }
    check check_tcp;
}

spec! {
    /// Healthy when a command, run in the task's sandbox, ends with exit code 0.
    pub struct CommandCheck {
        /// The program and its arguments.
        /// Example: `command=["redis-cli", "ping"]`
        command: CommandLine => in_place;
        /// The time between two checks; less until the first good one.
        /// Example: `every=30 * SECOND`
        every as "every_ms": Millis = Millis::seconds(5) => in_place;
        /// The time the command may take.
        /// Example: `timeout=10 * SECOND`
        timeout as "timeout_ms": Millis = Millis::seconds(2) => in_place;
        /// How many checks in a row must fail before a healthy task counts as unhealthy.
        /// Example: `failures=2`
        failures: u32 = 3 => in_place;
    }
    check check_command;
}

spec! {
    /// Healthy while a number that the task counts stays within its bounds: clients, exceptions, latency. It is read from a
    /// page or a file in the text format of Prometheus.
    pub struct MetricCheck {
        /// The name of the metric; of several series the sum counts, so name labels to choose among them.
        /// Example: `metric="request_seconds{quantile=\"0.99\"}"`
        metric: String => in_place;
        /// The name of the port that serves the page; without one, `file` is read.
        /// Example: `port="http"`
        port: Option<PortName> = None => in_place;
        /// The path of the page on that port.
        /// Example: `path="/internal/metrics"`
        path: String = "/metrics".to_owned() => in_place;
        /// A file that the task writes, as the task sees it.
        /// Example: `file="/tmp/metrics.prom"`
        file: Option<AbsolutePath> = None => in_place;
        /// The number is out of bounds above this.
        /// Example: `above=0.5`
        above as "above_millionths": Option<Number> = None => in_place;
        /// The number is out of bounds below this.
        /// Example: `below=1`
        below as "below_millionths": Option<Number> = None => in_place;
        /// Bounds the rise within this time instead of the number itself; for counters, which only grow.
        /// Example: `over=1 * MINUTE`
        over as "over_ms": Option<Millis> = None => in_place;
        /// What is done with a task out of bounds. Nothing by default: a bound that was badly chosen should not end what
        /// works. No more tasks are ended at once than `Rollout(max_unavailable=…)` allows, and each waits as after a failure.
        /// Example: `remedy="restart"`
        remedy: Option<Remedy> = None => in_place;
        /// The time between two readings; less until the first good one.
        /// Example: `every=15 * SECOND`
        every as "every_ms": Millis = Millis::seconds(5) => in_place;
        /// The time a reading may take.
        /// Example: `timeout=1 * SECOND`
        timeout as "timeout_ms": Millis = Millis::seconds(2) => in_place;
        /// How many readings in a row must be out of bounds: one burst is no failure.
        /// Example: `failures=5`
        failures: u32 = 3 => in_place;
    }
    check check_metric;
}

impl Remedy {
    /// The one of two that does more.
    pub fn most(one: Option<Remedy>, other: Option<Remedy>) -> Option<Remedy> {
        match (one, other) {
            (Some(Remedy::Move), _) | (_, Some(Remedy::Move)) => Some(Remedy::Move),
            (one, other) => one.or(other),
        }
    }
}

impl Keyed for HealthCheck {
    fn key(&self) -> String {
        match self {
            HealthCheck::Http(check) => format!("http:{}{}", check.port, check.path),
            HealthCheck::Tcp(check) => format!("tcp:{}", check.port),
            HealthCheck::Command(check) => format!("command:{}", check.command.0.join(" ")),
            HealthCheck::Metric(check) => format!("metric:{}", check.metric),
        }
    }
}

impl HealthCheck {
    pub fn every(&self) -> Millis {
        match self {
            HealthCheck::Http(check) => check.every,
            HealthCheck::Tcp(check) => check.every,
            HealthCheck::Command(check) => check.every,
            HealthCheck::Metric(check) => check.every,
        }
    }

    pub fn timeout(&self) -> Millis {
        match self {
            HealthCheck::Http(check) => check.timeout,
            HealthCheck::Tcp(check) => check.timeout,
            HealthCheck::Command(check) => check.timeout,
            HealthCheck::Metric(check) => check.timeout,
        }
    }

    pub fn failures(&self) -> u32 {
        match self {
            HealthCheck::Http(check) => check.failures,
            HealthCheck::Tcp(check) => check.failures,
            HealthCheck::Command(check) => check.failures,
            HealthCheck::Metric(check) => check.failures,
        }
    }

    pub(super) fn port(&self) -> Option<&PortName> {
        match self {
            HealthCheck::Http(check) => Some(&check.port),
            HealthCheck::Tcp(check) => Some(&check.port),
            HealthCheck::Command(_) => None,
            HealthCheck::Metric(check) => check.port.as_ref(),
        }
    }
}

fn check_http(check: &HttpCheck, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if !check.path.starts_with('/') || check.path.contains(char::is_whitespace) {
        let message = format!("'{}' is not a path to ask for", check.path);
        return decoder.bad_value(
            &at.field("path"),
            message,
            Some("begin it with '/'".to_owned()),
        );
    }
    check_times(check.every, check.timeout, check.failures, at, decoder)
}

fn check_tcp(check: &TcpCheck, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    check_times(check.every, check.timeout, check.failures, at, decoder)
}

fn check_command(check: &CommandCheck, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    check_times(check.every, check.timeout, check.failures, at, decoder)
}

fn check_metric(check: &MetricCheck, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if let Err(message) = check.metric.parse::<MetricSelector>() {
        return decoder.bad_value(
            &at.field("metric"),
            message,
            Some("for example \"errors_total\" or \"errors_total{kind=\\\"io\\\"}\"".to_owned()),
        );
    }
    if check.port.is_some() == check.file.is_some() {
        return decoder.bad_value(
            &at.field("port"),
            "the metric is read either from a page or from a file".to_owned(),
            Some("set port=… (with path=…), or file=…, and not both".to_owned()),
        );
    }
    if !check.path.starts_with('/') || check.path.contains(char::is_whitespace) {
        return decoder.bad_value(
            &at.field("path"),
            format!("'{}' is not a path to ask for", check.path),
            Some("begin it with '/'".to_owned()),
        );
    }
    let is_empty = match (check.above, check.below) {
        (None, None) => true,
        (Some(above), Some(below)) => above < below,
        _ => false,
    };
    if is_empty {
        return decoder.bad_value(
            &at.field("above_millionths"),
            "no number is within these bounds, or every number is".to_owned(),
            Some("set above=… or below=…, or both with below under above".to_owned()),
        );
    }
    if check.over.is_some_and(|over| over < check.every) {
        return decoder.bad_value(
            &at.field("over_ms"),
            format!(
                "a rise cannot be seen between two readings, which are {} apart",
                check.every
            ),
            Some("make over longer than every".to_owned()),
        );
    }
    check_times(check.every, check.timeout, check.failures, at, decoder)
}

fn check_times(
    every: Millis,
    timeout: Millis,
    failures: u32,
    at: &FieldPath,
    decoder: &mut Decoder,
) -> Option<()> {
    if every < Millis(50) {
        let hint = Some("times are in seconds: write 5 * SECOND".to_owned());
        return decoder.bad_value(
            &at.field("every_ms"),
            format!("{every} is too often; 50ms is the least"),
            hint,
        );
    }
    if timeout == Millis::ZERO {
        return decoder.bad_value(
            &at.field("timeout_ms"),
            "a check needs time to be answered".to_owned(),
            None,
        );
    }
    if failures == 0 {
        return decoder.bad_value(
            &at.field("failures"),
            "at least one failure must be seen".to_owned(),
            None,
        );
    }
    Some(())
}
