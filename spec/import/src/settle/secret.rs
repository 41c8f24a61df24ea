//! Values that nobody should read in a spec become secrets.

use std::collections::BTreeMap;

use tw_model::Name;

use super::known_image;
use crate::draft::{Draft, nearest_name};
use crate::note::Notes;

/// Where a task reads a secret.
pub(crate) fn secret_path(name: &Name) -> String {
    format!("/secrets/{name}")
}

/// Replaces variables that hold passwords, tokens and keys, or an address with a password in it, by secrets.
pub(super) fn take_out(drafts: &mut [Draft], notes: &mut Notes) {
    // Name of the secret → its value, so that two jobs share a secret only if it is the same one.
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for draft in drafts {
        notes.about(Some(draft.spec.name.as_str()));
        take_out_of(draft, &mut values, notes);
    }
}

/// Replaces such variables of one draft. `values` has those of the secrets named so far.
pub(super) fn take_out_of(
    draft: &mut Draft,
    values: &mut BTreeMap<String, String>,
    notes: &mut Notes,
) {
    let suffix = known_image(draft).and_then(|known| known.file_suffix);
    let job = draft.spec.name.to_string();
    let mut secrets = Vec::new();
    let mut kept = Vec::new();
    for (key, value, item) in std::mem::take(&mut draft.env) {
        let is_secret = holds_secret(&key, &value);
        if !is_secret && !holds_password_in_url(&value) {
            kept.push((key, value, item));
            continue;
        }
        let name = secret_name(&key, &value, &job, values);
        let path = secret_path(&name);
        match suffix {
            // Images read what they call a password from a file, and not an address.
            Some(suffix) if is_secret => {
                notes.changed(&item, "secrets", format!("the value stays out of the spec: the image reads the secret '{name}' by {key}{suffix}"));
                kept.push((format!("{key}{suffix}"), path, item));
            }
            _ => {
                let why = match is_secret {
                    true => "",
                    false => ", for there is a password in it",
                };
                notes.decide(
                    &item,
                    "secrets",
                    format!(
                        "the value stays out of the spec{why}: have the program read {key} from {path}"
                    ),
                );
            }
        }
        secrets.push(name);
    }
    draft.env = kept;
    secrets.into_iter().for_each(|name| draft.add_secret(name));
}

fn secret_name(key: &str, value: &str, job: &str, values: &mut BTreeMap<String, String>) -> Name {
    let near = nearest_name(key);
    let own = nearest_name(&format!("{job}-{key}"));
    let name = match values.get(&near) {
        Some(other) if other != value => own,
        _ => near,
    };
    values
        .entry(name.clone())
        .or_insert_with(|| value.to_owned());
    name.parse().expect("nearest_name gives valid names")
}

/// Whether a variable of this name and value is a secret. Switches, empty values and paths are none.
fn holds_secret(key: &str, value: &str) -> bool {
    let upper = key.to_ascii_uppercase();
    let words: Vec<&str> = upper
        .split(['_', '-', '.'])
        .filter(|word| !word.is_empty())
        .collect();
    let last = words.last().copied().unwrap_or_default();
    let before = words
        .len()
        .checked_sub(2)
        .map(|index| words[index])
        .unwrap_or_default();
    const LAST: [&str; 7] = [
        "PASSWORD",
        "PASSWD",
        "PASS",
        "PASSPHRASE",
        "SECRET",
        "TOKEN",
        "APIKEY",
    ];
    let named = LAST.contains(&last)
        || last.ends_with("PASSWORD")
        || (last == "KEY"
            && [
                "API",
                "ACCESS",
                "SECRET",
                "PRIVATE",
                "ENCRYPTION",
                "SIGNING",
                "AUTH",
                "MASTER",
            ]
            .contains(&before));
    let switch = matches!(
        value.to_ascii_lowercase().as_str(),
        "" | "0" | "1" | "true" | "false" | "yes" | "no" | "on" | "off"
    );
    named && !switch && !value.starts_with('/') && !value.contains("{service:")
}

/// Whether a value is an address with a password in it.
fn holds_password_in_url(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', ' ']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .and_then(|(user, _)| user.split_once(':'))
        .is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_secrets_and_switches_are_not() {
        for (key, value) in [
            ("MYSQL_ROOT_PASSWORD", "x"),
            ("API_KEY", "a1"),
            ("POSTGRES_PASS", "p"),
            ("GF_SECURITY_ADMIN_PASSWORD", "grafana"),
            ("github_token", "t"),
        ] {
            assert!(holds_secret(key, value), "{key}");
        }
        for (key, value) in [
            ("ALLOW_EMPTY_PASSWORD", "yes"),
            ("PASSWORD", ""),
            ("CACHE_KEY", "a"),
            ("TOKEN", "/run/token"),
            ("PASSWORD_FILE", "x"),
            ("KEYBOARD", "us"),
        ] {
            assert!(!holds_secret(key, value), "{key}");
        }
    }

    #[test]
    fn a_url_may_hold_a_password() {
        assert!(holds_password_in_url("postgres://user:word@db:5432/app"));
        assert!(!holds_password_in_url("postgres://user@db:5432/app"));
        assert!(!holds_password_in_url("http://web:80/a@b:c"));
    }
}
