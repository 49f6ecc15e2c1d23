use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::error::Kind;
use crate::flow::{Position, Time};

/// The specification's messages, by an independent reader and writer.
mod reference {
    use std::collections::BTreeMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct CloudEvent {
        #[prost(string, tag = "1")]
        pub(super) id: String,
        #[prost(string, tag = "2")]
        pub(super) source: String,
        #[prost(string, tag = "3")]
        pub(super) spec_version: String,
        #[prost(string, tag = "4")]
        pub(super) r#type: String,
        #[prost(btree_map = "string, message", tag = "5")]
        pub(super) attributes: BTreeMap<String, AttributeValue>,
        #[prost(oneof = "Data", tags = "6, 7, 8")]
        pub(super) data: Option<Data>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Data {
        #[prost(bytes, tag = "6")]
        Binary(Vec<u8>),
        #[prost(string, tag = "7")]
        Text(String),
        #[prost(message, tag = "8")]
        Proto(Any),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Any {
        #[prost(string, tag = "1")]
        pub(super) type_url: String,
        #[prost(bytes, tag = "2")]
        pub(super) value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AttributeValue {
        #[prost(oneof = "Attr", tags = "1, 2, 3, 4, 5, 6, 7")]
        pub(super) attr: Option<Attr>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Attr {
        #[prost(bool, tag = "1")]
        Boolean(bool),
        #[prost(int32, tag = "2")]
        Integer(i32),
        #[prost(string, tag = "3")]
        String(String),
        #[prost(bytes, tag = "4")]
        Bytes(Vec<u8>),
        #[prost(string, tag = "5")]
        Uri(String),
        #[prost(string, tag = "6")]
        UriRef(String),
        #[prost(message, tag = "7")]
        Timestamp(Time),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Time {
        #[prost(int64, tag = "1")]
        pub(super) seconds: i64,
        #[prost(int32, tag = "2")]
        pub(super) nanos: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Batch {
        #[prost(message, repeated, tag = "1")]
        pub(super) events: Vec<CloudEvent>,
    }
}
use reference::{Any, Attr, AttributeValue, CloudEvent};

fn minimal() -> CloudEvent {
    CloudEvent {
        id: "1".into(),
        source: "/a".into(),
        spec_version: "1.0".into(),
        r#type: "t".into(),
        ..CloudEvent::default()
    }
}

fn with(name: &str, attr: Attr) -> CloudEvent {
    let value = AttributeValue { attr: Some(attr) };
    CloudEvent { attributes: BTreeMap::from([(name.into(), value)]), ..minimal() }
}

fn full() -> CloudEvent {
    let attributes = [
        ("bytes", Attr::Bytes(b"\x00\xff".to_vec())),
        ("no", Attr::Boolean(false)),
        ("least", Attr::Integer(i32::MIN)),
        ("ref", Attr::UriRef("../x".into())),
        ("subject", Attr::String("sub".into())),
        ("time", Attr::Timestamp(reference::Time { seconds: -1, nanos: 5_000_000 })),
        ("uri", Attr::Uri("urn:x".into())),
        ("zero", Attr::Integer(0)),
    ];
    CloudEvent {
        attributes: attributes
            .map(|(name, attr)| (name.to_string(), AttributeValue { attr: Some(attr) }))
            .into(),
        data: Some(reference::Data::Text("{}".into())),
        ..minimal()
    }
}

/// Encodes what was decoded and checks that nothing about it is lost or misjudged on the way.
fn check(bytes: &[u8]) -> Event<'_> {
    let event = decode(bytes).unwrap();
    let mut again = Vec::new();
    encode(&event, &mut again);
    assert_eq!(encoded_len(&event), again.len());
    assert_eq!(decode(&again).unwrap(), event);
    let summary = validate(bytes).unwrap();
    assert_eq!((summary.id, summary.source, summary.ty), (event.id(), event.source(), event.ty()));
    assert_eq!(summary.attributes_bytes, event.attributes_bytes());
    assert_eq!((summary.subject, summary.key()), (event.subject(), event.key()));
    assert_eq!(summary.datacontenttype, event.datacontenttype());
    assert_eq!(summary.data, event.data().map(|data| &*data.bytes));
    event
}

fn error(bytes: &[u8]) -> Error {
    let error = decode(bytes).unwrap_err();
    assert_eq!(validate(bytes).unwrap_err(), error, "validate and decode disagree");
    error
}

#[test]
fn what_another_writer_wrote_is_read_and_written_back_to_the_byte() {
    let bytes = full().encode_to_vec();
    let event = check(&bytes);
    assert_eq!(event.get("least"), Some(Value::Integer(i32::MIN)));
    assert_eq!(event.time().unwrap().text(), "1969-12-31T23:59:59.005Z");
    assert_eq!(event.data(), Some(&Data::text("{}")));
    let mut again = Vec::new();
    encode(&event, &mut again);
    assert_eq!(CloudEvent::decode(&*again).unwrap(), full());
}

#[test]
fn every_form_of_data_is_kept() {
    for data in [
        None,
        Some(reference::Data::Binary(vec![])),
        Some(reference::Data::Binary(vec![0, 255])),
        Some(reference::Data::Text(String::new())),
        Some(reference::Data::Proto(Any { type_url: "type.example/T".into(), value: vec![8, 1] })),
        Some(reference::Data::Proto(Any::default())),
    ] {
        let message = CloudEvent { data: data.clone(), ..minimal() };
        let bytes = message.encode_to_vec();
        let event = check(&bytes);
        let mut again = Vec::new();
        encode(&event, &mut again);
        assert_eq!(CloudEvent::decode(&*again).unwrap(), message);
    }
    let mut event = Event::new("1", "/a", "t").unwrap();
    event.set_data(Some(Data { bytes: Cow::Borrowed(b"\xff"), form: Form::Text }));
    let mut bytes = Vec::new();
    encode(&event, &mut bytes);
    assert_eq!(
        decode(&bytes).unwrap().data(),
        Some(&Data::binary(&b"\xff"[..])),
        "text that is none is bytes"
    );
}

#[test]
fn the_exact_text_of_a_time_is_kept_in_field_1000() {
    let mut event = Event::new("1", "/a", "t").unwrap();
    for text in ["2018-04-05T17:31:00+02:00", "2018-04-05T17:31:00.1234567891z", "2016-12-31T23:59:60Z"] {
        event.set("time", text).unwrap();
        let mut bytes = Vec::new();
        encode(&event, &mut bytes);
        assert_eq!(check(&bytes).time().unwrap().text(), text);
        assert!(matches!(
            CloudEvent::decode(&*bytes).unwrap().attributes["time"].attr,
            Some(Attr::Timestamp(_))
        ));
    }
    // Another text than that of the instant would let one reader see another time than the next.
    let mut bytes = Vec::new();
    event.set("time", "2018-04-05T17:31:00+02:00").unwrap();
    encode(&event, &mut bytes);
    let at = bytes.windows(3).position(|w| w == b"+02").unwrap();
    bytes[at] = b'-';
    assert_eq!(error(&bytes).attribute(), Some("time"));
}

#[test]
fn what_only_one_protocol_has_is_carried_in_field_1001() {
    let mut event = Event::new("1", "/a", "t").unwrap();
    event.set_extra(Some(Cow::Borrowed(b"\x01\x02")));
    let mut bytes = Vec::new();
    encode(&event, &mut bytes);
    assert!(bytes.ends_with(b"\xca\x3e\x02\x01\x02"));
    assert_eq!(check(&bytes).extra(), Some(&b"\x01\x02"[..]));
    bytes.extend_from_slice(b"\xca\x3e\x00");
    assert_eq!(error(&bytes).kind(), Kind::Malformed);
}

#[test]
fn unknown_fields_are_passed_over() {
    let mut bytes = full().encode_to_vec();
    bytes.extend_from_slice(b"\x78\x05\x82\x01\x01x\x8d\x01abcd\x91\x01abcdefgh");
    let known = full().encode_to_vec();
    assert_eq!(check(&bytes), decode(&known).unwrap());
}

#[test]
fn what_the_specification_types_may_come_as_a_string() {
    let bytes = with("time", Attr::String("2018-04-05T17:31:00Z".into())).encode_to_vec();
    assert_eq!(check(&bytes).time().unwrap().seconds(), 1_522_949_460);
    let bytes = with("dataschema", Attr::String("urn:x".into())).encode_to_vec();
    assert_eq!(check(&bytes).get("dataschema").unwrap().type_name(), "URI");
}

#[test]
fn bad_attributes_are_named() {
    for (message, name) in [
        (CloudEvent { id: String::new(), ..minimal() }, "id"),
        (CloudEvent { source: String::new(), ..minimal() }, "source"),
        (CloudEvent { r#type: String::new(), ..minimal() }, "type"),
        (CloudEvent { spec_version: String::new(), ..minimal() }, "specversion"),
        (with("Upper", Attr::Integer(1)), "Upper"),
        (with("", Attr::Integer(1)), ""),
        (with("data", Attr::Integer(1)), "data"),
        (with("id", Attr::String("2".into())), "id"),
        (with("specversion", Attr::String("1.0".into())), "specversion"),
        (with("subject", Attr::String(String::new())), "subject"),
        (with("subject", Attr::Integer(1)), "subject"),
        (with("time", Attr::String("now".into())), "time"),
        (with("time", Attr::Timestamp(reference::Time { seconds: 253_402_300_800, nanos: 0 })), "time"),
        (with("x", Attr::Timestamp(reference::Time { seconds: 0, nanos: -1 })), "x"),
        (with("x", Attr::String("\u{7}".into())), "x"),
        (with("x", Attr::Uri("relative".into())), "x"),
        (with("datacontenttype", Attr::String("json".into())), "datacontenttype"),
        (CloudEvent { attributes: [("x".to_string(), AttributeValue::default())].into(), ..minimal() }, "x"),
    ] {
        let error = error(&message.encode_to_vec());
        assert_eq!((error.kind(), error.attribute()), (Kind::Attribute, Some(name)), "{error}");
    }
    let other = CloudEvent { spec_version: "0.3".into(), ..minimal() };
    assert_eq!(error(&other.encode_to_vec()).kind(), Kind::Unsupported);
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    let base = minimal().encode_to_vec();
    let integer = |bytes: &[u8]| {
        [
            b"\x2a",
            &[u8::try_from(bytes.len() + 5).unwrap()][..],
            b"\x0a\x01x\x12",
            &[u8::try_from(bytes.len()).unwrap()],
            bytes,
        ]
        .concat()
    };
    for (what, tail) in [
        ("id twice", b"\x0a\x012".to_vec()),
        ("data twice", b"\x32\x00\x32\x00".to_vec()),
        ("data in two forms", b"\x32\x00\x3a\x00".to_vec()),
        ("key twice", [integer(b"\x10\x01"), integer(b"\x10\x01")].concat()),
        ("key twice in one entry", b"\x2a\x06\x0a\x01x\x0a\x01x".to_vec()),
        ("two values", integer(b"\x10\x01\x08\x01")),
        ("text of another instant", integer(b"\x3a\x00\xc2\x3e\x01x")),
        ("text without a time", integer(b"\x10\x01\xc2\x3e\x00")),
        ("text data that is none", b"\x3a\x01\xff".to_vec()),
        ("a value that is no UTF-8", integer(b"\x1a\x01\xff")),
        ("33 bits", integer(b"\x10\xff\xff\xff\xff\x0f")),
        ("65 bits", integer(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")),
        ("wrong wire type", b"\x08\x01".to_vec()),
        ("field 0", b"\x02\x00".to_vec()),
        ("group", b"\x7b\x7c".to_vec()),
        ("cut short", b"\x32\x05abc".to_vec()),
        ("length without end", b"\x32\xff".to_vec()),
        ("length beyond memory", b"\x32\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec()),
    ] {
        let bytes = [&base[..], &tail].concat();
        assert!(decode(&bytes).is_err(), "{what}");
        error(&bytes);
    }
    let event = [&base[..], &integer(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")].concat();
    assert_eq!(check(&event).get("x"), Some(Value::Integer(-1)));
}

#[test]
fn a_batch_gives_its_events_and_where_they_end() {
    let events = vec![full(), minimal(), full()];
    let bytes = reference::Batch { events: events.clone() }.encode_to_vec();
    let mut ours = Vec::new();
    let mut ends = Vec::new();
    let mut entries = batch(&bytes);
    while let Some(event) = entries.next() {
        let event = event.unwrap();
        ends.push(entries.end());
        push(&decode(event).unwrap(), &mut ours);
        assert_eq!(entries.end(), ours.len());
    }
    assert_eq!((ends.len(), ends[2]), (3, bytes.len()));
    assert_eq!(reference::Batch::decode(&*ours).unwrap().events, events);
    assert_eq!(batch(b"").next(), None);
    for (bad, index) in [(&b"\x0a\x05a"[..], 0), (b"\x0a\x00\x12\x00", 1), (b"\x0a\x00\x0a\x00\xff", 2)] {
        let mut entries = batch(bad).skip_while(Result::is_ok);
        assert_eq!(entries.next().unwrap().unwrap_err().index(), Some(index));
        assert_eq!(entries.next(), None);
    }
}

#[test]
fn a_stamp_is_added_without_decoding_and_is_no_attribute() {
    let bytes = full().encode_to_vec();
    let stamp = Stamp { position: Position(41), time: Time(1_500_000_000_001) };
    let mut out = Vec::new();
    push_stamped(&bytes, stamp, &mut out);
    let stamped = batch(&out).next().unwrap().unwrap();
    let event = decode(stamped).unwrap();
    assert_eq!(event.stamp(), Some(stamp));
    assert_eq!(event.get("flowposition"), None);
    assert!(validate(stamped).unwrap().stamped && !validate(&bytes).unwrap().stamped);
    assert_eq!(validate(stamped).unwrap().attributes_bytes, event.attributes_bytes());
    let mut again = Vec::new();
    encode(&event, &mut again);
    assert_eq!(decode(&again).unwrap(), decode(&bytes).unwrap());
    let theirs = CloudEvent::decode(stamped).unwrap();
    assert_eq!(theirs.attributes["flowposition"].attr, Some(Attr::String("41".into())));
    let junk = with("flowposition", Attr::Integer(-3)).encode_to_vec();
    assert_eq!(decode(&junk).unwrap().stamp(), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic_and_are_judged_alike(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(decode(&bytes).map(drop), validate(&bytes).map(drop));
        batch(&bytes).for_each(drop);
    }

    /// One byte of a good event changed, taken out or put in: reaches deeper than random bytes.
    #[test]
    fn damaged_events_do_not_panic_and_are_judged_alike(at in 0usize..120, byte: u8, how in 0..3) {
        let mut bytes = full().encode_to_vec();
        let at = at % bytes.len();
        match how {
            0 => bytes[at] = byte,
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, byte),
        }
        match decode(&bytes) {
            Ok(_) => drop(check(&bytes)),
            Err(_) => drop(error(&bytes)),
        }
    }
}
