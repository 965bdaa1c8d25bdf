//! Kubeconfig files: how kubectl and client libraries find the API and show who they are.
//!
//! Invariant: merging touches only entries of our own name and the current context; what else a file holds, known here or
//! not, stays.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::args::KubeconfigArgs;
use crate::exit::Exit;
use crate::folder::write_private;

/// The name of cluster, user and context.
const NAME: &str = "stint";

/// Prints or merges the administrator's kubeconfig.
pub fn main(data: &Path, args: &KubeconfigArgs) -> anyhow::Result<Exit> {
    let path = file(data);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "there is no {}: start `stint serve` on this data folder first, or name its folder with --data",
            path.display()
        ),
        text => text.with_context(|| format!("can't read {}", path.display()))?,
    };
    let mut config: Value = serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", path.display()))?;
    if let Some(server) = &args.server {
        config["clusters"][0]["cluster"]["server"] = json!(server);
    }
    if !args.merge {
        let mut stdout = io::stdout().lock();
        stdout.write_all(to_yaml(&config)?.as_bytes()).context("can't print")?;
        return Ok(Exit::Done);
    }
    let target = target()?;
    let old = match fs::read_to_string(&target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        text => Some(text.with_context(|| format!("can't read {}", target.display()))?),
    };
    let old: Option<Value> = match old.filter(|text| !text.trim().is_empty()) {
        None => None,
        Some(text) => Some(serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", target.display()))?),
    };
    let merged = merge(old, &config).with_context(|| format!("can't merge into {}", target.display()))?;
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    write_private(&target, to_yaml(&merged)?.as_bytes())?;
    eprintln!("{}: cluster, user and context {NAME} are there, and {NAME} is the current context", target.display());
    Ok(Exit::Done)
}

/// The file that kubectl would write to.
fn target() -> anyhow::Result<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        let files: Vec<PathBuf> = std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
        let first = files.iter().find(|path| path.exists()).or(files.last());
        return first.cloned().context("KUBECONFIG names no file");
    }
    let home = std::env::var_os("HOME").context("neither KUBECONFIG nor HOME is set")?;
    Ok(Path::new(&home).join(".kube/config"))
}

/// `old` with the entries of `ours`, which is made the current context.
fn merge(old: Option<Value>, ours: &Value) -> anyhow::Result<Value> {
    let mut merged = match old {
        None | Some(Value::Null) => json!({ "apiVersion": "v1", "kind": "Config", "preferences": {} }),
        Some(old) if old.is_object() => old,
        Some(_) => bail!("it is no kubeconfig"),
    };
    for list in ["clusters", "users", "contexts"] {
        let entry = &ours[list][0];
        match &mut merged[list] {
            Value::Array(entries) => match entries.iter_mut().find(|known| known["name"] == NAME) {
                Some(known) => *known = entry.clone(),
                None => entries.push(entry.clone()),
            },
            none @ Value::Null => *none = json!([entry]),
            _ => bail!("its {list} are no list"),
        }
    }
    merged["current-context"] = json!(NAME);
    Ok(merged)
}

/// The administrator's kubeconfig of a data folder.
pub fn file(data: &Path) -> PathBuf {
    data.join("kubeconfig")
}

/// Where clients on this machine reach what listens on `address`, as a URL.
pub fn url(address: SocketAddr) -> String {
    format!("https://{}", reachable(address))
}

/// Where clients on this machine reach what listens on `address`.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The kubeconfig of the administrator; everything is in PEM.
pub fn admin(server: &str, ca: &str, certificate: &str, key: &str) -> Value {
    // Bytes in JSON are in base64.
    let base64 = |text: &str| json!(k8s_openapi::ByteString(text.as_bytes().to_vec()));
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": NAME,
            "cluster": { "server": server, "certificate-authority-data": base64(ca) },
        }],
        "users": [{
            "name": NAME,
            "user": { "client-certificate-data": base64(certificate), "client-key-data": base64(key) },
        }],
        "contexts": [{ "name": NAME, "context": { "cluster": NAME, "user": NAME } }],
        "current-context": NAME,
    })
}

/// As a file.
pub fn to_yaml(config: &Value) -> anyhow::Result<String> {
    serde_saphyr::to_string(config).context("can't write the kubeconfig as YAML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_what_is_not_ours() {
        let ours = admin("https://127.0.0.1:6443", "ca", "cert", "key");
        let old = json!({
            "apiVersion": "v1", "kind": "Config", "extensions": [{ "name": "x" }], "current-context": "work",
            "clusters": [{ "name": "work", "cluster": { "server": "https://work" } },
                         { "name": "stint", "cluster": { "server": "https://old" } }],
            "contexts": null,
        });
        let merged = merge(Some(old.clone()), &ours).unwrap();
        assert_eq!(merged["extensions"], old["extensions"]);
        assert_eq!(merged["clusters"][0], old["clusters"][0]);
        assert_eq!(merged["clusters"][1], ours["clusters"][0]);
        assert_eq!((&merged["contexts"], &merged["users"]), (&ours["contexts"], &ours["users"]));
        assert_eq!(merged["current-context"], "stint");
        assert_eq!(merge(Some(merged.clone()), &ours).unwrap(), merged, "twice changes nothing");
        assert!(merge(Some(json!([])), &ours).is_err());
    }

    #[test]
    fn a_kubeconfig_survives_yaml() {
        let config = admin("https://[::1]:6443", "-----BEGIN\n", "a: b", "#");
        let read: Value = serde_saphyr::from_str(&to_yaml(&config).unwrap()).unwrap();
        assert_eq!(read, config);
    }

    #[test]
    fn clients_on_this_machine_do_not_connect_to_the_unspecified_address() {
        assert_eq!(url("0.0.0.0:1".parse().unwrap()), "https://127.0.0.1:1");
        assert_eq!(url("[::]:2".parse().unwrap()), "https://[::1]:2");
        assert_eq!(url("10.0.0.1:3".parse().unwrap()), "https://10.0.0.1:3");
    }
}
