//! Users and groups of this machine, from `/etc/passwd` and `/etc/group`. The C library would ask NSS, whose modules a static
//! binary cannot load: glibc crashes on them. Accounts that live elsewhere (LDAP) are not found; callers do without.

use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};

/// A line of `/etc/passwd`, see passwd(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub uid: Uid,
    /// Its first group.
    pub gid: Gid,
    /// Its home.
    pub dir: PathBuf,
}

/// The user of that name.
pub fn user(name: &str) -> Option<User> {
    user_in(&text("/etc/passwd"), name)
}

/// The name of the user with that id.
pub fn name_of(uid: u32) -> Option<String> {
    name_in(&text("/etc/passwd"), uid)
}

/// The id of the group of that name.
pub fn group(name: &str) -> Option<Gid> {
    group_in(&text("/etc/group"), name)
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn line<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)
}

fn user_in(text: &str, name: &str) -> Option<User> {
    let fields = line(text, name)?;
    let id = |at: usize| fields.get(at)?.parse().ok();
    Some(User { uid: Uid::from_raw(id(2)?), gid: Gid::from_raw(id(3)?), dir: PathBuf::from(fields.get(5)?) })
}

fn name_in(text: &str, uid: u32) -> Option<String> {
    let lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut named = lines.filter(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(uid)));
    named.next().map(|fields| fields[0].to_owned())
}

fn group_in(text: &str, name: &str) -> Option<Gid> {
    line(text, name)?.get(2)?.parse().ok().map(Gid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1001:Ann,,,:/home/ann:/bin/bash\nshort:x:7\n";

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        let ann = User { uid: Uid::from_raw(1000), gid: Gid::from_raw(1001), dir: "/home/ann".into() };
        assert_eq!(user_in(PASSWD, "ann"), Some(ann));
        for name in ["an", "broken", "short", "", "bob"] {
            assert_eq!(user_in(PASSWD, name), None, "{name}");
        }
        assert_eq!((name_in(PASSWD, 1000).as_deref(), name_in(PASSWD, 8)), (Some("ann"), None));
        assert_eq!(group_in("root:x:0:\nskein:x:990:ann,bob\n", "skein"), Some(Gid::from_raw(990)));
        assert_eq!(group_in("root:x:0:\n", "skein"), None);
    }
}
