//! Tokens against a store.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stint_auth::keys::{Keyring, generate};
use stint_auth::rotation::{Rotation, settled};
use stint_auth::token::{Private, Reference, Rejected, Tokens};
use stint_store::{Mutation, Store};

const ISSUER: &str = "https://kubernetes.default.svc";

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + seconds).unwrap()
}

fn tokens() -> Tokens {
    Tokens::new(ISSUER, Keyring::from_pem(&generate().unwrap()).unwrap())
}

fn refer(name: &str, uid: &str) -> Reference {
    Reference { name: name.into(), uid: uid.into() }
}

fn robot() -> Private {
    Private { namespace: "a".into(), serviceaccount: refer("robot", "u1"), ..Private::default() }
}

fn in_pod() -> Private {
    Private { pod: Some(refer("p", "u2")), node: Some(refer("n", "u4")), ..robot() }
}

async fn put(store: &Store, key: &str, uid: &str, deletion: Option<&str>) {
    if let Some(entry) = store.get(key) {
        store.write(Mutation::delete(key, entry.revision, |_| "{}".into())).await.unwrap();
    }
    let object = json!({"metadata": {"uid": uid, "deletionTimestamp": deletion}}).to_string();
    store.write(Mutation::create(key, move |_| object.into())).await.unwrap();
}

async fn store() -> Store {
    let store = Store::in_memory();
    put(&store, "core/serviceaccounts/a/robot", "u1", None).await;
    put(&store, "core/pods/a/p", "u2", None).await;
    put(&store, "core/secrets/a/s", "u3", None).await;
    put(&store, "core/nodes/n", "u4", None).await;
    store
}

fn issue(tokens: &Tokens, private: Private) -> String {
    tokens.issue(private, vec![ISSUER.into()], 600, now(), "id".into()).unwrap()
}

#[tokio::test]
async fn a_token_shows_its_account_and_where_it_is_used() {
    let (store, tokens) = (store().await, tokens());
    let shown = tokens.check(&issue(&tokens, in_pod()), &[], now(), &store).unwrap();
    assert_eq!(shown.user.name, "system:serviceaccount:a:robot");
    assert_eq!(shown.user.uid, "u1");
    assert_eq!(shown.user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    let extra: Vec<(String, Vec<String>)> = shown.user.extra.into_iter().collect();
    let expected: Vec<(String, Vec<String>)> =
        [("credential-id", "JTI=id"), ("node-name", "n"), ("node-uid", "u4"), ("pod-name", "p"), ("pod-uid", "u2")]
            .map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]))
            .into();
    assert_eq!(extra, expected);
    assert_eq!(shown.audiences, [ISSUER]);
}

#[tokio::test]
async fn a_token_has_its_time() {
    let (store, tokens) = (store().await, tokens());
    let token = issue(&tokens, robot());
    for (time, expected) in [
        (later(-1), Some(Rejected::NotYet)),
        (later(0), None),
        (later(599), None),
        (later(600), Some(Rejected::Expired)),
        (later(1_000_000_000), Some(Rejected::Expired)),
    ] {
        assert_eq!(tokens.check(&token, &[], time, &store).err(), expected, "{time}");
    }
}

#[tokio::test]
async fn a_token_is_for_its_audiences_only() {
    let (store, tokens) = (store().await, tokens());
    let token = tokens.issue(robot(), vec!["vault".into(), "db".into()], 600, now(), "id".into()).unwrap();
    assert!(matches!(tokens.check(&token, &[], now(), &store), Err(Rejected::Audience(..))));
    assert!(matches!(tokens.check(&token, &["web".into()], now(), &store), Err(Rejected::Audience(..))));
    let shown = tokens.check(&token, &["web".into(), "db".into()], now(), &store).unwrap();
    assert_eq!(shown.audiences, ["db"]);
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let bound: [(&str, Private, bool); 6] = [
        ("core/serviceaccounts/a/robot", robot(), true),
        ("core/serviceaccounts/a/robot", in_pod(), true),
        ("core/pods/a/p", in_pod(), true),
        ("core/secrets/a/s", Private { secret: Some(refer("s", "u3")), ..robot() }, true),
        ("core/nodes/n", Private { node: Some(refer("n", "u4")), ..robot() }, true),
        // The node of a pod is only told.
        ("core/nodes/n", in_pod(), false),
    ];
    for (key, private, ends) in bound {
        let (store, tokens) = (store().await, tokens());
        let token = issue(&tokens, private);
        let check = |expected: bool, why: &str| {
            let found = tokens.check(&token, &[], now(), &store);
            let expected = if expected { Some(Rejected::Invalidated) } else { None };
            assert_eq!(found.err(), expected, "{key}: {why}");
        };
        let uid = serde_json::from_slice::<Value>(&store.get(key).unwrap().value).unwrap()["metadata"]["uid"].clone();
        check(false, "all is there");
        put(&store, key, uid.as_str().unwrap(), Some("2026-01-02T03:03:06Z")).await;
        check(false, "deleted a moment ago");
        put(&store, key, uid.as_str().unwrap(), Some("2026-01-02T03:03:04Z")).await;
        check(ends, "deleted long ago, held by a finalizer");
        put(&store, key, "another", None).await;
        check(ends, "another one of the same name");
        let revision = store.get(key).unwrap().revision;
        store.write(Mutation::delete(key, revision, |_| "{}".into())).await.unwrap();
        check(ends, "gone");
    }
}

#[tokio::test]
async fn only_tokens_of_this_issuer_with_whole_claims_are_accepted() {
    let store = store().await;
    let pem = generate().unwrap();
    let keys = || Keyring::from_pem(&pem).unwrap();
    let tokens = Tokens::new(ISSUER, keys());
    let good: Value = {
        let token = issue(&tokens, robot());
        serde_json::from_slice(&BASE64.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
    };
    let sign = |change: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        keys().sign(claims.to_string().as_bytes()).unwrap()
    };
    assert!(tokens.check(&sign(&|_| {}), &[], now(), &store).is_ok());
    let changes: [&dyn Fn(&mut Value); 6] = [
        &|claims| claims["iss"] = "https://elsewhere".into(),
        &|claims| claims["sub"] = "system:serviceaccount:kube-system:robot".into(),
        &|claims| claims["sub"] = "root".into(),
        &|claims| drop(claims.as_object_mut().unwrap().remove("exp")),
        &|claims| drop(claims.as_object_mut().unwrap().remove("kubernetes.io")),
        &|claims| claims["exp"] = "never".into(),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        assert_eq!(tokens.check(&sign(change), &[], now(), &store).err(), Some(Rejected::NotOurs), "change {at}");
    }
    // Not claims of anybody, but signed all the same.
    let odd = keys().sign(b"[]").unwrap();
    assert_eq!(tokens.check(&odd, &[], now(), &store).err(), Some(Rejected::NotOurs));
}

#[tokio::test]
async fn after_a_rotation_old_tokens_are_good_until_their_key_is_forgotten() {
    let store = store().await;
    let hour = SignedDuration::from_hours(1);
    let rotation = Rotation { signs: Some(hour), longest: hour };
    let first = settled(&generate().unwrap(), rotation, now()).unwrap();
    let tokens = Tokens::new(ISSUER, Keyring::from_pem(&first).unwrap());
    let token = issue(&tokens, robot());
    assert!(tokens.check(&token, &[], now(), &store).is_ok());
    let second = settled(&first, rotation, now() + hour).unwrap();
    tokens.replace_keys(Keyring::from_pem(&second).unwrap());
    assert!(tokens.check(&token, &[], now(), &store).is_ok());
    assert_eq!(tokens.jwks()["keys"].as_array().unwrap().len(), 2);
    let header = |token: &str| token.split('.').next().unwrap().to_owned();
    assert_ne!(header(&issue(&tokens, robot())), header(&token), "the new key signs");
    let third = settled(&second, Rotation { signs: None, ..rotation }, now() + hour * 3).unwrap();
    tokens.replace_keys(Keyring::from_pem(&third).unwrap());
    assert_eq!(tokens.check(&token, &[], now(), &store).err(), Some(Rejected::NotOurs), "though it was remembered");
}
