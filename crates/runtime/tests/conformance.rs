//! What a container may expect, told as cases. Each runs a real container from a busybox root filesystem; those marked
//! so run through an installed `runc` too, and both must agree.
//!
//! It has its own `main`, because the zygote must be forked before the process has threads. Run one case with
//! `cargo test -p stint-runtime --test conformance -- <part of its name>`.

#[path = "conformance/attacks.rs"]
mod attacks;
#[path = "conformance/cases.rs"]
mod cases;
#[path = "conformance/commands.rs"]
mod commands;
#[path = "conformance/isolation.rs"]
mod isolation;
#[path = "conformance/lives.rs"]
mod lives;
#[path = "conformance/world.rs"]
mod world;

use std::path::Path;

use world::World;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if rustix::process::geteuid().is_root() && std::env::var_os(world::GROUP).is_none() {
        return world::alone(&args);
    }
    if args.first().is_some_and(|a| a == "--act-as-daemon") {
        return lives::act_as_daemon(&args[1..]);
    }
    if args.first().is_some_and(|a| a == "--act-as-daemon-with-a-command") {
        return commands::act_as_daemon(&args[1..]);
    }
    if args.first().is_some_and(|a| a == "--on-cgroup-v2") {
        return lives::on_cgroup_v2(&args[1..]);
    }
    let filter = args.into_iter().find(|a| !a.starts_with('-')).unwrap_or_default();
    let names = [cases::names(), lives::names(), commands::names(), isolation::names(), attacks::names()].concat();
    let problems = stint_runtime::check_host();
    let busybox = Path::new("/bin/busybox").exists();
    if !rustix::process::geteuid().is_root() || !busybox {
        for problem in problems {
            println!("notice: {problem}");
        }
        println!("notice: the conformance suite needs root and /bin/busybox (package busybox-static)");
        println!("0 passed, 0 failed, {} skipped", names.len());
        return;
    }
    let zygote = stint_runtime::zygote::spawn().expect("the zygote is forked while there is one thread");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio starts");
    let world = World::new(zygote);
    if world.runc.is_none() {
        println!("notice: runc is not installed: nothing to compare with (package runc)");
    }
    let mut tally = world::Tally::default();
    for name in names.iter().filter(|n| n.contains(&filter)) {
        let started = std::time::Instant::now();
        let verdict = runtime.block_on(async {
            let run = async {
                if let Some(case) = cases::find(name) {
                    Box::pin(case.run(&world)).await
                } else if let Some(story) = commands::find(name) {
                    story(&world).await
                } else if let Some(story) = isolation::find(name) {
                    story(&world).await
                } else if let Some(verdict) = attacks::run(name, &world).await {
                    verdict
                } else {
                    lives::run(name, &world).await
                }
            };
            let limit = world::PATIENCE * 5;
            tokio::time::timeout(limit, run).await.unwrap_or_else(|_| Err(format!("took longer than {limit:?}")))
        });
        tally.add(name, &verdict, started.elapsed());
    }
    drop(runtime);
    world.end();
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    std::process::exit(i32::from(tally.failed > 0));
}
