//! `build`: an image that Compose makes itself. Its Dockerfile says what it starts.

use super::dockerfile::{self, Built};
use super::{Project, pairs, storage};
use crate::draft::Draft;
use crate::fields::Item;
use crate::images;
use crate::note::Notes;

/// The folder that an image is built from, as the file names it.
pub(super) fn context(build: &Item) -> String {
    match build.get("context").unwrap_or(build.clone()).text() {
        "" => ".".to_owned(),
        text => text.to_owned(),
    }
}

/// What the Dockerfile of a service says, if it is at hand, and where the service names it.
pub(super) fn dockerfile(service: &Item, project: &Project<'_>) -> Option<(Built, Item)> {
    let build = service.get("build")?;
    let text = match build.get("dockerfile_inline") {
        Some(inline) => inline.text().to_owned(),
        None => {
            let file = build.get("dockerfile");
            let file = file.as_ref().map_or("Dockerfile", Item::text);
            let path = storage::repo_path(&format!("{}/{file}", context(&build)))?;
            project.surroundings.read(&path)?
        }
    };
    let target = build.get("target");
    let arguments: Vec<(String, String)> = build
        .get("args")
        .map(|args| pairs(&args))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(name, value, _)| Some((name, value?)))
        .collect();
    let built = dockerfile::read(&text, target.as_ref().map(Item::text), &arguments)?;
    Some((built, build))
}

/// Puts what the built image starts where the service does not say it. An entry point of the service takes
/// the image's command away, as it does in Compose.
pub(super) fn complete_launch(draft: &mut Draft, built: &Built, build: &Item, notes: &mut Notes) {
    if draft.image.is_some() || draft.launch.entrypoint.is_some() {
        return;
    }
    let known = images::known(&built.base);
    let owned =
        |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).to_owned()).collect() };
    // The entry point of the image below holds for a command, its command only for nothing at all.
    let entrypoint = match (&built.entrypoint, known) {
        (Some(words), _) => words.clone(),
        (None, Some(known)) => owned(known.entrypoint),
        (None, None) => Vec::new(),
    };
    let command = match (&built.entrypoint, &built.command, known) {
        (_, Some(words), _) => words.clone(),
        (None, None, Some(known)) => owned(known.command),
        _ => Vec::new(),
    };
    let arguments = draft.launch.arguments.clone().unwrap_or(command);
    if entrypoint.is_empty() && arguments.is_empty() {
        return;
    }
    let says = match draft.launch.arguments.is_some() {
        true if entrypoint.is_empty() => return,
        true => "begins with the entry point of the image that is built (its Dockerfile)",
        false => {
            "what the image starts that is built (ENTRYPOINT and CMD of its Dockerfile) is written out"
        }
    };
    notes.changed(build, "command", says);
    draft.launch.item.get_or_insert_with(|| build.clone());
    match entrypoint.is_empty() {
        true => draft.launch.arguments = Some(arguments),
        false => {
            draft.launch.entrypoint = Some(entrypoint);
            draft.launch.arguments = Some(arguments);
        }
    }
}
