//! What the controllers tell of themselves over HTTP: `/livez` and `/healthz`, `/readyz`, and `/metrics`.
//!
//! Invariant: a replica is ready when it could work: it may do all that is needed, and the API tells who leads. So one that
//! waits is as ready as the one that leads, and can be counted on when that goes.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use kube::Client;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use stint_controllers::election::{Board, Election};
use stint_controllers::{Config, rights};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::process::Process;

/// How often the API is asked for the rights while some are missing, and while none is.
const ASKED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));
/// How long a client may take for a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_mins(5);

/// What there is to be told.
#[derive(Clone)]
pub struct Health {
    election: Option<(Election, Board)>,
    /// What is wrong with the rights; `None` is nothing.
    rights: Arc<Mutex<Option<String>>>,
    registry: Arc<Registry>,
    leads: Family<[(&'static str, String); 1], Gauge>,
}

impl Health {
    /// Of controllers that count in `metrics`, and campaign as told.
    pub fn new(metrics: stint_controllers::Metrics, election: Option<(Election, Board)>) -> Health {
        let leads = Family::<[(&'static str, String); 1], Gauge>::default();
        let mut registry = Registry::default();
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("stint_build", "The version of this program", build);
        let help = "Whether this replica leads, by the name of the lease";
        registry.register("leader_election_master_status", help, leads.clone());
        registry.register_collector(Box::new(Process));
        registry.register_collector(Box::new(metrics));
        let rights = Arc::new(Mutex::new(Some("the API was not asked for them yet".to_owned())));
        Health { election, rights, registry: Arc::new(registry), leads }
    }

    /// Asks the API for the rights of the controllers, again and again, and says what has changed.
    pub async fn watch_rights(self, client: Client, config: Config) {
        let election = self.election.as_ref().map(|(election, _)| election);
        loop {
            let fault = match rights::missing(&client, &config, election).await {
                Ok(missing) if missing.is_empty() => None,
                Ok(missing) => Some(format!("missing: {}", missing.join(", "))),
                Err(error) => Some(format!("can't ask for them: {error}")),
            };
            let wait = if fault.is_some() { ASKED.0 } else { ASKED.1 };
            let before =
                std::mem::replace(&mut *self.rights.lock().unwrap_or_else(PoisonError::into_inner), fault.clone());
            if before != fault {
                if let Some(fault) = fault {
                    tracing::error!("rights: {fault}");
                } else {
                    tracing::info!("has all the rights that it needs");
                }
            }
            sleep(wait).await;
        }
    }

    /// Each thing that readiness asks for, with what is wrong about it.
    fn checks(&self) -> Vec<(&'static str, Option<String>)> {
        let rights = self.rights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lease = self.election.as_ref().map(|(election, board)| {
            let standing = board.standing();
            // As long as two leases last nobody knows who leads.
            let is_recent = standing.told.is_some_and(|told| told.elapsed() < election.terms.duration * 2);
            let silent = || standing.trouble.clone().unwrap_or_else(|| "the API has not told of it".to_owned());
            ("lease", (!is_recent).then(silent))
        });
        [("rights", rights)].into_iter().chain(lease).collect()
    }

    fn ready(&self) -> (StatusCode, String) {
        let mut text = String::new();
        let checks = self.checks();
        for (name, fault) in &checks {
            let _ = match fault {
                None => writeln!(text, "[+]{name} ok"),
                Some(fault) => writeln!(text, "[-]{name} failed: {fault}"),
            };
        }
        let is_ready = checks.iter().all(|(_, fault)| fault.is_none());
        if is_ready { (StatusCode::OK, text) } else { (StatusCode::SERVICE_UNAVAILABLE, text) }
    }

    fn metrics(&self) -> String {
        if let Some((election, board)) = &self.election {
            let leads = i64::from(board.standing().leads);
            self.leads.get_or_create_owned(&[("name", election.name.clone())]).set(leads);
        }
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Serves what is asked for where, until it is dropped. Both may be at the same address.
    ///
    /// # Errors
    ///
    /// When it can't listen there.
    pub async fn serve(self, health: Option<SocketAddr>, metrics: Option<SocketAddr>) -> anyhow::Result<()> {
        let (ready, counted) = (self.clone(), self);
        let of_health = Router::new()
            .route("/livez", get(async || "ok"))
            .route("/healthz", get(async || "ok"))
            .route("/readyz", get(async move || ready.ready()));
        let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
        let of_metrics = Router::new().route("/metrics", get(async move || (kind, counted.metrics()).into_response()));
        let places = match (health, metrics) {
            (Some(health), Some(metrics)) if health == metrics => vec![(health, of_health.merge(of_metrics))],
            _ => [(health, of_health), (metrics, of_metrics)]
                .into_iter()
                .filter_map(|(address, router)| Some((address?, router)))
                .collect(),
        };
        for (address, router) in places {
            let listener = TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))?;
            let address = listener.local_addr().context("a listener has no address")?;
            tracing::info!("tells of itself at http://{address}");
            tokio::spawn(take(listener, router));
        }
        Ok(())
    }
}

/// Takes connections, as long as the process lives.
async fn take(listener: TcpListener, router: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            // Whoever asks asks again, and how a connection ended is nobody's business.
            let _ = timeout(CONNECTION, connection).await;
        });
    }
}
