//! Users, and how a connection tells who is at its other end.
//!
//! Invariant: only the listener says how a client came; nothing that a request carries can change its [`Peer`].
//! Upstream: `apiserver/pkg/authentication/user/user.go`, `serviceaccount/util.go`, v1.36.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::authentication::v1::UserInfo;

/// The group that may do everything, whatever the roles say.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who has shown who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who has not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of all ServiceAccounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

const SERVICE_ACCOUNT_USER: &str = "system:serviceaccount:";

/// How a client reached the API. The listener puts it into the request's extensions; a request without one is treated
/// as [`Peer::Tcp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// From this process: controllers, agent. Nothing is checked.
    InProcess,
    /// Through a unix socket, from a process of this user (`SO_PEERCRED`).
    UnixSocket {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
    /// Through TLS, with a client certificate that our authority has signed and that is valid now.
    ClientCertificate {
        /// The subject's common name: the user.
        name: String,
        /// The subject's organizations: the groups.
        groups: Vec<String>,
        /// Where the connection comes from.
        address: Option<IpAddr>,
    },
    /// Without anything that says who it is.
    Tcp {
        /// Where the connection comes from.
        address: Option<IpAddr>,
    },
}

impl Peer {
    /// Where the connection comes from.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::InProcess | Self::UnixSocket { .. } => None,
            Self::ClientCertificate { address, .. } | Self::Tcp { address } => *address,
        }
    }

    /// Whom the connection alone shows. None: nobody.
    ///
    /// `owner` is the user id that this daemon runs as. It and root may do everything on the machine anyway.
    pub fn user(&self, owner: u32) -> Option<User> {
        match self {
            Self::InProcess => Some(User::new("stint:in-process", [MASTERS])),
            Self::UnixSocket { uid, .. } if *uid == 0 || *uid == owner => {
                Some(User::new(&format!("stint:uid:{uid}"), [MASTERS, AUTHENTICATED]))
            }
            Self::UnixSocket { uid, .. } => Some(User::new(&format!("stint:uid:{uid}"), [AUTHENTICATED])),
            Self::ClientCertificate { name, .. } if name.is_empty() => None,
            Self::ClientCertificate { name, groups, .. } => {
                Some(User::new(name, groups.iter().map(String::as_str)).authenticated())
            }
            Self::Tcp { .. } => None,
        }
    }
}

/// Somebody: what `user.Info` is upstream and `UserInfo` in authentication.k8s.io.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name, unique among all users.
    pub name: String,
    /// What tells it from an earlier user of the same name.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user in these groups and no other.
    pub fn new<'a>(name: &str, groups: impl IntoIterator<Item = &'a str>) -> Self {
        Self { name: name.to_owned(), groups: groups.into_iter().map(str::to_owned).collect(), ..Self::default() }
    }

    /// The user without credentials.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, [UNAUTHENTICATED])
    }

    /// A ServiceAccount, in the groups that they all are in.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let group = format!("{SERVICE_ACCOUNTS}:{namespace}");
        Self::new(&format!("{SERVICE_ACCOUNT_USER}{namespace}:{name}"), [SERVICE_ACCOUNTS, &group])
    }

    /// This user with the group of the authenticated ones, unless it is in one of the two already.
    #[must_use]
    pub fn authenticated(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) && !self.is_in(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Namespace and name, if it is a ServiceAccount.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        service_account_of(&self.name)
    }
}

impl From<&User> for UserInfo {
    fn from(user: &User) -> Self {
        Self {
            username: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
            extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
        }
    }
}

/// Namespace and name of the ServiceAccount that a user name stands for.
pub fn service_account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_USER)?.split_once(':')?;
    let fine = |part: &str| !part.is_empty() && !part.contains(':');
    (fine(namespace) && fine(name)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_shows_who_is_behind_it() {
        let rows = [
            (Peer::UnixSocket { uid: 0, gid: 0 }, Some(("stint:uid:0", vec![MASTERS, AUTHENTICATED]))),
            (Peer::UnixSocket { uid: 1000, gid: 0 }, Some(("stint:uid:1000", vec![MASTERS, AUTHENTICATED]))),
            (Peer::UnixSocket { uid: 1001, gid: 0 }, Some(("stint:uid:1001", vec![AUTHENTICATED]))),
            (
                Peer::ClientCertificate { name: "alice".into(), groups: vec!["dev".into()], address: None },
                Some(("alice", vec!["dev", AUTHENTICATED])),
            ),
            (Peer::ClientCertificate { name: String::new(), groups: vec![MASTERS.into()], address: None }, None),
            (Peer::Tcp { address: None }, None),
        ];
        for (peer, expected) in rows {
            let expected = expected.map(|(name, groups)| User::new(name, groups));
            assert_eq!(peer.user(1000), expected, "{peer:?}");
        }
    }

    #[test]
    fn a_service_account_is_recognized_by_its_name_only_when_whole() {
        let account = User::service_account("ns", "robot");
        assert_eq!(account.as_service_account(), Some(("ns", "robot")));
        for name in ["system:serviceaccount:ns", "system:serviceaccount::x", "system:serviceaccount:a:b:c", "alice"] {
            assert_eq!(service_account_of(name), None, "{name}");
        }
    }
}
