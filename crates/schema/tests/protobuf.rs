//! Objects between JSON and protobuf: every type there and back, what Go writes, and bytes that are none.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};
use stint_schema::protobuf::{Envelope, Error, decode, decode_object, encode, encode_object, envelop, watch_frame};
use stint_schema::{Field, Presence, Schema, Shape, Type, Value};

/// A stream of choices from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// An instance of a type, as JSON would have it: without what is the same as absent.
fn instance(of: &Type, dice: &mut Dice, budget: &mut u32) -> Json {
    match of.shape {
        Shape::Struct => {
            let mut members = Map::new();
            for field in of.wire_order() {
                if !field.required && (*budget == 0 || dice.roll(3) != 0) {
                    continue;
                }
                *budget = budget.saturating_sub(1);
                let found = value(&field.value, field, dice, budget);
                let empty = found.is_null()
                    || found.as_object().is_some_and(Map::is_empty)
                        && !(matches!(field.value, Value::Object(_))
                            && (field.presence == Presence::Pointer || field.required));
                if !empty {
                    members.insert(field.name.into(), found);
                }
            }
            Json::Object(members)
        }
        Shape::Quantity => ["500m", "1Gi", "0", "2"][usize::try_from(dice.roll(4)).unwrap()].into(),
        Shape::IntOrString => {
            [json!(0), json!(-8080), json!("50%"), json!("")][usize::try_from(dice.roll(4)).unwrap()].clone()
        }
        Shape::Time => ["2026-01-02T03:04:05Z", "1969-12-31T23:59:59Z"][usize::try_from(dice.roll(2)).unwrap()].into(),
        Shape::MicroTime => ["2026-01-02T03:04:05.000006Z", "1969-12-31T23:59:59.500000Z"]
            [usize::try_from(dice.roll(2)).unwrap()]
        .into(),
        Shape::FieldsV1 => json!({ "f:metadata": { "f:labels": { ".": {} } } }),
        Shape::RawExtension => json!({ "apiVersion": "x/v1", "kind": "Y", "z": [1, null] }),
        Shape::Any => Json::Null,
    }
}

fn value(of: &Value, field: &Field, dice: &mut Dice, budget: &mut u32) -> Json {
    let zero = (field.presence == Presence::Pointer || field.required) && dice.roll(2) == 0;
    match of {
        Value::String if zero => "".into(),
        Value::String => format!("wört-{}", dice.roll(100)).into(),
        Value::Bool => (!zero).into(),
        Value::Int32 | Value::Int64 if zero => 0.into(),
        Value::Int32 => [1, -1, i32::MAX, i32::MIN][usize::try_from(dice.roll(4)).unwrap()].into(),
        Value::Int64 => [1, -1, i64::MAX, i64::MIN][usize::try_from(dice.roll(4)).unwrap()].into(),
        Value::Double => 1.5.into(),
        Value::Bytes => "AAEC/w==".into(),
        Value::Object(id) => instance(Schema::get().at(*id), dice, budget),
        Value::List(item) => (0..=dice.roll(3)).map(|_| value(item, field, dice, budget)).collect(),
        Value::Map(item) => (0..=dice.roll(3))
            .map(|n| (format!("key/{n}"), value(item, field, dice, budget)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

#[test]
fn every_type_comes_back_from_protobuf_as_it_went() {
    for of in Schema::get().types().filter(|of| of.shape != Shape::Any) {
        for seed in 0..40 {
            let object = instance(of, &mut Dice(seed), &mut 200);
            let bytes = encode(of, &object).unwrap_or_else(|e| panic!("{}: {e}\n{object}", of.name));
            let back = decode(of, &bytes).unwrap_or_else(|e| panic!("{}: {e}\n{object}", of.name));
            assert_eq!(back, object, "{}", of.name);
        }
    }
}

/// One field of bytes.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128 && tag < 16);
    [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

#[test]
fn what_go_always_writes_is_as_good_as_absent() {
    // metadata {name "pi", generateName "", generation 0, creationTimestamp zero}, spec {parallelism 0, template {}},
    // status {active 0}: what a Go client sends for a Job of which little is set.
    let metadata = [field(1, b"pi"), field(2, b""), vec![7 << 3, 0], field(8, b"")].concat();
    let template = [field(1, &field(1, b"")), field(2, &field(3, b""))].concat();
    let spec = [vec![1 << 3, 0], field(6, &template)].concat();
    let job = [field(1, &metadata), field(2, &spec), field(3, &[4 << 3, 0])].concat();
    let read = decode_object(&envelop("batch/v1", "Job", &job)).unwrap();
    let wanted = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "pi" },
        "spec": { "parallelism": 0, "template": {} } });
    assert_eq!(read, wanted);
}

#[test]
fn an_embedded_message_is_flat_in_json() {
    let of = Schema::get().named("io.k8s.api.core.v1.Volume").unwrap();
    // name "v", volumeSource { emptyDir {} }: an empty emptyDir is a choice, not nothing.
    let bytes = [field(1, b"v"), field(2, &field(2, b""))].concat();
    assert_eq!(decode(of, &bytes).unwrap(), json!({ "name": "v", "emptyDir": {} }));
    assert_eq!(encode(of, &json!({ "name": "v", "emptyDir": {} })).unwrap(), bytes);
}

#[test]
fn special_shapes_have_their_own_bytes() {
    let of = |name: &str| Schema::get().named(&format!("io.k8s.{name}")).unwrap();
    let times = [
        (
            "apimachinery.pkg.apis.meta.v1.Time",
            json!("2026-01-02T03:04:05Z"),
            vec![8, 0xa5, 0xeb, 0xdc, 0xca, 6, 16, 0],
        ),
        ("apimachinery.pkg.apis.meta.v1.Time", json!("1970-01-01T00:00:00Z"), vec![8, 0, 16, 0]),
        ("apimachinery.pkg.apis.meta.v1.MicroTime", json!("1970-01-01T00:00:01.000001Z"), vec![8, 1, 16, 0xe8, 7]),
        ("apimachinery.pkg.util.intstr.IntOrString", json!(80), vec![8, 0, 16, 80]),
        ("apimachinery.pkg.util.intstr.IntOrString", json!("a"), vec![8, 1, 26, 1, b'a']),
        ("apimachinery.pkg.api.resource.Quantity", json!("1Gi"), field(1, b"1Gi")),
        ("apimachinery.pkg.apis.meta.v1.FieldsV1", json!({}), field(1, b"{}")),
    ];
    for (name, json, bytes) in times {
        assert_eq!(encode(of(name), &json).unwrap(), bytes, "{name} {json}");
        assert_eq!(decode(of(name), &bytes).unwrap(), json, "{name}");
    }
    let secret = Schema::get().kind("v1", "Secret").unwrap();
    let entry = [field(1, b"k"), field(2, &[0, 255])].concat();
    assert_eq!(decode(secret, &field(2, &entry)).unwrap(), json!({ "data": { "k": "AP8=" } }));
    let user = of("api.authentication.v1.UserInfo");
    let entry = [field(1, b"k"), field(2, &[field(1, b"a"), field(1, b"b")].concat())].concat();
    assert_eq!(decode(user, &field(4, &entry)).unwrap(), json!({ "extra": { "k": ["a", "b"] } }));
}

#[test]
fn a_message_that_comes_twice_is_merged() {
    let job = Schema::get().kind("batch/v1", "Job").unwrap();
    let twice = [field(1, &field(1, b"a")), field(1, &field(3, b"ns"))].concat();
    assert_eq!(decode(job, &twice).unwrap(), json!({ "metadata": { "name": "a", "namespace": "ns" } }));
}

#[test]
fn unknown_members_are_dropped_and_packed_numbers_read() {
    let codes = Schema::get().named("io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement").unwrap();
    let packed = [field(2, b"In"), field(3, &[1, 42]), vec![3 << 3, 7], vec![15 << 3 | 3, 8, 1, 15 << 3 | 4]].concat();
    assert_eq!(decode(codes, &packed).unwrap(), json!({ "operator": "In", "values": [1, 42, 7] }));
}

#[test]
fn options_have_a_kind_in_every_group() {
    let options = json!({ "apiVersion": "batch/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "propagationPolicy": "Foreground" });
    assert_eq!(decode_object(&encode_object(&options).unwrap()).unwrap(), options);
}

#[test]
fn a_watch_frame_is_a_length_and_an_event_with_an_enveloped_object() {
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "pi" } });
    let frame = watch_frame("ADDED", &encode_object(&job).unwrap());
    let (length, event) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    let of = Schema::get().named("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent").unwrap();
    assert_eq!(decode(of, event).unwrap(), json!({ "type": "ADDED", "object": job }));
}

#[test]
fn an_envelope_without_magic_or_with_another_kind_is_refused() {
    assert!(matches!(Envelope::open(b"{}"), Err(Error::NoEnvelope)));
    let unknown = decode_object(&envelop("batch/v1", "Pod", b"")).unwrap_err();
    assert_eq!(unknown.to_string(), "no kind \"Pod\" is registered for version \"batch/v1\"");
}

#[test]
fn a_deep_nest_is_refused() {
    let mut bytes = encode_object(&json!({ "apiVersion": "v1", "kind": "Status" })).unwrap();
    for _ in 0..100 {
        let event =
            [vec![0x12], length(bytes.len() + 1 + length(bytes.len()).len()), vec![0x0a], length(bytes.len())].concat();
        bytes = envelop("v1", "WatchEvent", &[event, bytes].concat());
    }
    assert!(matches!(decode_object(&bytes), Err(Error::Malformed { .. })));
}

fn length(mut number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 128 {
        out.push(u8::try_from(number & 127).unwrap() | 128);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap());
    out
}

proptest! {
    #[test]
    fn random_bytes_never_panic(which in 0usize..1000, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let types: Vec<&Type> = Schema::get().types().collect();
        let _ = decode(types[which % types.len()], &bytes);
        let _ = decode_object(&[b"k8s\0".as_slice(), &bytes].concat());
    }

    #[test]
    fn a_changed_byte_never_panics(seed in any::<u64>(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let pod = Schema::get().kind("v1", "Pod").unwrap();
        let mut bytes = envelop("v1", "Pod", &encode(pod, &instance(pod, &mut Dice(seed), &mut 60)).unwrap());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = decode_object(&bytes) {
            // Whatever was read can be written again.
            prop_assert!(read.is_object());
        }
        let _ = decode_object(&bytes[..at]);
    }
}
