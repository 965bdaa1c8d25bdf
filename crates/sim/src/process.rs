//! One life of the process: the real router, the real controllers and the node, until the world is done or it crashes.
//!
//! Everything of it lives in one tokio runtime, whose end is the process's end: what was under way is gone, and only
//! what [`crate::world`] holds is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::SignedDuration;
use kube::Client;
use stint_controllers::election::{self, Board, Election};
use stint_controllers::{Config, Lists};
use stint_core::clock::Clock;
use stint_core::election::Terms;
use stint_core::mandate::Mandate;
use stint_server::{Api, Ownership};
use stint_store::{Options, Store};
use tokio::task::JoinHandle;

use crate::client::{Who, client};
use crate::disk::SimDisk;
use crate::world::World;
use crate::{auditor, node, users};

/// How often every Job is reconciled although nothing happened: often, so that the quiet at the end includes it.
const FULL_PASS: SignedDuration = SignedDuration::from_secs(60);

/// How a life ended.
pub enum Ended {
    /// All is done and judged.
    Done,
    /// It crashed, at this virtual time.
    Crashed(Duration),
}

/// How the controllers are joined to the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wiring {
    /// In its process, as in `stint serve`.
    #[default]
    Joined,
    /// As `stint controllers`: two replicas, of which one leads, in the place of the API's own. The API's process binds pods.
    Attached,
}

/// How many replicas there are where they are attached.
const REPLICAS: u64 = 2;

/// The controllers of this process.
pub struct Controllers {
    world: World,
    router: axum::Router,
    tasks: VecDeque<JoinHandle<()>>,
    /// How many replicas have been started.
    replicas: u64,
}

impl Controllers {
    fn start(world: &World, router: &axum::Router) -> Controllers {
        let (world, router) = (world.clone(), router.clone());
        let mut controllers = Controllers { world, router, tasks: VecDeque::new(), replicas: 0 };
        let wiring = controllers.world.state().wiring;
        match wiring {
            Wiring::Joined => controllers.spawn_joined(),
            Wiring::Attached => {
                let binder = Config { jobs: false, cron_jobs: false, ..controllers.config() };
                tokio::spawn(stint_controllers::run(controllers.client(), controllers.clock(), binder));
                (0..REPLICAS).for_each(|_| controllers.spawn_replica());
            }
        }
        controllers
    }

    /// Ends them in the middle of whatever they do, and starts new ones; of replicas one, the eldest.
    pub fn restart(&mut self) {
        if let Some(task) = self.tasks.pop_front() {
            task.abort();
        }
        let wiring = self.world.state().wiring;
        match wiring {
            Wiring::Joined => self.spawn_joined(),
            Wiring::Attached => self.spawn_replica(),
        }
    }

    /// Whether they have ended by themselves, which they never do.
    pub fn are_dead(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    fn spawn_joined(&mut self) {
        let work = stint_controllers::run(self.client(), self.clock(), self.config());
        self.tasks.push_back(tokio::spawn(work));
    }

    fn spawn_replica(&mut self) {
        self.replicas += 1;
        let election = Election {
            namespace: "default".to_owned(),
            name: "controllers".to_owned(),
            // No other life of the process has had the same.
            candidate: format!("{}-{}", self.world.state().files.writes, self.replicas),
            terms: Terms::of(Duration::from_secs(15)),
        };
        let config = Config {
            node: None,
            job_mandate: Mandate::Instead,
            cron_job_mandate: Mandate::Instead,
            lists: Lists::Streams,
            ..self.config()
        };
        let (client, clock) = (self.client(), self.clock());
        let work = move |client| stint_controllers::run(client, clock.clone(), config.clone()).boxed();
        let clock = self.clock();
        self.tasks.push_back(tokio::spawn(async move {
            election::run(client, clock, election, Board::default(), work, std::future::pending()).await;
        }));
    }

    fn config(&self) -> Config {
        Config {
            node: Some(node::NODE.to_owned()),
            full_pass: FULL_PASS,
            gather: self.world.state().chaos.gather,
            ..Config::default()
        }
    }

    fn client(&self) -> Client {
        client(&self.world, &self.router, Who::Controllers)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.world.clone())
    }
}

/// Runs one life. Call it inside a tokio runtime of its own.
pub async fn live(world: &World) -> Ended {
    world.process_starts();
    let options = Options { history_events: world.state().chaos.history_events(), ..Options::default() };
    let store = match Store::open_with(SimDisk(world.clone()), &options) {
        Ok(store) => store,
        Err(error) => {
            world.breaks(&mut world.state(), format!("the store does not open: {error:?}"));
            return Ended::Done;
        }
    };
    // As `stint run` does.
    let ownership = Ownership::Untracked;
    let api = Api { ownership, ..Api::new(store, Arc::new(world.clone()), Arc::new(world.clone())) };
    let router = stint_server::router(api);
    let controllers = Controllers::start(world, &router);
    tokio::spawn(node::run(world.clone(), client(world, &router, Who::Node)));
    tokio::spawn(users::collect_garbage(world.clone(), client(world, &router, Who::Users)));
    let auditor = auditor::start(world, &client(world, &router, Who::Node));
    let users = users::run(world, client(world, &router, Who::Users), controllers, auditor);
    let ended = tokio::select! {
        biased;
        () = world.crash() => false,
        result = users => {
            if let Err(broken) = result {
                world.breaks(&mut world.state(), broken);
            }
            true
        }
    };
    let state = world.state();
    if ended || state.broken.is_some() { Ended::Done } else { Ended::Crashed(state.elapsed()) }
}
