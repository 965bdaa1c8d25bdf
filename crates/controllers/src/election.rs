//! Leading by a Lease: one replica of several works, and another goes on when it can't.
//!
//! ```text
//!   every `retry`: read the Lease ─► core::election decides ─► create it, patch it, or wait
//!                                          │ leads: the work runs, behind the fence
//!                                          └ does not: the work is dropped
//! ```
//!
//! Invariant: work that leads no more writes nothing. It is dropped when its time is over, and the [`Fence`] refuses its writes
//! from that moment on, also those of a process that was paused and does not know it yet. What was under way at that moment
//! carries revisions or UIDs, or is a pod too many, which whoever leads counts and deletes.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::json;
use stint_core::clock::Clock;
use stint_core::election::{Candidate, Moment, Move, Terms};
use stint_core::json::merge_patch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// What is campaigned for.
#[derive(Clone, Debug)]
pub struct Election {
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// Who campaigns; no other replica has this name.
    pub candidate: String,
    /// How leading is counted.
    pub terms: Terms,
}

/// How the election stands, as this replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether this replica leads.
    pub leads: bool,
    /// Who holds the lease.
    pub holder: String,
    /// When the API last told.
    pub told: Option<Instant>,
    /// Why it does not tell.
    pub trouble: Option<String>,
}

/// Where a replica's standing is seen. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Standing>>);

impl Board {
    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets writes through as long as this replica leads.
#[derive(Clone)]
pub struct Fence {
    candidate: Arc<Mutex<Candidate>>,
    clock: Arc<dyn Clock>,
    began: Instant,
}

impl Fence {
    fn now(&self) -> Moment {
        Moment { steady: self.began.elapsed(), wall: self.clock.now() }
    }

    fn leads_for(&self) -> Option<Duration> {
        let now = self.now();
        self.candidate().leads_for(now)
    }

    fn candidate(&self) -> MutexGuard<'_, Candidate> {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client whose writes pass the fence.
    fn before(&self, client: Client) -> Client {
        let (fence, namespace) = (self.clone(), client.default_namespace().to_owned());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (fence, client) = (fence.clone(), client.clone());
            async move {
                if request.method() != Method::GET && fence.leads_for().is_none() {
                    return Err(kube::Error::Service("this replica leads no more".into()));
                }
                client.send(request).await
            }
        });
        Client::new(service, namespace)
    }
}

/// The work of the leader.
struct Working(JoinHandle<()>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why an election ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The work has ended by itself, which it never should.
    WorkEnded,
}

/// Does `work` whenever this replica leads, with a client whose writes then end with its time, until `stop`. Then the lease is
/// released, so that another may lead at once.
pub async fn run<W: Future<Output = ()> + Send + 'static>(
    client: Client,
    clock: Arc<dyn Clock>,
    election: Election,
    board: Board,
    work: impl Fn(Client) -> W,
    stop: impl Future<Output = ()>,
) -> Ended {
    let Election { namespace, name, candidate, terms } = election;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let candidate = Arc::new(Mutex::new(Candidate::new(candidate, terms)));
    let booth = Booth { leases, name, terms, board, fence: Fence { candidate, clock, began: Instant::now() } };
    let mut stop = pin!(stop);
    let mut working: Option<Working> = None;
    let ended = loop {
        tokio::select! {
            biased;
            () = &mut stop => break Ended::Stopped,
            // A look that hangs must not keep the work going.
            () = sleep(booth.fence.leads_for().unwrap_or_default()), if working.is_some() => {}
            () = booth.look() => {}
        }
        match (booth.fence.leads_for(), &working) {
            (Some(_), Some(work)) if work.0.is_finished() => break Ended::WorkEnded,
            (Some(_), None) => {
                tracing::info!(lease = booth.name, namespace, "leads");
                working = Some(Working(tokio::spawn(work(booth.fence.before(client.clone())))));
            }
            (None, Some(_)) => {
                tracing::warn!(lease = booth.name, namespace, "leads no more");
                working = None;
            }
            _ => {}
        }
        booth.board.lock().leads = working.is_some();
        tokio::select! {
            biased;
            () = &mut stop => break Ended::Stopped,
            () = sleep(terms.retry) => {}
        }
    };
    if let Some(mut work) = working.take() {
        work.0.abort();
        // Cancelled, or ended before; either way it writes nothing after this.
        let _ = (&mut work.0).await;
    }
    // Nobody waits longer for a server that does not answer than others wait for the lease.
    if timeout(terms.retry, booth.resign()).await.is_err() {
        tracing::warn!(lease = booth.name, "the lease could not be released; others wait until it is over");
    }
    ended
}

/// Where a candidate looks at the lease.
struct Booth {
    leases: Api<Lease>,
    name: String,
    terms: Terms,
    board: Board,
    fence: Fence,
}

impl Booth {
    /// Looks once, and does what follows from it.
    async fn look(&self) {
        let looked = timeout(self.terms.renew_within, self.try_to_lead()).await;
        let looked = looked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let mut standing = self.board.lock();
        match looked {
            Ok(holder) => {
                if standing.holder != holder {
                    tracing::info!(lease = self.name, holder, "the lease is held");
                }
                let trouble = standing.trouble.take();
                if trouble.is_some() {
                    tracing::info!(lease = self.name, "the lease can be read and written again");
                }
                (standing.holder, standing.told) = (holder, Some(Instant::now()));
            }
            Err(error) => {
                if standing.trouble.as_ref() != Some(&error) {
                    tracing::warn!(lease = self.name, error, "can't campaign for the lease; it is tried again");
                }
                standing.trouble = Some(error);
            }
        }
    }

    /// Returns who holds the lease now.
    async fn try_to_lead(&self) -> Result<String, String> {
        let said = |error: kube::Error| error.to_string();
        let lease = self.leases.get_opt(&self.name).await.map_err(said)?;
        let began = self.fence.now();
        let decided = self.fence.candidate().decide(lease.as_ref(), began);
        let written = match decided {
            Move::Wait(holder) => return Ok(holder),
            Move::Create(record) => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                self.leases.create(&PostParams::default(), &Lease { metadata, spec: Some(record) }).await
            }
            Move::Write(record) => self.write(&lease.unwrap_or_default(), &record).await,
        };
        match written {
            Ok(lease) => {
                self.fence.candidate().wrote(began);
                Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
            }
            // Another was faster, and the next look tells who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(String::new()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes `record` that of the lease, if it is still as it was seen.
    async fn write(&self, seen: &Lease, record: &LeaseSpec) -> kube::Result<Lease> {
        let json = |spec: &LeaseSpec| serde_json::to_value(spec).expect("a record is JSON");
        let patch = json!({
            "metadata": { "uid": seen.metadata.uid, "resourceVersion": seen.metadata.resource_version },
            "spec": merge_patch(&json(&seen.spec.clone().unwrap_or_default()), &json(record)),
        });
        self.leases.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    async fn resign(&self) {
        let Ok(Some(lease)) = self.leases.get_opt(&self.name).await else { return };
        let now = self.fence.now();
        let record = self.fence.candidate().resign(&lease, now);
        if let Some(record) = record {
            match self.write(&lease, &record).await {
                Ok(_) => tracing::info!(lease = self.name, "released"),
                Err(error) => tracing::warn!(%error, lease = self.name, "the lease could not be released"),
            }
        }
    }
}
