//! Keeps a pod's volumes: makes them once, and then brings what came from the API up to date while the pod is there.
//!
//! ```text
//!            make ──failed──► the worker tries again with another keeper
//!             │
//!             ▼             a minute, a token that is due, other labels or annotations
//!   after a ─►keep ◄──────────────────────────────────────────────┐
//!   restart   │ └──► read ConfigMaps, Secrets, tokens ──► write ──┘
//!             ▼
//!          stopped: the volumes are about to be removed
//! ```
//!
//! Invariants: it alone writes to the pod's volumes, and [`Handle::stop`] returns only when it never will again; what can't
//! be brought up to date stays as it was.
//! Upstream: the kubelet does this with every sync of the pod, which is about once a minute
//! (`pkg/kubelet/volumemanager/reconciler`, v1.36).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::claims::{self, Claims};
use crate::downward::Downward;
use crate::error::Error;
use crate::sources::Wanted;
use crate::tokens::Tokens;
use crate::volumes::{self, Plan};
use crate::worker::{Context, blocking, until};

/// Somebody who keeps the volumes of one pod.
pub(crate) struct Keeper {
    context: Context,
    /// The newest object of the pod; `None` once the volumes are to go.
    pod: watch::Receiver<Option<Arc<Pod>>>,
    tokens: Tokens,
    /// What the pod's claims were bound to when its volumes were made; nothing, if another keeper made them.
    claims: Claims,
    /// When everything is read again.
    next: Timestamp,
    /// The last failure, so that it is logged once and not each time.
    failure: Option<String>,
}

impl Keeper {
    /// One that has made nothing yet.
    pub(crate) fn new(context: Context) -> (Keeper, Handle) {
        let (sender, pod) = watch::channel(Some(Arc::clone(&context.pod)));
        let next = context.shared.clock.now();
        (Keeper { context, pod, tokens: Tokens::default(), claims: Claims::new(), next, failure: None }, Handle(sender))
    }

    /// Makes the pod's volumes.
    pub(crate) async fn make(&mut self) -> Result<(), Error> {
        let Context { shared, pod, folder, .. } = &self.context;
        self.claims = claims::read(&shared.client, pod, folder).await?;
        let Some(plan) = self.plan().await else {
            return Err(Error::config("the pod's volumes are not wanted any more"));
        };
        let (plan, context, now) = (plan?, self.context.clone(), self.now());
        blocking(move || {
            context.folder.make(&context.identity)?;
            if context.shared.has_etc(&context.pod) {
                context.make_etc()?;
            }
            plan.make(&context.folder, now)
        })
        .await?;
        self.plan_next();
        Ok(())
    }

    /// Brings what came from the API up to date until it is told to stop; at once, if it has made nothing.
    pub(crate) async fn keep(mut self) {
        if !has_files(&self.context.pod) {
            return;
        }
        while self.wait().await {
            let Some(plan) = self.plan().await else { return };
            let updated = self.update(plan).await;
            self.tell(updated.err());
            self.plan_next();
        }
    }

    fn now(&self) -> Timestamp {
        self.context.shared.clock.now()
    }

    /// A token that could not be replaced when it was due is tried again with everything else.
    fn plan_next(&mut self) {
        let now = self.now();
        let latest = now.checked_add(self.context.shared.config.sync_period).unwrap_or(Timestamp::MAX);
        self.next = self.tokens.due().filter(|due| *due > now).map_or(latest, |due| due.min(latest));
    }

    /// Waits until there may be something to do. False: there never will be.
    async fn wait(&mut self) -> bool {
        loop {
            if self.pod.borrow().is_none() {
                return false;
            }
            let now = self.now();
            if now >= self.next {
                return true;
            }
            tokio::select! {
                changed = self.pod.changed() => return changed.is_ok(),
                () = sleep(until(self.next, now)) => {}
            }
        }
    }

    /// What is to be in the volumes now. None: nobody wants them any more.
    async fn plan(&mut self) -> Option<Result<Plan, Error>> {
        let pod = self.pod.borrow_and_update().clone()?;
        let mut stop = self.pod.clone();
        tokio::select! {
            biased;
            // An API that does not answer holds up nobody.
            _ = stop.wait_for(Option::is_none) => None,
            plan = read(&self.context, &mut self.tokens, &self.claims, &pod) => Some(plan),
        }
    }

    async fn update(&self, plan: Result<Plan, Error>) -> Result<(), Error> {
        let (plan, folder, now) = (plan?, self.context.folder.clone(), self.now());
        blocking(move || plan.update(&folder, now)).await
    }

    fn tell(&mut self, failure: Option<Error>) {
        let failure = failure.map(|error| error.chain());
        if let Some(why) = failure.as_ref().filter(|_| failure != self.failure) {
            let pod = &self.context.identity.name;
            tracing::warn!(pod, error = why, "the pod's volumes stay as they are; they are looked at again soon");
        }
        self.failure = failure;
    }
}

/// How the worker tells its keeper. Dropping it lets the keeper stop as soon as it can.
pub(crate) struct Handle(watch::Sender<Option<Arc<Pod>>>);

impl Handle {
    /// The pod's object changed. What volumes may show of it has the keeper look at once.
    pub(crate) fn changed(&self, pod: &Arc<Pod>) {
        self.0.send_if_modified(|held| {
            let Some(old) = held.replace(Arc::clone(pod)) else {
                *held = None; // it was told to stop, and is
                return false;
            };
            old.metadata.labels != pod.metadata.labels || old.metadata.annotations != pod.metadata.annotations
        });
    }

    /// Returns once nothing is written to the volumes any more.
    pub(crate) async fn stop(self) {
        self.0.send_replace(None);
        self.0.closed().await;
    }
}

/// Whether the pod has volumes that can come to be out of date.
pub(crate) fn has_files(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(volumes::is_from_api)
}

/// What the API says is to be in the volumes of a pod.
async fn read(context: &Context, tokens: &mut Tokens, claims: &Claims, pod: &Pod) -> Result<Plan, Error> {
    let Context { shared, identity, .. } = context;
    let spec = pod.spec.clone().unwrap_or_default();
    let mut sources = Wanted::by_volumes(&spec).read(&shared.client, &identity.namespace).await?;
    sources.tokens = tokens.current(&shared.client, identity, &spec, shared.clock.now()).await?;
    let addresses = context.addresses();
    Plan::of(&spec, &sources, claims, Downward { pod, node: &shared.config.machine, addresses: &addresses })
}
