//! What networks of pods cost, in a network namespace in the place of the machine's. Needs root.
//!
//! `cargo bench -p stint-network --bench pods` prints medians of many; rounds of different things take turns.

use std::time::{Duration, Instant};

use stint_network::{Config, Network};

const ROUNDS: usize = 30;

fn main() {
    if !rustix::process::geteuid().is_root() {
        return println!("networks need root; nothing was measured");
    }
    stint_runtime::namespace::enter_new_network().expect("a network namespace");
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
    let mut took = [const { Vec::new() }; 6];
    for _ in 0..ROUNDS {
        let config = |ready| Config { folder: folder.path().join("net"), subnet: None, ready };
        let mut time = |what: usize, began: Instant| took[what].push(began.elapsed());
        let began = Instant::now();
        let network = Network::open(&config(0)).expect("a network");
        time(0, began);
        let began = Instant::now();
        let pod = tokio.block_on(network.take(&[])).expect("a pod's network");
        time(1, began);
        let began = Instant::now();
        tokio.block_on(network.leave(&pod, &[])).expect("it goes");
        time(3, began);
        let began = Instant::now();
        network.close().expect("all of it goes");
        time(4, began);

        let began = Instant::now();
        let network = Network::open(&config(0)).expect("a network");
        let pod = tokio.block_on(network.take(&[])).expect("a pod's network");
        tokio.block_on(network.leave(&pod, &[])).expect("it goes");
        network.close().expect("all of it goes");
        time(5, began);

        let network = Network::open(&config(1)).expect("a network");
        while network.ready() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let began = Instant::now();
        let pod = tokio.block_on(network.take(&[])).expect("a pod's network");
        time(2, began);
        tokio.block_on(network.leave(&pod, &[])).expect("it goes");
        network.close().expect("all of it goes");
    }
    println!("| | p50 µs | p90 µs |\n|---|---|---|");
    let rows = [
        "bridge and packet filter made",
        "a pod's network made",
        "a pod's network taken that was ready",
        "a pod's network removed",
        "bridge and packet filter removed",
        "all of it for one pod",
    ];
    for (row, mut times) in rows.into_iter().zip(took) {
        times.sort();
        let at = |percent: usize| times[times.len() * percent / 100].as_micros();
        println!("| {row} | {} | {} |", at(50), at(90));
    }
}
