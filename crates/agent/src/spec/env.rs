//! A container's environment: the image's, where the API is, `envFrom`, then `env`, with references expanded.
//!
//! Upstream: `pkg/kubelet/kubelet_pods.go`, `makeEnvironmentVariables`; `pkg/kubelet/envvars/envvars.go`, v1.36.
//! Left out: variables for other Services, which nothing listens at here.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Container, EnvVar};

use crate::downward::Downward;
use crate::error::Error;
use crate::expand::expand;
use crate::sources::{Entries, Sources};

/// Where programs are looked for when nobody says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables that the pod sets, in order, with references expanded.
pub(super) fn of_pod(
    container: &Container,
    sources: &Sources,
    down: Downward<'_>,
    api: Option<SocketAddr>,
) -> Result<Variables, Error> {
    let mut variables = api.map(kubernetes).unwrap_or_default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (entries, what, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => (sources.config_map(&map.name), format!("configmap \"{}\"", map.name), map.optional),
            (None, Some(secret)) => {
                (sources.secret(&secret.name), format!("secret \"{}\"", secret.name), secret.optional)
            }
            (None, None) => continue,
        };
        match entries {
            Some(entries) => {
                for (key, value) in entries {
                    // What is no text or can't be a variable is left out, as upstream does.
                    let name = format!("{prefix}{key}");
                    if let (Ok(value), true) = (str::from_utf8(value), is_variable_name(&name)) {
                        variables.set(name, value.to_owned());
                    }
                }
            }
            None if optional == Some(true) => {}
            None => return Err(Error::config(format!("{what} not found"))),
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(variable, container, &variables, sources, down)? {
            variables.set(variable.name.clone(), value);
        }
    }
    Ok(variables)
}

/// What tells a container where the API is: in a cluster that is the Service `kubernetes`, whose port is named `https`.
fn kubernetes(api: SocketAddr) -> Variables {
    let (host, port) = (api.ip().to_string(), api.port().to_string());
    let (url, at) = (format!("tcp://{api}"), format!("KUBERNETES_PORT_{port}_TCP"));
    let mut variables = Variables::default();
    for (name, value) in [
        ("KUBERNETES_SERVICE_HOST".to_owned(), host.as_str()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), &port),
        ("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), &port),
        ("KUBERNETES_PORT".to_owned(), &url),
        (at.clone(), &url),
        (format!("{at}_PROTO"), "tcp"),
        (format!("{at}_PORT"), &port),
        (format!("{at}_ADDR"), &host),
    ] {
        variables.set(name, value.to_owned());
    }
    variables
}

/// The whole environment of a process: the image's variables, what every container has, and the pod's.
pub(super) fn complete(image: &[String], hostname: &str, home: &str, pod: &Variables) -> Vec<String> {
    let mut all = Variables::default();
    all.set("PATH".to_owned(), PATH.to_owned());
    all.set("HOSTNAME".to_owned(), hostname.to_owned());
    for (name, value) in image.iter().filter_map(|text| text.split_once('=')) {
        all.set(name.to_owned(), value.to_owned());
    }
    for name in &pod.order {
        all.set(name.clone(), pod.values[name].clone());
    }
    if !all.values.contains_key("HOME") {
        all.set("HOME".to_owned(), home.to_owned());
    }
    all.order.iter().map(|name| format!("{name}={}", all.values[name])).collect()
}

/// Variables in the order in which they were first set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Variables {
    order: Vec<String>,
    values: HashMap<String, String>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    /// `text` with its references replaced.
    pub(super) fn expand(&self, text: &str) -> String {
        expand(text, |name| self.values.get(name).map(String::as_str))
    }

    /// `text` with its references replaced; fails with the name of a variable that is not set.
    pub(super) fn expand_whole(&self, text: &str) -> Result<String, String> {
        let missing = Cell::new(None);
        let expanded = expand(text, |name| {
            let value = self.values.get(name).map(String::as_str);
            if value.is_none() {
                missing.set(Some(name.to_owned()));
            }
            value
        });
        missing.take().map_or(Ok(expanded), Err)
    }
}

/// The value of one variable; `None` when it comes from something optional that is not there.
fn value_of(
    variable: &EnvVar,
    container: &Container,
    before: &Variables,
    sources: &Sources,
    down: Downward<'_>,
) -> Result<Option<String>, Error> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(before.expand(variable.value.as_deref().unwrap_or_default())));
    };
    if let Some(field) = &from.field_ref {
        return down.field(field).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return down.resource(resource, Some(container)).map(Some);
    }
    if let Some(key) = &from.config_map_key_ref {
        let what = ("ConfigMap", "configmap");
        return entry(sources.config_map(&key.name), &key.name, &key.key, key.optional, what, down);
    }
    if let Some(key) = &from.secret_key_ref {
        let what = ("Secret", "secret");
        return entry(sources.secret(&key.name), &key.name, &key.key, key.optional, what, down);
    }
    Err(Error::config(format!("env {:?}: this source of a value is not supported", variable.name)))
}

fn entry(
    entries: Option<Entries<'_>>,
    name: &str,
    key: &str,
    optional: Option<bool>,
    (kind, word): (&str, &str),
    down: Downward<'_>,
) -> Result<Option<String>, Error> {
    let optional = optional == Some(true);
    let Some(entries) = entries else {
        return if optional { Ok(None) } else { Err(Error::config(format!("{word} \"{name}\" not found"))) };
    };
    match entries.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional => Ok(None),
        None => {
            let namespace = down.pod.metadata.namespace.as_deref().unwrap_or_default();
            Err(Error::config(format!("couldn't find key {key} in {kind} {namespace}/{name}")))
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}
