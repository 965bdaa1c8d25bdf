//! What reads bytes without a server: manifests, protobuf, schedules, crontabs, layers of images.

use std::fs;

use jiff::Timestamp;
use serde_json::Value;
use stint_core::crontab::{Account, Crontab, Imported, Machine, Owner, Wishes, import};
use stint_core::manifest::{self, Document, Limits, to_yaml};
use stint_core::schedule::Schedule;
use stint_core::{defaults, validate};
use stint_schema::protobuf;

use crate::seeds::{config_map, cron_job, job, pod, rich_job};

/// A manifest is read or refused; what was read is the same after it was written and read again.
pub(super) fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Nobody is harmed by what is only refused.
    let _ = manifest::parse(text, "fuzz");
    let Ok(json) = manifest::to_json(text, &Limits::default()) else { return };
    let value: Value = serde_json::from_slice(&json).unwrap_or_else(|error| panic!("not JSON: {error}: {json:?}"));
    let yaml = to_yaml(&value);
    let again = manifest::to_json(&yaml, &Limits { bytes: usize::MAX, values: usize::MAX, ..Limits::default() });
    let again = again.unwrap_or_else(|problem| panic!("what was written can't be read: {problem:?}: {yaml}"));
    let again: Value = serde_json::from_slice(&again).expect("what a manifest becomes is JSON");
    assert_eq!(again, value, "{yaml}");
}

pub(super) fn manifests() -> Vec<Vec<u8>> {
    let objects = [rich_job(), cron_job(), pod("p"), config_map("c")];
    let mut all: Vec<Vec<u8>> = objects.iter().map(|object| to_yaml(object).into_bytes()).collect();
    all.push(format!("---\n{}\n---\n{}", to_yaml(&job("a")), job("b")).into_bytes());
    all.push(b"a: &a {k: [1, 0x1f, 0o17, 1e3, .inf, ~, yes, '2026-01-02']}\nb: {<<: *a, \"c\\u00e4\": !!str 1}\nd: >-\n  x\n\n  y\ne: |+\n  z\n".to_vec());
    all
}

/// A message is read or refused; what was read and can be written is the same when it is read again.
pub(super) fn protobuf(bytes: &[u8]) {
    let Ok(object) = protobuf::decode_object(bytes) else { return };
    let Ok(written) = protobuf::encode_object(&object) else { return };
    let again = protobuf::decode_object(&written).unwrap_or_else(|error| panic!("{error}: {object}"));
    let once_more = protobuf::encode_object(&again).unwrap_or_else(|error| panic!("{error}: {again}"));
    assert_eq!(written, once_more, "{object} became {again}");
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let objects = [rich_job(), cron_job(), pod("p"), config_map("c")];
    objects.iter().filter_map(|object| protobuf::encode_object(object).ok()).collect()
}

/// A schedule is read or refused.
pub(super) fn schedule(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Schedule::parse(text);
    let _ = Schedule::zone_in(text);
}

pub(super) fn schedules() -> Vec<Vec<u8>> {
    let all = [
        "*/5 * * * *",
        "0 3 1,15 */2 MON-FRI",
        "@every 1h30m10s",
        "@midnight",
        "TZ=Europe/Berlin 30 2 * * 0",
        "CRON_TZ=UTC 59 23 31 12 ?",
        "0-59/7 1-23 ? JAN-dec sun",
    ];
    all.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// Every line of a crontab is imported or told, and what comes of it is taken by the API.
pub(super) fn crontab(bytes: &[u8]) {
    let account = |name: &str| {
        let account =
            Account { name: name.to_owned(), uid: 1000, gid: 1000, groups: vec![4], home: "/home".to_owned() };
        (name != "joe").then_some(account)
    };
    let machine = Machine { zone: Some("Europe/Berlin"), account: &account, now: Timestamp::UNIX_EPOCH };
    let crontabs = [Owner::Column, Owner::User("root")].map(|owner| Crontab { origin: "fuzz", text: bytes, owner });
    let import = import(&crontabs, &machine, &Wishes { image: "i", keep: &["/var".to_owned()] });
    let yaml: Vec<String> = import.cron_jobs.iter().map(Imported::yaml).collect();
    let limits = Limits { bytes: usize::MAX, values: usize::MAX, ..Limits::default() };
    let documents = manifest::parse_within(&yaml.join("---\n"), "fuzz", &limits);
    let documents = documents.unwrap_or_else(|why| panic!("what was written can't be read: {why}: {yaml:?}"));
    assert_eq!(documents.len(), yaml.len());
    for document in documents {
        let Document::CronJob(mut cron_job) = document else { panic!("a CronJob was written: {document:?}") };
        cron_job.metadata.namespace = Some("default".to_owned());
        defaults::cron_job(&mut cron_job);
        let faults = validate::cron_job_create(&cron_job);
        assert!(faults.is_empty(), "{faults:?}");
    }
}

pub(super) fn crontabs() -> Vec<Vec<u8>> {
    let all = [
        "SHELL=/bin/bash\n# comment\nMAILTO = \"joe@x\"\n5 0 * * 7 root $HOME/bin/daily.job $(date +\\%F) > /tmp/x 2>&1\n",
        "'A B'='c d'\n@daily paul cd /srv && nice -n 5 ./backup.sh%one%two\n@reboot root x\nA=\n",
        "CRON_TZ=Asia/Tokyo\r\n0,30 2-4/2 */2 jan-mar sun,fri-sat\troot\t[ -x /a ] && flock -n /run/l b || { c; }\r\n",
    ];
    all.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// A layer is unpacked or refused, within its folder and its limits, whatever its members are called.
pub(super) fn layer(bytes: &[u8]) {
    let around = tempfile::tempdir().expect("there is room for a folder");
    let inside = around.path().join("layer");
    fs::create_dir(&inside).expect("the folder is new");
    fs::write(around.path().join("canary"), "sings").expect("the folder is there");
    let limits = stint_image::Limits { bytes: 1 << 20, entries: 100 };
    let _ = stint_image::unpack(bytes, &inside, limits);
    let left = fs::read_dir(around.path()).expect("the folder is still there").count();
    assert_eq!(left, 2, "something was made beside the layer");
    assert_eq!(fs::read(around.path().join("canary")).ok().as_deref(), Some(&b"sings"[..]), "the canary is dead");
}

pub(super) fn layers() -> Vec<Vec<u8>> {
    let block = |name: &str, kind: u8, link: &str, content: &[u8]| {
        let mut head = [0_u8; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..108].copy_from_slice(b"0000644\0");
        head[108..124].copy_from_slice(b"0000000\x000000000\0");
        head[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        head[136..148].copy_from_slice(b"00000000000\0");
        head[148..156].copy_from_slice(b"        ");
        head[156] = kind;
        head[157..157 + link.len()].copy_from_slice(link.as_bytes());
        head[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut all = head.to_vec();
        all.extend(content);
        all.resize(all.len().next_multiple_of(512), 0);
        all
    };
    let members = [
        block("a/", b'5', "", b""),
        block("a/b", b'0', "", b"hello"),
        block("a/c", b'2', "../../canary", b""),
        block("a/d", b'1', "a/b", b""),
        block("a/.wh.b", b'0', "", b""),
        block("../e", b'0', "", b"out"),
        block("pax", b'x', "", b"30 path=a-name-of-its-own-yes\n"),
        block("x", b'0', "", b"x"),
    ];
    let whole: Vec<u8> = members.concat().into_iter().chain([0; 1024]).collect();
    let mut all: Vec<Vec<u8>> = members.to_vec();
    all.push(whole);
    all
}
