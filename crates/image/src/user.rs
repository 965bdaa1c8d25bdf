//! Users: who a container's process is, from a name or number and the image's own `/etc/passwd` and `/etc/group`.
//!
//! The rules are the container world's (`user`, `uid`, `user:group`, `uid:gid`, …; OCI image specification, `config.User`):
//! a number need not be known to the image, a name must be; a group that is named replaces the user's own group and
//! takes the additional groups away.

use crate::error::Error;
use crate::image::Image;
use crate::merged;

/// Bytes that `/etc/passwd` or `/etc/group` may have: thousands of entries.
const LARGEST_TABLE: u64 = 4 << 20;
/// The highest id that the container world takes.
const HIGHEST_ID: u32 = i32::MAX as u32;

/// A user, as a process has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group id: 0 for a number that the image does not know.
    pub gid: u32,
    /// The groups that list the user as a member, sorted. Empty when the group was given.
    pub additional_gids: Vec<u32>,
    /// The home folder, `/` when the image does not know it.
    pub home: String,
    /// The name, if the image knows one.
    pub name: Option<String>,
}

impl User {
    /// The user of exactly this name, or else of this number, by what is in `/etc/passwd` and `/etc/group`.
    pub fn known(passwd: &str, group: &str, user: &str) -> Option<User> {
        let is_one = !user.is_empty() && !user.contains(':');
        resolve(passwd, group, user).ok().filter(|found| is_one && found.name.is_some())
    }
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Image {
    /// Who `user` is in this image: a name or number, with a group after a colon or without. Empty means root.
    ///
    /// The argument is the container's setting, not the image's; pass [`Self::config`]'s user where there is none.
    pub fn resolve_user(&self, user: &str) -> Result<User, Error> {
        let passwd = self.table("/etc/passwd")?;
        let group = self.table("/etc/group")?;
        resolve(&passwd, &group, user).map_err(|(kind, name)| Error::UnknownUser {
            image: self.reference.familiar(),
            kind,
            name,
        })
    }

    fn table(&self, path: &str) -> Result<String, Error> {
        let bytes = merged::read(&self.layers, path, LARGEST_TABLE)
            .map_err(Error::io(format!("read {path} of image {}", self.reference)))?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    }
}

fn resolve(passwd: &str, group: &str, user: &str) -> Result<User, (&'static str, String)> {
    let (wanted, wanted_group) = user.split_once(':').map_or((user, ""), |(user, group)| (user, group));
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let number = id(wanted);
    // A name that looks like a number is a name first, as in the container world.
    let entry = users(passwd).find(|e| e.name == wanted).or_else(|| {
        let uid = number?;
        users(passwd).find(|e| e.uid == uid)
    });
    let mut found = match (entry, number) {
        (Some(e), _) => {
            let home = if e.home.is_empty() { "/" } else { e.home };
            let name = Some(e.name.to_owned());
            User { uid: e.uid, gid: e.gid, additional_gids: Vec::new(), home: home.to_owned(), name }
        }
        (None, Some(uid)) => User { uid, gid: 0, additional_gids: Vec::new(), home: "/".to_owned(), name: None },
        (None, None) => return Err(("user", wanted.to_owned())),
    };
    if wanted_group.is_empty() {
        if let Some(name) = &found.name {
            let member = |members: &str| members.split(',').any(|member| member == name);
            found.additional_gids = groups(group).filter(|(_, _, list)| member(list)).map(|(_, gid, _)| gid).collect();
            found.additional_gids.sort_unstable();
            found.additional_gids.dedup();
        }
        return Ok(found);
    }
    let named = groups(group).find(|(name, _, _)| *name == wanted_group).map(|(_, gid, _)| gid);
    found.gid = named.or_else(|| id(wanted_group)).ok_or_else(|| ("group", wanted_group.to_owned()))?;
    Ok(found)
}

fn users(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Entry { name, uid, gid, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn id(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| is_number && *id <= HIGHEST_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\n\nbroken\nbin:x:1:1::/bin:\n\
        app:x:1000:1001:App:/srv/app:/bin/sh\n77:x:5000:5000::/seven:\nnohome:x:8:8::\nhuge:x:99999999999:1::/:\n";
    const GROUP: &str = "root:x:0:root\nbin:x:1:root,bin,app\nwheel:x:10:app,root\napp:x:1001:\nodd\n500:x:600:\n";

    #[test]
    fn users_are_resolved_as_the_container_world_does() {
        let cases: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[0, 1, 10], "/root"),
            ("0", 0, 0, &[0, 1, 10], "/root"),
            ("root", 0, 0, &[0, 1, 10], "/root"),
            ("app", 1000, 1001, &[1, 10], "/srv/app"),
            ("1000", 1000, 1001, &[1, 10], "/srv/app"),
            ("4711", 4711, 0, &[], "/"),
            ("app:wheel", 1000, 10, &[], "/srv/app"),
            ("app:4711", 1000, 4711, &[], "/srv/app"),
            ("4711:4712", 4711, 4712, &[], "/"),
            ("4711:bin", 4711, 1, &[], "/"),
            (":bin", 0, 1, &[], "/root"),
            ("app:", 1000, 1001, &[1, 10], "/srv/app"),
            ("77", 5000, 5000, &[], "/seven"),
            ("1:500", 1, 600, &[], "/bin"),
            ("nohome", 8, 8, &[], "/"),
        ];
        for (text, uid, gid, additional, home) in cases {
            let user = resolve(PASSWD, GROUP, text).expect(text);
            assert_eq!(
                (user.uid, user.gid, &user.additional_gids[..], &user.home[..]),
                (*uid, *gid, *additional, *home),
                "{text:?}"
            );
        }
    }

    #[test]
    fn unknown_names_and_impossible_numbers_are_refused() {
        for (text, kind) in [
            ("nobody", "user"),
            ("-1", "user"),
            ("huge", "user"),
            ("app:staff", "group"),
            ("0:-1", "group"),
            ("4294967295", "user"),
            ("+5", "user"),
        ] {
            assert_eq!(resolve(PASSWD, GROUP, text).expect_err(text).0, kind, "{text:?}");
        }
    }

    #[test]
    fn users_of_a_machine_are_those_of_its_tables() {
        let known = |user: &str| User::known(PASSWD, GROUP, user).map(|user| (user.uid, user.additional_gids));
        assert_eq!(known("app"), Some((1000, vec![1, 10])));
        assert_eq!(known("1000"), known("app"));
        for unknown in ["", "nobody", "4711", "app:wheel", ":"] {
            assert_eq!(known(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn an_image_without_tables_knows_numbers_only() {
        let user = resolve("", "", "1000:1000").unwrap();
        assert_eq!((user.uid, user.gid, user.name), (1000, 1000, None));
        assert_eq!(resolve("", "", "").unwrap().home, "/");
        assert!(resolve("", "", "app").is_err());
    }
}
