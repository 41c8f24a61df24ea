//! Who a task runs as. Read from the `passwd` file of the task's base, without name services: a helper must not
//! depend on what the network says.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{At, Stage, StartError};

/// The longest `passwd` file that is read.
const PASSWD_BYTES_MAX: u64 = 4 << 20;

/// More than most of them have: room for all of it is read at once.
const PASSWD_BYTES_USUAL: usize = 8 << 10;

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

    /// Who this program runs as.
    pub fn of_this_process() -> Account {
        Account {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        }
    }
}

/// Looks up a name or a number in `base`; an image without a `passwd` file has numbers, `root` and `nobody`.
pub fn look_up(base: &Path, user: &str) -> Result<Account, StartError> {
    let passwd = read_passwd(base).at(Stage::User, "cannot read /etc/passwd of the task's root")?;
    find(&passwd, user).ok_or_else(|| {
        StartError::plain(
            Stage::User,
            format!("user '{user}' does not exist in the task's root; use one of its /etc/passwd or a number"),
        )
    })
}

/// No link of an image is followed out of it.
fn read_passwd(base: &Path) -> rustix::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let root = rustix::fs::open(base, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let opened = rustix::fs::openat2(
        &root,
        "etc/passwd",
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    let file = match opened {
        Ok(file) => File::from(file),
        // A link that leads nowhere within the root is no file.
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::with_capacity(PASSWD_BYTES_USUAL);
    file.take(PASSWD_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Finds `user` in the text of a `passwd` file; a number that is not in it is its own group, and two names are
/// known everywhere.
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
    let known = match user {
        "root" => Some(0),
        "nobody" => Some(65534),
        _ => number,
    };
    listed.or(known.map(|uid| Account { uid, gid: uid }))
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
