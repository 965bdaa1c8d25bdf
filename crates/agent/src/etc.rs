//! The files of `/etc` that a pod gets from its node: who it is, who is where, and whom to ask.
//!
//! Invariant: pure but for reading the machine's own files; what a pod asks for is in the files, in the kubelet's words and order.
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`ensureHostsFile`, `GeneratePodHostNameAndDomain`) and
//! `pkg/kubelet/network/dns/dns.go` (`GetPodDNS`), v1.36.

use std::fs;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};

use crate::error::Error;

/// The longest host name that a kernel takes.
const LONGEST_HOSTNAME: usize = 64;
/// How many resolvers the C library asks, and how many suffixes it tries, in how many characters.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCHES: usize = 2048;

/// Where the machine's own resolvers are written down.
pub(crate) const RESOLVERS: &str = "/etc/resolv.conf";
/// Where systemd-resolved writes down those that it asks itself, as itself it listens on the machine's loopback only.
const BEHIND_LOCAL: &str = "/run/systemd/resolve/resolv.conf";

/// Whoever answers for the names of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterDns {
    /// Where it is asked.
    pub(crate) server: IpAddr,
    /// What names end with, `cluster.local` usually.
    pub(crate) domain: String,
}

/// Who a pod is on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// What its containers see as the host name.
    pub(crate) host: String,
    /// The name with which others find it, if it has one.
    pub(crate) full: Option<String>,
    /// The first label of the full name.
    short: String,
}

impl Name {
    /// The pod's names: on the network of the node `node`, its containers see that as the host name.
    pub(crate) fn of(pod: &Pod, node: &str, domain: &str) -> Result<Name, Error> {
        let spec = pod.spec.clone().unwrap_or_default();
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(own) = text(&spec.hostname_override) {
            return Ok(Name { host: own.clone(), full: None, short: own });
        }
        let own = text(&spec.hostname).or_else(|| pod.metadata.name.clone()).unwrap_or_default();
        let cut: String = own.chars().take(63).collect();
        let short = cut.trim_end_matches(['-', '.']).to_owned();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let full = text(&spec.subdomain).map(|subdomain| format!("{short}.{subdomain}.{namespace}.svc.{domain}"));
        let host = match &full {
            _ if spec.host_network == Some(true) => node.to_owned(),
            Some(full) if spec.set_hostname_as_fqdn == Some(true) => {
                if full.len() > LONGEST_HOSTNAME {
                    return Err(Error::config(format!(
                        "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long \
                         (64 characters is the max, {} characters requested)",
                        full.len()
                    )));
                }
                full.clone()
            }
            _ => short.clone(),
        };
        Ok(Name { host, full, short })
    }
}

/// `/etc/hosts` of a pod on its own network; without addresses, on the node's, whose file is `host`.
pub(crate) fn hosts(pod: &Pod, name: &Name, addresses: &[IpAddr], host: &str) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file");
    if addresses.is_empty() {
        text.push_str(" (host network).\n");
        text.push_str(host);
        if !host.is_empty() && !host.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str(
            ".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for address in addresses {
            let line = match &name.full {
                Some(full) => format!("{address}\t{full}\t{}\n", name.short),
                None => format!("{address}\t{}\n", name.short),
            };
            text.push_str(&line);
        }
    }
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    for (index, alias) in aliases.enumerate() {
        if index == 0 {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        text.extend([alias.ip.as_str(), "\t", names.as_str(), "\n"]);
    }
    text
}

/// What resolv.conf(5) says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// What a file says.
    pub(crate) fn read(text: &str) -> Resolver {
        let mut all = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => all.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    let kept = words.filter(|word| *word != ".").map(|word| word.trim_end_matches('.').to_owned());
                    all.searches = kept.collect(); // the last one counts
                }
                Some("options") => all.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        all
    }

    /// Whether it can be asked from the machine's own network only.
    pub(crate) fn is_local(&self) -> bool {
        let local = |server: &String| server.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        self.servers.iter().any(local)
    }

    /// That of a pod, by its `dnsPolicy` and `dnsConfig`, on a node whose resolver this is.
    pub(crate) fn of_pod(self, pod: &Pod, dns: Option<&ClusterDns>) -> Resolver {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let is_on_host = spec.host_network == Some(true);
        let mut resolver = match (spec.dns_policy.as_deref(), dns) {
            (Some("None"), _) => Resolver::default(),
            (Some("ClusterFirstWithHostNet"), Some(dns)) => self.cluster_first(pod, dns),
            (None | Some("ClusterFirst"), Some(dns)) if !is_on_host => self.cluster_first(pod, dns),
            _ => self,
        };
        if let Some(config) = &spec.dns_config {
            resolver.add(config);
        }
        resolver.servers.truncate(MOST_SERVERS);
        resolver.searches.truncate(MOST_SEARCHES);
        while resolver.searches.join(" ").len() > LONGEST_SEARCHES {
            resolver.searches.pop();
        }
        resolver
    }

    fn cluster_first(self, pod: &Pod, dns: &ClusterDns) -> Resolver {
        let (namespace, domain) = (pod.metadata.namespace.as_deref().unwrap_or_default(), &dns.domain);
        let ours = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        let mut searches = Vec::new();
        add_new(&mut searches, ours.into_iter().chain(self.searches));
        Resolver { servers: vec![dns.server.to_string()], searches, options: vec!["ndots:5".to_owned()] }
    }

    fn add(&mut self, config: &PodDNSConfig) {
        add_new(&mut self.servers, config.nameservers.iter().flatten().cloned());
        add_new(&mut self.searches, config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let text = option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}"));
            self.options.retain(|old| old.split(':').next() != Some(name));
            self.options.push(text);
        }
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.extend(["search ", &self.searches.join(" "), "\n"]);
        }
        for server in &self.servers {
            text.extend(["nameserver ", server, "\n"]);
        }
        if !self.options.is_empty() {
            text.extend(["options ", &self.options.join(" "), "\n"]);
        }
        text
    }
}

/// A file of this machine; nothing where it is not there.
pub(crate) fn of_host(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// This machine's resolver. From another network one on this machine's loopback is of no use, but those that it asks are.
pub(crate) fn resolver_of_host(from_elsewhere: bool) -> Resolver {
    let resolver = Resolver::read(&of_host(RESOLVERS));
    if from_elsewhere && resolver.is_local() {
        let behind = of_host(BEHIND_LOCAL);
        if !behind.is_empty() {
            return Resolver::read(&behind);
        }
    }
    resolver
}

fn add_new(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "job-0-x7k2p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn name(pod: &Pod) -> Result<Name, String> {
        Name::of(pod, "node", "cluster.local").map_err(|error| error.to_string())
    }

    #[test]
    fn names_follow_from_the_spec() {
        let cases = [
            (json!({}), "job-0-x7k2p", None),
            (json!({"hostname": "job-0"}), "job-0", None),
            (json!({"hostname": "job-0", "subdomain": "svc"}), "job-0", Some("job-0.svc.ns.svc.cluster.local")),
            (
                json!({"hostname": "job-0", "subdomain": "svc", "setHostnameAsFQDN": true}),
                "job-0.svc.ns.svc.cluster.local",
                Some("job-0.svc.ns.svc.cluster.local"),
            ),
            (json!({"setHostnameAsFQDN": true}), "job-0-x7k2p", None),
            (json!({"hostNetwork": true}), "node", None),
            (json!({"hostnameOverride": "own.name", "hostname": "job-0", "subdomain": "svc"}), "own.name", None),
        ];
        for (spec, host, full) in cases {
            let found = name(&pod(spec.clone())).unwrap();
            assert_eq!((found.host.as_str(), found.full.as_deref()), (host, full), "{spec}");
        }
        let long = json!({"hostname": "h".repeat(43), "subdomain": "s", "setHostnameAsFQDN": true});
        assert!(name(&pod(long)).unwrap_err().ends_with("(64 characters is the max, 66 characters requested)"));
        let cut = Pod {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some(format!("{}-x", "n".repeat(62))),
                ..Default::default()
            },
            ..Pod::default()
        };
        assert_eq!(name(&cut).unwrap().host, "n".repeat(62));
    }

    #[test]
    fn the_hosts_file_is_the_kubelets() {
        let pod = pod(json!({"hostname": "job-0", "subdomain": "svc",
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["a", "b"]}, {"ip": "192.0.2.8", "hostnames": ["c"]}]}));
        let name = name(&pod).unwrap();
        let own = hosts(&pod, &name, &["10.85.0.2".parse().unwrap()], "");
        assert_eq!(
            own,
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
             10.85.0.2\tjob-0.svc.ns.svc.cluster.local\tjob-0\n\
             \n# Entries added by HostAliases.\n192.0.2.7\ta\tb\n192.0.2.8\tc\n"
        );
        let host = hosts(&pod, &name, &[], "127.0.0.1 localhost");
        assert!(host.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries"));
    }

    #[test]
    fn whom_to_ask_follows_from_policy_and_config() {
        let node = "# a comment\nsearch old\nnameserver 192.0.2.53\nsearch corp.example. .\noptions timeout:1 rotate\n";
        let dns = ClusterDns { server: "10.85.0.1".parse().unwrap(), domain: "cluster.local".into() };
        let first = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.85.0.1\n\
                     options ndots:5\n";
        let host = "search corp.example\nnameserver 192.0.2.53\noptions timeout:1 rotate\n";
        let config =
            json!({"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]});
        let cases = [
            (json!({}), first),
            (json!({"dnsPolicy": "ClusterFirst"}), first),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), host),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), first),
            (json!({"dnsPolicy": "Default"}), host),
            (json!({"dnsPolicy": "None", "dnsConfig": config}), "search x\nnameserver 1.1.1.1\noptions ndots:2\n"),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                &first.replace("ndots:5", "ndots:2 edns0"),
            ),
        ];
        for (spec, text) in cases {
            assert_eq!(Resolver::read(node).of_pod(&pod(spec.clone()), Some(&dns)).text(), text, "{spec}");
        }
        assert_eq!(Resolver::read(node).of_pod(&pod(json!({})), None).text(), host, "without names of pods");
        assert!(Resolver::read("nameserver 127.0.0.53\n").is_local() && !Resolver::read(node).is_local());
    }

    #[test]
    fn no_more_is_asked_for_than_the_c_library_takes() {
        let servers: Vec<String> = (1..6).map(|n| format!("192.0.2.{n}")).collect();
        let searches: Vec<String> = (0..40).map(|n| format!("{n}{}", "x".repeat(100))).collect();
        let spec = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": servers, "searches": searches}});
        let resolver = Resolver::default().of_pod(&pod(spec), None);
        assert_eq!(resolver.servers.len(), 3);
        assert!(resolver.searches.join(" ").len() <= 2048 && resolver.searches.len() > 15);
    }
}
