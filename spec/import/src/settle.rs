//! What is done to every draft once all of them are read, whatever family they came from: commands are completed,
//! values of secrets taken out, and paths, addresses and ports replaced by what they are in Twill.

mod address;
mod secret;

use tw_model::{CommandLine, HealthCheck, Name, TemplateValue};

use crate::check;

use crate::draft::{Draft, Launch, Listen};
use crate::images::{self, KnownImage, ListenBy};
use crate::note::Notes;
use crate::variables;

pub(crate) use address::Addresses;
pub(crate) use secret::secret_path;

/// Finishes all drafts. `addresses` is what jobs of the same import find each other by.
pub(crate) fn settle(drafts: &mut [Draft], addresses: Addresses, notes: &mut Notes) {
    secret::take_out(drafts, notes);
    for draft in drafts.iter_mut() {
        notes.about(Some(draft.spec.name.as_str()));
        let own_image = matches!(draft.spec.image, Some(tw_model::Image::Oci(_)));
        complete_command(draft, own_image, notes);
        follow_moves(draft, notes);
    }
    address::bind(drafts, addresses, notes);
    for draft in drafts.iter_mut() {
        notes.about(Some(draft.spec.name.as_str()));
        bind_ports(draft, notes);
        draft.fill_env();
        leave_out_surge(draft, notes);
    }
    notes.about(None);
}

/// Takes away the tasks beyond the wanted number that a job cannot have.
fn leave_out_surge(draft: &mut Draft, notes: &mut Notes) {
    let against = draft.spec.against_surge();
    if let Some(reason) = against.filter(|_| draft.spec.rollout.max_surge > 0) {
        draft.spec.rollout.max_surge = 0;
        let message = format!("an update starts no tasks before others end: {reason}");
        notes.changed(&draft.origin, "rollout", message);
    }
}

/// Finishes the command and the secrets of a part of a job: a sidecar, or what runs before it.
pub(crate) fn prepare(part: &mut Draft, notes: &mut Notes) {
    secret::take_out_of(part, &mut Default::default(), notes);
    complete_command(part, false, notes);
}

/// What is appended to the name of a variable to have the draft's image read its value from a file.
pub(crate) fn file_suffix(draft: &Draft) -> Option<&'static str> {
    known_image(draft).and_then(|known| known.file_suffix)
}

/// What is known of the draft's image, unless its tag names a variant that starts something else.
fn known_image(draft: &Draft) -> Option<&'static KnownImage> {
    let (reference, _) = draft.image.as_ref()?;
    let plain = variables::plain(reference);
    (!plain.contains("fpm"))
        .then(|| images::known(&plain))
        .flatten()
}

/// Puts the entry point and the command of the image where the file gives none. What nobody knows is a template
/// where the job runs in its own image, and otherwise left empty, for the author to fill in.
fn complete_command(draft: &mut Draft, own_image: bool, notes: &mut Notes) {
    let Launch {
        entrypoint,
        arguments,
        item,
    } = draft.launch.clone();
    let item = item
        .or_else(|| draft.image.as_ref().map(|(_, item)| item.clone()))
        .unwrap_or(draft.origin.clone());
    let owned = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let image = draft
        .image
        .as_ref()
        .map(|(reference, _)| format!("the image {}", variables::plain(reference)));
    let image_name = image.clone().unwrap_or("its image".to_owned());
    let words = match (entrypoint, arguments, known_image(draft)) {
        (Some(mut words), arguments, _) => {
            words.extend(arguments.unwrap_or_default());
            words
        }
        (None, Some(arguments), Some(known)) => {
            if !known.entrypoint.is_empty() {
                let message = format!(
                    "begins with the entry point of {image_name}: {}",
                    known.entrypoint.join(" ")
                );
                notes.changed(&item, "command", message);
            }
            let mut words = owned(known.entrypoint);
            words.extend(arguments);
            words
        }
        (None, None, Some(known)) => {
            let mut words = owned(known.entrypoint);
            words.extend(owned(known.command));
            notes.changed(
                &item,
                "command",
                format!("what {image_name} starts by itself is written out"),
            );
            words
        }
        (None, Some(arguments), None) if needs_program(&arguments) && own_image => {
            let message = format!("begins with the entry point of {image_name}, whatever that is");
            notes.changed(&item, "command", message);
            let mut words = vec![TemplateValue::ImageEntrypoint.to_string()];
            words.extend(arguments);
            words
        }
        (None, Some(arguments), None) if needs_program(&arguments) => {
            let message = format!(
                "the program: {image_name} has it as its entry point (ENTRYPOINT); put it first"
            );
            notes.decide(&item, "command", message);
            let mut words = vec![String::new()];
            words.extend(arguments);
            words
        }
        (None, Some(arguments), None) => {
            if draft.image.is_some() {
                let message = format!(
                    "if {image_name} has an entry point (ENTRYPOINT), put it before these words"
                );
                notes.changed(&item, "command", message);
            }
            arguments
        }
        (None, None, None) if own_image => {
            let message = format!("starts what {image_name} starts by itself");
            notes.changed(&item, "command", message);
            vec![TemplateValue::ImageCommand.to_string()]
        }
        (None, None, None) => {
            let message = match image {
                Some(image) => format!(
                    "what {image} starts: its ENTRYPOINT and CMD (`docker inspect` shows them)"
                ),
                None => "what it starts: ENTRYPOINT and CMD of its Dockerfile".to_owned(),
            };
            notes.decide(&item, "command", message);
            Vec::new()
        }
    };
    draft.spec.command = CommandLine(words);
}

/// Whether these can only be the arguments of a program that is not among them.
fn needs_program(arguments: &[String]) -> bool {
    arguments
        .first()
        .is_none_or(|first| first.is_empty() || first.starts_with('-'))
}

/// Rewrites paths whose files lie elsewhere now.
fn follow_moves(draft: &mut Draft, notes: &mut Notes) {
    for moved in draft.moved.clone() {
        let mut count = 0;
        for (text, _) in draft.texts_mut() {
            count += replace_path(text, &moved.from, &moved.to);
        }
        if count == 0 && moved.from != moved.to {
            let message = format!(
                "the program finds at {} what it had at {}: tell it so",
                moved.to, moved.from
            );
            notes.decide(&moved.item, "packages", message);
        }
    }
}

/// Replaces a path and what is below it; counts how often.
fn replace_path(text: &mut String, from: &str, to: &str) -> usize {
    let part_of_path = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let mut count = 0;
    let mut done = 0;
    while let Some(found) = text[done..].find(from).map(|at| at + done) {
        let end = found + from.len();
        let before = text[..found]
            .chars()
            .next_back()
            .is_none_or(|c| !part_of_path(c));
        let after = text[end..]
            .chars()
            .next()
            .is_none_or(|c| c == '/' || !part_of_path(c));
        if before && after {
            text.replace_range(found..end, to);
            done = found + to.len();
            count += 1;
        } else {
            done = end;
        }
    }
    count
}

/// Tells the program the number that it is given, wherever the file told it the old one.
fn bind_ports(draft: &mut Draft, notes: &mut Notes) {
    for listen in draft.listens.clone() {
        let told = tell_command(&mut draft.spec.command.0, &listen)
            + tell_env(draft, &listen)
            + tell_known(draft, &listen, notes);
        if told == 0 {
            let Listen { name, number, item } = &listen;
            let message = format!(
                "Twill gives out the numbers of ports: tell the program to listen on {{port:{name}}} instead of {number}"
            );
            notes.decide(item, "ports", message);
        }
    }
}

/// Words of an option that takes a port or an address to listen on.
fn is_listening_option(option: &str) -> bool {
    let option = option.trim_start_matches('-').to_ascii_lowercase();
    matches!(option.as_str(), "p" | "l" | "b")
        || ["port", "listen", "bind", "addr"]
            .iter()
            .any(|word| option.contains(word))
}

fn tell_command(words: &mut [String], listen: &Listen) -> usize {
    let number = listen.number.to_string();
    let mut told = 0;
    for index in 0..words.len() {
        let previous = index
            .checked_sub(1)
            .map(|before| words[before].clone())
            .unwrap_or_default();
        let word = &mut words[index];
        if *word == number && previous.starts_with('-') && is_listening_option(&previous) {
            *word = format!("{{port:{}}}", listen.name);
            told += 1;
            continue;
        }
        let option = word
            .split_once('=')
            .map(|(option, value)| (option.to_owned(), value.to_owned()));
        if let Some((option, value)) = option
            && option.starts_with('-')
            && is_listening_option(&option)
            && value == number
        {
            *word = format!("{option}={{port:{}}}", listen.name);
            told += 1;
            continue;
        }
        told += replace_own_address(word, listen);
    }
    told
}

/// Hosts by which a program means itself, or all addresses of its machine.
const OWN_HOSTS: [&str; 8] = [
    "0.0.0.0:",
    "[::]:",
    "[::0]:",
    "127.0.0.1:",
    "localhost:",
    "*:",
    "+:",
    "[::1]:",
];

/// Replaces the number in `0.0.0.0:8080`, `localhost:8080` and a text that begins with `:8080`.
fn replace_own_address(text: &mut String, listen: &Listen) -> usize {
    let number = listen.number.to_string();
    let template = format!("{{port:{}}}", listen.name);
    let mut told = 0;
    let opens = text
        .strip_prefix(':')
        .or_else(|| text.split_once("=:").map(|(_, rest)| rest));
    if opens.is_some_and(|rest| rest == number || rest.starts_with(&format!("{number}/"))) {
        *text = text.replacen(&format!(":{number}"), &format!(":{template}"), 1);
        told += 1;
    }
    for host in OWN_HOSTS {
        let address = format!("{host}{number}");
        let mut done = 0;
        while let Some(found) = text[done..].find(&address).map(|at| at + done) {
            let end = found + address.len();
            done = end;
            let inside = text[..found].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '.');
            if inside || text[end..].starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            text.replace_range(found + host.len()..end, &template);
            told += 1;
        }
    }
    told
}

fn tell_env(draft: &mut Draft, listen: &Listen) -> usize {
    let number = listen.number.to_string();
    let mut told = 0;
    for (key, value, _) in &mut draft.env {
        let is_port = key == "PORT" || key.ends_with("_PORT") || key == "LISTEN";
        if is_port && *value == number {
            *value = format!("{{port:{}}}", listen.name);
            told += 1;
        } else {
            told += replace_own_address(value, listen);
        }
    }
    told
}

/// Tells the program of a well-known image in its own way.
fn tell_known(draft: &mut Draft, listen: &Listen, notes: &mut Notes) -> usize {
    let Some((number, by)) = known_image(draft).and_then(|known| known.listen) else {
        return 0;
    };
    let words = &mut draft.spec.command.0;
    let template = format!("{{port:{}}}", listen.name);
    let is_told = |words: &[String]| words.iter().any(|word| word.contains(&template));
    if number != listen.number || is_told(words) || words.is_empty() {
        return 0;
    }
    if !matches!(by, ListenBy::Variable(_)) {
        note_command_checks(draft, listen, notes);
    }
    let words = &mut draft.spec.command.0;
    match by {
        ListenBy::Option(option) => words.extend([option.to_owned(), template]),
        ListenBy::Argument(start) => words.push(format!("{start}{template}")),
        ListenBy::Variable(name) => {
            let item = listen.item.clone();
            draft.set_env(name, template, item);
        }
    }
    1
}

/// A program that asks itself by its usual port has to be told the new one.
fn note_command_checks(draft: &Draft, listen: &Listen, notes: &mut Notes) {
    let variable = check::port_variable(&listen.name);
    let asks = |check: &HealthCheck| match check {
        HealthCheck::Command(check) => !check.command.0.iter().any(|word| word.contains(&variable)),
        HealthCheck::Http(_) | HealthCheck::Tcp(_) | HealthCheck::Metric(_) => false,
    };
    if draft.spec.health.iter().any(asks) {
        let message = format!(
            "its command has to ask the port in the variable {variable}, no longer {}",
            listen.number
        );
        notes.decide(&listen.item, "health", message);
    }
}

/// The template of a port of another job.
pub(crate) fn service_template(job: &Name, port: &Name) -> String {
    format!("{{service:{job}:{port}}}")
}
