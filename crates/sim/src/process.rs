//! One life of the process: the real router, the real controllers and the node, until the world is done or it crashes.
//!
//! Everything of it lives in one tokio runtime, whose end is the process's end: what was under way is gone, and only
//! what [`crate::world`] holds is left.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use stint_controllers::Config;
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

/// The controllers of this process.
pub struct Controllers {
    world: World,
    router: axum::Router,
    task: JoinHandle<()>,
}

impl Controllers {
    fn start(world: &World, router: &axum::Router) -> Controllers {
        Controllers { world: world.clone(), router: router.clone(), task: spawn(world, router) }
    }

    /// Ends them in the middle of whatever they do, and starts new ones.
    pub fn restart(&mut self) {
        self.task.abort();
        self.task = spawn(&self.world, &self.router);
    }

    /// Whether they have ended by themselves, which they never do.
    pub fn are_dead(&self) -> bool {
        self.task.is_finished()
    }
}

fn spawn(world: &World, router: &axum::Router) -> JoinHandle<()> {
    let config = Config {
        node: Some(node::NODE.to_owned()),
        full_pass: FULL_PASS,
        gather: world.state().chaos.gather,
        ..Config::default()
    };
    tokio::spawn(stint_controllers::run(client(world, router, Who::Controllers), Arc::new(world.clone()), config))
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
