//! Who a task runs as. Read from the host's `passwd` file, without name services: a helper must not depend
//! on what the network says.

use std::fs;

use super::{At, Stage, StartError};

/// The user of specs that name none.
pub const DEFAULT_USER: &str = "nobody";

/// A user and its group, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    pub fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// Looks up a name or a number.
pub fn look_up(user: &str) -> Result<Account, StartError> {
    let passwd = fs::read_to_string("/etc/passwd").at(Stage::User, "cannot read /etc/passwd")?;
    find(&passwd, user).ok_or_else(|| {
        StartError::plain(
            Stage::User,
            format!("user '{user}' does not exist on this machine; use one of its /etc/passwd or a number"),
        )
    })
}

/// Finds `user` in the text of a `passwd` file; a number that is not in it is its own group.
fn find(passwd: &str, user: &str) -> Option<Account> {
    let number: Option<u32> = user.parse().ok();
    let listed = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let account = Account {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        };
        (name == user || number == Some(account.uid)).then_some(account)
    });
    listed.or(number.map(|uid| Account { uid, gid: uid }))
}

#[cfg(test)]
mod tests {
    use super::{Account, find};

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        assert_eq!(
            find(PASSWD, "nobody"),
            Some(Account {
                uid: 65534,
                gid: 65534
            })
        );
        assert_eq!(find(PASSWD, "0"), Some(Account { uid: 0, gid: 0 }));
        assert_eq!(
            find(PASSWD, "1234"),
            Some(Account {
                uid: 1234,
                gid: 1234
            })
        );
        assert_eq!(find(PASSWD, "nobod"), None);
    }
}
