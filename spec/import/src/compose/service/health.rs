//! The check of a service.

use super::duration;
use crate::check;
use crate::draft::Draft;
use crate::fields::{Fate, Fates, Fields};
use crate::note::Notes;
use tw_model::{CommandCheck, CommandLine, HealthCheck, HttpCheck, Millis};

const HEALTH: Fates = &[
    (
        "start_period",
        Fate::Lost(
            "a new task has Rollout(deadline=…) to become healthy; failures count from its first success",
        ),
    ),
    (
        "start_interval",
        Fate::Lost("a check has one interval: every=…"),
    ),
];

pub(super) fn read_health(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let Some(mut health) = fields.fields("healthcheck", notes) else {
        return;
    };
    let is_disabled = health
        .take("disable")
        .is_some_and(|item| item.truth() == Some(true));
    let Some(test) = health.take("test") else {
        if is_disabled {
            notes.ignored(&health.item, "Twill takes no check from an image");
        } else if !health.item.entries().is_empty() {
            notes.lost(
                &health.item,
                "health",
                "the check is in the image: write it as health=[CommandCheck(command=…)]",
            );
        }
        return;
    };
    let words = match test.is_scalar() {
        true => vec!["CMD-SHELL".to_owned(), test.text().to_owned()],
        false => test
            .items()
            .iter()
            .map(|item| item.text().to_owned())
            .collect(),
    };
    let command = match words.split_first() {
        _ if is_disabled => None,
        Some((kind, rest)) if kind == "CMD" => Some(rest.to_vec()),
        Some((kind, rest)) if kind == "CMD-SHELL" => {
            Some(vec!["sh".to_owned(), "-c".to_owned(), rest.join(" ")])
        }
        _ => None,
    };
    let mut millis = |key: &str| duration(&mut health, key, "health", notes);
    let (every, timeout) = (millis("interval"), millis("timeout"));
    let failures = health
        .number::<u32>("retries", notes)
        .map(|(number, _)| number);
    match command.filter(|command| !command.is_empty()) {
        Some(command) => {
            let timing = check::Timing {
                every,
                timeout,
                failures,
            };
            draft.spec.health.push(timed(&command, draft, timing));
            if let HealthCheck::Command(_) = draft.spec.health[0]
                && let Some(listen) = draft.listens.iter().find(|listen| {
                    command
                        .iter()
                        .any(|word| check::names_port(word, listen.number))
                })
            {
                let message = format!(
                    "the check asks port {}: the number is in the variable {} of a task",
                    listen.number,
                    check::port_variable(&listen.name)
                );
                notes.decide(&test, "health", message);
            }
        }
        None => notes.ignored(&test, "Twill takes no check from an image"),
    }
    health.close(HEALTH, notes);
}

/// A request that a shell would make becomes a check of the port, where it is certain that this is the same.
fn timed(command: &[String], draft: &Draft, timing: check::Timing) -> HealthCheck {
    let request = check::http_request(command)
        .and_then(|(number, path)| Some((draft.port(number)?.clone(), path)));
    match request {
        Some((port, path)) => HealthCheck::Http(timing.http(HttpCheck {
            port,
            path,
            every: Millis::seconds(5),
            timeout: Millis::seconds(2),
            failures: 3,
        })),
        None => HealthCheck::Command(timing.command(CommandCheck {
            command: CommandLine(command.to_vec()),
            every: Millis::seconds(5),
            timeout: Millis::seconds(2),
            failures: 3,
        })),
    }
}
