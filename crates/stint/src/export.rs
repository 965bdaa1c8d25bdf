//! `stint export`: what users made in the daemon, as manifests for `kubectl apply` to a cluster or to another daemon.
//!
//! Invariant: the manifests go to stdout and nothing else does; what is left out is told on stderr.
//! What becomes of an object is decided in `core::export`; here they are read and printed.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stint_core::export::{self, Ended, LeftOut};
use stint_core::manifest::to_yaml;

use crate::args::{ExportArgs, Format};
use crate::client::daemon;
use crate::exit::Exit;

/// How many objects are asked for at once.
const PAGE: u32 = 500;

/// Prints the manifests.
pub fn main(data: &Path, args: &ExportArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let exported = runtime.context("can't start the async runtime")?.block_on(async {
        let mut exported = Exported::default();
        let from = From { client: daemon(data)?, namespace: (!args.all_namespaces).then_some(&*args.namespace) };
        // In the order in which they are to be made: what pods use comes before what starts pods.
        exported.take("ConfigMap", from.all().await?, export::config_map);
        if args.secrets {
            exported.take("Secret", from.all().await?, export::secret);
        }
        exported.take("CronJob", from.all::<CronJob>().await?, export::cron_job);
        let ended = if args.ended { Ended::Written } else { Ended::LeftOut };
        exported.take("Job", from.all::<Job>().await?, |job| export::job(job, ended));
        anyhow::Ok(exported)
    })?;
    let text = match args.output {
        Some(Format::Json) => {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": exported.manifests });
            serde_json::to_string_pretty(&list).context("can't write JSON")? + "\n"
        }
        None => exported.manifests.iter().map(to_yaml).collect::<Vec<_>>().join("---\n"),
    };
    io::stdout().lock().write_all(text.as_bytes()).context("can't print")?;
    exported.tell(args.secrets);
    Ok(Exit::Done)
}

/// Where objects come from.
struct From<'a> {
    client: Client,
    /// None: all of them.
    namespace: Option<&'a str>,
}

impl From<'_> {
    /// Every object of a kind, in order of namespace and name.
    async fn all<K>(&self) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let api: Api<K> = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let mut params = ListParams::default().limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = api.list(&params).await.with_context(|| format!("can't read the {}", K::plural(&())))?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
}

/// The manifests, and what there is to know about them.
#[derive(Default)]
struct Exported {
    manifests: Vec<Value>,
    written: Vec<(&'static str, usize)>,
    left_out: BTreeMap<(&'static str, LeftOut), usize>,
}

impl Exported {
    fn take<K: Serialize>(&mut self, kind: &'static str, objects: Vec<K>, write: impl Fn(K) -> Result<Value, LeftOut>) {
        let before = self.manifests.len();
        for object in objects {
            match write(object) {
                Ok(manifest) => self.manifests.push(manifest),
                Err(why) => *self.left_out.entry((kind, why)).or_default() += 1,
            }
        }
        self.written.push((kind, self.manifests.len() - before));
    }

    /// Says on stderr what was written and what was not.
    fn tell(&self, secrets: bool) {
        let count = |count: usize, kind: &str| format!("{count} {kind}{}", if count == 1 { "" } else { "s" });
        let written: Vec<String> = self.written.iter().map(|(kind, written)| count(*written, kind)).collect();
        eprintln!("{}", written.join(", "));
        for ((kind, why), left_out) in &self.left_out {
            let hint = if *why == LeftOut::Ended { "; --ended writes them, and they run once more" } else { "" };
            eprintln!("left out: {}, {why}{hint}", count(*left_out, kind));
        }
        if !secrets {
            eprintln!("Secrets are left out; --secrets writes them, as readable as they are");
        }
    }
}
