//! What replicas tell of themselves.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::attached::{Attached, JOBS, api, finish_pods, job, succeeded};
use crate::support::until;

/// With a lease of so long.
fn args(lease: &str) -> [&str; 6] {
    ["--health-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--lease-duration", lease]
}

/// What a replica answers: the code and the body.
fn get(attached: &Attached, path: &str) -> (u16, String) {
    let said = attached.said();
    let address = said.split("tells of itself at http://").nth(1).unwrap().split_whitespace().next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: replica\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn replicas_are_ready_when_they_could_work_and_show_who_leads_and_what_was_done() {
    let daemon = api();
    // So long that nobody loses it, however busy the machine is.
    let first = Attached::start(&daemon, &args("15m"));
    first.says("leads lease");
    let second = Attached::start(&daemon, &args("15m"));
    for replica in [&first, &second] {
        until("it is ready", || get(replica, "/readyz") == (200, "[+]rights ok\n[+]lease ok\n".to_owned()));
        assert_eq!((get(replica, "/livez").0, get(replica, "/healthz").0, get(replica, "/nothing").0), (200, 200, 404));
    }
    daemon.create(JOBS, &job("j", Some("stint.dev/job-controller")));
    until("the Job is complete", || {
        finish_pods(&daemon);
        succeeded(&daemon, "j")
    });
    let done = "job_controller_jobs_finished_total{completion_mode=\"NonIndexed\",reason=\"CompletionsReached\",\
                result=\"succeeded\"} 1\n";
    let shows = |replica: &Attached, line: &str| {
        let mut metrics = String::new();
        // What was done is counted behind the write that everybody sees.
        until(&format!("it shows {line}"), || {
            metrics = get(replica, "/metrics").1;
            metrics.contains(line)
        });
        metrics
    };
    shows(&second, "leader_election_master_status{name=\"stint-controllers\"} 0\n");
    shows(&first, "leader_election_master_status{name=\"stint-controllers\"} 1\n");
    let metrics = shows(&first, done);
    for line in ["process_resident_memory_bytes ", "workqueue_adds_total{name=\"job\"} "] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn a_replica_without_an_api_is_alive_and_not_ready() {
    let mut daemon = api();
    let first = Attached::start(&daemon, &args("3s"));
    first.says("leads lease");
    daemon.kill();
    until("it is not ready without an API", || get(&first, "/readyz").1.contains("[-]lease failed: "));
    assert_eq!(get(&first, "/livez").0, 200, "a restart would not help");
}
