//! Access: how to reach registries, and as whom.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::credentials::DockerConfig;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::unpack::Limits;

/// How to reach registries. The default asks the registry that the reference names, anonymously, over TLS
/// (plain HTTP first when it is on loopback), for this machine's platform.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    /// Logins with the registry (`host[:port]`) or registry and repository prefix (`host/team`) that they are for; `*` in
    /// the host stands for a part of it between dots (`*.example.com`). Those that match a registry are tried in turn, the most specific first; with none, access is anonymous.
    pub logins: Vec<(String, Login)>,
    /// The folder with docker's `config.json`, whose logins and programs are tried after `logins`. It is read with each
    /// pull.
    pub docker: Option<Arc<Path>>,
    /// Registries (`host[:port]`) that speak plain HTTP.
    pub plain_http: Vec<String>,
    /// Mirrors to try, in order, before the registry itself: the registry and the mirror's URL
    /// (`http://127.0.0.1:5000`, or `https://mirror.example/prefix` where repositories lie below a prefix).
    pub mirrors: Vec<(String, String)>,
    /// Further certificate authorities to trust, each one PEM certificate.
    pub authorities: Vec<Vec<u8>>,
    /// The platform to choose from a multi-platform image.
    pub platform: Platform,
    /// What one layer may unpack to.
    pub limits: Limits,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            logins: Vec::new(),
            docker: None,
            plain_http: Vec::new(),
            mirrors: Vec::new(),
            authorities: Vec::new(),
            platform: Platform::host(),
            limits: Limits::default(),
        }
    }
}

/// A credential for a registry. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// User name and password, sent to the registry or to the token service that it names.
    Password {
        /// The user's name.
        username: String,
        /// The password or access token.
        password: String,
    },
    /// A ready bearer token.
    Token(String),
    /// A token that only the registry's token service takes, for one that the registry takes (OAuth2's refresh token).
    Identity(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username}, …)"),
            Self::Token(_) => write!(f, "Token(…)"),
            Self::Identity(_) => write!(f, "Identity(…)"),
        }
    }
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]`.
    pub(crate) host: String,
    /// Plain HTTP instead of TLS.
    pub(crate) plain_http: bool,
    /// Put before the repository, with its slash; usually empty.
    pub(crate) prefix: String,
    /// A mirror, rather than the registry itself.
    pub(crate) mirror: bool,
    /// TLS, where plain HTTP is tried first at the same host.
    pub(crate) is_second_scheme: bool,
}

impl Access {
    /// Where to ask for a reference: its registry's mirrors, then the registry.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let registry = reference.registry();
        let mut endpoints = Vec::new();
        for (of, url) in &self.mirrors {
            if of != registry {
                continue;
            }
            let (scheme, rest) =
                url.split_once("://").map_or((None, url.as_str()), |(scheme, rest)| (Some(scheme), rest));
            let (host, prefix) = rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), ""));
            // People write the API's own folder in mirror URLs; it is no prefix.
            let prefix = prefix.trim_start_matches("v2/").trim_end_matches('/');
            let prefix = if prefix.is_empty() || prefix == "v2" { String::new() } else { format!("{prefix}/") };
            self.push_endpoints(&mut endpoints, host, scheme, &prefix, true);
        }
        self.push_endpoints(&mut endpoints, registry, None, "", false);
        endpoints
    }

    fn push_endpoints(
        &self,
        endpoints: &mut Vec<Endpoint>,
        host: &str,
        scheme: Option<&str>,
        prefix: &str,
        mirror: bool,
    ) {
        let mut push = |plain_http, is_second_scheme| {
            let (host, prefix) = (host.to_owned(), prefix.to_owned());
            endpoints.push(Endpoint { host, plain_http, prefix, mirror, is_second_scheme });
        };
        match scheme {
            Some("http") => push(true, false),
            None if self.plain_http.iter().any(|plain| plain == host) => push(true, false),
            None if is_loopback(host) => {
                push(true, false);
                push(false, true);
            }
            _ => push(false, false),
        }
    }

    /// The logins for a repository at a host: those given, then docker's, each the most specific first. And what went
    /// wrong when docker's were looked for.
    pub(crate) async fn logins_for(&self, host: &str, repository: &str) -> (Vec<Login>, Option<String>) {
        let mut found = fitting(&self.logins, host, repository);
        let Some(folder) = &self.docker else { return (found, None) };
        let (logins, fault) = DockerConfig::ask(folder, host).await;
        found.extend(fitting(&logins, host, repository));
        (found, fault)
    }
}

fn fitting(logins: &[(String, Login)], host: &str, repository: &str) -> Vec<Login> {
    let mut found: Vec<_> = logins
        .iter()
        .map(|(scope, login)| (scope.trim_end_matches('/'), login))
        .filter(|(scope, _)| is_in(host, repository, scope))
        .collect();
    found.sort_by_key(|(scope, _)| std::cmp::Reverse(scope.len()));
    found.into_iter().map(|(_, login)| login.clone()).collect()
}

/// Whether a repository at a host is within what a login is for.
fn is_in(host: &str, repository: &str, scope: &str) -> bool {
    let (pattern, prefix) = scope.split_once('/').unwrap_or((scope, ""));
    let is_prefix = repository
        .strip_prefix(prefix)
        .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'));
    is_prefix && is_host(host, pattern)
}

/// Whether a `host[:port]` is one that the pattern means.
fn is_host(host: &str, pattern: &str) -> bool {
    if !pattern.contains('*') {
        return host == pattern;
    }
    let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
    let parts = |text: &str| -> Vec<String> {
        let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
        name.split('.').map(str::to_owned).collect()
    };
    let (host_parts, pattern_parts) = (parts(host), parts(pattern));
    let fits = |(part, pattern): (&String, &String)| match pattern.split_once('*') {
        None => part == pattern,
        Some((before, after)) => {
            part.len() >= before.len() + after.len() && part.starts_with(before) && part.ends_with(after)
        }
    };
    port(host) == port(pattern)
        && host_parts.len() == pattern_parts.len()
        && host_parts.iter().zip(&pattern_parts).all(fits)
}

/// Whether a `host[:port]` is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(access: &Access, reference: &str) -> Vec<String> {
        let show = |e: &Endpoint| format!("{}://{}/{}", if e.plain_http { "http" } else { "https" }, e.host, e.prefix);
        access.endpoints(&reference.parse().unwrap()).iter().map(show).collect()
    }

    #[test]
    fn mirrors_come_first_and_loopback_tries_plain_http() {
        let mut access = Access::default();
        assert_eq!(texts(&access, "registry.example/a"), ["https://registry.example/"]);
        assert_eq!(texts(&access, "127.0.0.1:5000/a"), ["http://127.0.0.1:5000/", "https://127.0.0.1:5000/"]);
        assert_eq!(texts(&access, "[::1]:5000/a")[0], "http://[::1]:5000/");
        access.plain_http.push("registry.example".into());
        access.mirrors.push(("registry.example".into(), "http://m:5000".into()));
        access.mirrors.push(("registry.example".into(), "https://n/v2/team/".into()));
        assert_eq!(
            texts(&access, "registry.example/a"),
            ["http://m:5000/", "https://n/team/", "http://registry.example/"]
        );
        assert_eq!(texts(&access, "other.example/a"), ["https://other.example/"]);
    }

    #[test]
    fn the_most_specific_login_comes_first_and_secrets_stay_out_of_debug() {
        let login = |name: &str| Login::Password { username: name.into(), password: "secret".into() };
        let access = Access {
            logins: vec![("host".into(), login("a")), ("host/team".into(), login("b")), ("hos".into(), login("c"))],
            ..Access::default()
        };
        assert_eq!(fitting(&access.logins, "host", "team/tool"), [login("b"), login("a")]);
        assert_eq!(fitting(&access.logins, "host", "teams/tool"), [login("a")]);
        assert!(!format!("{access:?}").contains("secret"));
    }

    #[test]
    fn a_star_stands_for_a_part_of_a_hosts_name() {
        for (host, pattern, fits) in [
            ("a.example.com", "*.example.com", true),
            ("a.b.example.com", "*.example.com", false),
            ("example.com", "*.example.com", false),
            ("a.example.com:5000", "*.example.com", false),
            ("a.example.com:5000", "*.example.com:5000", true),
            ("eu-1.example.com", "eu-*.example.com", true),
            ("us-1.example.com", "eu-*.example.com", false),
            ("a.example.com", "a.*.com", true),
        ] {
            assert_eq!(is_host(host, pattern), fits, "{host} {pattern}");
        }
        assert!(is_in("a.example.com", "team/tool", "*.example.com/team"));
        assert!(!is_in("a.example.com", "teams/tool", "*.example.com/team"));
    }
}
