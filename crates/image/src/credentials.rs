//! Credentials as docker keeps them: in `config.json`, in programs that it names, and in Secrets of the same form.
//!
//! Invariants: a configuration is read again with each pull, so that a login counts at once; a program is asked for one
//! registry and no other, and for a minute at most. Secrets are never shown.
//! Upstream: `pkg/credentialprovider/{config,keyring}.go`, v1.36, for what keys mean; docker's
//! `cli/config/configfile/file.go` and `docker-credential-helpers` for programs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::access::Login;
use crate::reference::DEFAULT_REGISTRY;

/// What programs call the default registry, and logins at it.
const DEFAULT_SERVER: &str = "https://index.docker.io/v1/";
/// How long a program may take.
const HELPER_TIMEOUT: Duration = Duration::from_mins(1);

/// docker's configuration, as far as it is about credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerConfig {
    /// Logins, each with the registry, or registry and repository prefix, that it is for.
    pub logins: Vec<(String, Login)>,
    /// Programs by registry: `ecr-login` is `docker-credential-ecr-login`.
    helpers: BTreeMap<String, String>,
    /// The program for every other registry.
    store: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// What a program answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl DockerConfig {
    /// Reads a `config.json` (in a Secret: `.dockerconfigjson`).
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let File { auths, cred_helpers, creds_store } = serde_json::from_slice(bytes)?;
        let helpers = cred_helpers.into_iter().map(|(server, helper)| (scope(&server), helper)).collect();
        let store = creds_store.filter(|helper| !helper.is_empty());
        Ok(Self { logins: logins(auths), helpers, store })
    }

    /// Reads what was before it: the logins alone (in a Secret: `.dockercfg`).
    pub fn parse_legacy(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Self { logins: logins(serde_json::from_slice(bytes)?), ..Self::default() })
    }

    /// What the configuration in this folder says of a registry (`host[:port]`): logins, and what went wrong.
    pub(crate) async fn ask(folder: &Path, host: &str) -> (Vec<(String, Login)>, Option<String>) {
        let path = folder.join("config.json");
        let config = match fs::read(&path) {
            Ok(bytes) => Self::parse(&bytes).map_err(|fault| fault.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), None),
            Err(error) => Err(error.to_string()),
        };
        let Self { mut logins, mut helpers, store } = match config {
            Ok(config) => config,
            Err(fault) => return (Vec::new(), Some(format!("{} can't be used: {fault}", path.display()))),
        };
        let Some(helper) = helpers.remove(host).or(store) else { return (logins, None) };
        match run(&helper, host).await {
            Ok(found) => {
                logins.splice(0..0, found.map(|login| (host.to_owned(), login)));
                (logins, None)
            }
            Err(fault) => (logins, Some(format!("docker-credential-{helper}: {fault}"))),
        }
    }
}

fn logins(auths: BTreeMap<String, Entry>) -> Vec<(String, Login)> {
    auths.into_iter().filter_map(|(server, entry)| Some((scope(&server), entry.login()?))).collect()
}

/// The registry, or registry and repository prefix, that a key means.
fn scope(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { DEFAULT_REGISTRY } else { host };
    // The API's own folder is no part of a repository's name.
    let path = match path.split_once('/') {
        Some(("v1" | "v2", rest)) => rest,
        _ if matches!(path, "v1" | "v2") => "",
        _ => path,
    };
    let path = path.trim_end_matches('/');
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

impl Entry {
    fn login(self) -> Option<Login> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = filled(self.registrytoken) {
            return Some(Login::Token(token));
        }
        if let Some(token) = filled(self.identitytoken) {
            return Some(Login::Identity(token));
        }
        let Some(auth) = filled(self.auth) else {
            return Some(Login::Password { username: filled(self.username)?, password: filled(self.password)? });
        };
        let plain = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
        let (username, password) = plain.split_once(':')?;
        // Some programs end it with a zero byte.
        let password = password.trim_end_matches('\0').to_owned();
        Some(Login::Password { username: username.to_owned(), password })
    }
}

/// Asks a program for a registry's login. `None`: it knows none.
async fn run(helper: &str, host: &str) -> Result<Option<Login>, String> {
    if helper.contains('/') {
        return Err("its name is not that of a program in PATH".to_owned());
    }
    let server = if host == DEFAULT_REGISTRY { DEFAULT_SERVER } else { host };
    let mut command = Command::new(format!("docker-credential-{helper}"));
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let pid = Pid::from_child(&child);
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| errno.to_string())?;
    let asked = server.to_owned();
    let ended = spawn_blocking(move || {
        // One that does not want to know ends before it has read; what it answers tells more.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(asked.as_bytes()));
        child.wait_with_output()
    });
    let Ok(ended) = timeout(HELPER_TIMEOUT, ended).await else {
        let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
        return Err(format!("no answer within {} s", HELPER_TIMEOUT.as_secs()));
    };
    let output = ended.map_err(|_| "nobody waited for it".to_owned())?.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        // The words of docker-credential-helpers' `ErrCredentialsNotFound`.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let words: Vec<&str> = [said.as_str(), error.as_str()].into_iter().filter(|text| !text.is_empty()).collect();
        return Err(format!("{} ({})", words.join(": "), output.status));
    }
    let Answer { username, secret } = serde_json::from_str(&said).map_err(|_| "its answer is no login".to_owned())?;
    Ok(match username.as_str() {
        _ if secret.is_empty() => None,
        "<token>" => Some(Login::Identity(secret)),
        _ => Some(Login::Password { username, password: secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Login {
        Login::Password { username: username.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn logins_are_read_in_every_form_that_docker_writes() {
        let text = r#"{
            "auths": {
                "a.example": {"auth": "dXNlcjpwYTpzcw=="},
                "https://index.docker.io/v1/": {"username": "u", "password": "p", "email": "e"},
                "b.example/v2/team/": {"identitytoken": "i", "auth": "dXNlcjo="},
                "c.example:5000/team": {"registrytoken": "r"},
                "d.example": {},
                "e.example": {"auth": "not base64"}
            },
            "credHelpers": {"f.example": "fake"}, "credsStore": "", "HttpHeaders": {}
        }"#;
        let config = DockerConfig::parse(text.as_bytes()).unwrap();
        let expected = [
            ("a.example", password("user", "pa:ss")),
            ("b.example/team", Login::Identity("i".into())),
            ("c.example:5000/team", Login::Token("r".into())),
            ("docker.io", password("u", "p")),
        ];
        assert_eq!(config.logins, expected.map(|(scope, login)| (scope.to_owned(), login)));
        assert_eq!((config.helpers["f.example"].as_str(), config.store), ("fake", None));
        let legacy = DockerConfig::parse_legacy(br#"{"http://a.example/v1/": {"auth": "dTpw"}}"#).unwrap();
        assert_eq!(legacy.logins, [("a.example".to_owned(), password("u", "p"))]);
        assert!(DockerConfig::parse(b"[]").is_err());
    }
}
