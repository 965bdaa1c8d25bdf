//! Options against logs, as tables; then a log that grows.

use std::io::Write;

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Value, json};

use super::*;

/// Seconds 1 to 5; the third line was logged in pieces, with an error in between.
const LOG: &str = "\
2026-01-02T03:04:01.000000000Z stdout F one
2026-01-02T03:04:02.000000000Z stderr F two
2026-01-02T03:04:03.000000000Z stdout P thr
2026-01-02T03:04:03.500000000Z stdout F ee
2026-01-02T03:04:04.000000000Z stderr F 
2026-01-02T03:04:05.000000000Z stdout F five
";

fn shown(log: &str, options: &LogOptions) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(log.as_bytes()).unwrap();
    let mut reader = Reader::new(file.path().to_path_buf(), options);
    let mut all = Vec::new();
    while let Piece::Text(text) = reader.piece().unwrap() {
        all.extend(text);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn each_option_shows_its_part() {
    let none = LogOptions::default;
    let since = |text: &str| Some(text.parse().unwrap());
    for (options, expected) in [
        (none(), "one\ntwo\nthree\n\nfive\n"),
        (LogOptions { stream: LogSource::Stdout, ..none() }, "one\nthree\nfive\n"),
        (LogOptions { stream: LogSource::Stderr, ..none() }, "two\n\n"),
        (LogOptions { tail_lines: Some(0), ..none() }, ""),
        (LogOptions { tail_lines: Some(1), ..none() }, "five\n"),
        (LogOptions { tail_lines: Some(2), ..none() }, "\nfive\n"),
        (LogOptions { tail_lines: Some(3), ..none() }, "three\n\nfive\n"),
        (LogOptions { tail_lines: Some(4), ..none() }, "two\nthree\n\nfive\n"),
        (LogOptions { tail_lines: Some(5), ..none() }, "one\ntwo\nthree\n\nfive\n"),
        (LogOptions { tail_lines: Some(99), ..none() }, "one\ntwo\nthree\n\nfive\n"),
        (LogOptions { since: since("2026-01-02T03:04:04Z"), ..none() }, "\nfive\n"),
        (LogOptions { since: since("2026-01-02T03:04:04.5Z"), ..none() }, "five\n"),
        (LogOptions { since: since("2026-01-02T03:04:06Z"), ..none() }, ""),
        (LogOptions { since: since("2026-01-02T03:04:02Z"), tail_lines: Some(1), ..none() }, "five\n"),
        (LogOptions { limit_bytes: Some(1), ..none() }, "o"),
        (LogOptions { limit_bytes: Some(6), ..none() }, "one\ntw"),
        (LogOptions { limit_bytes: Some(1000), ..none() }, "one\ntwo\nthree\n\nfive\n"),
        (
            LogOptions { timestamps: true, tail_lines: Some(3), ..none() },
            "2026-01-02T03:04:03.000000000Z three\n2026-01-02T03:04:04.000000000Z \n2026-01-02T03:04:05.000000000Z five\n",
        ),
        (LogOptions { timestamps: true, limit_bytes: Some(33), ..none() }, "2026-01-02T03:04:01.000000000Z on"),
    ] {
        assert_eq!(shown(LOG, &options), expected, "{options:?}");
    }
}

#[test]
fn a_last_line_without_its_end_is_a_line() {
    let log = format!("{LOG}2026-01-02T03:04:06.000000000Z stdout P six");
    let whole = format!("{log}\n");
    let tail = |log: &str, lines| shown(log, &LogOptions { tail_lines: Some(lines), ..LogOptions::default() });
    assert_eq!(tail(&whole, 1), "six");
    assert_eq!(tail(&whole, 2), "five\nsix");
    // The entry itself is still being written: it is no part of the tail, and comes when it is whole.
    assert_eq!(tail(&log, 1), "five\n");
    assert_eq!(tail(&log, 0), "");
}

#[test]
fn tails_are_found_across_the_blocks_that_are_read() {
    let long = "x".repeat(9000);
    for lines in [1_u64, 3, 40, 199, 200, 201] {
        let entry = |n: u32| format!("2026-01-02T03:04:01.000000000Z stdout F {n} {long}\n");
        let log = (0..200).map(entry).collect::<Vec<_>>().concat();
        let text = shown(&log, &LogOptions { tail_lines: Some(lines), ..LogOptions::default() });
        assert_eq!(text.lines().count() as u64, lines.min(200));
        assert!(text.starts_with(&format!("{} ", 200_u64.saturating_sub(lines))), "{lines}");
    }
}

#[test]
fn an_empty_log_and_one_that_is_missing_show_nothing() {
    assert_eq!(shown("", &LogOptions { tail_lines: Some(3), ..LogOptions::default() }), "");
    let mut reader = Reader::new("/nonexistent/0.log".into(), &LogOptions::default());
    assert!(matches!(reader.piece(), Ok(Piece::NoMore)));
}

fn pod(state: &Value, last: &Value) -> Pod {
    let id = "stint://u_c_7";
    let status = json!({"containerStatuses": [{
        "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 7, "containerID": id,
        "state": state, "lastState": last,
    }]});
    let mut pod = Pod::default();
    pod.metadata.name = Some("a".into());
    pod.status = Some(serde_json::from_value::<PodStatus>(status).unwrap());
    pod
}

#[test]
fn the_status_tells_which_run_is_meant() {
    let over = |n: u32| json!({"terminated": {"exitCode": 0, "containerID": format!("stint://u_c_{n}")}});
    let failed = json!({"terminated": {"exitCode": 128}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    for (state, last, previous, expected) in [
        (json!({"running": {}}), json!({}), false, Ok(7)),
        (json!({"running": {}}), over(6), false, Ok(7)),
        (json!({"running": {}}), over(6), true, Ok(6)),
        (over(7), json!({}), false, Ok(7)),
        (failed.clone(), over(6), false, Ok(6)),
        (failed, json!({}), false, Err("container \"c\" in pod \"a\" is terminated")),
        (waiting("CrashLoopBackOff"), over(6), false, Ok(6)),
        (waiting("CrashLoopBackOff"), over(6), true, Ok(6)),
        (json!({"running": {}}), json!({}), true, Err("previous terminated container \"c\" in pod \"a\" not found")),
        (
            waiting("ContainerCreating"),
            json!({}),
            false,
            Err("container \"c\" in pod \"a\" is waiting to start: ContainerCreating"),
        ),
        (
            waiting("ErrImagePull"),
            json!({}),
            false,
            Err("container \"c\" in pod \"a\" is waiting to start: image can't be pulled"),
        ),
        (
            waiting("ImagePullBackOff"),
            json!({}),
            false,
            Err("container \"c\" in pod \"a\" is waiting to start: trying and failing to pull image"),
        ),
        (json!({}), json!({}), false, Err("container \"c\" in pod \"a\" is waiting to start - no logs yet")),
    ] {
        let found = run_of(&pod(&state, &last), "c", previous);
        assert_eq!(found, expected.map(Attempt).map_err(str::to_owned), "{state} {last} {previous}");
    }
    let none = run_of(&pod(&json!({}), &json!({})), "other", false);
    assert_eq!(none, Err("container \"other\" in pod \"a\" is not available".to_owned()));
}

#[tokio::test]
async fn a_followed_log_comes_whole_and_ends_with_its_container() {
    const LINES: usize = 3000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut file = File::create(path).unwrap();
            for n in 0..LINES {
                // In two writes, so that half entries are seen.
                file.write_all(b"2026-01-02T03:04:05.000000000Z stdout F li").unwrap();
                file.write_all(format!("ne {n}\n").as_bytes()).unwrap();
                if n % 1000 == 0 {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            drop(end);
        })
    };
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let log = read(Reader::new(path, &options), Box::pin(async move { drop(ended.await) }));
    let pieces: Vec<_> = log.collect().await;
    let all: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap()).collect();
    let expected = (0..LINES).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat();
    assert_eq!(String::from_utf8(all).unwrap(), expected);
    writer.join().unwrap();
}

#[tokio::test]
async fn a_limit_ends_a_followed_log_before_its_container() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(LOG.as_bytes()).unwrap();
    let options = LogOptions { follow: true, limit_bytes: Some(5), ..LogOptions::default() };
    let log = read(Reader::new(file.path().to_path_buf(), &options), Box::pin(std::future::pending()));
    let pieces: Vec<_> = log.map(Result::unwrap).collect().await;
    assert_eq!(pieces.concat(), b"one\nt");
}
