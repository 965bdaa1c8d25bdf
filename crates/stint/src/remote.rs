//! A client of the API that a kubeconfig names: of a daemon on another machine, or of a cluster.
//!
//! Invariant: nothing is sent before the server has shown a certificate of the kubeconfig's authority, and a kubeconfig that
//! asks for what is not done here is refused, not followed by half.
//! Left out: programs that log in (`exec`), authorities of the machine, and proxies. They take more than the program has
//! room for, and `kubectl proxy` does all of it: its address may stand in a kubeconfig as `http://127.0.0.1:8001`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use http::header::{AUTHORIZATION, HOST};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use kube::Client;
use kube::client::Body;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{Stream, send};

/// A client of the API of the kubeconfig's current context.
///
/// # Errors
///
/// When there is no such file, or its current context can't be used here. Whether the server answers is only seen later.
pub fn client(file: &Path) -> anyhow::Result<Client> {
    let text = fs::read_to_string(file).with_context(|| format!("can't read the kubeconfig {}", file.display()))?;
    let config: Value = serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let server = Server::of(&config, folder).with_context(|| format!("can't use the kubeconfig {}", file.display()))?;
    let server = Arc::new(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move { server.ask(request).await }
    });
    Ok(Client::new(service, "default"))
}

/// Where an API is, and who asks it.
struct Server {
    host: String,
    port: u16,
    /// What its paths begin with, without a slash at the end.
    base: String,
    /// None: it is asked without TLS.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<HeaderValue>,
}

impl Server {
    /// That of the current context of `config`, which lies in `folder`.
    fn of(config: &Value, folder: &Path) -> anyhow::Result<Server> {
        let current = config["current-context"].as_str().filter(|name| !name.is_empty());
        let context = entry(config, "contexts", "context", current.context("it has no current context")?)?;
        let name_of = |what: &str| context[what].as_str().with_context(|| format!("its context names no {what}"));
        let cluster = entry(config, "clusters", "cluster", name_of("cluster")?)?;
        let user = match context["user"].as_str() {
            Some(user) => entry(config, "users", "user", user)?,
            None => &Value::Null,
        };
        for (of, what) in [(cluster, "proxy-url"), (user, "exec"), (user, "auth-provider"), (user, "username")] {
            if !of[what].is_null() {
                bail!("{what} is not supported; `kubectl proxy` can stand between");
            }
        }
        let url: Uri = cluster["server"]
            .as_str()
            .context("its cluster names no server")?
            .parse()
            .context("its server is no URL")?;
        let host = url.host().context("its server has no host")?.trim_matches(['[', ']']).to_owned();
        let is_plain = match url.scheme_str() {
            Some("https") => false,
            Some("http") => true,
            _ => bail!("its server is neither https:// nor http://"),
        };
        let port = url.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        let tls = if is_plain { None } else { Some(tls(cluster, user, folder, &host)?) };
        let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(path)) => Some(String::from_utf8(read(&folder.join(path))?).context("its token is no text")?),
            (None, None) => None,
        };
        let token = token.map(|token| HeaderValue::from_str(&format!("Bearer {}", token.trim()))).transpose();
        let token = token.context("its token can't be sent")?;
        if is_plain && token.is_some() {
            bail!("its token would be sent without TLS");
        }
        Ok(Server { host, port, base: url.path().trim_end_matches('/').to_owned(), tls, token })
    }

    /// Sends one request over a connection of its own.
    async fn ask(&self, mut request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        let (host, port) = (self.host.as_str(), self.port);
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(host).context("the server's name can't be sent")?);
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let asked = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        *request.uri_mut() = format!("{}{asked}", self.base).parse().context("the path can't be asked for")?;
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.with_context(|| format!("can't reach {host}, port {port}"))?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                Box::new(stream.with_context(|| format!("{host}, port {port}, is not who the kubeconfig names"))?)
            }
        };
        send(stream, request).await
    }
}

/// What the entry `name` of a list holds.
fn entry<'a>(config: &'a Value, list: &str, what: &str, name: &str) -> anyhow::Result<&'a Value> {
    let entries = config[list].as_array().into_iter().flatten();
    let mut named = entries.filter(|entry| entry["name"] == name);
    Ok(&named.next().with_context(|| format!("it has no {what} {name}"))?[what])
}

/// What stands under `name` in base64, or in the file that `name` without `-data` names.
fn bytes(of: &Value, name: &str, folder: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let data = &of[format!("{name}-data")];
    if !data.is_null() {
        let bytes: Result<k8s_openapi::ByteString, _> = serde_json::from_value(data.clone());
        return Ok(Some(bytes.with_context(|| format!("its {name}-data is not in base64"))?.0));
    }
    of[name].as_str().map(|path| read(&folder.join(path))).transpose()
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

/// How to speak with `host`, of which name its certificate has to be.
fn tls(
    cluster: &Value,
    user: &Value,
    folder: &Path,
    host: &str,
) -> anyhow::Result<(TlsConnector, ServerName<'static>)> {
    if cluster["insecure-skip-tls-verify"] == true {
        bail!("insecure-skip-tls-verify is not supported: give its certificate-authority");
    }
    let certificates = |pem: &[u8]| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("a certificate is not PEM")
    };
    let authority = bytes(cluster, "certificate-authority", folder)?.context("its cluster names no authority")?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&authority)? {
        roots.add(certificate).context("its certificate-authority can't be used")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.context("can't speak TLS")?.with_root_certificates(roots);
    let own = bytes(user, "client-certificate", folder)?.zip(bytes(user, "client-key", folder)?);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(&key).context("its client-key is not PEM")?;
            builder.with_client_auth_cert(certificates(&chain)?, key).context("its client-certificate can't be used")?
        }
    };
    let name = cluster["tls-server-name"].as_str().unwrap_or(host).to_owned();
    let name = ServerName::try_from(name).context("its server's name is none")?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(cluster: &Value, user: &Value) -> Value {
        json!({
            "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "here", "user": "me" } }],
            "clusters": [{ "name": "other", "cluster": {} }, { "name": "here", "cluster": cluster }],
            "users": [{ "name": "me", "user": user }],
        })
    }

    #[test]
    fn the_current_context_says_where_the_api_is() {
        let plain = |server: &str| config(&json!({ "server": server }), &json!({}));
        let server = Server::of(&plain("http://127.0.0.1:8001/k8s/"), Path::new("")).unwrap();
        assert_eq!((server.host.as_str(), server.port, server.base.as_str()), ("127.0.0.1", 8001, "/k8s"));
        let server = Server::of(&plain("http://[::1]"), Path::new("")).unwrap();
        assert_eq!((server.host.as_str(), server.port, server.base.as_str()), ("::1", 80, ""));
    }

    #[test]
    fn what_is_not_done_here_is_refused() {
        let (plain, none) = (json!({ "server": "http://a" }), json!({}));
        let mut nowhere = config(&plain, &none);
        nowhere["current-context"] = json!("gone");
        let insecure = json!({ "server": "https://a", "insecure-skip-tls-verify": true });
        for (config, expected) in [
            (Value::Null, "no current context"),
            (nowhere, "no context gone"),
            (config(&none, &none), "names no server"),
            (config(&json!({ "server": "a" }), &none), "neither https"),
            (config(&json!({ "server": "https://a" }), &none), "names no authority"),
            (config(&insecure, &none), "insecure-skip-tls-verify is not supported"),
            (config(&plain, &json!({ "exec": {} })), "exec is not supported"),
            (config(&plain, &json!({ "token": "secret" })), "without TLS"),
            (config(&json!({ "server": "https://a", "certificate-authority-data": "?" }), &none), "not in base64"),
            (config(&json!({ "server": "https://a", "certificate-authority": "no/file" }), &none), "can't read"),
        ] {
            let error = Server::of(&config, Path::new("/nowhere")).err().expect(expected);
            assert!(format!("{error:#}").contains(expected), "{expected}: {error:#}");
        }
    }
}
