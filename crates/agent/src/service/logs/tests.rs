//! Options against logs, as tables; then a log that grows.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

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

/// Puts the file that is written to aside, as a shim does.
fn rotate(log: &Path, time: &str) {
    let older = stint_runtime::older_logs(log);
    fs::create_dir_all(&older).unwrap();
    fs::rename(log, older.join(format!("0.log.{time}"))).unwrap();
    File::create(log).unwrap();
}

fn entry(text: &str) -> String {
    format!("2026-01-02T03:04:05.000000000Z stdout F {text}\n")
}

fn append(log: &Path, text: &str) {
    File::options().append(true).create(true).open(log).unwrap().write_all(entry(text).as_bytes()).unwrap();
}

/// What `reader` has now.
fn rest_of(reader: &mut Reader) -> String {
    let mut all = Vec::new();
    while let Piece::Text(text) = reader.piece().unwrap() {
        all.extend(text);
    }
    String::from_utf8(all).unwrap().replace('\n', " ")
}

#[test]
fn the_files_of_a_rotated_log_are_shown_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    for (time, texts) in [("1", ["a", "b"]), ("2", ["c", "d"]), ("2-001", ["e", "f"])] {
        for text in texts {
            append(&log, text);
        }
        rotate(&log, time);
    }
    append(&log, "g");
    let tail = |lines| LogOptions { tail_lines: Some(lines), ..LogOptions::default() };
    for (options, expected) in [
        (LogOptions::default(), "a b c d e f g "),
        (tail(0), ""),
        (tail(1), "g "),
        (tail(2), "f g "),
        (tail(3), "e f g "),
        (tail(4), "d e f g "),
        (tail(7), "a b c d e f g "),
        (tail(8), "a b c d e f g "),
        (LogOptions { limit_bytes: Some(7), ..tail(4) }, "d e f g"),
    ] {
        assert_eq!(rest_of(&mut Reader::new(log.clone(), &options)), expected, "{options:?}");
    }
    let mut reader = Reader::new(log.clone(), &tail(0));
    assert_eq!(rest_of(&mut reader), "");
    rotate(&log, "3");
    append(&log, "h");
    assert_eq!(rest_of(&mut reader), "h ", "the last line of an empty file is in the one before");
    rotate(&log, "4");
    assert_eq!(rest_of(&mut Reader::new(log, &tail(2))), "g h ");
}

#[test]
fn full_files_from_before_the_asked_time_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    append(&log, "old");
    File::open(&log).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    rotate(&log, "1");
    append(&log, "new");
    let since = Some("2026-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(rest_of(&mut Reader::new(log, &LogOptions { since, ..LogOptions::default() })), "new ");
}

#[test]
fn a_reader_that_is_slower_than_rotation_goes_on_with_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    let mut reader = Reader::new(log.clone(), &LogOptions::default());
    append(&log, "a");
    assert_eq!(rest_of(&mut reader), "a ");
    for n in 1..=4 {
        append(&log, &format!("b{n}"));
        rotate(&log, &n.to_string());
    }
    let full = stint_runtime::older_logs(&log);
    fs::remove_file(full.join("0.log.1")).unwrap();
    fs::remove_file(full.join("0.log.2")).unwrap();
    append(&log, "c");
    assert_eq!(rest_of(&mut reader), "b1 b3 b4 c ", "the open file is read to its end, though it has no name any more");
    rotate(&log, "5");
    append(&log, "d");
    assert_eq!(rest_of(&mut reader), "d ");
}

#[test]
fn no_link_in_the_place_of_a_log_shows_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let (log, secret) = (dir.path().join("0.log"), dir.path().join("secret"));
    append(&secret, "secret");
    let full = stint_runtime::older_logs(&log);
    let tail = LogOptions { tail_lines: Some(1), ..LogOptions::default() };
    let shows = |text: &str| {
        [LogOptions::default(), tail.clone()].iter().any(|options| {
            let mut reader = Reader::new(log.clone(), options);
            matches!(reader.piece(), Ok(Piece::Text(found)) if String::from_utf8_lossy(&found).contains(text))
        })
    };
    std::os::unix::fs::symlink(&secret, &log).unwrap();
    assert!(!shows("secret"), "the log itself");
    fs::remove_file(&log).unwrap();
    append(&log, "own");
    assert!(shows("own"));
    fs::create_dir(&full).unwrap();
    std::os::unix::fs::symlink(&secret, full.join("0.log.1")).unwrap();
    assert!(!shows("secret"), "a full file");
    fs::remove_dir_all(&full).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::copy(&secret, elsewhere.join("0.log.1")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &full).unwrap();
    assert!(!shows("secret"), "the folder of full files");
}

#[tokio::test]
async fn a_log_is_followed_across_its_rotation_while_it_is_written() {
    const LINES: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let writer = {
        let log = log.clone();
        std::thread::spawn(move || {
            let mut file = File::create(&log).unwrap();
            for n in 0..LINES {
                if n % 100 == 99 {
                    rotate(&log, &format!("{n:05}"));
                    file = File::options().append(true).open(&log).unwrap();
                }
                file.write_all(entry(&format!("line {n}")).as_bytes()).unwrap();
            }
            drop(end);
        })
    };
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let log = read(Reader::new(log, &options), Box::pin(async move { drop(ended.await) }));
    let pieces: Vec<_> = log.map(Result::unwrap).collect().await;
    let expected = (0..LINES).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat();
    assert!(String::from_utf8(pieces.concat()).unwrap() == expected, "every line, once and in order");
    writer.join().unwrap();
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
