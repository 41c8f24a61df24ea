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
        /// The time between two checks. Five seconds notice a failure soon and cost next to nothing.
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
        /// The time between two checks.
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
        /// The time between two checks.
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

impl Keyed for HealthCheck {
    fn key(&self) -> String {
        match self {
            HealthCheck::Http(check) => format!("http:{}{}", check.port, check.path),
            HealthCheck::Tcp(check) => format!("tcp:{}", check.port),
            HealthCheck::Command(check) => format!("command:{}", check.command.0.join(" ")),
        }
    }
}

impl HealthCheck {
    pub fn every(&self) -> Millis {
        match self {
            HealthCheck::Http(check) => check.every,
            HealthCheck::Tcp(check) => check.every,
            HealthCheck::Command(check) => check.every,
        }
    }

    pub fn timeout(&self) -> Millis {
        match self {
            HealthCheck::Http(check) => check.timeout,
            HealthCheck::Tcp(check) => check.timeout,
            HealthCheck::Command(check) => check.timeout,
        }
    }

    pub fn failures(&self) -> u32 {
        match self {
            HealthCheck::Http(check) => check.failures,
            HealthCheck::Tcp(check) => check.failures,
            HealthCheck::Command(check) => check.failures,
        }
    }

    pub(super) fn port(&self) -> Option<&PortName> {
        match self {
            HealthCheck::Http(check) => Some(&check.port),
            HealthCheck::Tcp(check) => Some(&check.port),
            HealthCheck::Command(_) => None,
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
