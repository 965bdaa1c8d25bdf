//! How many connections there may be, and which of them gives way to a new one.
//!
//! ```text
//!              a request comes                    nothing for IDLE, or no room for
//!   idle  ◀──────────────────────▶  busy          somebody new: idle ──▶ closed
//!              the last answer ends
//! ```
//!
//! Invariant: whoever keeps connections without asking anything keeps nobody out. When there is no room, those go that have
//! been idle for longest; one that waits for an answer, or follows a watch, stays.
//! Left out: streams that a connection was turned into (commands, ports), which only those have who may.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

/// How long a connection may be idle (upstream's `IdleTimeout`), its first request's head included.
pub const IDLE: Duration = Duration::from_secs(90);
/// A connection that has been idle for less does not have to give way: its request may be on the way.
const FRESH: Duration = Duration::from_secs(1);
/// How long the next look at who may give way is put off.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Places for connections.
pub struct Room {
    places: Arc<Semaphore>,
    all: usize,
    guests: Mutex<Guests>,
    opened: Instant,
}

#[derive(Default)]
struct Guests {
    next: u64,
    inside: HashMap<u64, Weak<Guest>>,
}

/// A connection that has a place. Dropping it gives the place back.
pub struct Guest {
    id: u64,
    room: Arc<Room>,
    /// How many of its requests are being answered.
    busy: AtomicUsize,
    /// When there was last one, in milliseconds since the room was opened.
    idle_since: AtomicU64,
    leave: Notify,
    _place: OwnedSemaphorePermit,
}

/// A request that is being answered.
pub struct Busy(Arc<Guest>);

impl Room {
    /// With so many places.
    pub fn new(places: usize) -> Arc<Room> {
        let all = places.clamp(1, Semaphore::MAX_PERMITS);
        let (places, guests) = (Arc::new(Semaphore::new(all)), Mutex::default());
        Arc::new(Room { places, all, guests, opened: Instant::now() })
    }

    /// Finds a place for a new connection, which may take until others have gone.
    pub async fn enter(self: &Arc<Room>) -> Arc<Guest> {
        loop {
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                return self.guest(place);
            }
            self.make_room();
            let free = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(place)) = timeout(LOOK_AGAIN, free).await {
                return self.guest(place);
            }
        }
    }

    fn guest(self: &Arc<Room>, place: OwnedSemaphorePermit) -> Arc<Guest> {
        let mut guests = self.guests();
        let id = guests.next;
        guests.next += 1;
        let guest = Arc::new(Guest {
            id,
            room: Arc::clone(self),
            busy: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now()),
            leave: Notify::new(),
            _place: place,
        });
        guests.inside.insert(id, Arc::downgrade(&guest));
        guest
    }

    /// Asks those to leave that have been idle for longest: several, so that not each new one has to look for the next.
    fn make_room(&self) {
        // Let go of outside the lock, as each of them may be the last to hold its guest.
        let inside: Vec<Arc<Guest>> = self.guests().inside.values().filter_map(Weak::upgrade).collect();
        let mut idle: Vec<(u64, &Arc<Guest>)> = inside
            .iter()
            .filter(|guest| guest.idle().is_some_and(|time| time >= FRESH))
            .map(|guest| (guest.idle_since.load(Ordering::Relaxed), guest))
            .collect();
        idle.sort_unstable_by_key(|(since, guest)| (*since, guest.id));
        for (_, guest) in idle.iter().take(1 + self.all / 64) {
            guest.leave.notify_one();
        }
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Guest {
    /// A request has come.
    pub fn begin(self: &Arc<Guest>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    /// How long it has been idle. None: it is not.
    fn idle(&self) -> Option<Duration> {
        let idle = self.busy.load(Ordering::Acquire) == 0;
        let since = self.idle_since.load(Ordering::Relaxed);
        idle.then(|| Duration::from_millis(self.room.now().saturating_sub(since)))
    }

    /// Whether it waits for no answer.
    pub fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0
    }

    /// Waits until the connection has to go: it has been idle for too long, or somebody else needs its place.
    pub async fn has_to_leave(&self) {
        loop {
            let rest = IDLE.saturating_sub(self.idle().unwrap_or_default());
            tokio::select! {
                () = self.leave.notified() => if self.is_idle() { return },
                () = sleep(rest) => if self.idle().is_some_and(|time| time >= IDLE) { return },
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.guests().inside.remove(&self.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.room.now(), Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_that_was_idle_for_longest_gives_way_and_the_busy_one_stays() {
        let room = Room::new(3);
        let busy = room.enter().await;
        let request = busy.begin();
        let first = room.enter().await;
        sleep(Duration::from_secs(2)).await;
        let second = room.enter().await;
        sleep(Duration::from_secs(2)).await;
        let entering = tokio::spawn({
            let room = Arc::clone(&room);
            async move { drop(room.enter().await) }
        });
        first.has_to_leave().await;
        assert!(second.has_to_leave().now_or_never().is_none() && busy.has_to_leave().now_or_never().is_none());
        assert!(!entering.is_finished(), "there is no room before it has gone");
        drop(first);
        entering.await.unwrap();
        drop(request);
        let third = room.enter().await;
        // The one that was busy has just become idle, so that it is the turn of the second.
        sleep(FRESH).await;
        assert!(timeout(LOOK_AGAIN * 2, room.enter()).await.is_err());
        assert!(second.has_to_leave().now_or_never().is_some());
        assert!(busy.has_to_leave().now_or_never().is_none());
        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_to_leave_in_time_and_a_busy_one_never() {
        let room = Room::new(2);
        let guest = room.enter().await;
        let request = guest.begin();
        assert!(timeout(IDLE * 10, guest.has_to_leave()).await.is_err());
        drop(request);
        assert!(timeout(IDLE.saturating_sub(FRESH), guest.has_to_leave()).await.is_err());
        assert!(timeout(FRESH * 2, guest.has_to_leave()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_asked_to_leave_and_got_busy_stays() {
        let room = Room::new(1);
        let guest = room.enter().await;
        sleep(FRESH).await;
        room.make_room();
        let request = guest.begin();
        assert!(timeout(IDLE * 10, guest.has_to_leave()).await.is_err());
        drop(request);
        assert_eq!(room.guests().inside.len(), 1);
        drop(guest);
        assert_eq!(room.guests().inside.len(), 0);
    }
}
