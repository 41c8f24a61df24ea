//! Values that reviewers need not read: what looks like a credential is shown as `***`.
//!
//! Real secrets are names in a spec and never values. This is for those that someone wrote into one all the same: under
//! a name that tells (`DB_PASSWORD`), in an address (`postgres://user:password@host`), among the words of a command
//! (`--password=…`, `--token …`, `-u user:password`), in a header, or of a form that tells by itself. It is a courtesy
//! and no promise: a password under another name, in a position of its own, is a word like any other.

use serde_json::Value;

/// What stands for a hidden value.
pub const MASK: &str = "***";

/// The ends of names whose values are credentials, without what separates their words.
const CREDENTIALS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "CREDENTIAL",
    "CREDENTIALS",
    "APIKEY",
    "ACCESSKEY",
    "ACCOUNTKEY",
    "AUTHKEY",
    "ENCRYPTIONKEY",
    "MASTERKEY",
    "PRIVATEKEY",
    "SECRETKEY",
    "SIGNINGKEY",
    "AUTHORIZATION",
];

/// Names that tell only as a word of their own: `MYSQL_PWD`, and neither `PWD` nor `BYPASS`.
const LAST_WORDS: &[&str] = &["PASS", "PWD"];

/// How an `Authorization` begins.
const SCHEMES: &[&str] = &["Bearer", "Basic", "Token", "Digest", "ApiKey"];

/// What the keys of well-known services begin with.
const PREFIXES: &[&str] = &[
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "hvs.",
    "npm_",
    "pypi-",
    "sk_live_",
    "rk_live_",
    "xoxb-",
    "xoxp-",
];

/// Letters of a key, at least, before it is known by its beginning.
const KEY_LENGTH_MIN: usize = 20;

/// The value at `path` of a job as it may be shown; paths are those of `tw eval`'s JSON.
pub fn masked(path: &str, value: &Value) -> Value {
    match value {
        Value::String(text) if is_credential(name_of(path)) && !is_reference(text) => {
            Value::from(MASK)
        }
        Value::String(text) => Value::from(masked_text(text)),
        Value::Array(items) => masked_items(path, items),
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

/// A text of any kind, such as a word of a command.
fn masked_text(text: &str) -> String {
    let text = without_private_key(text);
    without_assigned(&without_password(&text))
}

/// The items of a list, which may be the words of a command.
fn masked_items(path: &str, items: &[Value]) -> Value {
    let mut before = "";
    let shown = items.iter().map(|item| {
        let option = std::mem::replace(&mut before, item.as_str().unwrap_or_default());
        match item.as_str() {
            Some(word) if is_option_of_credential(option) && is_argument(word) => Value::from(MASK),
            Some(word) if is_option_of_user(option) => Value::from(without_second_half(word)),
            _ => masked(path, item),
        }
    });
    shown.collect()
}

/// The name at the end of a path: `DB_PASSWORD` of `env.DB_PASSWORD`.
fn name_of(path: &str) -> &str {
    let name = path.rsplit(['.', '[']).next().unwrap_or(path);
    name.trim_end_matches(']')
}

/// Whether a name is that of a credential: `DB_PASSWORD`, `pgpassword`, `--api-key`, and not `DB_PASSWORD_FILE`.
fn is_credential(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let letters = letters.collect::<String>().to_ascii_uppercase();
    if CREDENTIALS.iter().any(|word| letters.ends_with(word)) {
        return true;
    }
    let mut words = name.rsplit(|c: char| !c.is_ascii_alphanumeric());
    let last = words.next().unwrap_or_default().to_ascii_uppercase();
    let is_alone = words.all(str::is_empty) && last == "PWD" && !name.starts_with('-');
    LAST_WORDS.contains(&last.as_str()) && !is_alone
}

/// `--password`, whose value is the next word.
fn is_option_of_credential(word: &str) -> bool {
    word.starts_with('-') && !word.contains(['=', ':']) && is_credential(word)
}

/// `-u`, as curl has it before `user:password`.
fn is_option_of_user(word: &str) -> bool {
    matches!(word, "-u" | "--user" | "--proxy-user")
}

fn is_argument(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('-') && !is_reference(word)
}

/// Whether a value names where the credential is rather than being it: `$TOKEN`, `${TOKEN}`, `$(cat token)`.
fn is_reference(value: &str) -> bool {
    let mut letters = value.chars();
    letters.next() == Some('$')
        && letters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || "_{(".contains(c))
}

/// `user:***` of `user:password`; the numbers of a user and a group stay.
fn without_second_half(word: &str) -> String {
    match word.split_once(':') {
        Some((user, rest)) if is_argument(rest) && rest.chars().any(|c| !c.is_ascii_digit()) => {
            format!("{user}:{MASK}")
        }
        _ => masked_text(word),
    }
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
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                let hidden = match is_reference(password) {
                    true => password,
                    false => MASK,
                };
                shown.push_str(&format!("{name}:{hidden}@{host}"));
            }
            _ => shown.push_str(authority),
        }
        rest = after;
    }
    shown + rest
}

/// Hides what stands between the first and the last line of a private key.
fn without_private_key(text: &str) -> String {
    const END: &str = "PRIVATE KEY-----";
    let begins = text.find("-----BEGIN ").and_then(|at| {
        let head = text[at..].find(END)? + at + END.len();
        Some((at, head))
    });
    match begins {
        Some((at, head)) => {
            let end = text[head..]
                .find(END)
                .map_or("", |end| &text[head + end + END.len()..]);
            format!("{}{MASK}{}", &text[..at], without_private_key(end))
        }
        None => text.to_owned(),
    }
}

/// Hides values after names that tell, and words that are keys by their looks.
fn without_assigned(text: &str) -> String {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_inner) {
        let before = rest[..at].chars().next_back();
        shown.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(|c| !is_inner(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if is_key(word) {
            shown.push_str(MASK);
            continue;
        }
        shown.push_str(word);
        // `{secret:name}` would be a template, and not what it stands for.
        let found = match before {
            Some('{') if !after.starts_with(['"', '\'']) => None,
            _ => value_after(word, after),
        };
        if let Some(value) = found {
            shown.push_str(&after[..value.start]);
            shown.push_str(MASK);
            rest = &after[value.end..];
        }
    }
    shown + rest
}

/// Where in `after` the value stands that `word` gives away.
fn value_after(word: &str, after: &str) -> Option<std::ops::Range<usize>> {
    let start = match is_credential(word) {
        true => start_of_value(word, after)?,
        false => start_of_authorization(word, after)?,
    };
    let value = &after[start..];
    let end = match value.chars().next()? {
        quote @ ('"' | '\'') => {
            let inner = &value[1..];
            let end = inner.find(quote).unwrap_or(inner.len());
            return (end > 0 && !is_reference(inner)).then_some(start + 1..start + 1 + end);
        }
        _ => value
            .find(|c: char| c.is_whitespace() || "&;,\"'`)}]".contains(c))
            .unwrap_or(value.len()),
    };
    let value = &value[..end];
    (!value.is_empty() && !is_reference(value)).then_some(start..start + end)
}

/// The start of what is assigned to a name: `=x`, `: x`, `": "x"`, or the next word after an option.
fn start_of_value(word: &str, after: &str) -> Option<usize> {
    let unquoted = after.trim_start_matches(['"', '\'']);
    let separated = unquoted.trim_start_matches(' ');
    let Some(value) = separated.strip_prefix(['=', ':']) else {
        let next = after.trim_start_matches(' ');
        let is_next = word.starts_with('-') && next.len() < after.len() && !next.starts_with('-');
        return is_next.then_some(after.len() - next.len());
    };
    if value.starts_with('=') || (separated.starts_with(':') && value.starts_with("//")) {
        return None;
    }
    let value = value.trim_start_matches(' ');
    let start = after.len() - value.len();
    let scheme = SCHEMES.iter().find(|scheme| {
        value
            .get(..scheme.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
            && value[scheme.len()..].starts_with(' ')
    });
    Some(start + scheme.map_or(0, |scheme| scheme.len() + 1))
}

/// The start of what follows `Bearer `, where it looks like no word of a sentence.
fn start_of_authorization(word: &str, after: &str) -> Option<usize> {
    let is_scheme = ["bearer", "basic"]
        .iter()
        .any(|scheme| word.eq_ignore_ascii_case(scheme));
    let next = after.strip_prefix(' ').filter(|_| is_scheme)?;
    let end = next
        .find(|c: char| !c.is_ascii_alphanumeric() && !"+/=_-.~".contains(c))
        .unwrap_or(next.len());
    let mixed = |c: char| c.is_ascii_digit() || c.is_ascii_uppercase() || "+/=_.".contains(c);
    let looks_random = next[..end].chars().skip(1).any(mixed);
    (end >= 8 && looks_random).then_some(1)
}

/// Whether a word is a key or a signed token by its looks.
fn is_key(word: &str) -> bool {
    let is_long = word.len() >= KEY_LENGTH_MIN;
    let begins = PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    // The header and the claims of a JSON web token are objects: `{"` in base64 (RFC 7519).
    let mut parts = word.split('.');
    let is_web_token = parts
        .by_ref()
        .take(2)
        .filter(|part| part.starts_with("eyJ"))
        .count()
        == 2;
    is_long && (begins || is_web_token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_that_tell_hide_their_values_and_no_others_do() {
        for path in [
            "env.DB_PASSWORD",
            "env.PGPASSWORD",
            "env.MYSQL_PWD",
            "env.TOKEN",
            "env.authToken",
            "env.STRIPE_SECRET_KEY",
            "sidecars[a].env.x_api_key",
            "labels.SECRET",
            "health[a].headers.Authorization",
        ] {
            assert_eq!(masked(path, &json!("hush")), json!(MASK), "{path}");
        }
        for path in [
            "env.DB_PASSWORD_FILE",
            "env.TOKENS_MAX",
            "env.MONKEY",
            "env.PWD",
            "env.BYPASS",
            "env.AWS_ACCESS_KEY_ID",
            "secrets[token].name",
        ] {
            assert_eq!(masked(path, &json!("x")), json!("x"), "{path}");
        }
        assert_eq!(masked("env.TOKEN", &Value::Null), Value::Null);
        assert_eq!(
            masked("env.TOKEN", &json!("${CI_TOKEN}")),
            json!("${CI_TOKEN}")
        );
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
        for plain in ["http://host:80/a@b", "postgres://ann:$PW@db/shop"] {
            assert_eq!(shown(plain), json!(plain));
        }
    }

    #[test]
    fn credentials_among_the_words_of_a_command_are_hidden() {
        let shown = |words: Value| masked("command", &words);
        for (words, hidden) in [
            (
                json!(["a", "--password=hush"]),
                json!(["a", "--password=***"]),
            ),
            (
                json!(["a", "--password", "hush", "x"]),
                json!(["a", "--password", "***", "x"]),
            ),
            (
                json!(["a", "--token", "$TOKEN"]),
                json!(["a", "--token", "$TOKEN"]),
            ),
            (
                json!(["a", "--password", "--help"]),
                json!(["a", "--password", "--help"]),
            ),
            (
                json!(["a", "--token-file", "/x"]),
                json!(["a", "--token-file", "/x"]),
            ),
            (
                json!(["curl", "-u", "ann:hush"]),
                json!(["curl", "-u", "ann:***"]),
            ),
            (
                json!(["run", "--user", "1000:1000"]),
                json!(["run", "--user", "1000:1000"]),
            ),
            (json!(["s", "{port:http}"]), json!(["s", "{port:http}"])),
        ] {
            assert_eq!(shown(words), hidden);
        }
    }

    #[test]
    fn credentials_within_texts_are_hidden() {
        let shown = |text: &str| masked_text(text);
        for (text, hidden) in [
            ("PGPASSWORD=hush psql -h db", "PGPASSWORD=*** psql -h db"),
            ("mysql --password hush -h db", "mysql --password *** -h db"),
            (
                "curl -H 'Authorization: Bearer abc.def'",
                "curl -H 'Authorization: Bearer ***'",
            ),
            (
                "Authorization: Basic dXNlcjpwYXNz",
                "Authorization: Basic ***",
            ),
            ("say Bearer abcDEF123456", "say Bearer ***"),
            (
                "https://h/x?token=hush&page=2",
                "https://h/x?token=***&page=2",
            ),
            (
                r#"{"password": "two words", "user": "x"}"#,
                r#"{"password": "***", "user": "x"}"#,
            ),
            (
                "host=db password=hush user=x",
                "host=db password=*** user=x",
            ),
            (
                "Server=db;Password=hush;Pool=4",
                "Server=db;Password=***;Pool=4",
            ),
            ("X-Api-Key: hush", "X-Api-Key: ***"),
            ("use ghp_0123456789abcdef0123 now", "use *** now"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "***"),
            (
                "a -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- b",
                "a *** b",
            ),
        ] {
            assert_eq!(shown(text), hidden);
        }
        for plain in [
            "the password is in a file",
            "Basic authentication",
            "if password == other",
            "--password=$DB_PASSWORD",
            "token://x",
            "--token-file=/run/token",
            "{secret:db}",
        ] {
            assert_eq!(shown(plain), plain);
        }
    }

    proptest! {
        /// Wherever a credential stands, it is not shown; and what is shown stays as it is.
        #[test]
        fn no_credential_comes_through(
            secret in "[a-zA-Z0-9+/_]{12,24}", around in "\\PC{0,12}", form in 0_usize..7,
        ) {
            prop_assume!(!around.contains(&secret));
            let text = match form {
                0 => format!("{around} --password={secret} {around}"),
                1 => format!("{around} --api-key {secret}"),
                2 => format!("{around} Authorization: Bearer {secret}"),
                3 => format!("{{\"token\": \"{secret}\"}} {around}"),
                4 => format!("amqp://user:{}@host/ {around}", secret.replace('/', "x")),
                5 => format!("https://h/?access_token={secret}&q={around}"),
                _ => format!("DB_PASS={secret}"),
            };
            let shown = masked_text(&text);
            prop_assert!(!shown.contains(&secret), "{}", shown);
            prop_assert_eq!(masked_text(&shown), shown);
        }

        /// No text makes it fail.
        #[test]
        fn every_text_can_be_shown(text in "\\PC{0,60}", path in "[a-zA-Z.\\[\\]_]{0,20}") {
            let shown = masked(&path, &json!([text, {"a": text}]));
            prop_assert_eq!(masked(&path, &shown), shown);
        }
    }
}
