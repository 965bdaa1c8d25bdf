//! The router of an ordinary user's pods: a network namespace of the user's, in which everything is as on root's machine.
//!
//! ```text
//!  the machine's network                  │  the router                        │ pods
//!  daemon ── sockets made in there ───────┼─► bridge ◄── cables ───────────────┼─► eth0
//!  a port ── listened at, passed on ──────┼─► (forward)                        │
//!  pasta or slirp4netns (way_out) ◄───────┼── tap0 ◄── NAT ◄── bridge ◄────────┼── eth0
//! ```
//!
//! Who is on the machine's network reaches pods by sockets that are made in the router: a socket stays in the namespace in which
//! it was made, whoever uses it. For those there is one thread in the router that runs what is given to it ([`Place`]).
//!
//! Invariant: the namespace is a mount, so it and the pods' networks behind it outlive the daemon; all goes with the last of the
//! user's processes, since mounts and [companions](stint_runtime::rootless::Companion) do.

mod forward;
mod way_out;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::network::lock;
use crate::sandbox::{Folder, is_namespace};
use crate::subnet::Subnet;
pub(crate) use forward::Forwards;
pub use way_out::Program;
use way_out::WayOut;

/// How a router is made.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Where its records are: a folder on a memory filesystem.
    pub folder: PathBuf,
    /// Where its namespace is mounted: a file's name that nothing else has.
    pub namespace: PathBuf,
    /// What connects it to the machine's network.
    pub program: Program,
    /// Where this user's processes find each other, as [`stint_runtime::rootless::enter`] was told.
    pub user: PathBuf,
    /// Addresses that are to be the pods', if some were chosen: the way out takes none of them.
    pub subnet: Option<Subnet>,
}

/// A router. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Router(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    namespace: PathBuf,
    /// Runs what is to be in the router.
    inside: Handle,
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
    way_out: Mutex<Option<WayOut>>,
}

impl Router {
    /// Makes the router, or takes over what an earlier daemon left of it, and connects it to the network of the calling thread.
    /// Returns once that is done or has failed; it is tried again then until [`Router::close`].
    pub fn open(config: &RouterConfig) -> Result<Router, Error> {
        let router = Router::make(config.folder.clone(), config.namespace.clone())?;
        let way_out = WayOut::open(config, router.clone()).map_err(Error::failed("start a thread"))?;
        *lock(&router.0.way_out) = Some(way_out);
        Ok(router)
    }

    /// A router that leads nowhere.
    pub(crate) fn make(folder: PathBuf, namespace: PathBuf) -> Result<Router, Error> {
        let attempt = || format!("make the network namespace {}", namespace.display());
        let (parent, name) =
            namespace.parent().zip(namespace.file_name()).unwrap_or((namespace.as_path(), "".as_ref()));
        let made = || {
            Folder::open(&folder)?;
            let parent = Folder::open(parent)?;
            let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
            if !is_namespace(&namespace) {
                // A file without a namespace is all that is left of the user's processes of before.
                parent.remove(name)?;
                parent.claim(name)?;
                std::thread::scope(|scope| scope.spawn(|| parent.make_and_stay(name)).join())
                    .unwrap_or_else(|_| Err(panicked()))?;
            }
            File::open(&namespace)
        };
        let file = made().map_err(Error::failed(attempt()))?;
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("stint-router".to_owned()).spawn(move || {
            let runtime = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)
                .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            match runtime {
                Ok(runtime) => {
                    let _ = tell.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(stopped);
                    runtime.shutdown_background();
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        });
        let thread = thread.map_err(Error::failed("start a thread"))?;
        let inside = told.recv().map_err(|_| Error::Closed)?;
        let inside = inside.map_err(Error::failed(format!("enter {}", namespace.display())))?;
        let thread = Mutex::new(Some((stop, thread)));
        Ok(Router(Arc::new(Inner { folder, namespace, inside, thread, way_out: Mutex::new(None) })))
    }

    /// Does something in the router, on a thread of its own. Threads that it starts stay there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let work = || {
            let namespace = File::open(&self.0.namespace)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        };
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| Err(panicked()))
    }

    /// Whatever happens to be in the router runs by this.
    pub(crate) fn inside(&self) -> &Handle {
        &self.0.inside
    }

    /// Leaves it to the next daemon, with its way out.
    pub(crate) fn leave(&self) {
        if let Some(way_out) = lock(&self.0.way_out).take() {
            way_out.leave();
        }
        self.end_thread();
    }

    /// Removes it, with its way out.
    pub fn close(&self) -> Result<(), Error> {
        let way_out = lock(&self.0.way_out).take();
        self.end_thread();
        let gone = way_out.map_or(Ok(()), WayOut::close).and_then(|()| {
            let (parent, name) =
                (self.0.namespace.parent(), self.0.namespace.file_name().and_then(|name| name.to_str()));
            parent.zip(name).map_or(Ok(()), |(parent, name)| Folder::at(parent).remove(name))?;
            fs::remove_dir_all(&self.0.folder)
        });
        gone.map_err(Error::failed(format!("remove the network namespace {}", self.0.namespace.display())))
    }

    fn end_thread(&self) {
        if let Some((stop, thread)) = lock(&self.0.thread).take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// Where sockets reach pods: in the router, or where the process is.
#[derive(Clone, Debug, Default)]
pub struct Place(Option<Router>);

impl Place {
    pub(crate) fn of(router: Option<&Router>) -> Place {
        Place(router.cloned())
    }

    /// Whether addresses of the machine are not addresses there.
    pub fn is_apart(&self) -> bool {
        self.0.is_some()
    }

    /// Does something there, at once; it may block for some milliseconds.
    pub fn now<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match &self.0 {
            Some(router) => router.within(work),
            None => work(),
        }
    }

    /// Has something done there; no longer once nobody waits for it.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, Error> {
        let Some(router) = &self.0 else { return Ok(work.await) };
        // Ends what is in it when it is dropped.
        let mut alone = JoinSet::new();
        alone.spawn_on(work, router.inside());
        alone.join_next().await.and_then(Result::ok).ok_or(Error::Closed)
    }
}

fn panicked() -> io::Error {
    io::Error::other("a thread panicked")
}
