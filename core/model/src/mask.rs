//! Values that reviewers need not read: what looks like a credential is shown as `***`.
//!
//! Real secrets are names in a spec and never values. This is for those that someone wrote into one all the same.

use serde_json::Value;

/// What stands for a hidden value.
pub const MASK: &str = "***";

/// The last words of names whose values are credentials.
const CREDENTIALS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "CREDENTIAL",
    "CREDENTIALS",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "SECRET_KEY",
    "PRIVATE_KEY",
    "AUTH_KEY",
];

/// The value at `path` of a job as it may be shown; paths are those of `tw eval`'s JSON.
pub fn masked(path: &str, value: &Value) -> Value {
    match value {
        Value::String(_) if holds_credential(path) => Value::from(MASK),
        Value::String(text) => Value::from(without_password(text)),
        Value::Array(items) => items.iter().map(|item| masked(path, item)).collect(),
        Value::Object(fields) => {
            let shown = fields.iter().map(|(name, inner)| {
                let inner = masked(&format!("{path}.{name}"), inner);
                (name.clone(), inner)
            });
            Value::Object(shown.collect())
        }
        other => other.clone(),
    }
}

/// Whether the name at the end of a path is that of a credential: `env.DB_PASSWORD`, and not `env.DB_PASSWORD_FILE`.
fn holds_credential(path: &str) -> bool {
    let name = path.rsplit(['.', '[']).next().unwrap_or(path);
    let name = name.trim_end_matches(']').to_ascii_uppercase();
    let ends = |word: &&str| {
        let before = name.strip_suffix(*word);
        before.is_some_and(|before| before.is_empty() || before.ends_with(['_', '-']))
    };
    CREDENTIALS.iter().any(ends)
}

/// Hides the password of an address, as in `postgres://user:password@host`.
fn without_password(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, address) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = address
            .find(|c: char| c == '/' || c.is_whitespace())
            .unwrap_or(address.len());
        let (authority, after) = address.split_at(end);
        match authority.rsplit_once('@') {
            Some((user, host)) if user.contains(':') => {
                let name = user.split(':').next().unwrap_or_default();
                shown.push_str(&format!("{name}:{MASK}@{host}"));
            }
            _ => shown.push_str(authority),
        }
        rest = after;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_hidden_and_nothing_else_is() {
        for path in [
            "env.DB_PASSWORD",
            "env.TOKEN",
            "sidecars[a].env.x_api_key",
            "labels.SECRET",
        ] {
            assert_eq!(masked(path, &json!("hush")), json!(MASK), "{path}");
        }
        for path in [
            "env.DB_PASSWORD_FILE",
            "env.TOKENS_MAX",
            "env.MONKEY",
            "secrets[token].name",
        ] {
            assert_eq!(masked(path, &json!("x")), json!("x"), "{path}");
        }
        assert_eq!(masked("env.TOKEN", &Value::Null), Value::Null);
        let sidecar = json!({"name": "a", "env": {"TOKEN": "hush", "MODE": "x"}});
        let shown = json!({"name": "a", "env": {"TOKEN": MASK, "MODE": "x"}});
        assert_eq!(masked("sidecars[a]", &sidecar), shown);
    }

    #[test]
    fn passwords_in_addresses_are_hidden() {
        let shown = |text: &str| masked("env.URL", &json!(text));
        assert_eq!(
            shown("postgres://ann:pw@db/shop"),
            json!("postgres://ann:***@db/shop")
        );
        assert_eq!(
            shown("a http://x:y@h b redis://:p@r"),
            json!("a http://x:***@h b redis://:***@r")
        );
        assert_eq!(shown("http://host:80/a@b"), json!("http://host:80/a@b"));
    }
}
